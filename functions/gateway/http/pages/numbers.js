// Lists of numbers in a result: the numbers in lines of text, with a small plot.

import { svg } from "/pages/dom.js";
import { element } from "/pages/key.js";

const LEAST_COUNT = 8;
const MAX_SHOWN = 1000;
const PLOT = [600, 48]; // width and height

/** Return whether a value is a list of many numbers. */
export function isNumbers(value) {
  return Array.isArray(value) && value.length >= LEAST_COUNT && value.every(Number.isFinite);
}

/** Return a list of numbers that opens and closes. `name` is the name of the list in the result. */
export function drawNumbers(name, numbers, isOpen) {
  const [least, most] = numbers.reduce(([low, high], each) => [Math.min(low, each), Math.max(high, each)], [Infinity, -Infinity]);
  const rest = numbers.length > MAX_SHOWN ? ` … and ${numbers.length - MAX_SHOWN} more` : "";
  const details = element("details", { open: isOpen },
    element("summary", {}, element("span", { className: "name" }, name), ` [${numbers.length}] from ${short(least)} to ${short(most)}`));
  const fill = () => {
    if (details.childElementCount > 1) return;
    details.append(plot(numbers, least, most),
      element("p", { className: "numbers" }, numbers.slice(0, MAX_SHOWN).map(short).join("  ") + rest));
  };
  details.addEventListener("toggle", fill);
  if (isOpen) fill();
  return details;
}

const short = (number) => String(Number(number.toPrecision(6)));

function plot(numbers, least, most) {
  const [width, height] = PLOT;
  const high = most - least || 1;
  const points = numbers.map((each, at) =>
    `${(at * width / Math.max(1, numbers.length - 1)).toFixed(1)},${(height - (each - least) / high * height).toFixed(1)}`);
  return svg("svg", {
    class: "plot", viewBox: `0 -2 ${width} ${height + 4}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `Plot of ${numbers.length} numbers from ${short(least)} to ${short(most)}`,
  }, svg("polyline", { points: points.join(" ") }));
}
