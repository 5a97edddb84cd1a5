// The requests of the playground: list the models, submit, upload, follow and cancel a job, read its
// stream and its result. A request that fails raises a Problem, which `problem.js` shows.

import { Problem, fetchFrom, send } from "/pages/gateway.js";
import { isLater, readEvents } from "/pages/events.js";

const POLL_SECONDS = 1;
const MAX_FAILURES = 30;
const FINAL = new Set(["succeeded", "failed", "cancelled", "expired"]);

export function isFinal(job) {
  return FINAL.has(job.status);
}

/** Return the models of the catalogue, with their queues. */
export async function listModels() {
  return (await (await send("/v1/models")).json()).models.map(completed);
}

/** Return the current description of a model. */
export async function getModel(name) {
  return completed(await (await send(`/v1/models/${encodeURIComponent(name)}`)).json());
}

/** Return the description of a model with all members. An older gateway, which may answer during an
 * upgrade, describes no named inputs, no named results and no streams. */
function completed(model) {
  return { inputs: {}, results: {}, streams: false, openai: [], ...model };
}

/** Return all inputs of a request by name. The name of the first input is "". */
export function inputsOf(request) {
  return { "": request, ...request.inputs };
}

/** Return whether an input is a file, and not a text or JSON that was entered. */
export function isFile(input) {
  return input.text === undefined && input.json === undefined;
}

const isLarge = ({ blob, limits }) => blob.size > limits.input_bytes;
const hasNamed = (request) => Object.keys(request.inputs).length > 0;

/** Return whether inputs must be uploaded, because the model takes less in a request. */
export function needsUpload(request) {
  if (Object.values(inputsOf(request)).some(isLarge)) return true;
  // JSON in a request is an envelope, so a JSON file is not the body as it is. It can be a part of a form.
  return !hasNamed(request) && request.mediaType === "application/json" && isFile(request);
}

/** Return the names of the inputs to upload, if at least one must be uploaded: files, and large texts. */
export function uploadedNames(request) {
  return Object.entries(inputsOf(request)).filter(([, each]) => isFile(each) || isLarge(each)).map(([name]) => name);
}

/** Return the path, the headers and the body of the request that submits the job.
 *
 * `uploads` contains the ids of the uploaded inputs, by name; null if the body contains the inputs. */
export function submission(request, uploads = null) {
  const query = new URLSearchParams();
  if (uploads && !hasNamed(request)) query.set("upload", uploads[""]);
  for (const [name, value] of Object.entries(request.options)) {
    if (!["wait", "stream"].includes(name) && value !== null) query.set(name, value);
  }
  const { wait, stream } = request.options;
  if (!stream && request.model.streams) query.set("stream", "false");
  const text = String(query);
  const { type, body } = content(request, uploads);
  return {
    path: `/v1/models/${encodeURIComponent(request.model.name)}/jobs${text && `?${text}`}`,
    headers: {
      ...(type && { "Content-Type": type }),
      Prefer: stream ? "respond-async, stream" : wait > 0 ? `wait=${wait}` : "respond-async",
    },
    body,
  };
}

/** Return the body of the request that submits the job, and its media type, which is null for a form. */
function content(request, uploads) {
  if (!hasNamed(request)) {
    const body = request.json === undefined ? request.blob : envelope(request.json);
    return { type: request.mediaType, body: uploads ? null : body };
  }
  if (uploads) return { type: "application/json", body: members(request, uploads) };
  const form = new FormData(); // the browser adds the media type with the boundary
  for (const [name, { blob, name: file }] of Object.entries(inputsOf(request))) form.append(name || "file", blob, file);
  return { type: null, body: form };
}

/** Return the body of a request with JSON as its input. `json` is the text of the JSON. */
export function envelope(json) {
  return `{"input": {"json": ${json}}}`;
}

/** Return the body of a request with named inputs of which some are uploads. */
function members(request, uploads) {
  const member = (name, { json, text, mediaType }) => {
    if (uploads[name]) return JSON.stringify({ upload: uploads[name] });
    return json === undefined ? JSON.stringify({ text, media_type: mediaType }) : `{"json": ${json}}`;
  };
  const named = Object.entries(request.inputs).map(([name, each]) => `${JSON.stringify(name)}: ${member(name, each)}`);
  return `{"input": ${member("", request)}, "inputs": {${named.join(", ")}}}`;
}

/**
 * Submit a job and return it; it may already have ended.
 *
 * Large inputs are sent to the blob storage first, and `request.uploads` becomes their ids. `report`
 * is called with a text about that. All calls with the same `request.key` make only one job.
 */
export async function submitJob(request, signal, report) {
  if (needsUpload(request) && !request.uploads) {
    const uploads = {};
    for (const name of uploadedNames(request)) {
      report(name ? `Uploading the input ${name} …` : "Uploading the input …");
      uploads[name] = await uploadInput(request.model, name, inputsOf(request)[name], signal);
    }
    request.uploads = uploads;
  }
  report("Waiting for the answer …");
  const { path, headers, body } = submission(request, request.uploads);
  const sent = { ...headers, "Idempotency-Key": request.key };
  return (await send(path, { method: "POST", headers: sent, body, signal })).json();
}

/** Return the body of the request for an upload URL. `name` is the name of the input, "" for the first one. */
export function uploadOrder(model, name, { mediaType }) {
  return JSON.stringify({ model: model.name, media_type: mediaType, ...(name && { input: name }) });
}

