// The page /ops: what the queues, workers and jobs do now, and the changes that operators make.
//
// The page asks every 5 s while it is visible. It stops after 15 minutes without input, because each
// of its requests costs reads of the storage.

import { addCharts, addUp, highestOf } from "./charts.js";
import { UNKNOWN, badge, h, place, table, update } from "./dom.js";
import { formatBytes, formatCount, formatDuration, formatNumber, sentence } from "./figures.js";
import { Problem, ask } from "./gateway.js";
import { addKeyField, onKeyChange, readKey } from "./key.js";
import { addBatches } from "./ops-batches.js";
import { addJobs } from "./ops-jobs.js";
import { addLetters } from "./ops-letters.js";

const POLL_MS = 5_000;
const SERIES_MS = 15_000;
const IDLE_MS = 15 * 60_000;
const SERIES_MINUTES = 60;
const COLOURS = 6;
const FOLD_FROM = 6; // so many models are all shown

// The severity, the symbol, and for verdicts the word.
const SEVERITIES = {
  critical: ["critical", "✕", "Critical"], warning: ["warning", "!", "Warning"],
  info: ["info", "i", "Note"], ok: ["ok", "✓", "All well"],
};
const { critical, warning, info, ok } = SEVERITIES;
const WORKER_STATES = { starting: info, ready: ok, draining: info, silent: critical };
const MODEL_STATES = { loaded: ok, loading: info, unloaded: ["none", "–"], broken: critical };
const OTHER_STATE = ["none", ""];

// What the page shows, and why it does not ask at the moment: "" or paused, idle, hidden or refused.
const page = { overview: null, series: null, access: null, halted: "", problem: null };
let lastInput = Date.now();
let answeredAt = 0;
let seriesAt = 0;
let timer = 0;
let running = null;
let announced = null;

addKeyField();

/** Return a state as a badge. */
function stateBadge(states, state) {
  const [severity, symbol] = states[state] ?? OTHER_STATE;
  return badge(severity, symbol, state);
}

// ---- asking

async function poll() {
  clearTimeout(timer);
  running?.abort();
  const request = new AbortController();
  running = request;
  const options = { signal: request.signal };
  try {
    const overview = await ask("GET", "/v1/ops/overview", options);
    if (Date.now() - seriesAt >= SERIES_MS) {
      const query = { minutes: SERIES_MINUTES };
      page.series = await ask("GET", "/v1/ops/series", { ...options, query });
      seriesAt = Date.now();
    }
    page.problem = null;
    page.overview = overview;
    page.access = accessOf(overview.caller);
    answeredAt = Date.now();
    showFigures();
    letters.refresh(overview);
    batches.refresh();
    jobs.refresh();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Problem)) throw error;
    refuse(error);
  } finally {
    if (running === request) running = null;
    if (!page.halted && !request.signal.aborted) timer = setTimeout(poll, POLL_MS);
    showState();
  }
}

/** Show why the gateway refused a request, and hide what the key may not see. */
function refuse(problem) {
  page.problem = problem;
  if (![401, 403].includes(problem.document.status)) {
    // The jobs may be found although the figures are not known.
    page.access ??= { isOperator: false, canChange: false, canCancel: () => true, tenant: null, name: null };
    startLists();
    return;
  }
  page.halted = "refused";
  page.overview = null;
  page.series = null;
  seriesAt = 0;
  announced = null;
  // A caller without the scopes of operators still finds the jobs of its own tenant.
  page.access = { isOperator: false, canChange: false, canCancel: () => true, tenant: null, name: null };
  place("figures").hidden = true;
  letters.clear();
  if (problem.document.status === 403) startLists();
  else clearLists();
}

function startLists() {
  batches.start();
  jobs.start();
}

function clearLists() {
  batches.clear();
  jobs.clear();
}

/** Return what a caller may do. */
function accessOf({ name, tenant, scopes }) {
  return {
    name, tenant,
    isOperator: true,
    canChange: scopes.includes("admin"),
    canCancel: (job) => scopes.includes("admin") || (scopes.includes("jobs:write") && (job.tenant ?? "") === tenant),
  };
}

function halt(reason) {
  page.halted = reason;
  clearTimeout(timer);
  running?.abort();
  showState();
}

function goOn() {
  page.halted = "";
  lastInput = Date.now();
  poll();
}

