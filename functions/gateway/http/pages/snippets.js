// The request of the playground as commands to copy. The API key is never part of them.

import { readKey } from "/pages/key.js";
import { envelope, needsUpload, submission } from "/pages/job.js";

const KEY = "LOOSELY_API_KEY";

export const LANGUAGES = { curl: makeCurl, Python: makePython, JavaScript: makeJavaScript };

const isJson = (request) => request.model.result_media_type === "application/json";

/** Return the name of the file with the input, which the commands read; null for text and JSON. */
function fileName(request) {
  return request.text === undefined && request.json === undefined ? request.name : null;
}

function resultName(request) {
  return outputName("result", request.model.result_media_type);
}

/** Return the name of the file to which the commands write a result. */
function outputName(name, mediaType) {
  return `${name}.${(mediaType.split("/")[1] ?? "bin").replace(/[^a-z0-9]/g, "")}`;
}

/** Return the named results of the model: their names, files, and whether each job has them. */
function namedResults(request) {
  return Object.entries(request.model.results).map(([name, { media_type: mediaType, required }]) =>
    ({ name, file: outputName(name, mediaType), required }));
}

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// Lines, of which all but the last continue.
const joined = (lines) => lines.join(" \\\n  ");

function makeCurl(request, origin) {
  const key = readKey() ? [`-H "Authorization: Bearer $${KEY}"`] : [];
  const isUpload = needsUpload(request);
  const parts = [];
  if (isUpload) {
    const asked = JSON.stringify({ model: request.model.name, media_type: request.mediaType });
    parts.push(
      `slot=$(${joined(["curl -sS", ...key, "-H 'content-type: application/json'", `-d ${shell(asked)}`, `${origin}/v1/uploads`])})`,
      `url=$(printf %s "$slot" | sed -n 's/.*"url": *"\\([^"]*\\)".*/\\1/p')`,
      `upload=$(printf %s "$slot" | sed -n 's/.*"upload": *"\\([^"]*\\)".*/\\1/p')`,
      joined(["curl -sS", `-T ${shell(fileName(request))}`, `-H ${shell(`content-type: ${request.mediaType}`)}`,
        "-H 'x-ms-blob-type: BlockBlob'", '"$url"']),
    );
  }
  const { path, headers } = submission(request, isUpload ? "UPLOAD" : null);
  const url = shell(`${origin}${path}`).replace("upload=UPLOAD", `upload='"$upload"'`);
  const name = fileName(request);
  const body = request.json !== undefined ? shell(envelope(request.json)) : shell(request.text ?? "");
  const data = isUpload ? "-X POST" : name ? `--data-binary ${shell(`@${name}`)}` : `--data-raw ${body}`;
  const sent = Object.entries(headers).map(([header, value]) => `-H ${shell(`${header.toLowerCase()}: ${value}`)}`);
  const submit = joined([`curl -sS`, data, ...sent, ...key, url]);
  const named = namedResults(request);
  if (isJson(request) && !named.length) {
    parts.push(submit);
  } else {
    parts.push(`job=$(${submit})`, `id=$(printf %s "$job" | sed -n 's/^{"id": *"\\([^"]*\\)".*/\\1/p')`,
      isJson(request) ? `printf '%s\\n' "$job"`
        : joined([`curl -sSL -o ${resultName(request)}`, ...key, `"${origin}/v1/jobs/$id/result"`]),
      // A job may not have an optional result. Then curl writes no file.
      ...named.map(({ name, file, required }) => joined([`curl -sSL${required ? "" : "f"} -o ${file}`, ...key,
        `"${origin}/v1/jobs/$id/result/${name}"${required ? "" : " || true"}`])));
  }
  parts.push("# If the status is 202, the job has not ended. Ask again, with its id:",
    `# curl -sS -H 'prefer: wait=30' ${key.map((each) => `${each} `).join("")}${origin}/v1/jobs/ID`);
  return `${parts.join("\n")}\n`;
}

