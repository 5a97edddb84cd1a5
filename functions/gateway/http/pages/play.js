// The playground: choose a model, give it an input, follow the job, and see its result.
//
//     input.js     the inputs: file, camera, microphone, text, JSON
//     job.js       the requests
//     batch.js     the requests for several inputs, and the table of their results
//     stream.js    what the model emits while it runs
//     result.js    the drawings of results; picture.js and sound.js have the larger ones
//     problem.js   problems
//     snippets.js  the request as commands
//     timeline.js  where the time of the job went

import { BatchView, DEADLINE, factsOf as batchFactsOf, readLines, refusalOf, submitBatch } from "/pages/batch.js";
import { addKeyField, element, onKeyChange } from "/pages/key.js";
import { checkJson, choice, forgetUrls, InputPanel, makeJsonCheck, showJsonCheck } from "/pages/input.js";
import {
  cancelJob, followJob, getModel, isFinal, listModels, needsUpload, problemOf, readResult, readTimeline, streamJob,
  submitJob,
} from "/pages/job.js";
import { WAITS, formatMilliseconds, formatSize } from "/pages/figures.js";
import { Problem } from "/pages/gateway.js";
import { showProblem } from "/pages/problem.js";
import { drawResult, fileSuffix } from "/pages/result.js";
import { BATCH_LANGUAGES, LANGUAGES } from "/pages/snippets.js";
import { StreamView } from "/pages/stream.js";
import { drawTimeline } from "/pages/timeline.js";

const REFRESH_MS = 10_000;
const IDLE_MS = 15 * 60_000;
const FACTS_MS = 200;
const MANY_MODELS = 6;
const find = (id) => document.getElementById(id);

// The operations of the OpenAI API whose models emit text.
const TEXT_OPERATIONS = new Set(["chat.completions", "completions", "responses"]);

const STATUS_MARKS = {
  sending: "↑", queued: "…", validating: "…", running: "▸", cancelling: "…", succeeded: "✓", failed: "✕", cancelled: "⊘", expired: "✕",
};

let models = [];
let model = null;
let language = "curl";
let current = null; // the run that the page shows
let usedAt = performance.now();

const input = new InputPanel(showProblem, showSnippet, ({ name }) => pickModel(name));

// --- Models ---

async function loadModels() {
  try {
    models = await listModels();
  } catch (error) {
    find("models").replaceChildren();
    showProblem(find("models-problem"), error, loadModels);
    if (error.document?.status === 401) openKeyField();
    return;
  }
  find("models-problem").replaceChildren();
  const wanted = model?.name ?? decodeURIComponent(location.hash.slice(1));
  model = models.find((each) => each.name === wanted) ?? models[0];
  find("models").replaceChildren(...models.map(modelCard));
  find("models").classList.toggle("many", models.length > MANY_MODELS);
  selectModel(model);
}

function modelCard(each) {
  const radio = element("input", { type: "radio", name: "model", value: each.name, checked: each === model });
  radio.addEventListener("change", () => selectModel(each));
  const card = element("label", { className: "model" }, radio,
    element("span", { className: "model-body" }, element("strong", {}, each.name),
      element("span", { className: "task" }, each.task.replaceAll("-", " ")),
      element("span", { className: "soft" }, each.description),
      element("span", { className: "model-facts" }, ...factsOf(each).map(([name, text]) =>
        element("span", {}, `${name} `, element("b", {}, text))))));
  card.dataset.name = each.name;
  return card;
}

function factsOf({ limits, queue_length: length, estimated_wait_seconds: wait, versions, results }) {
  const most = limits.upload_bytes > limits.input_bytes ? `${formatSize(limits.input_bytes)}, uploads ${formatSize(limits.upload_bytes)}` : formatSize(limits.input_bytes);
  return [
    ["Queue", length === null ? "unknown" : `${length} ${length === 1 ? "job" : "jobs"}`],
    ["Expected wait", wait === null ? "unknown" : formatMilliseconds(wait * 1000)],
    ["Largest input", most],
    ...(limits.pixels ? [["Pixels", `${Math.round(limits.pixels / 1e6)} million`]] : []),
    ["Deadline", `up to ${formatMilliseconds(limits.deadline_seconds * 1000)}`],
    ...(Object.keys(versions).length > 1 ? [["Versions", percentagesOf(versions)]] : []),
    ...(Object.keys(results).length ? [["Named results", Object.keys(results).join(", ")]] : []),
  ];
}