onKeyChange(() => {
  page.problem = null;
  page.overview = null;
  seriesAt = 0;
  announced = null;
  place("figures").hidden = true;
  letters.clear();
  clearLists();
  goOn();
});

for (const name of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"]) {
  addEventListener(name, () => { lastInput = Date.now(); }, { passive: true });
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden && !page.halted) halt("hidden");
  else if (!document.hidden && page.halted === "hidden") goOn();
});

setInterval(() => {
  if (!page.halted && Date.now() - lastInput >= IDLE_MS) {
    halt("idle");
  }
  showState();
}, 1000);

// ---- showing

const STATES = {
  paused: "The page is paused.",
  idle: "The page has stopped, because it was not used for 15 minutes.",
  hidden: "The page is hidden.",
};

function showState() {
  const age = answeredAt ? formatDuration(Math.max(0, Math.round((Date.now() - answeredAt) / 1000))) : null;
  const isRefused = page.halted === "refused";
  const text = isRefused ? "" : page.halted && answeredAt ? `Figures of ${age} ago`
    : !answeredAt ? "Loading …" : Date.now() - answeredAt < 2 * POLL_MS ? "Live, every 5 s" : `Figures of ${age} ago`;
  const isLive = !page.halted && answeredAt && text.startsWith("Live");
  place("freshness").textContent = text;
  place("freshness").classList.toggle("live", Boolean(isLive));
  place("pause").hidden = Boolean(page.halted) || !answeredAt;
  place("figures").classList.toggle("old", Boolean(answeredAt) && !isLive);
  update(place("notice"), notice());
}

function notice() {
  const { halted, problem } = page;
  if (halted === "refused") {
    return h("div", { class: "card critical" }, problem.document.status === 401
      ? [h("p", {}, h("strong", {}, readKey() ? "The gateway refuses this API key." : "This page needs an API key.")),
        h("p", {}, "Open \u201cAPI key\u201d at the top, and enter a key with the scope ", h("code", {}, "ops:read"),
          " to see everything, or ", h("code", {}, "admin"), " to redrive and purge, too. The gateway says: ", sentence(problem.message))]
      : [h("p", {}, h("strong", {}, "This key may not see the whole system.")),
        h("p", {}, "That needs the scope ", h("code", {}, "ops:read"), " or ", h("code", {}, "admin"),
          ". Below, the key finds the jobs of its own tenant.")]);
  }
  if (halted === "paused" || halted === "idle") {
    return h("div", { class: "card info" }, h("p", {}, STATES[halted], " ",
      h("button", { type: "button", "data-do": "go-on" }, "Go on")));
  }
  if (problem) {
    return h("div", { class: "card critical" }, h("p", {}, h("strong", {}, "The figures could not be read: "),
      `${sentence(problem.message)} The page tries again every 5 s.`));
  }
  return null;
}

function showFigures() {
  const { overview, access } = page;
  place("figures").hidden = false;
  place("jobs").hidden = false;
  update(place("verdicts"), verdictCards(overview.verdicts));
  update(place("totals"), totals(overview.queues, overview.workers));
  update(place("queue-rows"), queueTable(overview.queues));
  update(place("tenant-rows"), tenantTable(overview));
  update(place("worker-cards"), workerCards(overview));
  update(place("failure-rows"), failureTable(overview.failures));
  const reason = access.canChange ? ""
    : `Read only: ${access.name ? `the key \u201c${access.name}\u201d` : "this key"} has no scope admin.`;
  for (const button of document.querySelectorAll("button.changes")) button.disabled = !access.canChange;
  for (const note of document.querySelectorAll(".read-only")) note.textContent = reason;
  update(place("job-codes"), [...new Set(overview.failures.map(({ code }) => code))].map((code) => h("option", { value: code })));
  fillModels(overview.queues.map(({ model }) => model));
  showCharts();
  announceVerdicts(overview.verdicts);
  startLists();
}

/** Announce the worst verdict if its kind has changed, and not if only its figures have. */
function announceVerdicts(verdicts) {
  const kinds = JSON.stringify(verdicts.map(({ severity, model, code }) => [severity, model, code]));
  if (kinds === announced) return;
  announced = kinds;
  place("spoken").textContent = verdicts.length ? `${SEVERITIES[verdicts[0].severity][2]}: ${verdicts[0].text}` : "";
}