function makePython(request, origin) {
  const name = fileName(request);
  const { wait, ...options } = request.options;
  const source = name ? `Path(${python(name)})`
    : `${python(request.json ?? request.text)}.encode()`;
  const named = [["media_type", python(request.mediaType)]];
  if (options.parameters !== null) named.push(["parameters", python(JSON.parse(options.parameters))]);
  if (options.deadline_seconds !== null) named.push(["deadline_seconds", python(options.deadline_seconds)]);
  if (options.priority !== null) named.push(["priority", python(options.priority)]);
  if (options.label !== null) named.push(["label", python(options.label)]);
  const argumentsText = [source, python(request.model.name), ...named.map(([key, value]) => `${key}=${value}`)]
    .map((text) => `        ${text},\n`).join("");
  const results = namedResults(request);
  const shown = isJson(request)
    ? ["    print(client.result(job.id).body.decode())"]
    : [`    Path(${python(resultName(request))}).write_bytes(client.result(job.id).body)`];
  for (const { name: result, file, required } of results) {
    const written = `Path(${python(file)}).write_bytes(client.result(job.id, ${python(result)}).body)`;
    if (required) shown.push(`    ${written}`);
    else shown.push(`    if ${python(result)} in job.results:`, `        ${written}`);
  }
  return [
    ...(name || !isJson(request) || results.length ? ["from pathlib import Path"] : []),
    "",
    "from loosely import Client",
    "",
    ...(readKey() ? [`# The client reads the key from $${KEY}.`] : []),
    `with Client(${python(origin)}) as client:`,
    `    job = client.run(\n${argumentsText}    )`,
    ...shown,
    "",
  ].join("\n").trimStart();
}

/** Return a JSON value as Python code. */
function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, each]) => `${python(key)}: ${python(each)}`).join(", ")}}`;
  }
  return JSON.stringify(value); // Python reads strings and numbers of JSON as they are
}

function makeJavaScript(request, origin) {
  const isUpload = needsUpload(request);
  const { path, headers } = submission(request, isUpload ? "UPLOAD" : null);
  const name = fileName(request);
  const text = request.json === undefined ? request.text : envelope(request.json);
  const body = name ? `await readFile(${JSON.stringify(name)})` : JSON.stringify(text);
  const named = namedResults(request);
  const files = [...(name ? ["readFile"] : []), ...(isJson(request) && !named.length ? [] : ["writeFile"])];
  const sent = Object.entries(headers).map(([header, value]) => `    ${JSON.stringify(header)}: ${JSON.stringify(value)},`);
  const submitted = isUpload ? `\`${path.replace("upload=UPLOAD", "upload=${slot.upload}")}\`` : JSON.stringify(path);
  return [
    ...(files.length ? [`import { ${files.join(", ")} } from "node:fs/promises";`, ""] : []),
    `const gateway = ${JSON.stringify(origin)};`,
    `const key = ${readKey() ? `{ Authorization: \`Bearer \${process.env.${KEY}}\` }` : "{}"};`,
    "async function send(path, options) {",
    "  const response = await fetch(gateway + path, { ...options, headers: { ...options.headers, ...key } });",
    "  if (!response.ok) throw new Error(await response.text());",
    "  return response;",
    "}",
    "",
    ...(isUpload ? [
      `const input = ${body};`,
      'const slot = await (await send("/v1/uploads", {',
      '  method: "POST",',
      '  headers: { "Content-Type": "application/json" },',
      `  body: ${JSON.stringify(JSON.stringify({ model: request.model.name, media_type: request.mediaType }))},`,
      "})).json();",
      'const stored = await fetch(slot.url, { method: "PUT", headers: slot.headers, body: input });',
      'if (!stored.ok) throw new Error("the upload failed");',
    ] : []),
    `let job = await (await send(${submitted}, {`,
    '  method: "POST",',
    "  headers: {", ...sent, "  },",
    ...(isUpload ? [] : [`  body: ${body},`]),
    "})).json();",
    'while (["queued", "running", "cancelling"].includes(job.status)) {',
    '  job = await (await send(job.links.self, { headers: { Prefer: "wait=30" } })).json();',
    "}",
    'if (job.status !== "succeeded") throw new Error(JSON.stringify(job.error ?? job.status));',
    "const result = await send(job.links.result, {});",
    isJson(request) ? "console.log(JSON.stringify(await result.json(), null, 2));"
      : `await writeFile(${JSON.stringify(resultName(request))}, Buffer.from(await result.arrayBuffer()));`,
    ...(named.length ? [
      `const files = ${JSON.stringify(Object.fromEntries(named.map((each) => [each.name, each.file])))};`,
      "for (const [name, { link }] of Object.entries(job.results)) {",
      "  await writeFile(files[name], Buffer.from(await (await send(link, {})).arrayBuffer()));",
      "}",
    ] : []),
    "",
  ].join("\n");
}
