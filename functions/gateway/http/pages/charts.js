// Charts of figures a minute, as SVG, each with a table of the same figures.
//
// The SVG is stretched to the width of its place. Texts are HTML, so they are not stretched.

import { h, svg, update } from "./dom.js";
import { formatDuration, formatMinute, formatNumber } from "./figures.js";

const HEIGHT = 100;

const SECONDS = [10, 20, 60, 120, 240, 600, 1200, 3600, 7200, 14400, 36000];

/** Return the end of a scale for values up to `value`, half of which is a round figure, too. */
function roundUp(value, format) {
  if (format === formatNumber && value <= 2) return 2;
  if (!(value > 0)) return 1;
  const ofTime = format === formatDuration && value > 5 && SECONDS.find((each) => each >= value);
  if (ofTime) return ofTime;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((factor) => factor * power).find((each) => each >= value * 0.9999);
}

/** Return the parts of a line. A null ends a part. */
function pathParts(values, y) {
  const parts = [];
  let part = [];
  for (const [minute, value] of values.entries()) {
    if (value === null) {
      if (part.length) parts.push(part);
      part = [];
    } else {
      part.push([minute + 0.5, y(value)]);
    }
  }
  if (part.length) parts.push(part);
  return parts;
}

function drawLine(values, y) {
  return pathParts(values, y).map((part) => {
    // A single minute is a short line, because a path with one point is invisible.
    const points = part.length > 1 ? part : [[part[0][0] - 0.4, part[0][1]], [part[0][0] + 0.4, part[0][1]]];
    return `M${points.map((point) => point.join(" ")).join("L")}`;
  }).join("");
}

function drawArea(values, y) {
  return pathParts(values, y).map((part) => {
    const [first, last] = [part[0][0], part[part.length - 1][0]];
    return `M${first - 0.5} ${HEIGHT}L${first - 0.5} ${part[0][1]}L${part.map((point) => point.join(" ")).join("L")}`
      + `L${last + 0.5} ${part[part.length - 1][1]}L${last + 0.5} ${HEIGHT}Z`;
  }).join("");
}

function drawBars(values, y) {
  return values.map((value, minute) => {
    return value ? `M${minute + 0.15} ${HEIGHT}V${y(value)}H${minute + 0.85}V${HEIGHT}Z` : "";
  }).join("");
}

const SHAPES = { line: drawLine, dashed: drawLine, area: drawArea, bars: drawBars };

/**
 * Show charts in an element, and return a function that draws them again with new data.
 *
 * A chart is {key, title, format, series}, and a series is {name, shape, colour, values} with a value
 * for each minute; a null is unknown. `shape` is line, dashed, area or bars, and `colour` a class.
 * The pointer or the arrow keys choose a minute, whose figures are shown above the chart.
 */
