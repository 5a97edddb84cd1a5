// Pictures as results: boxes on the input, and masks over it.

import { element } from "/pages/key.js";

/** Return the colour of a class or of a box: far apart for numbers that follow one another. */
export function colourOf(number) {
  return `hsl(${(number * 137.508 + 210) % 360} 85% ${number % 2 ? 42 : 52}%)`;
}

// A small picture is drawn larger, so that lines and letters on it are sharp.
const LEAST_PIXELS = 1000;

/** Return a canvas in which a picture of this size is drawn, and how many of its pixels make one. */
function makeCanvas({ width, height }, properties) {
  const scale = Math.max(1, Math.ceil(LEAST_PIXELS / Math.max(width, height)));
  const canvas = element("canvas", { ...properties, width: width * scale, height: height * scale });
  canvas.style.setProperty("--ratio", String(width / height));
  return canvas;
}

/** Return the corners of a box, in pixels; null if the value is no box. */
function cornersOf(box) {
  const found = Array.isArray(box) ? box : [box?.left, box?.top, box?.right, box?.bottom];
  return found.length === 4 && found.every(Number.isFinite) ? found : null;
}

/** Return whether an array lists objects with boxes. */
export function isObjects(value) {
  return Array.isArray(value) && value.length > 0 && value.every((each) => cornersOf(each?.box));
}

let idCount = 0;

/** Return a new id for an element. One page may have several drawings of a kind. */
const nextId = (name) => `${name}-${++idCount}`;

/**
 * Draw boxes on a picture, with a threshold for their scores and a table.
 *
 * `size` is the size of the picture to which the boxes refer.
 */
export function drawBoxes(picture, objects, size) {
  const canvas = makeCanvas(picture, { className: "picture", role: "img" });
  const names = [...new Set(objects.map((each) => each.label ?? each.index ?? ""))];
  const scores = objects.map((each) => each.score).filter(Number.isFinite);
  const threshold = element("input", { type: "range", id: nextId("threshold"), min: "0", max: "1", step: "0.01", value: leastScore(scores) });
  const shown = element("output", { htmlFor: threshold.id });
  shown.setAttribute("aria-live", "off"); // the slider says its value itself
  const body = element("tbody");
  const draw = () => {
    const least = Number(threshold.value);
    const kept = objects.map((each, number) => [each, number]).filter(([each]) => !(each.score < least));
    shown.textContent = `${least.toFixed(2)}: ${kept.length} of ${objects.length}`;
    canvas.ariaLabel = `Picture with ${kept.length} boxes`;
    const paint = canvas.getContext("2d");
    paint.drawImage(picture, 0, 0, canvas.width, canvas.height);
    for (const [each, number] of kept.toReversed()) drawBox(paint, size, each, number, names);
    body.replaceChildren(...kept.map(([each, number]) => element("tr", {},
      element("th", { scope: "row" }, swatch(colourOf(names.indexOf(each.label ?? each.index ?? ""))), String(number + 1)),
      element("td", {}, String(each.label ?? each.index ?? "–")),
      ...[percent(each.score), ...cornersOf(each.box)].map((value) => element("td", { className: "number" }, String(value))))));
  };
  threshold.addEventListener("input", draw);
  draw();
  const slider = element("p", { className: "slider" },
    element("label", { htmlFor: threshold.id }, "Least score"), threshold, shown);
  return element("figure", {}, canvas, ...(scores.length ? [slider] : []),
    wide("Objects", element("table", {}, heads("Box", "Label", "#Score", "#Left", "#Top", "#Right", "#Bottom"), body)));
}

/** Return the least score of the boxes that are shown at first: those that are more likely than not. */
const leastScore = (scores) => (scores.some((score) => score >= 0.5) ? "0.5" : "0");

