// The search for jobs of the page /ops, and the story of one job.

import { UNKNOWN, h, place, table, update } from "./dom.js";
import { formatCount, formatDuration, formatPlace, sentence, timeElement } from "./figures.js";
import { Problem, ask } from "./gateway.js";
import { readForm, statusBadge } from "./ops-forms.js";
import { drawTimeline } from "./timeline.js";

const LIMIT = 25;

/** Return the name of the version that runs a job, as in the tables of queues and workers. */
function modelOf(job) {
  return job.version === "1" ? job.model : `${job.model}:${job.version}`;
}

/**
 * Add the search and the story. `access` returns what the caller may do.
 *
 * Returns the actions of the buttons, and functions to start, to refresh and to clear them.
 */
export function addJobs({ access }) {
  const form = place("job-form");
  let shown = null; // the jobs, and the cursor of the next ones
  let wanted = ""; // the id of the job whose story is shown
  let story = null; // its job and its timeline
  let drawn = "";
  let turn = 0; // the number of the latest search: answers to earlier ones are not shown
  let keys = 0; // how many keys there were: a story that another key has read is not shown

  /** Return the query that shows the jobs of all tenants to an operator. */
  function tenantQuery(tenant = "") {
    return access()?.isOperator ? { tenant: tenant || "*" } : {};
  }

  async function search(cursor = null) {
    const given = readForm(form);
    const query = { ...given, ...tenantQuery(given.tenant), limit: LIMIT, cursor };
    place("job-result").textContent = "Searching …";
    const mine = ++turn;
    try {
      const found = await ask("GET", "/v1/jobs", { query });
      if (mine !== turn) return;
      shown = { jobs: [...(cursor ? shown.jobs : []), ...found.jobs], cursor: found.next_cursor, back: found.searched_back_to };
      show();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (mine !== turn) return;
      shown = null;
      update(place("job-rows"));
      place("further").hidden = true;
      place("job-result").textContent = `The search was refused: ${sentence(error.message)}`;
    }
  }

  function show() {
    const { jobs, cursor, back } = shown;
    const hasTenants = jobs.some(({ tenant }) => tenant);
    const isBatch = jobs.some(({ batch }) => batch);
    const columns = [{ title: "Job" }, { title: "Model" }, { title: "Status" }, { title: "Problem" },
      { title: isBatch ? "Line" : "Label" }, { title: "Tenant" }, { title: "Created" }, { title: "Total", isNumber: true }]
      .filter(({ title }) => hasTenants || title !== "Tenant");
    const rows = jobs.map((job) => ({
      key: job.id,
      cells: [
        h("a", { href: `#job=${job.id}`, class: "id" }, job.id), modelOf(job), statusBadge(job.status),
        job.error ? job.error.code : UNKNOWN, (isBatch ? job.custom_id : job.label) ?? UNKNOWN, ...(hasTenants ? [job.tenant ?? UNKNOWN] : []),
        timeElement(job.created_at), formatDuration(job.timing?.total_ms === undefined ? null : job.timing.total_ms / 1000),
      ],
    }));
    update(place("job-rows"), rows.length ? table(isBatch ? "Lines of a batch, in their order" : "Jobs, newest first", columns, rows) : null);
    update(place("job-result"), `${jobs.length ? formatCount(jobs.length, "job") : "No job"} found. Looked back to `, timeElement(back),
      cursor ? ". Older jobs were not examined." : ": all jobs that are kept.");
    place("further").hidden = !cursor;
  }

  async function loadStory() {
    const id = wanted;
    const mine = keys;
    const options = { query: tenantQuery() };
    try {
      const path = `/v1/jobs/${encodeURIComponent(id)}`;
      const [job, timeline] = await Promise.all([ask("GET", path, options), ask("GET", `${path}/timeline`, options)]);
      if (id !== wanted || mine !== keys) return;
      story = { job, timeline };
      showStory();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (id === wanted && mine === keys) showProblem(`The job could not be read: ${sentence(error.message)}`);
    }
  }

  function frame(...content) {
    return h("article", { class: "story card", "aria-labelledby": "story-title", "data-key": wanted },
      h("div", { class: "title" }, h("h3", { id: "story-title", tabindex: "-1" }, "The story of job ", h("span", { class: "id" }, wanted)),
        h("button", { type: "button", "data-do": "close-story" }, "Close")),
      ...content);
  }

  function showProblem(text) {
    story = null;
    drawn = "";
    update(place("story"), frame(h("p", {}, text)));
    focusStory();
  }

  function showStory() {
    const { job, timeline } = story;
    const isNew = place("story").firstElementChild?.dataset.key !== wanted;
    const facts = [["Model", modelOf(job)], ["Batch", job.batch && h("a", { href: `#batch=${job.batch}`, class: "id" }, job.batch)],
      ["Line", job.custom_id], ["Label", job.label], ["Tenant", job.tenant], ["Created", timeElement(job.created_at)],
      ["Deadline", timeElement(job.deadline)], ["Attempt", String(job.attempt)],
      ["Place", job.status === "queued" && job.queue ? formatPlace(job.queue) : null],
      ["Progress", job.progress ? `${Math.round((job.progress.fraction ?? 0) * 100)} % ${job.progress.message ?? ""}` : null],
      ["Named results", Object.entries(job.results ?? {}).map(([name, { media_type: type }]) => `${name} (${type})`).join(", ")]];
    const drawing = place("story").querySelector(".drawing");
    update(place("story"), frame(
      h("p", { id: "story-status" }, statusBadge(job.status)),
      job.error ? h("p", {}, h("a", { href: `/docs/problems#${encodeURIComponent(job.error.code)}` }, job.error.code), `: ${job.error.message}`) : null,
      h("dl", { class: "facts" }, facts.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      job.finished_at === null ? cancelButton(job) : null,
      h("p", { id: "cancel-result", role: "status", "data-kept": "" }),
      h("div", { class: "drawing", "data-kept": "" })));
    const target = place("story").querySelector(".drawing");
    const text = JSON.stringify(timeline);
    if (drawn !== text || drawing !== target) drawTimeline(target, timeline);
    drawn = text;
    if (isNew) focusStory();
  }

  function cancelButton(job) {
    if (access().canCancel(job)) {
      return h("p", { class: "buttons" }, h("button", { type: "button", "data-do": "cancel" }, "Cancel this job"));
    }
    return h("p", { class: "hint" }, "Read only: a key with the scope admin can cancel it, or a key of its tenant with jobs:write.");
  }

  function focusStory() {
    place("story").scrollIntoView({ block: "start" });
    place("story-title").focus({ preventScroll: true });
  }

  async function cancel() {
    try {
      const query = access().canChange ? tenantQuery() : {};
      await ask("DELETE", `/v1/jobs/${encodeURIComponent(wanted)}`, { query });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      place("cancel-result").textContent = `The job was not cancelled: ${sentence(error.message)}`;
      return;
    }
    await loadStory();
  }

  function readAddress() {
    const found = /^#job=([0-9a-f-]{36})$/.exec(location.hash);
    if (!found) return;
    wanted = found[1];
    if (access()) loadStory();
  }

  function closeStory() {
    const row = document.querySelector(`#job-rows a[href="#job=${wanted}"]`);
    wanted = "";
    story = null;
    drawn = "";
    update(place("story"));
    history.pushState(null, "", location.pathname);
    (row ?? place("job-id")).focus();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  form.addEventListener("reset", () => setTimeout(search));
  addEventListener("hashchange", readAddress);

  return {
    actions: { further: () => search(shown.cursor), "close-story": closeStory, cancel },

    /** Show the newest jobs when the access is known. */
    start() {
      if (shown) return;
      shown = { jobs: [], cursor: null, back: null };
      place("jobs").hidden = false;
      // Without API keys there are no tenants.
      place("tenant-field").hidden = !access().isOperator || !access().name;
      // The table of jobs comes first, so that it does not move the story.
      search().then(readAddress);
    },

    /** Find the jobs with these values. */
    find(values) {
      form.reset();
      for (const [name, value] of Object.entries(values)) form.elements[name].value = value;
      place("jobs").scrollIntoView();
      place("jobs-title").focus();
    },

    /** Read the story again until its job has ended. */
    refresh() {
      if (wanted && story && story.job.finished_at === null) loadStory();
    },

    clear() {
      turn += 1;
      keys += 1;
      shown = null;
      story = null;
      drawn = "";
      place("jobs").hidden = true;
      update(place("job-rows"));
      update(place("story"));
    },
  };
}
