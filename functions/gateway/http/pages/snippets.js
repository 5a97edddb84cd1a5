// The request of the playground as commands to copy. The API key is never part of them.

import { readKey } from "/pages/key.js";
import { envelope, inputsOf, isFile, needsUpload, submission, uploadedNames, uploadOrder } from "/pages/job.js";

const KEY = "LOOSELY_API_KEY";

export const LANGUAGES = { curl: makeCurl, Python: makePython, JavaScript: makeJavaScript };
/** The languages for several inputs. */
export const BATCH_LANGUAGES = { "Command line": makeBatchCommand, Python: makeBatchPython };

const isJson = (request) => request.model.result_media_type === "application/json";

const hasNamed = (request) => Object.keys(request.inputs).length > 0;

/** Return the name of the file with an input, which the commands read; null for text and JSON. */
function fileName(input) {
  return isFile(input) ? input.name : null;
}

/** Return the names of the inputs that the commands upload. The name of the first input is "". */
function uploadsOf(request) {
  return needsUpload(request) ? uploadedNames(request) : [];
}

/** Return texts that stand for the ids of uploads, by the input's name. They are replaced by variables. */
function placeholders(names) {
  return names.length ? Object.fromEntries(names.map((name) => [name, placeholder(name)])) : null;
}

// None is the beginning of another one.
const placeholder = (name) => `ID-OF-UPLOAD-${name}-`;

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
  const names = uploadsOf(request);
  const parts = names.flatMap((name) => curlUpload(request.model, name, inputsOf(request)[name], key, origin));
  const { path, headers, body } = submission(request, placeholders(names));
  // A variable is not in quotes of the shell.
  const withIds = (text) => names.reduce(
    (found, name) => found.replace(placeholder(name), `'"$${uploadVariable(name)}"'`), shell(text));
  const name = fileName(request);
  const single = request.json !== undefined ? shell(envelope(request.json)) : shell(request.text ?? "");
  const data = hasNamed(request)
    ? names.length ? [`--data-raw ${withIds(body)}`] : Object.entries(inputsOf(request)).map(curlPart)
    : [names.length ? "-X POST" : name ? `--data-binary ${shell(`@${name}`)}` : `--data-raw ${single}`];
  const sent = Object.entries(headers).map(([header, value]) => `-H ${shell(`${header.toLowerCase()}: ${value}`)}`);
  const url = withIds(`${origin}${path}`);
  if (request.options.stream) {
    // The last event, `end`, has the job with its result or the link to it.
    return `${[...parts, joined(["curl -sSN", ...data, ...sent, `-H 'accept: text/event-stream'`, ...key, url])].join("\n")}\n`;
  }
  const submit = joined(["curl -sS", ...data, ...sent, ...key, url]);
  const named = namedResults(request);
  // The status is 202 if the job has not ended. Then ask again.
  parts.push(`job=$(${submit})`, `id=$(printf %s "$job" | sed -n 's/^{"id": *"\\([^"]*\\)".*/\\1/p')`,
    `while printf %s "$job" | grep -oE '"status": *"[a-z]+"' | head -n 1 | grep -qE 'queued|running|cancelling'; do`,
    `  job=$(${["curl -sS -H 'prefer: wait=30'", ...key, `"${origin}/v1/jobs/$id"`].join(" ")})`,
    "done");
  if (isJson(request) && !named.length) {
    parts.push(`printf '%s\\n' "$job"`);
  } else {
    parts.push(isJson(request) ? `printf '%s\\n' "$job"`
        : joined([`curl -sSL -o ${resultName(request)}`, ...key, `"${origin}/v1/jobs/$id/result"`]),
      // A job may not have an optional result. Then curl writes no file.
      ...named.map(({ name, file, required }) => joined([`curl -sSL${required ? "" : "f"} -o ${file}`, ...key,
        `"${origin}/v1/jobs/$id/result/${name}"${required ? "" : " || true"}`])));
  }
  return `${parts.join("\n")}\n`;
}