/** Return the percentage of jobs for each version of a model: "1: 95 %, 2: 5 %". */
function percentagesOf(versions) {
  return Object.entries(versions).map(([version, percent]) => `${version}: ${percent} %`).join(", ");
}

function selectModel(chosen) {
  const isOther = model !== chosen || !find("deadline").value;
  model = chosen;
  if (isOther) showDeadline();
  history.replaceState(null, "", `#${encodeURIComponent(model.name)}`);
  if (isOther) {
    find("stream").checked = model.streams || model.openai.some((each) => TEXT_OPERATIONS.has(each));
  }
  showParameters();
  input.setModel(model, models);
}

/** Show the usual and the longest deadline of a job of the model, or of a batch. */
function showDeadline() {
  const [usual, most, what] = input.isBatch ? [DEADLINE.usual, DEADLINE.most, "batch"]
    : [model.defaults.deadline_seconds, model.limits.deadline_seconds, "job"];
  Object.assign(find("deadline"), { value: usual, defaultValue: usual, max: most });
  find("deadline-text").textContent = `1 to ${most}. The ${what} expires if it has not ended by then.`;
}

/** Show the options of a job or of a batch. */
function showKind() {
  const isBatch = input.isBatch;
  if (find("request").classList.contains("batch") === isBatch) return;
  find("request").classList.toggle("batch", isBatch);
  find("run").textContent = isBatch ? "Run the batch" : "Run";
  showDeadline();
  showLanguages();
}

/** Select the model that the address names after "#". */
function followAddress() {
  pickModel(decodeURIComponent(location.hash.slice(1)));
}

function pickModel(name) {
  const radio = document.querySelector(`.model[data-name="${CSS.escape(name)}"] input`);
  if (radio && !radio.checked) radio.click();
}

async function refreshQueue() {
  const isIdle = performance.now() - usedAt > IDLE_MS;
  if (document.visibilityState !== "visible" || isIdle || !model) return;
  const fresh = await getModel(model.name).catch(() => null);
  const card = fresh && document.querySelector(`.model[data-name="${CSS.escape(fresh.name)}"] .model-facts`);
  card?.replaceChildren(...factsOf(fresh).map(([name, text]) => element("span", {}, `${name} `, element("b", {}, text))));
}

// --- Options ---

/** Show the parameters of the model as a form, or as JSON if the model does not declare them. */
function showParameters() {
  const properties = Object.entries(model.parameters?.properties ?? {});
  if (properties.length) {
    find("parameters").replaceChildren(element("div", { className: "fields" },
      ...properties.map(([name, schema]) => parameterField(name, schema))));
    return;
  }
  const check = makeJsonCheck("parameters-check");
  const area = element("textarea", { id: "parameters-json", rows: 3, spellcheck: false, placeholder: "{}" });
  area.setAttribute("aria-describedby", "parameters-check");
  area.addEventListener("input", () => showJsonCheck(area, check));
  find("parameters").replaceChildren(element("label", { htmlFor: area.id }, "Parameters as a JSON object"), area, check);
}

