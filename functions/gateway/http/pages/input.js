// The inputs of a job: a file that is dropped, pasted, chosen, photographed or recorded; text; or JSON.

import { element } from "/pages/key.js";
import { Problem } from "/pages/gateway.js";
import { formatSize } from "/pages/figures.js";
import { convertToWav, drawSound, startRecording } from "/pages/sound.js";

const JSON_TYPE = "application/json";
const ANY_TYPE = "application/octet-stream";
const WAV_TYPES = ["audio/wav", "audio/x-wav", "audio/vnd.wave", "audio/wave"];
const MAX_PREVIEW_BYTES = 30_000_000;
const DECODED_RATE = 44_100;
const MAX_FILES = 1000; // the largest number of items in a request for a batch
const MAX_THUMBNAILS = 24;

const SAMPLES = [
  { name: "chelsea.jpg", text: "A cat", type: "image/jpeg" },
  { name: "coffee.jpg", text: "Coffee", type: "image/jpeg" },
  { name: "speech.wav", text: "Speech", type: "audio/wav" },
  { name: "hello.txt", text: "A sentence", type: "text/plain", content: "A burst of requests waits instead of failing." },
  { name: "point.json", text: "An object", type: JSON_TYPE, content: '{"x": 0.5, "tags": ["a", "b"]}' },
];
// The bodies of the OpenAI API are the inputs of the models that offer its operations.
const OPENAI_SAMPLES = {
  "chat.completions": ["A question", '{"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 64}'],
  completions: ["The beginning of a text", '{"prompt": "The capital of France is", "max_tokens": 16}'],
  responses: ["A question to answer", '{"input": "What is the capital of France?", "max_output_tokens": 64}'],
  embeddings: ["Two sentences", '{"input": ["A burst of requests waits.", "Many requests wait."]}'],
  "images.generations": ["A description", '{"prompt": "A cat on a sofa"}'],
  "audio.speech": ["A sentence to speak", '{"input": "A burst of requests waits.", "voice": "alloy"}'],
};

const find = (id) => document.getElementById(id);
const isLines = ({ name }) => /\.(jsonl|ndjson)$/i.test(name);
const isText = (type) => type.startsWith("text/");
const modesOf = (entry) => [
  ["file", "File"],
  ...(entry.media_types.some(isText) ? [["text", "Text"]] : []),
  ...(entry.media_types.includes(JSON_TYPE) ? [["json", "JSON"]] : []),
];

/** The fields for one input of a job: a file, a text or JSON.
 *
 * The ids of the elements begin with `prefix`. `onChange` is called after each change of the input,
 * and `useModel` with the name of another model that the user chooses for a file. */
class InputField {
  constructor(prefix, showFailure, onChange, useModel) {
    this.prefix = prefix;
    this.showFailure = showFailure;
    this.onChange = onChange;
    this.useModel = useModel;
    this.entry = null; // {title, media_types, limits, required}: what the input may be
    this.mode = "file";
    this.batch = null; // {files} or {jsonl}: several inputs, instead of one
    this.file = null; // {name, blob, mediaType}: as it will be sent
    this.others = []; // the models that the user may choose for a file
  }

  part(name) {
    return find(this.prefix + name);
  }

  /** What takes the input, at the beginning of a sentence: a model, or one of its inputs. */
  get taker() {
    return this.prefix ? `The input ${this.entry.title}` : this.entry.title;
  }

  /** Take inputs with other media types and limits. A file that may still be sent stays. */
  setEntry(entry, others = []) {
    this.entry = entry;
    this.others = others;
    const types = entry.media_types;
    this.part("file").accept = types.includes(ANY_TYPE) ? "" : [...types, ...(this.prefix ? [] : [".jsonl", ".ndjson"]),
      ...(takesSound(entry) ? ["audio/*"] : []), ...(takesPictures(entry) ? ["image/*"] : [])].join(",");
    const modes = modesOf(entry);
    if (!modes.some(([mode]) => mode === this.mode)) this.mode = "file";
    this.part("modes").hidden = modes.length === 1;
    this.part("modes").replaceChildren(...choice(`${this.prefix}mode`, modes, this.mode, (mode) => this.setMode(mode)));
    this.part("samples").replaceChildren(...this.sampleButtons());
    this.setMode(this.mode);
    if (this.file) this.setFile(this.file.original, this.file.originalName);
    else if (this.batch) this.setFiles(this.batch.originals);
  }