/** Return the variable of the shell with the id of an upload. */
const uploadVariable = (name) => (name ? `upload_${name}` : "upload");

function curlUpload(model, name, input, key, origin) {
  const read = (member) => `$(printf %s "$slot" | sed -n 's/.*"${member}": *"\\([^"]*\\)".*/\\1/p')`;
  const asked = shell(uploadOrder(model, name, input));
  return [
    `slot=$(${joined(["curl -sS", ...key, "-H 'content-type: application/json'", `-d ${asked}`, `${origin}/v1/uploads`])})`,
    `url=${read("url")}`,
    `${uploadVariable(name)}=${read("upload")}`,
    joined(["curl -sS", `-T ${shell(input.name)}`, `-H ${shell(`content-type: ${input.mediaType}`)}`,
      "-H 'x-ms-blob-type: BlockBlob'", '"$url"']),
  ];
}

/** Return the option of curl for the part of a form. Characters with a meaning for curl are in quotes. */
function curlPart([name, input]) {
  const quoted = (text) => `"${text.replace(/["\\]/g, "\\$&")}"`;
  const file = /[";,\\]/.test(input.name) ? quoted(input.name) : input.name;
  const content = isFile(input) ? `@${file}` : `${quoted(input.json ?? input.text)};filename=${file}`;
  return `-F ${shell(`${name || "file"}=${content};type=${input.mediaType}`)}`;
}

function makePython(request, origin) {
  const { model, options } = request;
  const source = (input) => (isFile(input) ? `Path(${python(input.name)})` : `${python(input.json ?? input.text)}.encode()`);
  const named = [["media_type", python(request.mediaType)]];
  if (hasNamed(request)) {
    // The client detects the media types of named inputs only in files.
    const members = Object.entries(request.inputs).map(([name, each]) => `            ${python(name)}: ${isFile(each) ? source(each)
      : `client.upload(${source(each)}, ${python(model.name)}, media_type=${python(each.mediaType)}, input_name=${python(name)})`},\n`);
    named.push(["inputs", `{\n${members.join("")}        }`]);
  }
  if (options.parameters !== null) named.push(["parameters", python(JSON.parse(options.parameters))]);
  if (options.deadline_seconds !== null) named.push(["deadline_seconds", python(options.deadline_seconds)]);
  if (options.priority !== null) named.push(["priority", python(options.priority)]);
  if (options.label !== null) named.push(["label", python(options.label)]);
  const argumentsText = [source(request), python(model.name), ...named.map(([key, value]) => `${key}=${value}`)]
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
  const needsPath = Object.values(inputsOf(request)).some(isFile) || !isJson(request) || results.length;
  return [
    ...(needsPath ? ["from pathlib import Path"] : []),
    "",
    "from loosely import Client",
    "",
    ...(readKey() ? [`# The client reads the key from $${KEY}.`] : []),
    `with Client(${python(origin)}) as client:`,
    ...(options.stream ? [
      `    stream = client.stream(\n${argumentsText}    )`,
      "    for event in stream:",
      "        print(event.id, event.kind, event.data)",
      "    job = stream.job",
    ] : [`    job = client.run(\n${argumentsText}    )`]),
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

/** Return the files with the inputs of a batch, which the commands read. */
function batchFiles({ jsonl, files }) {
  return jsonl ? [jsonl.name] : files.map(({ name }) => name);
}

function makeBatchCommand({ model, batch, options }, origin) {
  const given = [["model", model.name], ["deadline", options.deadline_seconds], ["label", options.label],
    ...Object.entries(JSON.parse(options.parameters ?? "{}")).map(([name, value]) => ["param", `${name}=${JSON.stringify(value)}`]),
    ["out", "results.jsonl"], ["url", origin]].filter(([, value]) => value !== null);
  const files = batchFiles(batch).map(shell);
  // The command knows a JSONL file by this ending.
  const source = !batch.jsonl || batch.jsonl.name.endsWith(".jsonl") ? files : [`- < ${files[0]}`];
  const key = readKey() ? [`# The command reads the key from $${KEY}.`] : [];
  return `${[...key, joined(["loosely batch submit", ...source, ...given.map(([name, value]) => `--${name} ${shell(String(value))}`)])].join("\n")}\n`;
}

function makeBatchPython({ model, batch, options }, origin) {
  const given = [["deadline_seconds", options.deadline_seconds], ["label", options.label],
    ["parameters", options.parameters && JSON.parse(options.parameters)]]
    .filter(([, value]) => value !== null).map(([name, value]) => `, ${name}=${python(value)}`).join("");
  const paths = batchFiles(batch).map((name) => `Path(${python(name)})`);
  return [
    "from pathlib import Path",
    "",
    "from loosely import Client",
    "",
    ...(readKey() ? [`# The client reads the key from $${KEY}.`] : []),
    `with Client(${python(origin)}) as client:`,
    `    batch = client.batches.submit(${python(model.name)}, ${batch.jsonl ? paths[0] : `[${paths.join(", ")}]`}${given})`,
    "    client.batches.wait(batch)",
    "    for line in client.batches.results(batch):",
    "        print(line)",
    "",
  ].join("\n");
}

function makeJavaScript(request, origin) {
  const names = uploadsOf(request);
  const inputs = Object.entries(inputsOf(request));
  const { path, headers, body } = submission(request, placeholders(names));
  const isForm = hasNamed(request) && !names.length;
  const read = (input) => (isFile(input) ? `await readFile(${JSON.stringify(input.name)})` : JSON.stringify(input.json ?? input.text));
  const withIds = (text) => (names.some((name) => text.includes(placeholder(name)))
    ? `\`${names.reduce((found, name) => found.replace(placeholder(name), `\${uploads[${JSON.stringify(name)}]}`),
      text.replace(/[`\\]|\$\{/g, "\\$&"))}\`` : JSON.stringify(text));
  let sentBody = request.json === undefined ? read(request) : JSON.stringify(envelope(request.json));
  if (isForm) sentBody = "form";
  else if (names.length) sentBody = hasNamed(request) ? withIds(body) : null;
  const named = namedResults(request);
  const reads = inputs.some(([name, each]) => isFile(each) || names.includes(name));
  const files = [...(reads ? ["readFile"] : []), ...(isJson(request) && !named.length ? [] : ["writeFile"])];
  const sent = Object.entries(headers).map(([header, value]) => `    ${JSON.stringify(header)}: ${JSON.stringify(value)},`);
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
    ...(names.length ? [
      "const uploads = {};",
      "async function upload(name, input, order) {",
      "  const headers = { \"Content-Type\": \"application/json\" };",
      "  const slot = await (await send(\"/v1/uploads\", { method: \"POST\", headers, body: JSON.stringify(order) })).json();",
      '  const stored = await fetch(slot.url, { method: "PUT", headers: slot.headers, body: input });',
      '  if (!stored.ok) throw new Error("the upload failed");',
      "  uploads[name] = slot.upload;",
      "}",
      ...inputs.filter(([name]) => names.includes(name)).map(([name, each]) =>
        `await upload(${JSON.stringify(name)}, await readFile(${JSON.stringify(each.name)}), ${uploadOrder(request.model, name, each)});`),
      "",
    ] : []),
    ...(isForm ? [
      "const form = new FormData();",
      ...inputs.map(([name, each]) => `form.append(${JSON.stringify(name || "file")}, `
        + `new Blob([${read(each)}], { type: ${JSON.stringify(each.mediaType)} }), ${JSON.stringify(each.name)});`),
      "",
    ] : []),
    `let job = await (await send(${withIds(path)}, {`,
    '  method: "POST",',
    "  headers: {", ...sent, "  },",
    ...(sentBody === null ? [] : [`  body: ${sentBody},`]),
    "})).json();",
    ...(request.options.stream ? [
      'const stream = await send(`${job.links.self}/events`, { headers: { Accept: "text/event-stream" } });',
      "for await (const piece of stream.body.pipeThrough(new TextDecoderStream())) process.stdout.write(piece);",
    ] : []),
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