function verdictCards(verdicts) {
  const counts = new Map(); // several workers can have the same verdict
  return verdicts.map(({ severity, model, code, text, advice }) => {
    const kind = `${code} ${model ?? ""}`;
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
    return h("li", { class: `card ${severity}`, "data-key": `${kind} ${counts.get(kind)}`, "data-code": code },
      badge(...SEVERITIES[severity]),
      h("div", {}, h("p", { class: "text" }, text), advice ? h("p", { class: "advice" }, advice) : null),
      verdictAction(code, model));
  });
}

// What an operator does first about a verdict: the text of a button or a link, and what it does.
const FIRST_STEPS = {
  "dead-letters": ["Show the dead letters", { "data-do": "letters-of" }],
  "many-failures": ["Show the failed jobs", { "data-do": "find", "data-status": "failed" }],
  "jobs-held": ["Show the tenants", { href: "#tenants" }],
  "backlog-grows": ["Show the last hour", { href: "#charts" }],
  "long-wait": ["Show the last hour", { href: "#charts" }],
  "model-broken": ["Show the workers", { href: "#workers" }],
  "no-memory": ["Show the workers", { href: "#workers" }],
  "no-worker": ["Show the workers", { href: "#workers" }],
  "worker-restarted": ["Show the failures", { href: "#failures" }],
  "worker-silent": ["Show the workers", { href: "#workers" }],
  "service-unavailable": ["Show the readiness", { href: "/v1/health/ready" }],
  "queue-unknown": ["Show the readiness", { href: "/v1/health/ready" }],
};

/** Return a button or a link for the first step that a verdict advises; null if there is none. */
function verdictAction(code, model) {
  const [text, target] = FIRST_STEPS[code] ?? [];
  if (!text) return null;
  if (target.href) return h("a", { class: "step", href: target.href }, text);
  return h("button", { type: "button", class: "step", "data-model": model ?? "", ...target }, text);
}

function totals(queues, workers) {
  const sum = (pick) => addUp(queues.map(pick));
  const inFlight = addUp(workers.flatMap(({ models }) => models.map((model) => model.in_flight)));
  const oldest = highestOf(queues.map((queue) => queue.oldest_age_seconds));
  const figures = [
    ["Waiting", formatNumber(sum(({ waiting }) => addUp([waiting.normal, waiting.low, waiting.held]))), "jobs"],
    ["Oldest", formatDuration(oldest), oldest === null ? "none waits" : "in its queue"],
    ["In flight", formatNumber(inFlight ?? 0), "in workers"],
    ["In", formatNumber(sum((queue) => queue.in_per_minute)), "a minute, mean of 5"],
    ["Out", formatNumber(sum((queue) => queue.out_per_minute)), "a minute, mean of 5"],
    ["Dead letters", formatNumber(sum(({ waiting }) => waiting.dead)), "set aside"],
  ];
  return figures.map(([name, value, unit]) => h("div", {}, h("dt", {}, name), h("dd", {}, h("strong", {}, value), " ", h("span", {}, unit))));
}

const pair = (found) => found ? `${formatDuration(found.p50)} / ${formatDuration(found.p95)}` : UNKNOWN;

const QUEUE_COLUMNS = [
  { title: "Model" }, { title: "Why it waits", isWide: true },
  { title: "Normal", isNumber: true }, { title: "Low", isNumber: true }, { title: "Held", isNumber: true },
  { title: "Scheduled", isNumber: true }, { title: "Dead", isNumber: true },
  { title: "Oldest", isNumber: true }, { title: "In / min", isNumber: true },
  { title: "Out / min", isNumber: true }, { title: "Wait p50 / p95", isNumber: true },
  { title: "Run p50 / p95", isNumber: true },
];

function reasonOf({ reason, waiting }) {
  if (reason) return badge(...(reason.code === "busy" ? info : warning).slice(0, 2), reason.text);
  return h("span", { class: "hint" }, waiting.normal || waiting.low || waiting.held ? "it will run soon" : "nothing waits");
}

/** Return the number of a model's dead letters as a link to them. */
function deadLink({ model, waiting }) {
  return !waiting.dead ? formatNumber(waiting.dead)
    : h("a", { href: "#letters", class: "count", "data-do": "letters-of", "data-model": model },
      formatNumber(waiting.dead), h("span", { class: "spoken" }, ` dead letters of ${model}`));
}

