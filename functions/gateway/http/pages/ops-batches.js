// The batches of the page /ops: how far each is, its errors, and its cancellation.

import { UNKNOWN, h, place, table, update } from "./dom.js";
import { formatCount, formatDuration, formatNumber, sentence, timeElement } from "./figures.js";
import { Problem, ask } from "./gateway.js";
import { readForm, statusBadge } from "./ops-forms.js";

const PATH = "/v1/batches";
const LIMIT = 25;
const MAX_LIMIT = 100;
const FINAL = new Set(["succeeded", "failed", "cancelled", "expired"]);
const COLUMNS = [
  { title: "Batch" }, { title: "Model" }, { title: "Tenant" }, { title: "Status" }, { title: "Progress", isWide: true },
  { title: "Rate", isNumber: true }, { title: "Left", isNumber: true }, { title: "Errors", isLong: true }, { title: "Created" },
  { title: "Change", isSpoken: true, isWide: true, isNumber: true },
];

const isFinal = ({ status }) => FINAL.has(status);
const pathOf = (id) => `${PATH}/${encodeURIComponent(id)}`;
const modelOf = ({ model, version }) => (version ? `${model}:${version}` : model);
const endedOf = ({ succeeded, failed, expired, cancelled }) => succeeded + failed + expired + cancelled;

/** Return how many lines have ended, as a bar and in words. */
function progressOf({ status, counts }) {
  const { total, running, succeeded } = counts;
  if (!total) return h("span", { class: "hint" }, status === "validating" ? "the lines are being checked" : "no line ran");
  const ended = endedOf(counts);
  const parts = [["good", succeeded], ["bad", ended - succeeded], ["run", running]].filter(([, count]) => count);
  const words = [`${formatNumber(ended)} of ${formatNumber(total)}`,
    ...["running", "failed", "expired", "cancelled"].filter((name) => counts[name]).map((name) => `${formatNumber(counts[name])} ${name}`)];
  return h("div", { class: "lines" },
    h("div", { class: "bar", "aria-hidden": "true" },
      parts.map(([name, count]) => h("span", { class: name, style: { width: `${count / total * 100}%` } }))),
    h("span", {}, words.join(", ")));
}

/** Return the button that finds lines of a batch; with `code`, those that ended with it. */
function linesButton({ id }, text, code = "") {
  return h("button", { type: "button", "data-do": "find", "data-batch": id, "data-code": code }, text,
    h("span", { class: "spoken" }, ` of batch ${id}`));
}

/** Return how many lines ended with each error code; null if none failed. */
function codesOf(batch) {
  const codes = Object.entries(batch.error_codes).sort(([, one], [, other]) => other - one);
  return codes.length ? h("ul", { class: "codes" }, codes.map(([code, count]) =>
    h("li", { "data-key": code }, linesButton(batch, `${formatNumber(count)} ${code}`, code)))) : null;
}

/** Return what went wrong, for the table. */
function errorsOf(batch) {
  return codesOf(batch) ?? (batch.errors.length ? h("a", { href: `#batch=${batch.id}` }, "why it was refused") : UNKNOWN);
}

/** Return how many lines end in a second, and how long the rest takes, of a batch that has not ended. */
function paceOf(batch) {
  if (isFinal(batch)) return [UNKNOWN, UNKNOWN];
  const { rate_per_second: rate, eta_seconds: left } = batch.estimate ?? {};
  return [rate ? `${formatNumber(rate)} / s` : UNKNOWN, formatDuration(left)];
}

/**
 * Add the batches. `confirm` asks the user, and `access` returns what the caller may do.
 *
 * Returns the actions of the buttons, and functions to start, to refresh and to clear them.
 */
