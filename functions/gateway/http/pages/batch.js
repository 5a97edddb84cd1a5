// The batch of the playground: its requests, and a table of its lines as they end.

import { Problem, send } from "/pages/gateway.js";
import { forgetUrls } from "/pages/input.js";
import { isFinal, problemOf, putUpload, readResult, uploadInput } from "/pages/job.js";
import { element } from "/pages/key.js";
import { percent } from "/pages/picture.js";
import { showProblem } from "/pages/problem.js";
import { drawResult, fileSuffix } from "/pages/result.js";

export const DEADLINE = { most: 7 * 86_400, usual: 86_400 }; // in seconds
const SHOWN_LINES = 100;
const UPLOADS_AT_ONCE = 4;
const MAX_ANSWER_CHARACTERS = 120;

const JSON_HEADERS = { "Content-Type": "application/json" };
const MARKS = { succeeded: "✓", failed: "✕", expired: "✕", cancelled: "⊘", running: "▸" };

const isPicture = ({ mediaType }) => mediaType.startsWith("image/");

/** Return the lines of the files of a batch, with different ids: the names of the files. */
export function linesOf(files) {
  const counts = new Map();
  return files.map((file) => {
    const count = (counts.get(file.name) ?? 0) + 1;
    counts.set(file.name, count);
    return { id: count === 1 ? file.name : `${file.name} (${count})`, file };
  });
}

/** Return the body of the request for a batch. `lines` has the items, and `upload` the id of a JSONL file. */
export function batchOrder({ model, options }, { upload, items }) {
  return {
    model: model.name, ...(upload ? { file: { upload } } : { items }),
    ...(options.deadline_seconds !== null && { deadline_seconds: options.deadline_seconds }),
    ...(options.label !== null && { label: options.label }),
    ...(options.parameters !== null && { parameters: JSON.parse(options.parameters) }),
  };
}

/**
 * Upload the files of a batch, submit it, and return it.
 *
 * `signal` stops the uploads, and `report` is called with a text about them. All calls with the same
 * `request.key` make only one batch.
 */
export async function submitBatch(request, signal, report) {
  const { jsonl } = request.batch;
  const order = jsonl ? { upload: await uploadLines(jsonl, signal, report) }
    : { items: await uploadFiles(request, signal, report) };
  report("Waiting for the answer …");
  const headers = { ...JSON_HEADERS, "Idempotency-Key": request.key };
  return (await send("/v1/batches", { method: "POST", headers, body: JSON.stringify(batchOrder(request, order)) })).json();
}

async function uploadLines(file, signal, report) {
  report(`Uploading ${file.name} …`);
  const body = JSON.stringify({ purpose: "batch" });
  const slot = await (await send("/v1/uploads", { method: "POST", headers: JSON_HEADERS, body, signal })).json();
  return putUpload(slot, file, signal);
}

/** Upload each file, a few at once, and return the items of the batch in the order of the files. */
async function uploadFiles({ model, batch }, signal, report) {
  const lines = linesOf(batch.files);
  const items = [];
  let next = 0;
  let done = 0;
  const work = async () => {
    while (next < lines.length) {
      const at = next++;
      const { id, file } = lines[at];
      const upload = await uploadInput(model, "", { ...file, limits: model.limits }, signal);
      items[at] = { custom_id: id, input: { upload, media_type: file.mediaType } };
      report(`Uploaded ${++done} of ${lines.length} files …`);
    }
  };
  await Promise.all(Array.from({ length: UPLOADS_AT_ONCE }, work));
  return items;
}

/** Return the first lines of a batch, as jobs. */
export async function readLines(batch, signal) {
  const query = new URLSearchParams({ batch: batch.id, limit: SHOWN_LINES });
  return (await (await send(`/v1/jobs?${query}`, { signal, cache: "no-store" })).json()).jobs;
}

/** Let the browser store a file of a batch, by its link or as the gateway returns it. */
async function download(path, name) {
  const answer = await send(`${path}?redirect=false`);
  // Only the link to a large file has this header.
  const link = answer.headers.has("Location") ? (await answer.json()).url : URL.createObjectURL(await answer.blob());
  // A browser that shows the file, which is of another origin, must not leave the page.
  const anchor = element("a", { href: link, download: name, target: "_blank", rel: "noopener" });
  anchor.click();
  if (link.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(link), 60_000);
}

/** Return a short text of a result: the first label and its score, or the beginning of its JSON. */
function summaryOf(job) {
  if (job.error) return `${job.error.code}: ${job.error.message}`;
  if (job.status !== "succeeded") return "";
  if (job.result === null || job.result === undefined) return "a file";
  const best = Object.values(Object(job.result)).find((each) => typeof each?.[0]?.label === "string" && Number.isFinite(each[0].score))?.[0];
  const answer = job.result.choices?.[0]?.message?.content ?? job.result.choices?.[0]?.text;
  const text = best ? `${best.label} ${best.score >= 0 && best.score <= 1 ? percent(best.score) : best.score}`
    : typeof answer === "string" ? answer : typeof job.result === "string" ? job.result : JSON.stringify(job.result);
  return text.length > MAX_ANSWER_CHARACTERS ? `${text.slice(0, MAX_ANSWER_CHARACTERS)} …` : text;
}