function queueTable(queues) {
  if (!queues.length) return h("p", { class: "hint" }, "The catalogue has no model.");
  const count = (value) => value ? h("span", { class: "count" }, formatNumber(value)) : formatNumber(value);
  const row = (queue) => ({
    key: queue.model,
    cells: [
      queue.model,
      reasonOf(queue),
      count(queue.waiting.normal), count(queue.waiting.low), count(queue.waiting.held),
      count(queue.waiting.scheduled), deadLink(queue),
      formatDuration(queue.oldest_age_seconds), formatNumber(queue.in_per_minute), formatNumber(queue.out_per_minute),
      pair(queue.wait_seconds), pair(queue.run_seconds),
    ],
  });
  return foldIdle("model", queues, isIdleQueue, ({ model }) => model, (shown, caption) => table(caption, QUEUE_COLUMNS, shown.map(row)), "Queues");
}

const TENANT_COLUMNS = [
  { title: "Tenant" }, { title: "Weight", isNumber: true }, { title: "Share", isNumber: true },
  { title: "Waiting", isNumber: true }, { title: "Held", isNumber: true }, { title: "Running", isNumber: true },
  { title: "GPU s, last hour", isNumber: true }, { title: "GPU s, today", isNumber: true },
  { title: "Limits", isWide: true },
];

function tenantTable({ tenants, tenant_count: count }) {
  if (!tenants.length) return h("p", { class: "hint" }, "No tenant had a job in the last day.");
  const row = (tenant) => ({
    key: `tenant ${tenant.tenant}`,
    cells: [
      tenant.tenant || "~", formatNumber(tenant.settings.weight),
      tenant.share === null ? UNKNOWN : `${formatNumber(tenant.share * 100)} %`,
      formatNumber(tenant.waiting), formatNumber(tenant.held), formatNumber(tenant.running),
      formatNumber(tenant.gpu_seconds_hour), formatNumber(tenant.gpu_seconds_day), limitsOf(tenant.settings),
    ],
  });
  return [
    table("Tenants", TENANT_COLUMNS, tenants.map(row)),
    count > tenants.length ? h("p", { class: "hint" }, `These have used most today, of ${formatNumber(count)} tenants. `,
      h("code", {}, "loosely tenants"), " lists all.") : null,
  ];
}

/** Return the limits of a tenant as text. */
function limitsOf({ max_queued: queued, max_running: running, gpu_seconds_a_day: seconds }) {
  const texts = [
    queued === null ? null : formatCount(queued, "job"),
    running === null ? null : `${formatNumber(running)} running`,
    seconds === null ? null : `${formatNumber(seconds)} GPU s a day`,
  ].filter((text) => text !== null);
  return texts.length ? texts.join(", ") : h("span", { class: "hint" }, "none");
}

function isIdleQueue({ waiting, in_per_minute: arriving, out_per_minute: ending, reason }) {
  return !reason && !arriving && !ending && Object.values(waiting).every((count) => count === 0);
}

/**
 * Return a table of the busy items, and below it the idle ones, folded. A few items are all shown.
 *
 * `make` returns the table of items with a caption.
 */
function foldIdle(noun, items, isIdle, nameOf, make, caption) {
  const idle = items.filter(isIdle);
  if (items.length <= FOLD_FROM || idle.length < 2) return [make(items, caption)];
  const busy = items.filter((each) => !isIdle(each));
  return [
    busy.length ? make(busy, caption) : null,
    h("details", { class: "idle", "data-key": `idle ${caption}` },
      h("summary", {}, `${idle.length} idle ${noun}s: ${idle.map(nameOf).join(", ")}`), make(idle, `${caption}: idle ${noun}s`)),
  ];
}

const MODEL_COLUMNS = [
  { title: "Model" }, { title: "State" }, { title: "In flight", isNumber: true },
  { title: "Batch", isNumber: true }, { title: "Time to load", isNumber: true },
];
// Only in the table of a worker that has such models or jobs.
const PLACES_COLUMN = { title: "Places used", isNumber: true };
const STREAMS_COLUMN = { title: "Streams", isNumber: true };

function workerCards({ workers, sources }) {
  if (!sources.heartbeats.enabled) {
    return h("p", { class: "hint" }, "The heartbeats of workers are switched off, so workers are not shown.");
  }
  if (!workers.length) return h("p", { class: "hint" }, "No worker has given a sign of life.");
  const dead = workers.filter(({ state }) => state === "silent");
  const alive = workers.filter(({ state }) => state !== "silent");
  return [...alive.map(workerCard), deadWorkers(dead)];
}