export function addBatches({ confirm, access }) {
  const form = place("batch-form");
  let shown = null; // the batches, and the cursor of the next ones
  let wanted = ""; // the id of the batch that is shown in full
  let turn = 0; // the number of the latest request: answers to earlier ones are not shown

  function tenantQuery(tenant = "") {
    return access()?.isOperator ? { tenant: tenant || "*" } : {};
  }

  async function load(cursor = null) {
    const mine = ++turn;
    const given = readForm(form);
    const limit = cursor ? LIMIT : Math.min(MAX_LIMIT, Math.max(LIMIT, shown.batches.length));
    const query = { ...given, ...tenantQuery(given.tenant), limit, cursor };
    try {
      const found = await ask("GET", PATH, { query });
      // A batch that runs for days is older than the newest ones.
      const isFirst = found.next_cursor && !cursor && !given.status;
      const { batches: running } = isFirst ? await ask("GET", PATH, { query: { ...query, status: "running" } }) : { batches: [] };
      if (mine !== turn) return;
      const before = cursor ? shown.batches : running;
      const all = new Map([...before, ...found.batches].map((batch) => [batch.id, batch]));
      const batches = [...all.values()].sort((one, other) => isFinal(one) - isFinal(other) || (one.id < other.id ? 1 : -1));
      shown = { batches, cursor: found.next_cursor };
      show(Object.keys(given).length > 0);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (mine !== turn) return;
      place("batches").hidden = false;
      place("batch-result").textContent = `The batches could not be read: ${sentence(error.message)}`;
    }
  }

  function show(isFiltered) {
    const { batches, cursor } = shown;
    place("batches").hidden = false;
    form.hidden = !batches.length && !isFiltered;
    const hidden = [!batches.some(({ tenant }) => tenant) && "Tenant"];
    const columns = COLUMNS.filter(({ title }) => !hidden.includes(title));
    const rows = batches.map((batch) => ({
      key: batch.id,
      cells: [
        [h("a", { href: `#batch=${batch.id}`, class: "id", title: batch.id }, `${batch.id.slice(0, 8)}…${batch.id.slice(24)}`),
          batch.label ? h("div", { class: "hint" }, batch.label) : null],
        modelOf(batch), ...(hidden[0] ? [] : [batch.tenant ?? UNKNOWN]), statusBadge(batch.status), progressOf(batch),
        ...paceOf(batch), errorsOf(batch), timeElement(batch.created_at),
        h("div", { class: "buttons" }, batch.counts.total ? linesButton(batch, "Lines") : null, cancelButton(batch)),
      ],
    }));
    update(place("batch-rows"), rows.length ? table("Batches, those that run first", columns, rows) : null);
    place("batch-result").textContent = batches.length ? "" : isFiltered ? "No batch matches." : "No batch was submitted.";
    place("more-batches").hidden = !cursor;
  }

  function cancelButton(batch) {
    if (isFinal(batch) || batch.status === "cancelling" || !access().canCancel(batch)) return null;
    return h("button", { type: "button", "data-do": "cancel-batch", "data-id": batch.id }, "Cancel",
      h("span", { class: "spoken" }, ` batch ${batch.id}`));
  }

  async function cancel({ id }) {
    const batch = shown.batches.find((each) => each.id === id);
    const left = batch ? batch.counts.total - endedOf(batch.counts) : 0;
    const text = `${left ? `${formatCount(left, "line")} of it ${left === 1 ? "has" : "have"} not ended. ` : ""}`
      + "What has ended stays, and its results can be read.";
    if (!await confirm(`Cancel batch ${id}?`, text, "Cancel the batch", true)) return;
    let failure = "";
    try {
      await ask("DELETE", pathOf(id), { query: access().canChange ? tenantQuery() : {} });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      failure = `The batch was not cancelled: ${sentence(error.message)}`;
    }
    await refresh();
    if (failure) place("batch-result").textContent = failure;
  }

  async function loadStory() {
    const id = wanted;
    try {
      const batch = await ask("GET", pathOf(id), { query: tenantQuery() });
      if (id === wanted) showStory(id, storyOf(batch));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (id === wanted) showStory(id, [h("p", {}, `The batch could not be read: ${sentence(error.message)}`)]);
    }
  }

  function storyOf(batch) {
    const [rate, left] = paceOf(batch);
    const facts = [["Model", modelOf(batch)], ["Label", batch.label], ["Tenant", batch.tenant], ["Created", timeElement(batch.created_at)],
      ["Started", batch.started_at && timeElement(batch.started_at)], ["Ended", batch.finished_at && timeElement(batch.finished_at)],
      ["Deadline", timeElement(batch.deadline)], ["Waiting", formatNumber(batch.counts.waiting)],
      ["Rate", rate], ["Left", left]];
    return [
      h("p", { id: "batch-status" }, statusBadge(batch.status)), progressOf(batch),
      h("dl", { class: "facts" }, facts.filter(([, value]) => value && value !== UNKNOWN)
        .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      batch.errors.length ? h("ul", { class: "refused" }, batch.errors.map(({ line, custom_id: name, code, message }) => h("li", {},
        `${line ? `Line ${line}` : "The file"}${name ? ` (${name})` : ""}: ${code}: ${message}`))) : codesOf(batch),
      h("p", { class: "buttons" }, batch.counts.total ? linesButton(batch, "Show its lines") : null, cancelButton(batch)),
    ];
  }

  function showStory(id, content) {
    const isNew = place("batch-story").firstElementChild?.dataset.key !== id;
    place("batches").hidden = false;
    update(place("batch-story"), h("article", { class: "story card", "aria-labelledby": "batch-title", "data-key": id },
      h("div", { class: "title" }, h("h3", { id: "batch-title", tabindex: "-1" }, "Batch ", h("span", { class: "id" }, id)),
        h("button", { type: "button", "data-do": "close-batch" }, "Close")),
      content));
    if (!isNew) return;
    place("batch-story").scrollIntoView({ block: "start" });
    place("batch-title").focus({ preventScroll: true });
  }

  function close() {
    const row = document.querySelector(`#batch-rows a[href="#batch=${wanted}"]`);
    wanted = "";
    update(place("batch-story"));
    history.pushState(null, "", location.pathname);
    (row ?? place("batches-title")).focus();
  }

  function readAddress() {
    const found = /^#batch=([0-9a-f-]{36})$/.exec(location.hash);
    if (!found) return;
    wanted = found[1];
    if (shown) loadStory();
  }

  async function refresh() {
    if (!shown) return;
    // One request shows no more than MAX_LIMIT batches.
    await Promise.all([...(shown.batches.length <= MAX_LIMIT ? [load()] : []), ...(wanted ? [loadStory()] : [])]);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    load();
  });
  form.addEventListener("reset", () => setTimeout(load));
  addEventListener("hashchange", readAddress);

  return {
    actions: { "more-batches": () => load(shown.cursor), "cancel-batch": cancel, "close-batch": close },

    /** Show the newest batches when the access is known. */
    start() {
      if (shown) return;
      shown = { batches: [], cursor: null };
      // Without API keys there are no tenants.
      place("batch-tenant-field").hidden = !access().isOperator || !access().name;
      load().then(readAddress);
    },

    refresh,

    clear() {
      turn += 1;
      shown = null;
      place("batches").hidden = true;
      update(place("batch-rows"));
      update(place("batch-story"));
    },
  };
}