  /** Use the files that the user has given. Only the first input takes several. */
  setFiles([file]) {
    return this.setFile(file, file.name);
  }

  /** Return the input as {name, blob, mediaType, text, json, limits}; null if there is none.
   *
   * Raises Problem if it cannot be sent. */
  read() {
    const { limits } = this.entry;
    if (this.mode === "file") return this.file && { ...this.file, limits };
    const text = this.part("text").value;
    if (!text.trim()) return null;
    const base = this.prefix ? this.entry.title : "input";
    if (this.mode === "json") {
      const failure = checkJson(text);
      if (failure) throw this.problem("The input is not JSON", failure);
      return { name: `${base}.json`, json: text.trim(), blob: new Blob([text], { type: JSON_TYPE }), mediaType: JSON_TYPE, limits };
    }
    const mediaType = this.entry.media_types.find(isText);
    return { name: `${base}.txt`, text, blob: new Blob([text], { type: mediaType }), mediaType, limits };
  }

  /** Return the input, or null if there is none and it is optional. Raises Problem if it cannot be sent. */
  value() {
    const found = this.read();
    if (found || !this.entry.required) return found;
    throw this.problem("There is no input", this.mode !== "file" ? "Enter the text of the input."
      : `Choose${this.prefix ? " or drop" : ", drop or paste"} a file, or use an example.`);
  }

  /** Return a problem that is shown below this input. */
  problem(title, detail) {
    return Object.assign(inputProblem(title, detail), { place: this.part("input-problem") });
  }

  setMode(mode) {
    this.mode = mode;
    this.part("file-input").hidden = mode !== "file";
    this.part("text-input").hidden = mode === "file";
    this.part("text-label").textContent = mode === "json" ? "JSON" : "Text";
    this.part("input-problem").replaceChildren();
    this.checkText();
    this.onChange();
  }

  /** Use a file. Convert it if the model does not take its type but the browser can convert it. */
  async setFile(original, name) {
    this.part("input-problem").replaceChildren();
    const found = { original, originalName: name };
    this.batch = null;
    try {
      const type = await typeOf(original);
      const isEditable = original.size < 1_000_000 && modesOf(this.entry).some(([mode]) => mode !== "file");
      if (isEditable && (type === JSON_TYPE || isText(type)) && this.entry.media_types.includes(type)) {
        this.setText(await original.text(), type === JSON_TYPE ? "json" : "text");
        return;
      }
      Object.assign(found, await this.fit(original, name, type));
    } catch (error) {
      this.file = null;
      this.part("preview").replaceChildren();
      this.showFailure(this.part("input-problem"), error);
      this.onChange();
      return;
    }
    this.file = found;
    this.chooseMode("file");
    await this.showPreview();
    this.onChange();
  }

  setText(text, mode) {
    this.part("text").value = text;
    this.chooseMode(mode);
  }

  chooseMode(mode) {
    for (const radio of this.part("modes").querySelectorAll("input")) radio.checked = radio.value === mode;
    this.setMode(mode);
  }