function parameterField(name, schema) {
  const id = `parameter-${name}`;
  let field;
  if (schema.enum) {
    field = element("select", {}, ...schema.enum.map((value) => element("option", { value: JSON.stringify(value) }, String(value))));
    field.value = JSON.stringify(schema.default ?? schema.enum[0]);
  } else if (schema.type === "boolean") {
    field = element("input", { type: "checkbox", checked: schema.default === true });
  } else if (schema.type === "string") {
    field = element("input", { type: "text", value: schema.default ?? "" });
  } else if (schema.type === "array") {
    field = element("input", { type: "text", value: JSON.stringify(schema.default ?? []), spellcheck: false });
  } else {
    field = element("input", { type: "number", step: schema.type === "integer" ? "1" : "any", value: schema.default ?? "" });
    if (schema.minimum !== undefined) field.min = schema.minimum;
    if (schema.maximum !== undefined) field.max = schema.maximum;
  }
  Object.assign(field, { id, name });
  field.dataset.type = schema.enum ? "enum" : schema.type;
  field.dataset.initial = JSON.stringify(readField(field) ?? null);
  return element("div", {}, element("label", { htmlFor: id }, name), field,
    element("small", {}, schema.description ?? ""));
}

function readField(field) {
  if (field.dataset.type === "boolean") return field.checked;
  if (field.dataset.type === "enum") return JSON.parse(field.value);
  if (field.dataset.type === "string") return field.value;
  if (field.dataset.type === "array") return readArray(field);
  return field.value === "" ? undefined : Number(field.value);
}

function readArray(field) {
  const failure = checkJson(field.value);
  if (failure) throw new Problem({ title: `${field.name} is not a JSON array`, detail: failure });
  return JSON.parse(field.value);
}

/** Return the parameters as JSON text; null if there are none. Fields that are as at first are not sent. */
function readParameters() {
  const area = find("parameters-json");
  if (area) {
    if (!area.value.trim()) return null;
    const failure = checkJson(area.value);
    if (failure) throw new Problem({ title: "The parameters are not JSON", detail: failure });
    return JSON.stringify(JSON.parse(area.value));
  }
  const given = {};
  for (const field of find("parameters").querySelectorAll("input, select")) {
    const value = readField(field);
    if (JSON.stringify(value ?? null) !== field.dataset.initial) given[field.name] = value;
  }
  return Object.keys(given).length ? JSON.stringify(given) : null;
}

function readOptions() {
  const number = (id, name) => {
    const field = find(id);
    if (field.validity.valid && field.value !== "") return Number(field.value);
    throw new Problem({ title: `${name} is not valid`, detail: `Enter a whole number from ${field.min} to ${field.max}.` });
  };
  const deadline = number("deadline", "The deadline");
  return {
    wait: number("wait", "The wait"),
    stream: find("stream").checked,
    deadline_seconds: deadline === Number(find("deadline").defaultValue) ? null : deadline,
    priority: find("priority").value === "normal" ? null : find("priority").value,
    label: find("label").value || null,
    parameters: readParameters(),
  };
}

function showOptions() {
  const options = readOptions();
  const shown = [input.isBatch ? null : options.stream ? "stream" : `wait ${options.wait} s`, options.priority && "low priority", options.deadline_seconds && `deadline ${options.deadline_seconds} s`,
    options.label && `label ${options.label}`, options.parameters && "parameters"];
  find("options-summary").textContent = shown.filter(Boolean).join(", ");
}

// --- The run ---

/** One press of "Run": the request, the job that it made, and what stops it. */
class Run {
  constructor(request) {
    this.request = request;
    this.job = null;
    this.stopped = new AbortController(); // the page shows another run
    this.submit = new AbortController(); // the user does not wait for the answer of the submit
    this.isCancelled = false;
    this.stream = new StreamView(find("stream-view"), performance.now());
  }

  async start() {
    try {
      await this.submitted();
      await this.followed();
      await this.ended();
    } catch (error) {
      if (this !== current || error.name === "AbortError") return;
      if (error.document?.job) this.show(error.document.job);
      else this.showStatus("failed", "The request was not accepted");
      showProblem(find("problem"), error, () => run());
      if (error.document?.status === 401) openKeyField();
      if (this.job && isFinal(this.job)) await this.showTimeline();
    } finally {
      if (this === current) setRunning(false);
    }
  }

