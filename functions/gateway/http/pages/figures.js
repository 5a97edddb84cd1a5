// Texts for durations, sizes, rates and times.

import { UNKNOWN, h } from "./dom.js";

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const MINUTE = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

// Why a job waits, by the phase of its place in the queue.
export const WAITS = {
  cold_starting: "A worker is starting",
  model_broken: "No worker can load the model. The operator must repair it",
  share: "The job waits until its tenant's share comes round",
};

/** Return the place of a waiting job as text; null if nothing is known of it. */
export function formatPlace({ position, eta_seconds: seconds, phase }) {
  const texts = [
    position === null ? null : `position ${NUMBER.format(position)}${phase === "share" ? " among the tenant's jobs" : ""}`,
    seconds === null ? null : `about ${formatDuration(seconds)}`,
    WAITS[phase],
  ].filter(Boolean);
  return texts.length ? texts.join(" · ") : null;
}

/** Return a number with at most one decimal. */
export function formatNumber(value) {
  return value === null || value === undefined ? UNKNOWN : NUMBER.format(value);
}

/** Return a rounded duration, given in seconds, in its largest unit, for overviews. */
export function formatDuration(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (seconds > 0 && seconds < 0.00995) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 0.9995) return `${NUMBER.format(Math.round(seconds * 1000))} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 119.5) return `${Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

/** Return an exact duration, given in milliseconds: "4.0 ms", "2.35 s", "3 min 5 s" or "1 h". */
export function formatMilliseconds(milliseconds) {
  if (typeof milliseconds !== "number") return UNKNOWN;
  if (milliseconds < 999.95) return `${milliseconds.toFixed(1)} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 59.995) return `${seconds.toFixed(2)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const parts = [[hours, "h"], [minutes, "min"], [hours ? 0 : whole % 60, "s"]];
  return parts.filter(([count]) => count).map(([count, unit]) => `${count} ${unit}`).join(" ");
}

/** Return the size of a file or a payload, given in bytes, in decimal units as the limits have them. */
export function formatSize(bytes) {
  if (typeof bytes !== "number") return UNKNOWN;
  const units = ["bytes", "kB", "MB", "GB"];
  let [size, unit] = [bytes, 0];
  for (; size >= 1000 && unit < 3; unit++) size /= 1000;
  return `${unit ? size.toFixed(size < 10 ? 1 : 0) : size} ${units[unit]}`;
}

/** Return an amount of memory, given in bytes, in the largest binary unit. */
export function formatBytes(bytes) {
  if (bytes === null || bytes === undefined) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = bytes;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${size >= 100 || unit === 0 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`;
}

/** Return a message with a full stop at its end. */
export function sentence(message) {
  return /[.!?]$/.test(message) ? message : `${message}.`;
}

/** Return "1 job" or "2 jobs". */
export function formatCount(count, noun, plural = `${noun}s`) {
  return `${NUMBER.format(count)} ${count === 1 ? noun : plural}`;
}

/** Return a time as hours and minutes of the local clock. */
export function formatMinute(at) {
  return MINUTE.format(new Date(at));
}

/** Return a `time` element with the local time, and the day unless it is today. */
export function timeElement(text) {
  if (!text) return UNKNOWN;
  const at = new Date(text);
  const isToday = at.toDateString() === new Date().toDateString();
  const shown = isToday ? CLOCK.format(at) : `${DAY.format(at)}, ${CLOCK.format(at)}`;
  return h("time", { datetime: text, title: text }, shown);
}