  async fit(blob, name, type) {
    const types = this.entry.media_types;
    const asIs = (mediaType) => ({ name, mediaType, blob: new Blob([blob], { type: mediaType }), note: "" });
    if (types.includes(type)) return asIs(type);
    if (WAV_TYPES.includes(type) && takesSound(this.entry)) return asIs(types.find((each) => WAV_TYPES.includes(each)));
    const base = name.replace(/\.[^.]*$/, "");
    if (takesSound(this.entry) && (type.startsWith("audio/") || type.startsWith("video/"))) {
      const wav = await convertToWav(blob, DECODED_RATE).catch(() => null);
      if (!wav) throw inputProblem("The sound cannot be decoded", `This browser does not know the format of ${name} (${type}). Convert it to WAV.`);
      const mediaType = types.find((each) => WAV_TYPES.includes(each));
      return { name: `${base}.wav`, mediaType, blob: new Blob([wav], { type: mediaType }), note: `converted from ${type}` };
    }
    if (takesPictures(this.entry) && type.startsWith("image/")) {
      const mediaType = types.includes("image/png") ? "image/png" : types.find((each) => each.startsWith("image/"));
      const picture = await createImageBitmap(blob).catch(() => null);
      if (!picture) throw inputProblem("The picture cannot be decoded", `This browser does not know the format of ${name} (${type}). Convert it to PNG.`);
      const converted = await toBlob(picture, mediaType);
      return { name: `${base}.${mediaType.split("/")[1]}`, mediaType, blob: converted, note: `converted from ${type}` };
    }
    if (types.includes(ANY_TYPE)) return asIs(ANY_TYPE);
    const others = this.others.filter((each) => each.media_types.includes(type));
    throw inputProblem("The model does not take this file",
      `${name} is ${type}. ${this.taker} takes ${types.join(", ")}. `
      + (others.length ? "Choose another file, or a model that takes it." : "Choose another file."),
      others.map((each) => ({
        text: `Use ${each.name}`,
        use: () => { this.useModel(each); this.setFile(blob, name); },
      })));
  }

  async showPreview() {
    const { blob, name, mediaType, note } = this.file;
    const facts = [mediaType, formatSize(blob.size), note].filter(Boolean);
    const shown = [];
    if (mediaType.startsWith("image/")) {
      const image = element("img", { src: URL.createObjectURL(blob), alt: "The input" });
      await image.decode().then(
        () => facts.splice(1, 0, `${image.naturalWidth} × ${image.naturalHeight} pixels`),
        () => facts.push("the browser cannot show it"));
      shown.push(image);
    } else if (WAV_TYPES.includes(mediaType) && blob.size <= MAX_PREVIEW_BYTES) {
      shown.push(await drawSound(blob));
    }
    this.showFacts(shown, name, facts);
  }

  removeButton() {
    const remove = element("button", { type: "button" }, "Remove");
    remove.addEventListener("click", () => {
      this.file = null;
      this.batch = null;
      this.part("preview").replaceChildren();
      this.part("input-state").textContent = "The file was removed.";
      this.part("file").focus();
      this.onChange();
    });
    return remove;
  }

  showFacts(shown, name, facts) {
    forgetUrls(this.part("preview"));
    this.part("preview").replaceChildren(...shown,
      element("p", { className: "file" }, element("strong", {}, name),
        ` ${facts.map((fact) => fact.replaceAll(" ", "\u00a0")).join(", ")} `, this.removeButton()));
    this.part("input-state").textContent = `${this.prefix ? this.taker : "The input"} is ${name}.`;
  }

  checkText() {
    showJsonCheck(this.part("text"), this.part("text-check"), this.mode === "json");
  }

  sampleButtons() {
    const { media_types: types, openai = [] } = this.entry;
    const fitting = [
      ...SAMPLES.filter(({ type }) => types.includes(type) && !(type === JSON_TYPE && openai.length)),
      ...openai.filter((each) => OPENAI_SAMPLES[each] && types.includes(JSON_TYPE)).map((each) =>
        ({ name: `${each}.json`, type: JSON_TYPE, text: OPENAI_SAMPLES[each][0], content: OPENAI_SAMPLES[each][1] })),
    ];
    const buttons = fitting.map((sample) => {
      const button = element("button", { type: "button", className: "sample", value: sample.name });
      if (sample.type.startsWith("image/")) {
        button.append(element("img", { src: `/pages/samples/${sample.name}`, alt: "" }));
      }
      button.append(element("span", {}, sample.text));
      button.addEventListener("click", () => this.useSample(sample));
      return button;
    });
    if (!buttons.length) return [];
    const label = element("p", { className: "soft" }, "Examples (",
      element("a", { href: "/pages/samples/LICENSE.txt" }, "licences"), "):");
    return [label, element("div", { className: "buttons" }, ...buttons)];
  }

  async useSample({ name, type, content }) {
    if (content) {
      this.setText(content, type === JSON_TYPE ? "json" : "text");
      return;
    }
    try {
      const response = await fetch(`/pages/samples/${name}`);
      await this.setFile(new Blob([await response.blob()], { type }), name);
    } catch (error) {
      this.showFailure(this.part("input-problem"), error);
    }
  }

