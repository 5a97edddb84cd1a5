// Draw the result of a job by its shape: labels, boxes, a mask, parts of a sound, a picture, a sound,
// text or JSON. Anything else can be downloaded.

import { formatSize } from "/pages/figures.js";
import { choice } from "/pages/input.js";
import { element } from "/pages/key.js";
import { drawNumbers, isNumbers } from "/pages/numbers.js";
import { drawBoxes, drawMask, heads, isObjects, percent, readClasses } from "/pages/picture.js";
import { drawSound, isSegments } from "/pages/sound.js";

const MAX_JSON_BYTES = 20_000_000;
const MAX_TEXT_CHARACTERS = 200_000;
const MAX_CHILDREN = 100;

/**
 * Draw a result in an element, in place of the element's content.
 *
 * `blob` is the result with its media type, `input` the input of the job as a Blob, and `name` the
 * name of the file to download.
 */
export async function drawResult(container, blob, input, name) {
  const drawings = await drawingsOf(blob, input);
  const download = element("a", { className: "button", href: URL.createObjectURL(blob), download: name }, "Download the result");
  container.replaceChildren(...drawings,
    element("p", { className: "buttons" }, download, element("span", { className: "soft" }, `${blob.type || "unknown type"}, ${formatSize(blob.size)}`)));
}

/** Return the extension of a file with this media type, without the dot. */
export function fileSuffix(mediaType) {
  const type = mediaType.split(";")[0];
  return { "application/json": "json", "text/plain": "txt" }[type] ?? type.split("/")[1]?.replace(/[^a-z0-9]/g, "") ?? "bin";
}

async function drawingsOf(blob, input) {
  const type = blob.type.split(";")[0];
  if (type === "application/json" && blob.size <= MAX_JSON_BYTES) return drawJson(JSON.parse(await blob.text()), input);
  if (type.startsWith("image/")) return [await drawPicture(blob, input)];
  if (type.startsWith("audio/")) return [await drawSound(blob)];
  if (type.startsWith("video/")) {
    return [element("video", { controls: true, src: URL.createObjectURL(blob), className: "picture" })];
  }
  if (type.startsWith("text/")) {
    const text = await blob.slice(0, MAX_TEXT_CHARACTERS).text();
    return [element("pre", { className: "text", tabIndex: 0 }, text)];
  }
  return [element("p", {}, "This result has no drawing.")];
}

async function drawJson(value, input) {
  const drawings = [];
  const answer = value?.choices?.[0]?.message?.content ?? value?.choices?.[0]?.text; // of the OpenAI API
  if (typeof answer === "string") drawings.push(element("pre", { className: "text", tabIndex: 0 }, answer));
  for (const member of Object.values(Object(value))) {
    if (isLabels(member)) drawings.push(drawLabels(member));
    if (isObjects(member)) {
      const picture = await pictureOf(input);
      const size = Number.isFinite(value.width) && Number.isFinite(value.height) ? value : picture;
      if (picture) drawings.push(drawBoxes(picture, member, size));
    }
    if (isSegments(member) && input?.type.startsWith("audio/")) drawings.push(await drawSound(input, member));
  }
  const tree = element("div", { className: "tree" }, drawTree("result", value, true));
  const isOnly = drawings.length === 0;
  return [...drawings, element("details", { className: "json", open: isOnly },
    element("summary", {}, "The result as JSON"), tree)];
}

function isLabels(value) {
  return Array.isArray(value) && value.length > 0 && value.every((each) =>
    typeof each?.label === "string" && Number.isFinite(each.score) && !each.box);
}

function drawLabels(labels) {
  const most = Math.max(1, ...labels.map((each) => Math.abs(each.score)));
  const rows = labels.map((each) => {
    const bar = element("span", { className: "bar" });
    bar.style.setProperty("--length", String(Math.max(0, each.score) / most));
    const score = each.score >= 0 && each.score <= 1 ? percent(each.score) : String(each.score);
    return element("tr", {}, element("th", { scope: "row" }, each.label),
      element("td", { className: "track" }, bar), element("td", { className: "number" }, score));
  });
  const table = element("table", { className: "labels" },
    element("caption", { className: "spoken" }, "Labels"), heads("Label", "Score as a bar", "#Score"), element("tbody", {}, ...rows));
  return element("figure", {}, table);
}

let choiceCount = 0;

async function drawPicture(blob, input) {
  const image = () => element("figure", {},
    element("img", { src: URL.createObjectURL(blob), alt: "The result", className: "picture" }));
  const mask = await readClasses(blob).catch(() => null);
  const picture = mask && await pictureOf(input);
  if (!picture || picture.width !== mask.width || picture.height !== mask.height) return image();
  // A picture in grey may be a mask or a photograph. Only the user knows.
  const place = element("div", {});
  const show = (name) => place.replaceChildren(name === "classes" ? drawMask(picture, mask) : image());
  const first = mask.hasPalette ? "classes" : "picture";
  show(first);
  const options = [["picture", "Picture"], ["classes", "Classes over the input"]];
  return element("div", {}, element("div", { className: "choice", role: "radiogroup", ariaLabel: "Show as" },
    ...choice(`result-${++choiceCount}`, options, first, show)), place);
}

async function pictureOf(input) {
  if (!input?.type.startsWith("image/")) return null;
  return createImageBitmap(input).catch(() => null);
}

/** Return a JSON value as lists that open and close. Their content is made when they are opened. */
function drawTree(name, value, isOpen = false) {
  if (value === null || typeof value !== "object") {
    return element("div", { className: "leaf" }, element("span", { className: "name" }, name), ": ",
      element("span", { className: `value ${value === null ? "null" : typeof value}` }, JSON.stringify(value)));
  }
  if (isNumbers(value)) return drawNumbers(name, value, isOpen);
  const entries = Array.isArray(value) ? value.map((each, at) => [String(at), each]) : Object.entries(value);
  const count = Array.isArray(value) ? `[${entries.length}]` : `{${entries.length}}`;
  const details = element("details", {}, element("summary", {}, element("span", { className: "name" }, name), ` ${count}`));
  const fill = () => {
    if (details.childElementCount > 1) return;
    const list = element("div", { className: "children" });
    const add = () => {
      const from = list.querySelectorAll(":scope > :not(button)").length;
      const next = entries.slice(from, from + MAX_CHILDREN).map(([key, each]) => drawTree(key, each));
      more.remove();
      list.append(...next);
      if (entries.length > from + MAX_CHILDREN) {
        more.textContent = `Show ${Math.min(MAX_CHILDREN, entries.length - from - MAX_CHILDREN)} more of ${entries.length}`;
        list.append(more);
      }
    };
    const more = element("button", { type: "button" });
    more.addEventListener("click", add);
    add();
    details.append(list);
  };
  details.addEventListener("toggle", fill);
  if (isOpen) fill();
  details.open = isOpen;
  return details;
}