/** Return the dead worker processes by the cause of their death; null if there are none. */
function deadWorkers(dead) {
  if (!dead.length) return null;
  const groups = Map.groupBy(dead, ({ death }) => death ?? "no sign of life");
  return h("article", { class: "worker card", "data-key": "dead", "aria-label": "Dead worker processes" },
    h("div", { class: "title" }, h("h3", {}, `${dead.length} dead worker ${dead.length === 1 ? "process" : "processes"}`)),
    [...groups].map(([death, group]) => h("details", { "data-key": death },
      h("summary", {}, badge("critical", "✕", death), ` ${group.length}`),
      h("ul", {}, group.map((worker) => h("li", { "data-key": worker.id }, h("span", { class: "id" }, worker.id),
        `, last sign of life ${formatDuration(worker.silent_seconds)} ago, served ${worker.models.map(({ name }) => name).join(", ")}`))))));
}

function workerCard(worker) {
  const hasPlaces = worker.models.some(({ max_concurrent_jobs: places }) => places);
  const hasStreams = worker.models.some(({ streams }) => streams);
  const columns = [...MODEL_COLUMNS, ...(hasPlaces ? [PLACES_COLUMN] : []), ...(hasStreams ? [STREAMS_COLUMN] : [])];
  const row = (model) => ({
    key: model.name,
    cells: [
      model.name, [stateBadge(MODEL_STATES, model.state),
        ...[model.loading, model.reason].map((text) => text && h("span", { class: "hint" }, ` ${text}`))],
      formatNumber(model.in_flight), formatNumber(model.batch_size), formatDuration(model.load_seconds),
      ...(hasPlaces ? [placesOf(model)] : []), ...(hasStreams ? [formatNumber(model.streams)] : []),
    ],
  });
  return h("article", { class: "worker card", "data-key": worker.id, "aria-label": `Worker ${worker.id}` },
    h("div", { class: "title" }, h("h3", {}, worker.id), stateBadge(WORKER_STATES, worker.state)),
    h("p", { class: "hint" }, `version ${worker.version ?? UNKNOWN} · last sign of life ${formatDuration(worker.silent_seconds)} ago · `
      + `up for ${formatDuration((Date.parse(page.overview.at) - Date.parse(worker.started_at)) / 1000)}`),
    worker.devices.map(memoryBar),
    worker.models.length ? foldIdle("model", worker.models, isIdleModel, ({ name }) => name,
      (shown, caption) => table(caption, columns, shown.map(row)), `Models of ${worker.id}`) : null);
}

/** Return how many places of a concurrent model are used: "3 of 16". */
function placesOf({ concurrent_jobs: jobs, max_concurrent_jobs: places }) {
  return places ? `${formatNumber(jobs)} of ${formatNumber(places)}` : UNKNOWN;
}

function isIdleModel({ state, in_flight: inFlight }) {
  return state === "loaded" && !inFlight;
}

/** Return the memory of a device as a bar with a part for each model, and a legend with the sizes. */
function memoryBar({ name, total_bytes: total, used_bytes: used, models }) {
  if (used === null && total === null) {
    return h("p", { class: "memory", "data-key": name }, h("strong", {}, name), " memory: neither limited nor measured");
  }
  const known = models.filter(({ bytes }) => bytes > 0);
  const ofModels = addUp(known.map(({ bytes }) => bytes)) ?? 0;
  const other = Math.max(0, (used ?? 0) - ofModels);
  const parts = known.map(({ name: model, bytes }, number) => [model, bytes, `part-${number % COLOURS}`]);
  if (other > 0) parts.push(["other", other, "part-other"]);
  const whole = Math.max(total ?? 0, ofModels + other, 1);
  const shares = parts.map(([model, bytes, colour], number) => [model, bytes, colour, bytes / whole, number + 1]);
  const summary = total ? `${formatBytes(ofModels + other)} of ${formatBytes(total)}` : formatBytes(used);
  return h("div", { class: "memory", "data-key": name },
    h("p", {}, h("strong", {}, name), ` memory: ${summary}`),
    h("div", { class: "bar", "aria-hidden": "true" },
      shares.map(([, , colour, share, number]) => h("span", {
        class: colour, style: { width: `${share * 100}%` },
      }, share > 0.04 ? String(number) : ""))),
    shares.length ? h("ol", { class: "legend" }, shares.map(([model, bytes, colour, share, number]) => h("li", {},
      h("span", { class: `swatch ${colour}`, "aria-hidden": "true" }, String(number)),
      `${model} `, h("strong", {}, formatBytes(bytes)), ` ${formatNumber(share * 100)} %`))) : null);
}