  connectField() {
    this.part("text").after(makeJsonCheck(`${this.prefix}text-check`));
    this.part("text").addEventListener("input", () => { this.checkText(); this.onChange(); });
    this.part("file").addEventListener("change", () => {
      const files = [...this.part("file").files];
      if (files.length) this.setFiles(files);
      this.part("file").value = ""; // the same file can be chosen again
    });
  }
}

/** The part of the page with the inputs of a job: the first input, and those with a name. */
export class InputPanel extends InputField {
  constructor(showFailure, onChange, useModel) {
    super("", showFailure, onChange, useModel);
    this.model = null;
    this.named = new Map(); // the fields of the named inputs, by name
    this.connect();
  }

  /** Take inputs for another model. Files that the model takes stay. */
  setModel(model, models) {
    const hasChanged = this.model?.name !== model.name;
    this.model = model;
    find("camera").hidden = !takesPictures(model) || !navigator.mediaDevices;
    find("record").hidden = !takesSound(model) || !navigator.mediaDevices;
    // During an upgrade, an older gateway may describe the same model without named inputs.
    const isSame = String(Object.keys(model.inputs)) === String([...this.named.keys()]);
    if (hasChanged || !isSame) this.addNamed(Object.entries(model.inputs));
    const { name, media_types, limits, openai } = model;
    this.setEntry({ title: name, media_types, limits, openai, required: true }, models);
    for (const [title, field] of this.named) field.setEntry({ title, ...model.inputs[title] });
  }

  addNamed(inputs) {
    forgetUrls(find("named-inputs"));
    find("named-inputs").replaceChildren(...inputs.map(([name, described]) => namedFields(name, described)));
    this.named = new Map(inputs.map(([name, described]) => {
      const field = new InputField(`input-${name}-`, this.showFailure, this.onChange, this.useModel);
      field.entry = { title: name, ...described };
      field.connectField();
      return [name, field];
    }));
  }

  /** Whether several inputs are given, of which each becomes a line of a batch. */
  get isBatch() {
    return this.mode === "file" && this.batch !== null;
  }

  async setFiles(files) {
    if (files.length === 1 && !isLines(files[0])) {
      await super.setFiles(files);
      return;
    }
    this.part("input-problem").replaceChildren();
    this.file = null;
    try {
      this.batch = { originals: files, ...await this.batchOf(files) };
    } catch (error) {
      this.batch = null;
      this.part("preview").replaceChildren();
      if (error.document) error.document.choices = []; // they would use one of the files
      this.showFailure(this.part("input-problem"), error);
      this.onChange();
      return;
    }
    this.chooseMode("file");
    this.showBatch();
    this.onChange();
  }

  async batchOf(files) {
    if (files.some(isLines)) {
      if (files.length === 1) return { jsonl: files[0] };
      throw inputProblem("A JSONL file is a batch by itself", "Choose one JSONL file, or several files that are not JSONL.");
    }
    if (files.length > MAX_FILES) {
      throw inputProblem("There are too many files", `The page submits at most ${MAX_FILES} files at once; these are ${files.length}. `
        + `Submit a folder with: loosely submit FOLDER --model ${this.model.name}`);
    }
    const needed = [...this.named.values()].find(({ entry }) => entry.required);
    if (needed) {
      throw inputProblem("The model needs more than one input", `Each line needs the input ${needed.entry.title}, too. `
        + "Choose a JSONL file, whose lines have all inputs.");
    }
    const fitted = [];
    for (const file of files) fitted.push(await this.fit(file, file.name, await typeOf(file)));
    return { files: fitted };
  }

  showBatch() {
    const { jsonl, files = [] } = this.batch;
    const pictures = files.filter(({ mediaType }) => mediaType.startsWith("image/")).slice(0, MAX_THUMBNAILS)
      .map(({ blob }) => element("img", { src: URL.createObjectURL(blob), alt: "" }));
    const size = jsonl ? jsonl.size : files.reduce((sum, { blob }) => sum + blob.size, 0);
    this.showFacts(pictures.length ? [element("div", { className: "thumbnails" }, ...pictures)] : [],
      jsonl ? jsonl.name : `${files.length} files`, [formatSize(size), jsonl ? "a batch: one line for each input" : "as one batch"]);
  }

