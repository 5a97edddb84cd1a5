// The dead letters of the page /ops: a filter, the letters, and their redrive or purge.

import { UNKNOWN, h, place, table, update } from "./dom.js";
import { formatCount, formatSize, sentence, timeElement } from "./figures.js";
import { Problem, ask } from "./gateway.js";
import { readForm } from "./ops-forms.js";

const PATH = "/v1/admin/dead-letters";
const LIMIT = 20;
const WORDS = {
  redrive: { verb: "Redrive", done: "redriven", effect: "Each becomes a new job, whose label and parameters are those of the old job." },
  purge: { verb: "Purge", done: "purged", effect: "They are deleted for good, and cannot be redriven any more." },
};
const COLUMNS = [
  { title: "Job" }, { title: "Model" }, { title: "Reason", isLong: true }, { title: "Deliveries", isNumber: true },
  { title: "Input" }, { title: "Dead since" }, { title: "Redriven as" }, { title: "Change", isSpoken: true, isWide: true, isNumber: true },
];

/** Return a link that shows a job. In the text of an id, "…" stands for its middle. */
function jobLink(id) {
  return id ? h("a", { href: `#job=${id}`, class: "id", title: id }, `${id.slice(0, 8)}…${id.slice(-8)}`) : UNKNOWN;
}

const describeInput = ({ media_type: type, kind, size_bytes: size }) => `${type ?? kind}, ${formatSize(size)}`;

/**
 * Add the dead letters. `confirm` asks the user, and `access` returns what the caller may do.
 *
 * Returns the actions of the buttons, and functions to refresh and to clear the list.
 */