/** Upload one input of a model, and return the id of the upload. */
export async function uploadInput(model, name, input, signal) {
  const { limits, blob } = input;
  if (blob.size > limits.upload_bytes) {
    throw new Problem({
      code: "payload-too-large", title: "The payload is too large", status: null,
      detail: `${name && `inputs.${name}: `}${model.name} accepts uploads of at most ${limits.upload_bytes} bytes; the input has ${blob.size}.`,
    });
  }
  const headers = { "Content-Type": "application/json" };
  const body = uploadOrder(model, name, input);
  const slot = await (await send("/v1/uploads", { method: "POST", headers, body, signal })).json();
  return putUpload(slot, blob, signal);
}

/** Send a file to the URL of an upload, and return the id of the upload. */
export async function putUpload(slot, blob, signal) {
  const answer = await fetchFrom("the blob storage", slot.url,
    { method: slot.method, headers: slot.headers, body: blob, signal });
  if (!answer.ok) throw storeProblem(answer);
  return slot.upload;
}

/**
 * Ask for a job until it has ended, and yield it after each answer.
 *
 * A gateway that does not answer for a short time is asked again; `report` is called with a text.
 */
export async function* followJob(job, signal, report) {
  let failures = 0;
  while (!isFinal(job)) {
    try {
      const headers = { Prefer: `wait=${POLL_SECONDS}` };
      job = await (await send(job.links.self, { headers, signal })).json();
      failures = 0;
    } catch (error) {
      const canRepeat = error instanceof Problem && (error.document.retryable || error.document.isUnreachable);
      if (!canRepeat || ++failures > MAX_FAILURES) throw error;
      report(`${error.document.title}. Asking again …`);
      await pause(error.retryAfterSeconds ?? 1, signal);
      continue;
    }
    yield job;
    // A gateway that does not wait must not be asked without a pause.
    if (!isFinal(job)) await pause(0.2, signal);
  }
}

/**
 * Yield the events of a job, each once and in order, until the event `end`, which has the job.
 *
 * After any break, the stream continues with another request; `report` is called with a text.
 */
export async function* streamJob(job, signal, report) {
  let last = null;
  let failures = 0;
  for (;;) {
    let failure = { title: "The stream was interrupted", detail: "It ended before the job.", isUnreachable: true };
    let isOrderly = false;
    try {
      const headers = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
      const response = await send(`${job.links.self}/events`, { headers, signal, cache: "no-store" });
      for await (const event of readEvents(response.body)) {
        failures = 0;
        isOrderly = ["resume", "behind"].includes(event.type);
        if (isOrderly) break;
        if (event.type !== "end" && event.id && !isLater(event.id, last)) continue;
        last = event.id ?? last;
        yield event;
        if (event.type === "end") return;
      }
    } catch (error) {
      if (error.name === "AbortError") throw error;
      if (error instanceof Problem && !error.document.retryable && !error.document.isUnreachable) throw error;
      failure = error.document ?? failure;
    }
    if (isOrderly) continue;
    if (++failures > MAX_FAILURES) throw new Problem(failure);
    report(`${failure.title}. Asking again …`);
    await pause(1, signal);
  }
}

/** Cancel a job, and return it. */
export async function cancelJob(job) {
  return (await send(job.links.cancel, { method: "DELETE" })).json();
}

/** Return the timeline of a job. */
export async function readTimeline(job) {
  return (await send(`${job.links.self}/timeline`)).json();
}

/**
 * Return a result of a succeeded job as a Blob with its media type.
 *
 * `name` is the name of a named result; null for the result without a name.
 */
export async function readResult(job, name = null) {
  const { json, link: path } = name === null ? { json: job.result ?? undefined, link: job.links.result }
    : job.results[name];
  if (typeof json === "string") return new Blob([json], { type: "text/plain;charset=utf-8" });
  if (json !== undefined) return new Blob([JSON.stringify(json, null, 2)], { type: "application/json" });
  const answer = await send(`${path}?redirect=false`);
  // Only the link to a large result has this header.
  if (!answer.headers.has("Location")) return answer.blob();
  const link = await answer.json();
  const stored = await fetchFrom("the blob storage", link.url, { referrerPolicy: "no-referrer" });
  if (!stored.ok) throw storeProblem(stored);
  return new Blob([await stored.blob()], { type: link.media_type });
}

/** Return the problem in the end of a job; null if the job succeeded. */
export function problemOf(job) {
  if (job.status === "succeeded") return null;
  if (job.status === "cancelled") {
    return new Problem({
      title: "The job was cancelled", trace_id: job.trace_id, job,
      detail: "It was cancelled before it had a result. Press Run to submit a new job.",
    });
  }
  const hasExpired = job.status === "expired";
  return new Problem({
    code: hasExpired ? "expired" : job.error?.code ?? "inference-failed",
    title: hasExpired ? "The deadline passed" : "The job failed", detail: job.error?.message ?? "",
    retryable: job.error?.retryable ?? false, stage: job.error?.stage, trace_id: job.trace_id, job,
  });
}

function storeProblem(response) {
  return new Problem({
    title: `The blob storage answered ${response.status}`, status: response.status,
    detail: "The link may have expired. Run the job again.",
  });
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => { clearTimeout(timer); reject(signal.reason); };
    const timer = setTimeout(() => { signal?.removeEventListener("abort", stop); resolve(); }, seconds * 1000);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