function drawBox(paint, size, object, number, names) {
  const { width, height } = paint.canvas;
  const [left, top, right, bottom] = cornersOf(object.box)
    .map((value, at) => value * (at % 2 ? height / size.height : width / size.width));
  const unit = Math.max(1, Math.round(Math.max(width, height) / 600));
  const colour = colourOf(names.indexOf(object.label ?? object.index ?? ""));
  // A white line on both sides keeps the box visible on any picture.
  paint.lineWidth = 4 * unit;
  paint.strokeStyle = "rgb(255 255 255 / 85%)";
  paint.strokeRect(left, top, right - left, bottom - top);
  paint.lineWidth = 2 * unit;
  paint.strokeStyle = colour;
  paint.strokeRect(left, top, right - left, bottom - top);
  const text = [number + 1, object.label ?? object.index, percent(object.score)].filter((each) => each !== undefined && each !== "–").join(" ");
  const high = 14 * unit;
  paint.font = `600 ${11 * unit}px system-ui, sans-serif`;
  const length = paint.measureText(text).width + 8 * unit;
  const x = Math.max(0, Math.min(left - unit, width - length));
  const y = top - unit >= high ? top - unit - high : top + unit;
  paint.fillStyle = "rgb(20 22 26 / 88%)";
  paint.fillRect(x, y, length, high);
  paint.fillStyle = colour;
  paint.fillRect(x, y, 3 * unit, high);
  paint.fillStyle = "#fff";
  paint.fillText(text, x + 5 * unit, y + 11 * unit);
}

/**
 * Read the class of each pixel of a PNG with a palette or in grey.
 *
 * Returns {width, height, hasPalette, classes}, where `classes` has a number for each pixel. Returns null
 * if the file is another picture, for example a photograph.
 */
export async function readClasses(blob) {
  const data = new Uint8Array(await blob.arrayBuffer());
  const view = new DataView(data.buffer);
  const isPng = data.length > 33 && view.getUint32(0) === 0x89504e47;
  if (!isPng) return null;
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const [bits, colour, , , interlace] = data.subarray(24, 29);
  if (![0, 3].includes(colour) || bits > 8 || interlace || width * height > 100_000_000) return null;
  const pieces = [];
  for (let at = 8; at + 12 <= data.length;) {
    const length = view.getUint32(at);
    const name = String.fromCharCode(...data.subarray(at + 4, at + 8));
    if (name === "IDAT") pieces.push(data.subarray(at + 8, at + 8 + length));
    if (name === "IEND") break;
    at += 12 + length;
  }
  const stream = new Blob(pieces).stream().pipeThrough(new DecompressionStream("deflate"));
  const lines = new Uint8Array(await new Response(stream).arrayBuffer());
  return { width, height, hasPalette: colour === 3, classes: unfilter(lines, width, height, bits) };
}