  async submitted() {
    const report = (text) => this.showStatus("sending", text);
    const signal = AbortSignal.any([this.stopped.signal, this.submit.signal]);
    try {
      this.show(await submitJob(this.request, signal, report));
    } catch (error) {
      if (error.name !== "AbortError" || this.stopped.signal.aborted) throw error;
      if (needsUpload(this.request) && !this.request.uploads) {
        throw new Problem({ title: "Cancelled before the job was submitted", detail: "The upload was stopped. No job was made." });
      }
      // The key makes this the same job, which the gateway now names at once.
      const again = { ...this.request, options: { ...this.request.options, wait: 0 } };
      this.show(await submitJob(again, this.stopped.signal, report));
    }
    if (this.isCancelled) this.show(await cancelJob(this.job));
  }

  async followed() {
    const report = (text) => this.showStatus(this.job.status, text);
    if (!this.request.options.stream) {
      for await (const job of followJob(this.job, this.stopped.signal, report)) this.show(job);
      return;
    }
    // Until the model emits something, the page shows the place in the queue.
    const waiting = new AbortController();
    this.showQueue(AbortSignal.any([this.stopped.signal, waiting.signal]));
    try {
      for await (const event of streamJob(this.job, this.stopped.signal, report)) {
        waiting.abort();
        this.showEvent(event);
      }
    } finally {
      waiting.abort();
    }
  }

  async showQueue(signal) {
    try {
      for await (const job of followJob(this.job, signal, () => {})) {
        if (!signal.aborted && !isFinal(job)) this.show(job);
      }
    } catch {
      // The stream reports what is wrong.
    }
  }

  showEvent({ type, data }) {
    if (this !== current) return;
    if (type === "end") {
      this.show(data);
      return;
    }
    if (type === "chunk") this.stream.add(data);
    if (type === "attempt") this.stream.restart();
    const isWaiting = this.job.status === "queued";
    const attempt = type === "attempt" ? data.attempt : this.job.attempt;
    const progress = type === "progress" ? data : this.job.progress;
    if (isWaiting || type !== "chunk") {
      this.show({ ...this.job, status: isWaiting ? "running" : this.job.status, attempt, progress });
    } else if (performance.now() - this.factsAt > FACTS_MS) {
      this.showFacts();
    }
    if (type === "attempt") this.showStatus(this.job.status, "The job runs again from its beginning");
    if (type === "stream_lost") this.showStatus(this.job.status, "Some chunks are missing; the result is complete");
  }

  async ended() {
    const problem = problemOf(this.job);
    if (problem) throw problem;
    const names = [null, ...Object.keys(this.job.results ?? {})];
    const reads = names.map((name) => readResult(this.job, name));
    await Promise.allSettled(reads);
    if (this !== current) return;
    for (const [at, name] of names.entries()) await this.addResult(name, reads[at]);
    // A result that is not JSON has the text or the picture again, and that of a chat the text.
    const hasText = find("result").querySelector("pre.text")?.textContent === this.stream.text;
    if (hasText || this.request.model.result_media_type !== "application/json") find("stream-view").replaceChildren();
    await this.showTimeline();
  }

  /** Add one result below the others. `name` is null for the result without a name.
   *
   * `read` is the promise of the result as a Blob. */
  async addResult(name, read) {
    const { model } = this.request;
    const place = element("div", {});
    await this.drawOrShowProblem(place, name, read);
    if (this !== current) return;
    find("result").append(name === null ? place : element("section", { className: "named" },
      element("h3", {}, name), element("p", { className: "soft" }, model.results[name]?.description ?? ""), place));
  }

  /** Draw one result in an element. If it cannot be read or drawn, show the problem there instead. */
  async drawOrShowProblem(place, name, read) {
    const file = [this.job.id, ...(name ? [name] : [])].join("-");
    try {
      const blob = await read;
      await drawResult(place, blob, this.request.blob, `${file}.${fileSuffix(blob.type)}`);
    } catch (error) {
      if (this !== current) return;
      showProblem(place, error, () => this.drawOrShowProblem(place, name, readResult(this.job, name)));
      if (error.document?.status === 401) openKeyField();
    }
  }