const FAILURE_COLUMNS = [
  { title: "Model" }, { title: "Code" }, { title: "Jobs", isNumber: true }, { title: "Last", isNumber: true },
  { title: "Find", isSpoken: true, isWide: true, isNumber: true },
];

function failureTable(failures) {
  if (!failures.length) return h("p", { class: "hint" }, "No job has failed in the last hour.");
  return table("Failures of the last hour by code", FAILURE_COLUMNS, failures.map(({ model, code, count, last_at: last }) => ({
    key: `${model} ${code}`,
    cells: [
      model, h("a", { href: `/docs/problems#${encodeURIComponent(code)}` }, code), formatNumber(count),
      `${formatDuration((Date.parse(page.overview.at) - Date.parse(last)) / 1000)} ago`,
      h("button", { type: "button", "data-do": "find", "data-model": model, "data-code": code }, "Find these jobs",
        h("span", { class: "spoken" }, ` of ${model} with ${code}`)),
    ],
  })));
}

function fillModels(models) {
  for (const id of ["chart-model", "letter-model", "batch-model", "job-model"]) {
    const names = ["", ...models];
    const select = place(id);
    const kept = select.value;
    update(select, names.map((name) => h("option", { value: name, "data-key": `model ${name}` }, name || "All models")));
    if (names.includes(kept)) select.value = kept;
  }
}

const drawCharts = addCharts(place("chart-places"));
place("chart-model").addEventListener("change", showCharts);

function showCharts() {
  if (!page.series) return;
  const { start, step_seconds: step, models } = page.series;
  const wanted = place("chart-model").value;
  const found = Object.entries(models).filter(([name]) => !wanted || name === wanted).map(([, figures]) => figures);
  const count = Object.values(models)[0]?.accepted.length ?? SERIES_MINUTES;
  const join = (name, how) => [...Array(count).keys()].map((minute) => how(found.map((figures) => figures[name]?.[minute])));
  const slowest = wanted || found.length < 2 ? "" : ", slowest model";
  drawCharts(start, step, [
    { key: "jobs", title: "Jobs a minute", format: formatNumber, series: [
      { name: "succeeded", shape: "area", colour: "c-good", values: join("succeeded", addUp) },
      { name: "accepted", shape: "line", colour: "c-main", values: join("accepted", addUp) },
      { name: "failed", shape: "bars", colour: "c-bad", values: join("failed", addUp) },
    ] },
    { key: "waiting", title: "Jobs that wait", format: formatNumber, series: [
      { name: "waiting", shape: "area", colour: "c-wait", values: join("waiting", addUp) },
    ] },
    { key: "wait", title: `Wait in the queue, p95${slowest}`, format: formatDuration, series: [
      { name: "wait", shape: "line", colour: "c-wait", values: join("wait_p95_seconds", highestOf) },
    ] },
    { key: "run", title: `Run on the device, p95${slowest}`, format: formatDuration, series: [
      { name: "run", shape: "line", colour: "c-main", values: join("run_p95_seconds", highestOf) },
    ] },
  ]);
}

// ---- changes

/** Ask the user in a dialog, and return whether the answer was yes. */
function confirm(title, text, yes, isDangerous) {
  const dialog = place("confirm");
  place("confirm-title").textContent = title;
  place("confirm-text").textContent = text;
  place("confirm-yes").textContent = yes;
  place("confirm-yes").className = isDangerous ? "danger" : "main";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

const access = () => page.access;
const letters = addLetters({ confirm, access });
const batches = addBatches({ confirm, access });
const jobs = addJobs({ access });

const ACTIONS = {
  pause: () => halt("paused"),
  "go-on": goOn,
  find: ({ model = "", code = "", status = "", batch = "" }) => jobs.find({ model, code, status, batch }),
  ...letters.actions,
  ...batches.actions,
  ...jobs.actions,
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button) ACTIONS[button.dataset.do](button.dataset);
});

if (document.hidden) halt("hidden");
else poll();
