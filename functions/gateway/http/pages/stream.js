// Show what a model emits while it runs: text as it comes, previews of pictures, or other values.

import { formatMilliseconds, formatNumber } from "/pages/figures.js";
import { element } from "/pages/key.js";

const MAX_CHARACTERS = 1_000_000;
// The first characters of PNG, JPEG, GIF and WebP in base64.
const PICTURES = { iVBORw0KGgo: "image/png", "/9j/": "image/jpeg", R0lGOD: "image/gif", UklGR: "image/webp" };

/** Shows the chunks of one job in an element. Times are those of `performance.now()`. */
export class StreamView {
  constructor(container, beganAt) {
    this.container = container;
    this.beganAt = beganAt;
    this.restart();
  }

  /** Drop what was shown, because the job runs again. */
  restart() {
    this.count = 0;
    this.text = "";
    this.hasText = false;
    this.firstAt = this.lastAt = null;
    this.node = document.createTextNode("");
    this.area = element("pre", { className: "text", tabIndex: 0, ariaLabel: "The text so far" }, this.node);
    this.picture = element("img", { className: "picture", alt: "Preview of the result" });
    this.container.replaceChildren();
  }

  /** Show a chunk that was received at the time `now`. */
  add(chunk, now = performance.now()) {
    this.count += 1;
    this.firstAt ??= now;
    this.lastAt = now;
    const preview = pictureOf(chunk);
    if (preview) this.showPicture(preview);
    else this.addText(textOf(chunk));
  }

  showPicture(blob) {
    if (this.picture.src) URL.revokeObjectURL(this.picture.src);
    this.picture.src = URL.createObjectURL(blob);
    if (!this.picture.isConnected) this.container.append(this.picture);
  }

  addText(text) {
    if (!text) return;
    this.hasText = true;
    if (!this.area.isConnected) this.container.prepend(this.area);
    const isAtEnd = this.area.scrollTop + this.area.clientHeight >= this.area.scrollHeight - 4;
    this.text += text;
    if (this.text.length <= MAX_CHARACTERS) this.node.appendData(text);
    if (isAtEnd) this.area.scrollTop = this.area.scrollHeight;
  }

  /** Return the time to the first chunk, their number and their rate. A chunk of a text is a token. */
  facts() {
    if (!this.count) return [];
    const [first, many] = this.hasText ? ["First token", "Tokens"] : ["First preview", "Previews"];
    const seconds = (this.lastAt - this.firstAt) / 1000;
    return [
      [first, formatMilliseconds(this.firstAt - this.beganAt)],
      [many, this.count],
      [`${many} a second`, this.count > 1 && seconds > 0 ? formatNumber((this.count - 1) / seconds) : null],
    ];
  }
}

/** Return the text of a chunk: what a chunk of the OpenAI API adds, or other JSON as a line. */
function textOf(chunk) {
  if (typeof chunk === "string") return chunk;
  const [choice] = chunk?.choices ?? [];
  const text = choice?.delta?.content ?? choice?.delta?.reasoning_content ?? choice?.text;
  if (typeof text === "string") return text;
  if (typeof chunk?.object === "string") return "";
  if (typeof chunk?.type === "string" && chunk.type.startsWith("response.")) {
    return chunk.type === "response.output_text.delta" ? chunk.delta : "";
  }
  return `${JSON.stringify(chunk)}\n`;
}

/** Return the picture in a chunk, a data URI or base64, as a Blob; null if there is none. */
function pictureOf(chunk) {
  const text = typeof chunk === "string" ? chunk : chunk?.b64_json ?? chunk?.partial_image_b64 ?? chunk?.image;
  if (typeof text !== "string") return null;
  const [, type, data] = /^data:(image\/[a-z0-9.+-]+);base64,(.*)$/is.exec(text) ?? [];
  if (type) return decode(data, type);
  const start = text.length > 64 && Object.keys(PICTURES).find((each) => text.startsWith(each));
  return start ? decode(text, PICTURES[start]) : null;
}

function decode(text, type) {
  try {
    return new Blob([Uint8Array.from(atob(text), (character) => character.charCodeAt(0))], { type });
  } catch {
    return null; // not base64
  }
}