  async cancel() {
    this.isCancelled = true;
    find("cancel").disabled = true;
    if (!this.job) {
      this.submit.abort();
      return;
    }
    try {
      const job = await cancelJob(this.job);
      if (!isFinal(this.job)) this.show(job);
    } catch (error) {
      showProblem(find("problem"), error);
      find("cancel").disabled = false;
    }
  }

  show(job) {
    if (this !== current) return;
    this.job = job;
    const text = {
      queued: WAITS[job.queue.phase] ?? "The job waits in the queue",
      running: "The model runs", cancelling: "The job is being cancelled",
      succeeded: "Succeeded after", failed: "Failed after", cancelled: "Cancelled after", expired: "Expired after",
    }[job.status] + (isFinal(job) ? ` ${formatMilliseconds(job.timing?.total_ms)}` : "");
    this.showStatus(job.status, text);
    this.showFacts();
    const progress = isFinal(job) ? null : job.progress;
    find("progress").hidden = !progress;
    find("progress-text").textContent = progress?.message ?? "";
    if (progress?.fraction === null) find("progress").removeAttribute("value");
    else if (progress) find("progress").value = progress.fraction;
  }

  showFacts() {
    const { job } = this;
    this.factsAt = performance.now();
    const { position, eta_seconds: eta, phase } = job.queue;
    const timing = job.timing;
    const milliseconds = (value) => (value === null || value === undefined ? null : formatMilliseconds(value));
    showFacts(find("job-facts"), [
      [phase === "share" ? "Position in the tenant's jobs" : "Position", isFinal(job) ? null : position],
      ["Expected wait", isFinal(job) || eta === null ? null : formatMilliseconds(eta * 1000)],
      ["Attempt", job.attempt],
      ["In the queue", milliseconds(timing?.queued_ms)],
      ["Model", milliseconds(timing?.inference_ms)],
      ["Batch", timing?.batch_size],
      ...this.stream.facts(),
      ["Label", job.label],
      ["Job", element("code", {}, job.id)],
    ]);
  }

  showStatus(status, text) {
    if (this !== current) return;
    const isRunning = STATUS_MARKS[status] !== undefined && !["succeeded", "failed", "cancelled", "expired"].includes(status);
    find("job").hidden = false;
    find("empty").hidden = true;
    find("badge").textContent = `${STATUS_MARKS[status]} ${status}`;
    find("badge").dataset.status = status;
    if (find("state").textContent !== text) find("state").textContent = text;
    find("cancel").hidden = !isRunning;
  }

  async showTimeline() {
    const timeline = await readTimeline(this.job).catch(() => null);
    if (!timeline || this !== current) return;
    find("story").hidden = false;
    drawTimeline(find("timeline"), timeline);
  }
}

/** One press of "Run" with several inputs. Its `job` is the batch, which has the members that the base class uses. */
class BatchRun extends Run {
  async submitted() {
    const signal = AbortSignal.any([this.stopped.signal, this.submit.signal]);
    try {
      this.show(await submitBatch(this.request, signal, (text) => this.showStatus("sending", text)));
    } catch (error) {
      if (error.name !== "AbortError" || this.stopped.signal.aborted) throw error;
      throw new Problem({ title: "Cancelled before the batch was submitted", detail: "The upload was stopped. No batch was made." });
    }
    if (this.isCancelled) this.show(await cancelJob(this.job));
    this.view = new BatchView(find("result"), this.request);
  }

  async followed() {
    const report = (text) => this.showStatus(this.job.status, text);
    for await (const batch of followJob(this.job, this.stopped.signal, report)) {
      this.show(batch);
      await this.showLines();
    }
  }

  async showLines() {
    const batch = this.job;
    if (!batch.counts.total) return;
    const jobs = await readLines(batch, this.stopped.signal);
    if (this === current) this.view.show(batch, jobs);
  }

  async ended() {
    await this.showLines();
    const refusal = refusalOf(this.job);
    if (refusal) throw refusal;
  }

