// Sound: record it, decode it, write it as a WAV file, and draw it as a waveform.

import { element } from "/pages/key.js";
import { heads } from "/pages/picture.js";

/** The number of samples a second in recordings. Speech needs no more. */
export const RECORDING_RATE = 16_000;

const DRAWING_RATE = 8_000;
const MAX_RECORDING_SECONDS = 600;

/** Decode a sound file that the browser knows, and return its samples as one channel. */
export async function decodeSound(blob, rate) {
  const context = new OfflineAudioContext(1, 1, rate);
  const buffer = await context.decodeAudioData(await blob.arrayBuffer());
  const samples = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const data = buffer.getChannelData(channel);
    for (let at = 0; at < data.length; at++) samples[at] += data[at] / buffer.numberOfChannels;
  }
  return samples;
}

/** Return a sound file that the browser knows as a WAV file with one channel of 16 bits. */
export async function convertToWav(blob, rate = RECORDING_RATE) {
  return encodeWav(await decodeSound(blob, rate), rate);
}

function encodeWav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, letters) => [...letters].forEach((one, place) => view.setUint8(at + place, one.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // one channel
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, at) => {
    view.setInt16(44 + 2 * at, Math.round(Math.max(-1, Math.min(1, sample)) * 32767), true);
  });
  return new Blob([view], { type: "audio/wav" });
}

/** Start to record, and return a function that ends the recording and returns it as a WAV file. */
export async function startRecording(onLimit) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const pieces = [];
  recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
  const stopped = new Promise((resolve) => { recorder.addEventListener("stop", resolve, { once: true }); });
  recorder.start();
  const timer = setTimeout(onLimit, MAX_RECORDING_SECONDS * 1000);
  return async () => {
    clearTimeout(timer);
    recorder.stop();
    await stopped;
    for (const track of stream.getTracks()) track.stop(); // the browser's sign of a recording goes out
    return convertToWav(new Blob(pieces, { type: recorder.mimeType }));
  };
}

/** Return whether an array lists parts of a recording. */
export function isSegments(value) {
  return Array.isArray(value) && value.length > 0 && value.every((each) =>
    typeof each?.start_seconds === "number" && typeof each?.end_seconds === "number");
}

/**
 * Return a drawing of a sound with a player below it. The playing position is a line.
 *
 * Each of `segments` is a coloured part, and a row of a table with a button that plays it.
 */
export async function drawSound(blob, segments = []) {
  const url = URL.createObjectURL(blob);
  const player = element("audio", { controls: true, src: url });
  player.setAttribute("aria-label", "Play the sound");
  const figure = element("figure", { className: "sound" });
  let samples;
  try {
    samples = await decodeSound(blob, DRAWING_RATE);
  } catch {
    figure.append(element("p", { className: "soft" }, "This browser cannot decode the sound."), player);
    return figure;
  }
  const seconds = samples.length / DRAWING_RATE;
  const canvas = element("canvas", { className: "waveform", width: 1200, height: 160, role: "img" });
  canvas.ariaLabel = `Waveform of ${seconds.toFixed(2)} s${segments.length ? ` with ${segments.length} marked parts` : ""}`;
  const draw = () => drawWaveform(canvas, samples, seconds, segments, player.currentTime / seconds);
  canvas.addEventListener("click", (event) => {
    player.currentTime = (event.offsetX / canvas.clientWidth) * seconds;
  });
  player.addEventListener("timeupdate", draw);
  player.addEventListener("seeked", draw);
  for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
    matchMedia(query).addEventListener("change", () => requestAnimationFrame(draw));
  }
  requestAnimationFrame(draw); // the colours are known once the canvas is part of the page
  figure.append(canvas, player);
  if (segments.length) figure.append(segmentTable(segments, player));
  return figure;
}

function drawWaveform(canvas, samples, seconds, segments, played) {
  const paint = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  const [wave, marked, line] = ["--wave", "--marked", "--text"].map((name) => style.getPropertyValue(name));
  const { width, height } = canvas;
  paint.clearRect(0, 0, width, height);
  const places = segments.map((each) => [each.start_seconds / seconds * width, each.end_seconds / seconds * width]);
  paint.globalAlpha = 0.18;
  paint.fillStyle = marked;
  for (const [begin, end] of places) paint.fillRect(begin, 0, end - begin, height);
  paint.globalAlpha = 1;
  // Bars of 3 pixels with a gap of 1, each as high as the loudest sample in it.
  const step = 4;
  const loudest = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0.01);
  for (let x = 0; x < width; x += step) {
    const end = Math.ceil((x + step) / width * samples.length);
    let peak = 0;
    for (let at = Math.floor(x / width * samples.length); at < end && at < samples.length; at++) {
      peak = Math.max(peak, Math.abs(samples[at]));
    }
    const high = Math.max(2, peak / loudest * (height - 24));
    paint.fillStyle = places.some(([begin, last]) => x + 2 >= begin && x + 2 < last) ? marked : wave;
    paint.fillRect(x, (height - high) / 2, step - 1, high);
  }
  // Brackets mark the parts also without colour.
  paint.fillStyle = marked;
  paint.font = "600 18px system-ui, sans-serif";
  places.forEach(([begin, end], number) => {
    paint.fillRect(begin, 0, end - begin, 4);
    paint.fillRect(begin, 0, 3, height);
    paint.fillRect(Math.max(begin, end - 3), 0, 3, height);
    if (end - begin > 20) paint.fillText(String(number + 1), begin + 8, 22);
  });
  if (played > 0) {
    paint.fillStyle = line;
    paint.fillRect(Math.min(width - 2, played * width), 0, 2, height);
  }
}

function segmentTable(segments, player) {
  let stopAt = Infinity;
  player.addEventListener("timeupdate", () => {
    if (player.currentTime < stopAt) return;
    player.pause();
    stopAt = Infinity;
  });
  const others = [...new Set(segments.flatMap(Object.keys))].filter((name) => !["start_seconds", "end_seconds"].includes(name));
  const rows = segments.map((each, number) => {
    const play = element("button", { type: "button" }, `Play ${number + 1}`);
    play.addEventListener("click", () => {
      player.currentTime = each.start_seconds;
      stopAt = each.end_seconds;
      player.play();
    });
    return element("tr", {}, element("th", { scope: "row" }, String(number + 1)), element("td", {}, play),
      ...[each.start_seconds.toFixed(2), each.end_seconds.toFixed(2), (each.end_seconds - each.start_seconds).toFixed(2)]
        .map((text) => element("td", { className: "number" }, `${text} s`)),
      ...others.map((name) => element("td", { className: "number" }, String(each[name] ?? "–"))));
  });
  return element("div", { className: "wide", tabIndex: 0, role: "region", ariaLabel: "Parts" },
    element("table", {}, heads("Part", "Listen", "#Start", "#End", "#Length", ...others.map((name) => `#${capital(name)}`)),
      element("tbody", {}, ...rows)));
}

const capital = (text) => text[0].toUpperCase() + text.slice(1).replaceAll("_", " ");