  /** Return all inputs: the members of the first one, and `inputs` with those that have a name.
   *
   * Several inputs are in `batch`. Raises Problem if an input is missing or cannot be sent. */
  values() {
    if (this.isBatch) return { batch: this.batch, inputs: {} };
    const first = this.value();
    const named = [...this.named].map(([name, field]) => [name, field.value()]);
    return { ...first, inputs: Object.fromEntries(named.filter(([, each]) => each)) };
  }

  clearProblems() {
    for (const field of [this, ...this.named.values()]) field.part("input-problem").replaceChildren();
  }

  /** Return the field to which an element of the page belongs. Other elements belong to the first input. */
  fieldOf(node) {
    return this.named.get(node?.closest?.("[data-input]")?.dataset.input) ?? this;
  }

  connect() {
    this.connectField();
    this.connectDrop();
    document.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length) {
        event.preventDefault();
        this.fieldOf(event.target).setFiles(files);
      }
    });
    find("camera").addEventListener("click", () => this.takePicture());
    find("record").addEventListener("click", () => this.record());
  }

  connectDrop() {
    // A file can be dropped anywhere, because a browser would leave the page otherwise.
    const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    const mark = (over) => {
      for (const field of [this, ...this.named.values()]) field.part("drop").classList.toggle("over", field === over);
    };
    document.addEventListener("dragover", (event) => {
      if (!hasFile(event)) return;
      event.preventDefault();
      mark(this.fieldOf(event.target));
    });
    for (const name of ["dragleave", "dragend", "drop"]) {
      document.addEventListener(name, (event) => {
        if (name !== "dragleave" || !event.relatedTarget) mark(null);
      });
    }
    document.addEventListener("drop", (event) => {
      const files = [...(event.dataTransfer?.files ?? [])];
      if (!files.length) return;
      event.preventDefault();
      this.fieldOf(event.target).setFiles(files);
    });
  }

  async takePicture() {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      this.showFailure(find("input-problem"), deviceProblem("camera", error));
      return;
    }
    const [dialog, video] = [find("viewfinder"), find("video")];
    const taken = new AbortController();
    const once = { signal: taken.signal };
    video.srcObject = stream;
    dialog.addEventListener("close", () => {
      taken.abort();
      video.srcObject = null;
      for (const track of stream.getTracks()) track.stop();
      find("camera").focus();
    }, { once: true });
    find("viewfinder-close").addEventListener("click", () => dialog.close(), once);
    find("shutter").addEventListener("click", async () => {
      const type = ["image/jpeg", "image/png"].find((each) => this.model.media_types.includes(each)) ?? "image/png";
      const picture = await createImageBitmap(video);
      dialog.close();
      await this.setFile(await toBlob(picture, type), `camera.${type === "image/png" ? "png" : "jpg"}`);
    }, once);
    dialog.showModal();
    await video.play();
  }

  async record() {
    if (this.stopRecording) {
      const stop = this.stopRecording;
      this.stopRecording = null;
      clearInterval(this.ticking);
      find("record").textContent = "Record sound";
      find("record").classList.remove("on");
      await this.setFile(await stop(), "recording.wav");
      return;
    }
    try {
      this.stopRecording = await startRecording(() => this.record());
    } catch (error) {
      this.showFailure(find("input-problem"), deviceProblem("microphone", error));
      return;
    }
    const began = performance.now();
    const tick = () => { find("record").textContent = `Stop recording (${Math.round((performance.now() - began) / 1000)} s)`; };
    tick();
    this.ticking = setInterval(tick, 1000);
    find("record").classList.add("on");
    find("input-state").textContent = "Recording.";
  }
}

