// Draw the timeline of a job: where its time went, step by step and delivery by delivery.
// A page that uses this module also needs the style sheet timeline.css.

import { formatMilliseconds } from "/pages/figures.js";
import { element } from "/pages/key.js";

// For each step: what the time before it was used for, and which part of the system used it.
const STEPS = {
  accepted: ["by the gateway", "gateway"],
  started: ["orchestration started", "gateway"],
  enqueued: ["sent to the queue", "gateway"],
  received: ["waited in the queue", "queue"],
  fetched: ["input read", "input"],
  decoded: ["input decoded", "input"],
  batched: ["waited for the device", "queue"],
  first_chunk: ["the model made its first chunk", "run"],
  run: ["the model ran", "run"],
  stored: ["result stored", "reply"],
  replied: ["reply sent", "reply"],
  returned: ["given back to the queue", "lost"],
  final: ["end recorded", "gateway"],
  now: ["not ended yet", "now"],
};

const ENDS = {
  answered: "its reply ended the job",
  completed: "the job was no longer wanted",
  returned: "given back before it started",
  abandoned: "given back after a failure",
  "dead-lettered": "set aside for an operator",
  lost: "nothing is known of its end",
  running: "not ended yet",
};

/**
 * Draw a timeline in an element, in place of the element's content.
 *
 * `timeline` is the answer of GET /v1/jobs/{id}/timeline. The drawing is a table with a bar for each
 * step, so it has the same figures as text.
 */
export function drawTimeline(container, timeline) {
  container.replaceChildren(
    stepTable(timeline),
    ...(timeline.deliveries.length ? [deliveryTable(timeline)] : []),
    ...timeline.deliveries.filter((each) => each.traceback).map((each) => element("pre", {}, each.traceback)),
    ...notes(timeline),
  );
  container.classList.add("timeline");
}

function stepTable(timeline) {
  let beginMs = 0;
  const rows = timeline.steps.map((step) => {
    const [text, part] = STEPS[step.name] ?? ["", "gateway"];
    const bar = element("span", { className: `span ${part}` });
    bar.style.setProperty("--begin", share(beginMs, timeline.total_ms));
    bar.style.setProperty("--length", share(step.duration_ms, timeline.total_ms));
    beginMs += step.duration_ms;
    const name = element("th", { scope: "row" }, step.name);
    if (step.is_adjusted) name.append(element("abbr", { title: "moved, because clocks differ" }, "*"));
    const track = element("td", { className: "track" });
    if (step.duration_ms > 0) track.append(bar);
    return element("tr", {}, name, track,
      element("td", { className: "number" }, step.is_beside ? "" : formatMilliseconds(step.duration_ms)),
      element("td", { className: "number" }, step.is_beside ? "" : percent(step.share)),
      element("td", {}, stepText(text, step, timeline.deliveries)));
  });
  const caption = timeline.final_at
    ? `Steps: ${formatMilliseconds(timeline.total_ms)} from acceptance to the end`
    : `Steps: ${formatMilliseconds(timeline.total_ms)} since acceptance`;
  return table("steps", caption, ["Step", "Place in the whole time", "Duration", "Share", "What happened"], rows);
}

function stepText(text, step, deliveries) {
  if (step.is_beside) return `${text}, beside`;
  const delivery = deliveries.findLast((each) => each.number === step.delivery);
  const isBatch = step.name === "batched" && delivery?.batch_size;
  const parts = [isBatch ? `waited for a batch of ${delivery.batch_size}` : text];
  if (step.delivery > 1) parts.push(`delivery ${step.delivery}`);
  return parts.join(", ");
}

function deliveryTable(timeline) {
  const rows = timeline.deliveries.map((each) => {
    const state = element("td", {}, element("strong", {}, each.state));
    const text = each.code ? `: ${each.code}` : ENDS[each.state] && `: ${ENDS[each.state]}`;
    if (text) state.append(text);
    return element("tr", {}, element("th", { scope: "row" }, String(each.number)), state,
      ...[each.worker, each.device, each.batch_size, receipt(each, timeline), formatMilliseconds(each.duration_ms),
        each.reached].map((value) => element("td", {}, String(value ?? "–"))));
  });
  return table("deliveries", "Deliveries to workers",
    ["Delivery", "End", "Worker", "Device", "Batch", "Received after", "Duration", "Reached"], rows);
}

function receipt(delivery, timeline) {
  const since = (at) => formatMilliseconds(Math.max(0, Date.parse(at) - Date.parse(timeline.accepted_at)));
  if (delivery.received_at) return since(delivery.received_at);
  if (!delivery.earliest_at) return null;
  return `${since(delivery.earliest_at)} to ${since(delivery.latest_at)}`;
}

function notes(timeline) {
  const found = timeline.clock_skew.map((skew) => {
    const side = skew.ahead_ms > 0 ? "ahead of" : "behind";
    return element("p", { className: "note" },
      `* The clock of ${skew.worker ?? `the ${skew.clock}`} is at least `
      + `${formatMilliseconds(Math.abs(skew.ahead_ms))} ${side} the gateway's. These times were moved.`);
  });
  if (timeline.webhook) {
    const rows = timeline.webhook.attempts.map((attempt, number) => element("tr", {},
      element("th", { scope: "row" }, String(number + 1)),
      ...[attempt.at, attempt.status ?? attempt.error].map((value) => element("td", {}, String(value ?? "–")))));
    found.push(table("webhook", `Webhook: ${timeline.webhook.state}`, ["Attempt", "Time", "Answer"], rows));
  }
  if (timeline.trace_id) {
    found.push(element("p", { className: "note" }, "Trace ", element("code", {}, timeline.trace_id)));
  }
  return found;
}

function table(className, caption, heads, rows) {
  // A table that is wider than the page scrolls by itself, and by keys.
  return element("div", { className: "wide", tabIndex: 0, role: "region", ariaLabel: caption },
    element("table", { className },
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, ...rows)));
}

const share = (part, whole) => (whole > 0 ? Math.min(1, part / whole).toFixed(5) : "0");

function percent(part) {
  return part > 0 && part < 0.005 ? "< 1 %" : `${Math.round(part * 100)} %`;
}