export function addCharts(place) {
  let shown = { start: 0, stepSeconds: 60, charts: [] };
  let chosen = { key: null, minute: 0 };

  function draw() {
    update(place, shown.charts.map(drawChart));
  }

  function timeOf(minute) {
    return formatMinute(shown.start + minute * shown.stepSeconds * 1000);
  }

  function drawChart({ key, title, format, series }) {
    const count = series[0].values.length;
    const isChosen = chosen.key === key;
    const minute = Math.min(isChosen ? chosen.minute : count - 1, count - 1);
    const highest = Math.max(0, ...series.flatMap(({ values }) => values.filter((each) => each !== null)));
    const top = roundUp(highest, format);
    const y = (value) => HEIGHT - (value / top) * HEIGHT;
    const isEmpty = series.every(({ values }) => values.every((each) => each === null));
    const legend = series.map(({ name, shape, colour, values }) => h("li", {},
      h("span", { class: `swatch ${shape} ${colour}`, "aria-hidden": "true" }),
      `${name} `, h("strong", {}, format(values[minute]))));
    const sentence = series.map(({ name, values }) => `${name} ${format(values[minute])}`).join(", ");
    const plot = h("div", {
      class: "plot", tabindex: "0", role: "slider", "data-chart": key,
      "aria-label": `${title}: choose a minute`, "aria-valuemin": "0", "aria-valuemax": String(count - 1),
      "aria-valuenow": String(minute), "aria-valuetext": `${timeOf(minute)}: ${sentence}`,
    },
    svg("svg", { viewBox: `0 0 ${count} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      [0.5, 1].map((share) => svg("path", { class: "grid", d: `M0 ${HEIGHT - share * HEIGHT}H${count}` })),
      svg("path", { class: "grid base", d: `M0 ${HEIGHT}H${count}` }),
      series.map(({ shape, colour, values }) => svg("path", { class: `${shape} ${colour}`, d: SHAPES[shape](values, y) })),
      isChosen ? svg("path", { class: "chosen", d: `M${minute + 0.5} 0V${HEIGHT}` }) : null),
    isEmpty ? h("p", { class: "empty" }, "No figures in this hour") : null);
    return h("figure", { class: "chart", "data-key": key },
      h("figcaption", {},
        h("h3", {}, title),
        h("p", { class: "minute" }, isChosen ? timeOf(minute) : `last minute, ${timeOf(minute)}`),
        h("ul", { class: "legend" }, legend)),
      h("div", { class: "frame" },
        h("div", { class: "scale", "aria-hidden": "true" },
          h("span", {}, format(top)), h("span", {}, format(top / 2)), h("span", {}, "0")),
        plot,
        h("div", { class: "times", "aria-hidden": "true" },
          [0, 0.25, 0.5, 0.75, 1].map((share) => h("span", {}, timeOf(Math.min(count - 1, Math.round(share * count))))))),
      h("details", { "data-key": `${key} table` }, h("summary", {}, `${title} as a table`),
        isOpen(key) ? drawTable(title, format, series) : null));
  }

  function isOpen(key) {
    return Boolean(place.querySelector(`details[data-key="${key} table"]`)?.open);
  }

  function drawTable(title, format, series) {
    const minutes = [...series[0].values.keys()].reverse();
    return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Table: ${title}` },
      h("table", { class: "plain" },
        h("caption", { class: "spoken" }, `${title}, newest minute first`),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Minute"),
          series.map(({ name }) => h("th", { scope: "col", class: "number" }, name)))),
        h("tbody", {}, minutes.map((minute) => h("tr", {},
          h("th", { scope: "row" }, timeOf(minute)),
          series.map(({ values }) => h("td", { class: "number" }, format(values[minute]))))))));
  }

  function choose(plot, minute) {
    const last = Number(plot.getAttribute("aria-valuemax"));
    chosen = { key: plot.dataset.chart, minute: Math.max(0, Math.min(last, minute)) };
    draw();
  }

  // A table is drawn when it is opened. This event does not bubble.
  place.addEventListener("toggle", draw, { capture: true });
  place.addEventListener("pointermove", (event) => {
    const plot = event.target.closest(".plot");
    if (!plot) return;
    const box = plot.getBoundingClientRect();
    const count = Number(plot.getAttribute("aria-valuemax")) + 1;
    choose(plot, Math.floor(((event.clientX - box.left) / box.width) * count));
  });
  place.addEventListener("pointerout", (event) => {
    if (event.target.closest(".plot") && !event.relatedTarget?.closest?.(".plot")) {
      chosen = { key: null, minute: 0 };
      draw();
    }
  });
  place.addEventListener("keydown", (event) => {
    const plot = event.target.closest(".plot");
    const now = Number(plot?.getAttribute("aria-valuenow"));
    const steps = {
      ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1,
      PageUp: now + 10, PageDown: now - 10, Home: 0, End: Infinity,
    };
    if (!plot || !(event.key in steps)) return;
    event.preventDefault();
    choose(plot, steps[event.key]);
  });
  place.addEventListener("focusout", () => {
    if (chosen.key !== null) {
      chosen = { key: null, minute: 0 };
      draw();
    }
  });

  return (start, stepSeconds, charts) => {
    shown = { start: Date.parse(start), stepSeconds, charts };
    draw();
  };
}

/** Return the sum of these values; null if all are unknown. */
export function addUp(values) {
  const known = values.filter((each) => each !== null && each !== undefined);
  return known.length ? known.reduce((sum, each) => sum + each, 0) : null;
}

/** Return the highest of these values; null if all are unknown. */
export function highestOf(values) {
  const known = values.filter((each) => each !== null && each !== undefined);
  return known.length ? Math.max(...known) : null;
}