/** Return the elements for a named input. Their ids begin with its name. */
function namedFields(name, { description, required }) {
  const id = (part) => `input-${name}-${part}`;
  const modes = element("div", { id: id("modes"), className: "choice", role: "radiogroup", ariaLabel: `Kind of input for ${name}` });
  const text = element("textarea", { id: id("text"), rows: 4, spellcheck: false });
  text.setAttribute("aria-describedby", id("text-check"));
  const fields = element("fieldset", { className: "panel" },
    element("legend", {}, `Input ${name}`, ...(required ? [] : [element("span", { className: "soft" }, " optional")])),
    ...(description ? [element("p", { className: "soft" }, description)] : []),
    modes,
    element("div", { id: id("file-input") },
      element("div", { id: id("drop"), className: "drop" },
        element("div", { id: id("preview"), className: "preview" }),
        element("p", { className: "drop-text" }, "Drop a file here, or"),
        element("div", { className: "buttons" },
          element("label", { className: "button", htmlFor: id("file") }, "Choose a file"),
          element("input", { type: "file", id: id("file"), className: "spoken" }))),
      element("div", { id: id("samples"), className: "samples" })),
    element("div", { id: id("text-input"), className: "text-input", hidden: true },
      element("label", { htmlFor: id("text"), id: id("text-label") }, "Text"), text),
    element("div", { id: id("input-problem"), className: "input-problem" }),
    element("p", { id: id("input-state"), role: "status", className: "spoken" }));
  fields.dataset.input = name;
  return fields;
}

/** Return radio buttons for a choice. `use` is called with the chosen value. */
export function choice(name, options, chosen, use) {
  return options.map(([value, text]) => {
    const radio = element("input", { type: "radio", name, value, checked: value === chosen });
    radio.addEventListener("change", () => use(value));
    return element("label", {}, radio, element("span", {}, text));
  });
}

/** Free the memory of the files that an element shows. */
export function forgetUrls(container) {
  for (const one of container.querySelectorAll("[src^='blob:'], [href^='blob:']")) {
    URL.revokeObjectURL(one.src ?? one.href);
  }
}

/** Return the place that says whether a field has JSON. */
export function makeJsonCheck(id) {
  // Only the first part is spoken, because the reason changes with each letter.
  return element("p", { className: "check", id }, element("span", { role: "status" }), element("span"));
}

/** Say below a field whether its text is JSON. An empty field, or a field without `isJson`, is valid. */
export function showJsonCheck(field, check, isJson = true) {
  const isEmpty = !isJson || !field.value.trim();
  const failure = isEmpty ? "" : checkJson(field.value);
  const [state, reason] = check.children;
  const text = isEmpty ? "" : failure ? "✕ Not JSON" : "✓ Valid JSON";
  if (state.textContent !== text) state.textContent = text;
  reason.textContent = failure && `: ${failure}`;
  field.ariaInvalid = String(Boolean(failure));
  check.classList.toggle("bad", Boolean(failure));
}

/** Return why a text is not JSON; "" if it is. */
export function checkJson(text) {
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return error.message;
  }
}

const takesPictures = (entry) => entry.media_types.some((type) => type.startsWith("image/"));
const takesSound = (entry) => entry.media_types.some((type) => WAV_TYPES.includes(type));

/** Recognise the media type by the first bytes, or else by the name of the file. */
async function typeOf(blob) {
  const start = String.fromCharCode(...new Uint8Array(await blob.slice(0, 12).arrayBuffer()));
  const known = [["\xff\xd8\xff", "image/jpeg"], ["\x89PNG\r\n\x1a\n", "image/png"], ["GIF8", "image/gif"],
    ["OggS", "audio/ogg"], ["fLaC", "audio/flac"]].find(([bytes]) => start.startsWith(bytes));
  if (known) return known[1];
  if (start.startsWith("RIFF")) {
    if (start.endsWith("WAVE")) return "audio/wav";
    if (start.endsWith("WEBP")) return "image/webp";
  }
  return blob.type.split(";")[0].toLowerCase() || ANY_TYPE;
}

async function toBlob(picture, type) {
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return canvas.convertToBlob({ type, quality: 0.92 });
}

function inputProblem(title, detail, choices = []) {
  return new Problem({ title, detail, choices });
}

function deviceProblem(device, error) {
  const reasons = {
    NotAllowedError: `Allow this page to use the ${device} in the settings of the browser.`,
    NotFoundError: `Connect a ${device}, or choose a file.`,
    NotReadableError: `Another program uses the ${device}. Close it, or choose a file.`,
  };
  return inputProblem(`The ${device} cannot be used`, reasons[error.name] ?? String(error.message));
}