  show(batch) {
    if (this !== current) return;
    this.job = batch;
    const text = {
      validating: "The lines are being checked", running: "The batch runs", cancelling: "The batch is being cancelled",
      succeeded: "All lines have ended after", failed: "Refused after", cancelled: "Cancelled after", expired: "Expired after",
    }[batch.status] + (isFinal(batch) ? ` ${formatMilliseconds(Date.parse(batch.finished_at) - Date.parse(batch.created_at))}` : "");
    this.showStatus(batch.status, text);
    find("progress").hidden = isFinal(batch) || !batch.counts.total;
    find("progress").value = batch.progress?.fraction ?? 0;
    const eta = isFinal(batch) ? null : batch.estimate?.eta_seconds ?? null;
    showFacts(find("job-facts"), [
      ...batchFactsOf(batch), ["Left", eta === null ? null : formatMilliseconds(eta * 1000)],
      ["Label", batch.label], ["Batch", element("a", { href: `/ops#batch=${batch.id}` }, batch.id)],
    ]);
  }

  async showTimeline() {
    // The timelines are those of its lines.
  }
}

function showFacts(list, facts) {
  list.replaceChildren(...facts.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value instanceof Node ? value : String(value)))));
}

function setRunning(isRunning) {
  // The button keeps the focus, which `disabled` would take away.
  find("run").ariaDisabled = String(isRunning);
  find("cancel").disabled = false;
  if (!isRunning) {
    if (document.activeElement === find("cancel")) find("answer-title").focus();
    find("cancel").hidden = true;
    refreshQueue();
  }
}

/** Return the request that the form describes. Raises Problem if it cannot be sent. */
function readRequest() {
  return { model, ...input.values(), options: readOptions() };
}

function run() {
  if (find("run").ariaDisabled === "true") return;
  let request;
  input.clearProblems();
  try {
    request = readRequest();
  } catch (error) {
    const place = error.place ?? find("input-problem");
    showProblem(place, error);
    place.scrollIntoView({ block: "nearest" });
    return;
  }
  current?.stopped.abort();
  for (const id of ["result", "stream-view"]) forgetUrls(find(id));
  current = new (request.batch ? BatchRun : Run)({ ...request, key: randomKey() });
  for (const id of ["problem", "result", "timeline", "job-facts"]) find(id).replaceChildren();
  for (const id of ["progress", "story"]) find(id).hidden = true;
  setRunning(true);
  // On a narrow screen, the answer is below the form.
  const isBelow = matchMedia("(max-width: 61.99rem)").matches;
  find("answer-title").scrollIntoView({ block: isBelow ? "start" : "nearest" });
  current.start();
}

function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// --- The request as commands ---

function showLanguages() {
  const known = Object.keys(input.isBatch ? BATCH_LANGUAGES : LANGUAGES);
  if (!known.includes(language)) [language] = known;
  find("languages").replaceChildren(...choice("language", known.map((name) => [name, name]), language, (name) => {
    language = name;
    showSnippet();
  }));
}

function showSnippet() {
  if (!model) return;
  let text;
  try {
    showKind();
    showOptions();
    text = (input.isBatch ? BATCH_LANGUAGES : LANGUAGES)[language](readRequest(), location.origin);
  } catch (error) {
    text = `# ${error.message}`;
  }
  find("snippet").textContent = text;
  find("copied").textContent = "";
}

async function copySnippet() {
  try {
    await navigator.clipboard.writeText(find("snippet").textContent);
    find("copied").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(find("snippet"));
    find("copied").textContent = "Selected: press Ctrl+C";
  }
}

function openKeyField() {
  document.querySelector("header .key").open = true;
  find("api-key").focus();
}

// --- Start ---

addKeyField();
onKeyChange(() => { loadModels(); showSnippet(); });
showLanguages();
find("request").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
find("request").addEventListener("input", showSnippet);
find("request").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
});
find("cancel").addEventListener("click", () => current?.cancel());
find("copy").addEventListener("click", copySnippet);
for (const name of ["pointerdown", "keydown"]) addEventListener(name, () => { usedAt = performance.now(); });
addEventListener("hashchange", followAddress);
setInterval(refreshQueue, REFRESH_MS);
loadModels();