function unfilter(lines, width, height, bits) {
  const rowBytes = Math.ceil(width * bits / 8);
  const classes = new Uint8Array(width * height);
  let before = new Uint8Array(rowBytes);
  for (let y = 0; y < height; y++) {
    const kind = lines[y * (rowBytes + 1)];
    const row = lines.subarray(y * (rowBytes + 1) + 1, (y + 1) * (rowBytes + 1));
    for (let x = 0; x < rowBytes; x++) {
      const left = x ? row[x - 1] : 0;
      const up = before[x];
      row[x] += [0, left, up, (left + up) >> 1, kind === 4 ? paeth(left, up, x ? before[x - 1] : 0) : 0][kind];
    }
    for (let x = 0; x < width; x++) {
      const shift = 8 - bits - (x * bits) % 8;
      classes[y * width + x] = (row[(x * bits) >> 3] >> shift) & (2 ** bits - 1);
    }
    before = row;
  }
  return classes;
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [left, up, corner].map((value) => Math.abs(guess - value));
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

/** Draw a mask over a picture, with its opacity, the class under the pointer, and a table. */
export function drawMask(picture, mask) {
  const { width, height, classes } = mask;
  const counts = new Map();
  for (const one of classes) counts.set(one, (counts.get(one) ?? 0) + 1);
  const found = [...counts].sort((one, other) => other[1] - one[1]);
  const overlay = paintClasses(mask, [...counts.keys()]);
  const canvas = makeCanvas(mask, { className: "picture mask", tabIndex: 0, role: "application" });
  canvas.ariaLabel = "Mask over the picture. The arrow keys move the pointer.";
  const opacity = element("input", { type: "range", id: nextId("opacity"), min: "0", max: "1", step: "0.05", value: "0.6" });
  const place = element("p", { className: "soft under" }, "Point at the picture, or use the arrow keys on it, to see the class.");
  const spoken = element("p", { className: "spoken", role: "status" });
  let pointer = null;
  const draw = () => {
    const paint = canvas.getContext("2d");
    paint.globalAlpha = 1;
    paint.imageSmoothingEnabled = true;
    paint.drawImage(picture, 0, 0, canvas.width, canvas.height);
    paint.imageSmoothingEnabled = false; // the border of a class stays where it is
    paint.globalAlpha = Number(opacity.value);
    paint.drawImage(overlay, 0, 0, canvas.width, canvas.height);
    if (!pointer) return;
    paint.globalAlpha = 1;
    const [x, y] = pointer.map((value) => (value + 0.5) * canvas.width / width);
    const unit = canvas.width / 500;
    for (const [colour, extra] of [["#fff", unit], ["#000", 0]]) {
      paint.fillStyle = colour;
      paint.fillRect(x - 8 * unit - extra / 2, y - extra, 16 * unit + extra, unit + extra);
      paint.fillRect(x - extra, y - 8 * unit - extra / 2, unit + extra, 16 * unit + extra);
    }
  };
  const textAt = (x, y) => `Class ${classes[y * width + x]} at ${x}, ${y}`;
  canvas.addEventListener("pointermove", (event) => {
    const x = Math.min(width - 1, Math.max(0, Math.floor(event.offsetX / canvas.clientWidth * width)));
    const y = Math.min(height - 1, Math.max(0, Math.floor(event.offsetY / canvas.clientHeight * height)));
    place.textContent = textAt(x, y);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const far = Math.max(1, Math.round(width / 40));
    const [x, y] = pointer ?? [width >> 1, height >> 1];
    pointer = [Math.min(width - 1, Math.max(0, x + step[0] * far)), Math.min(height - 1, Math.max(0, y + step[1] * far))];
    place.textContent = spoken.textContent = textAt(...pointer);
    draw();
  });
  canvas.addEventListener("blur", () => { pointer = null; draw(); });
  opacity.addEventListener("input", draw);
  draw();
  const rows = found.map(([number, count]) => element("tr", {},
    element("th", { scope: "row" }, swatch(classColour(number)), `Class ${number}`),
    ...[String(count), percent(count / classes.length)].map((text) => element("td", { className: "number" }, text))));
  return element("figure", {}, canvas, place, spoken,
    element("p", { className: "slider" }, element("label", { htmlFor: opacity.id }, "Opacity of the mask"), opacity),
    wide("Classes", element("table", {}, heads("Class", "#Pixels", "#Share"), element("tbody", {}, ...rows))));
}

// Class 0 is the background in most networks, so it hides nothing.
const classColour = (number) => (number === 0 ? "transparent" : colourOf(number));

function paintClasses({ width, height, classes }, numbers) {
  const canvas = new OffscreenCanvas(width, height);
  const paint = canvas.getContext("2d");
  const colours = new Map();
  for (const number of numbers) {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = classColour(number);
    paint.fillRect(0, 0, 1, 1);
    colours.set(number, paint.getImageData(0, 0, 1, 1).data);
  }
  const image = paint.createImageData(width, height);
  classes.forEach((number, at) => image.data.set(colours.get(number), 4 * at));
  paint.putImageData(image, 0, 0);
  return canvas;
}

export function percent(value) {
  return Number.isFinite(value) ? `${(value * 100).toFixed(1)} %` : "–";
}

function swatch(colour) {
  const mark = element("span", { className: "swatch", ariaHidden: "true" });
  mark.style.setProperty("--swatch", colour);
  return mark;
}

/** Return the head of a table. A text with "#" in front is the head of a column of numbers. */
export function heads(...texts) {
  return element("thead", {}, element("tr", {}, ...texts.map((text) =>
    element("th", { scope: "col", className: text.startsWith("#") ? "number" : "" }, text.replace("#", "")))));
}

export function wide(name, table) {
  return element("div", { className: "wide", tabIndex: 0, role: "region", ariaLabel: name }, table);
}
