// Show a problem as what happened and what to do. The page contains the advice for each code, in the
// element with the id `advice`.

import { element } from "/pages/key.js";

/**
 * Show an error in an element. `repeat` is called by the button "Try again", if that can help.
 *
 * The `choices` of a problem of the page itself are further buttons, each with `text` and `use`.
 */
export function showProblem(container, error, repeat = null) {
  const problem = error.document ?? { title: "The page failed", detail: String(error.message ?? error) };
  const code = problem.code ?? "";
  const advice = document.querySelector(`#advice [data-code="${CSS.escape(code)}"]`);
  const lines = [
    element("h3", {}, problem.title ?? "The request failed"),
    element("p", {}, problem.detail ?? ""),
  ];
  if (advice) {
    const text = element("p", { className: "advice" }, element("strong", {}, "What to do: "));
    text.append(...[...advice.cloneNode(true).childNodes]);
    lines.push(text);
  }
  if (typeof problem.retryable === "boolean") {
    lines.push(element("p", {}, problem.retryable
      ? "The same request may succeed later." : "The same request would fail again."));
  }
  if (problem.nearest?.length) lines.push(element("p", {}, `Similar names: ${problem.nearest.join(", ")}`));
  if (error.retryAfterSeconds !== null && error.retryAfterSeconds !== undefined) {
    lines.push(element("p", {}, `Try again in ${error.retryAfterSeconds} s.`));
  }
  if (problem.errors?.length) {
    lines.push(element("ul", { className: "refused" }, ...problem.errors.map(({ line, custom_id: name, code: reason, message }) =>
      element("li", {}, `${line ? `Line ${line}` : "The file"}${name ? ` (${name})` : ""}: ${reason}: ${message}`))));
  }
  const facts = [
    ["Code", code && element("a", { href: `/docs/problems#${code}` }, code)],
    ["HTTP status", problem.status],
    ["Stage", problem.stage],
    ["Trace", problem.trace_id],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  if (facts.length) {
    lines.push(element("dl", { className: "facts" }, ...facts.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value instanceof Node ? value : String(value))))));
  }
  if (repeat && (problem.retryable || problem.isUnreachable)) {
    const button = element("button", { type: "button" }, "Try again");
    button.addEventListener("click", repeat);
    lines.push(button);
  }
  for (const { text, use } of problem.choices ?? []) {
    const button = element("button", { type: "button" }, text);
    button.addEventListener("click", use);
    lines.push(button);
  }
  container.replaceChildren(element("div", { className: "problem", role: "alert" }, ...lines));
}