export function addLetters({ confirm, access }) {
  const form = place("letter-form");
  let shown = null; // the letters, and the cursor of the next ones
  let known = null; // the number of dead letters when they were read
  let turn = 0; // the number of the latest request: answers to earlier ones are not shown

  async function load(cursor = null) {
    const mine = ++turn;
    try {
      const query = { ...readForm(form), limit: LIMIT, cursor };
      const found = await ask("GET", PATH, { query });
      if (mine !== turn) return;
      const before = cursor ? shown.letters : [];
      shown = { letters: [...before, ...found.dead_letters], cursor: found.next_cursor };
      show();
    } catch (error) {
      report(error);
    }
  }

  function show() {
    const { letters, cursor } = shown;
    const canChange = access().canChange;
    update(place("letter-reasons"), [...new Set(letters.map(({ reason }) => reason).filter(Boolean))]
      .map((reason) => h("option", { value: reason })));
    const rows = letters.map((letter) => {
      const data = { "data-model": letter.model, "data-id": letter.id };
      return {
        key: `${letter.model} ${letter.id}`,
        cells: [
          jobLink(letter.job_id), letter.model,
          [letter.reason ?? UNKNOWN, letter.description ? h("span", { class: "hint" }, ` ${letter.description}`) : null],
          String(letter.delivery_count ?? UNKNOWN),
          letter.input ? [describeInput(letter.input), ...Object.entries(letter.inputs ?? {}).map(([name, input]) =>
            h("span", { class: "hint" }, ` ${name}: ${describeInput(input)}`))] : UNKNOWN,
          timeElement(letter.dead_lettered_at), jobLink(letter.redriven_as),
          canChange ? h("span", { class: "buttons" },
            letter.redriven_as ? null : h("button", { type: "button", "data-do": "redrive", ...data }, "Redrive", h("span", { class: "spoken" }, ` ${letter.job_id}`)),
            h("button", { type: "button", "data-do": "purge", ...data }, "Purge", h("span", { class: "spoken" }, ` ${letter.job_id}`))) : "",
        ],
      };
    });
    const columns = canChange ? COLUMNS : COLUMNS.slice(0, -1);
    update(place("letter-rows"),
      rows.length ? table("Dead letters", columns, rows.map(({ key, cells }) => ({ key, cells: cells.slice(0, columns.length) })))
        : h("p", { class: "hint" }, Object.keys(readForm(form)).length ? "No dead letter matches." : "There are no dead letters."),
      cursor ? h("p", { class: "buttons" }, h("button", { type: "button", "data-do": "more-letters" }, "Show more")) : null);
  }

  function report(error) {
    if (!(error instanceof Problem)) throw error;
    update(place("letter-result"), h("p", { class: "card critical" }, `Nothing was changed: ${sentence(error.message)}`));
  }

  function tell(text, jobs = [], refused = []) {
    update(place("letter-result"), h("div", { class: `card ${refused.length ? "warning" : "ok"}` },
      h("p", {}, h("strong", {}, text)),
      jobs.length ? h("details", {}, h("summary", {}, `Show ${formatCount(jobs.length, "new job")}`),
        h("ul", {}, jobs.map((id) => h("li", {}, jobLink(id))))) : null,
      refused.map(({ id, detail }) => h("p", {}, `${id}: ${detail}`))));
  }

  async function changeOne(action, { model, id }) {
    const { verb, done } = WORDS[action];
    const path = `${PATH}/${encodeURIComponent(model)}/${encodeURIComponent(id)}`;
    if (!await confirm(`${verb} 1 dead letter?`, `The dead letter ${id} of ${model}.`, `${verb} it`, action === "purge")) return;
    try {
      const answer = action === "redrive" ? await ask("POST", `${path}/redrive`) : await ask("DELETE", path);
      tell(`1 dead letter was ${done}.`, answer ? [answer.job_id] : []);
    } catch (error) {
      report(error);
    }
    await load();
  }

  /** Return the first count that is not zero, with the cursor that it needs. */
  async function count(action, filter, from) {
    let cursor = from;
    for (;;) {
      const found = await ask("GET", `${PATH}/count`, { query: { ...filter, cursor } });
      const number = action === "redrive" ? found.not_redriven : found.count;
      if (number || !found.next_cursor) return { number, cursor, hasMore: Boolean(found.next_cursor) };
      cursor = found.next_cursor;
    }
  }

  function describe(filter) {
    const parts = [filter.model && `of ${filter.model}`, filter.reason && `with the reason ${filter.reason}`,
      filter.dead_lettered_after && `from ${filter.dead_lettered_after} on`,
      filter.dead_lettered_before && `before ${filter.dead_lettered_before}`].filter(Boolean);
    return parts.length ? parts.join(", ") : "of all models";
  }

  async function changeAll(action) {
    const { verb, done, effect } = WORDS[action];
    const filter = readForm(form);
    const jobs = [];
    const refused = [];
    let total = 0;
    let cursor = null;
    try {
      do {
        const found = await count(action, filter, cursor);
        if (!found.number) {
          if (!total) tell(action === "redrive" ? "No dead letter matches that has not been redriven." : "No dead letter matches.");
          break;
        }
        const letters = formatCount(found.number, "dead letter");
        const more = found.hasMore ? " More follow, which are counted afterwards." : "";
        if (!await confirm(`${verb} ${letters}?`, `${letters} ${describe(filter)}. ${effect}${more}`, `${verb} ${letters}`, action === "purge")) break;
        const body = { action, count: found.number, filter, ...(found.cursor ? { cursor: found.cursor } : {}) };
        const result = await ask("POST", `${PATH}/actions`, { body });
        total += result.done.length;
        jobs.push(...result.done.map((each) => each.job_id).filter(Boolean));
        refused.push(...result.refused);
        cursor = result.next_cursor;
        tell(`${formatCount(total, "dead letter")} ${total === 1 ? "was" : "were"} ${done}${refused.length ? `, ${refused.length} refused` : ""}.`, jobs, refused);
      } while (cursor);
    } catch (error) {
      report(error);
    }
    await load();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    load();
  });
  // The fields are empty only after this event.
  form.addEventListener("reset", () => setTimeout(load));

  return {
    actions: {
      redrive: (data) => changeOne("redrive", data),
      purge: (data) => changeOne("purge", data),
      "redrive-all": () => changeAll("redrive"),
      "purge-all": () => changeAll("purge"),
      "more-letters": () => load(shown.cursor),
      "letters-of": ({ model }) => {
        form.elements.model.value = model;
        load();
      },
    },

    /** Read the letters again if their number has changed. */
    refresh({ queues }) {
      const number = queues.reduce((sum, { waiting }) => sum + (waiting.dead ?? 0), 0);
      if (number === known) return;
      known = number;
      load();
    },

    clear() {
      turn += 1;
      shown = null;
      known = null;
      update(place("letter-rows"));
      update(place("letter-result"));
    },
  };
}