/** The part of the page with the lines of a batch, and the buttons that download its files. */
export class BatchView {
  constructor(container, request) {
    const files = request.batch.jsonl ? [] : linesOf(request.batch.files);
    this.files = new Map(files.map(({ id, file }) => [id, { ...file, url: isPicture(file) && URL.createObjectURL(file.blob) }]));
    this.container = container;
    this.rows = new Map(); // by the id of the job: {row, text}
    this.body = element("tbody", {});
    this.lineView = element("div", { className: "line-view" });
    this.note = element("p", { className: "soft" });
    this.batch = null;
    this.results = this.downloadButton("results");
    this.errors = this.downloadButton("errors");
    const heads = ["Line", "Status", "Answer"].map((title) => element("th", { scope: "col" }, title));
    const table = element("table", { className: "batch-lines" }, element("caption", { className: "spoken" }, "Lines of the batch"),
      element("thead", {}, element("tr", {}, ...heads)), this.body);
    // The table scrolls by itself, so that an opened line below it is near.
    container.replaceChildren(element("p", { className: "buttons" }, this.results, this.errors),
      element("div", { className: "batch-table", tabIndex: 0, role: "region", ariaLabel: "Lines of the batch" }, table), this.note, this.lineView);
  }

  /** Show the batch, and its lines in their order. */
  show(batch, jobs) {
    this.batch = batch;
    this.showDownloads();
    for (const job of jobs) {
      const text = `${job.status} ${summaryOf(job)}`;
      const known = this.rows.get(job.id);
      if (known?.text === text) continue;
      const row = this.row(job);
      if (known) known.row.replaceWith(row);
      else this.body.append(row);
      this.rows.set(job.id, { row, text });
    }
    const { total } = batch.counts;
    this.note.textContent = total > jobs.length ? `The first ${jobs.length} of ${total} lines. The files have all of them.` : "";
  }

  downloadButton(name) {
    const button = element("button", { type: "button", value: name, hidden: true });
    button.addEventListener("click", async () => {
      const { id, links } = this.batch;
      await download(links[name], `${id}-${name}.jsonl`).catch((error) => showProblem(this.lineView, error));
    });
    return button;
  }

  showDownloads() {
    const { succeeded, failed, expired, cancelled } = this.batch.counts;
    for (const [button, count] of [[this.results, succeeded], [this.errors, failed + expired + cancelled]]) {
      button.hidden = !count;
      button.textContent = `Download the ${button.value}${isFinal(this.batch) ? "" : " so far"}`;
    }
  }

  row(job) {
    const file = this.files.get(job.custom_id);
    const name = element("button", { type: "button", className: "line", disabled: job.finished_at === null },
      ...(file?.url ? [element("img", { src: file.url, alt: "" })] : []), element("span", {}, job.custom_id));
    name.addEventListener("click", () => this.open(job, file));
    const status = element("span", { className: "badge" }, `${MARKS[job.status] ?? "…"} ${job.status}`);
    status.dataset.status = job.status;
    const row = element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, status), element("td", { className: "summary" }, summaryOf(job)));
    row.dataset.line = job.custom_id;
    return row;
  }

  /** Draw the result of a line below the table. */
  async open(job, file) {
    const title = element("h3", { tabIndex: -1 }, job.custom_id);
    const place = element("div", {});
    forgetUrls(this.lineView);
    this.lineView.replaceChildren(title, place);
    title.focus();
    try {
      const problem = problemOf(job);
      if (problem) throw problem;
      const blob = await readResult(job);
      await drawResult(place, blob, file?.blob, `${job.id}.${fileSuffix(blob.type)}`);
    } catch (error) {
      showProblem(place, error);
    }
  }
}

/** Return why a batch was refused, with the lines; null if it was not refused. */
export function refusalOf(batch) {
  if (batch.status !== "failed") return null;
  return new Problem({
    code: "invalid-batch", title: "The batch was refused", errors: batch.errors, job: batch,
    detail: "Nothing has run. Correct the lines, and submit the file again.",
  });
}

/** Return the facts of a batch: a name and a text for each. */
export function factsOf(batch) {
  const { counts, estimate } = batch;
  const rate = isFinal(batch) ? null : estimate?.rate_per_second;
  const shown = ["waiting", "running", "succeeded", "failed", "expired", "cancelled"].filter((name) => counts[name]);
  return [
    ["Lines", counts.total || null],
    ...shown.map((name) => [name[0].toUpperCase() + name.slice(1), counts[name]]),
    ["Rate", rate ? `${rate.toFixed(1)} a second` : null],
  ];
}
