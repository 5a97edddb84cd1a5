// Call the gateway with the npm package openai. The arguments are those of python_client.py.
import assert from "node:assert/strict";
import { createReadStream, readFileSync } from "node:fs";
import OpenAI from "openai";

const [baseURL, recording, ...chats] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "unused" });

async function chat(model, prompt, expected) {
  const asked = { model, messages: [{ role: "user", content: prompt }], max_tokens: 24 };
  const whole = await client.chat.completions.create({ ...asked, temperature: 0 });
  const text = whole.choices[0].message.content;
  assert.ok(text.includes(expected), text);
  let streamed = "";
  const options = { stream: true, stream_options: { include_usage: true } };
  let usage = null;
  for await (const chunk of await client.chat.completions.create({ ...asked, ...options })) {
    streamed += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.ok(streamed.includes(expected), streamed);
  assert.ok(usage);
  const runner = client.chat.completions.stream(asked);
  assert.ok((await runner.finalContent()).includes(expected));
}

async function respond(model, prompt, expected) {
  const asked = { model, input: prompt };
  const whole = await client.responses.create(asked);
  assert.ok(whole.output_text.includes(expected), whole.output_text);
  const events = [];
  for await (const event of await client.responses.create({
    ...asked, background: true, stream: true,
  })) events.push(event);
  const last = events.at(-1);
  assert.equal(last.type, "response.completed");
  const middle = events[Math.floor(events.length / 2)].sequence_number;
  const resumed = [];
  for await (const event of await client.responses.retrieve(last.response.id, {
    stream: true, starting_after: middle,
  })) resumed.push(event.sequence_number);
  assert.deepEqual(
    resumed,
    events.map((event) => event.sequence_number).filter((number) => number > middle),
  );
  const found = await client.responses.retrieve(last.response.id);
  assert.equal(found.status, "completed");
}

async function make() {
  const vectors = await client.embeddings.create({ model: "embedder", input: ["cat", "dog"] });
  assert.deepEqual(vectors.data.map((each) => each.embedding.length), [32, 32]);
  const made = await client.images.generate({ model: "painter", prompt: "red", size: "64x64" });
  const picture = Buffer.from(made.data[0].b64_json, "base64");
  const image = await OpenAI.toFile(picture, "a.png", { type: "image/png" });
  const edited = await client.images.edit({ model: "painter", image, prompt: "turn it" });
  assert.equal(Buffer.from(edited.data[0].b64_json, "base64").toString("latin1", 1, 4), "PNG");
  const heard = await client.audio.transcriptions.create({
    model: "listener", file: createReadStream(recording),
  });
  assert.match(heard.text, / s$/);
  const speech = await client.audio.speech.create({
    model: "speaker", input: "hello", voice: "alloy",
  });
  assert.equal(Buffer.from(await speech.arrayBuffer()).toString("latin1", 0, 4), "RIFF");
}

async function store() {
  const made = await client.files.create({
    file: createReadStream(recording), purpose: "user_data",
  });
  const ids = [];
  for await (const file of client.files.list()) ids.push(file.id);
  assert.ok(ids.includes(made.id));
  const content = await client.files.content(made.id);
  assert.deepEqual(Buffer.from(await content.arrayBuffer()), readFileSync(recording));
  assert.ok((await client.files.delete(made.id)).deleted);
  await assert.rejects(client.files.retrieve(made.id), OpenAI.NotFoundError);
}

async function batch() {
  const url = "/v1/embeddings";
  const lines = Array.from({ length: 20 }, (_, number) => JSON.stringify({
    custom_id: `line ${number}`, method: "POST", url,
    body: { model: "embedder", input: `text ${number}` },
  }));
  const file = await client.files.create({
    file: await OpenAI.toFile(Buffer.from(lines.join("\n")), "lines.jsonl"), purpose: "batch",
  });
  const asked = { input_file_id: file.id, endpoint: url, completion_window: "24h" };
  let made = await client.batches.create(asked);
  while (!["completed", "failed"].includes(made.status)) {
    await new Promise((resolve) => setTimeout(resolve, 200));
    made = await client.batches.retrieve(made.id);
  }
  assert.deepEqual(made.request_counts, { total: 20, completed: 20, failed: 0 });
  const output = await (await client.files.content(made.output_file_id)).text();
  const found = output.trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(
    found.map((line) => line.custom_id), lines.map((line) => JSON.parse(line).custom_id),
  );
  assert.ok(found.every((line) => line.response.body.data[0].embedding.length === 32));
}

for (let start = 0; start < chats.length; start += 3) {
  const [model, prompt, expected] = chats.slice(start, start + 3);
  await chat(model, prompt, expected);
  await respond(model, prompt, expected);
}
await make();
await store();
await batch();
