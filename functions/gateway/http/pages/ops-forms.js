// The filters of the page /ops, and the statuses in its tables.

import { badge } from "./dom.js";

const STATUSES = {
  queued: ["info", "…"], validating: ["info", "…"], running: ["info", "▸"], cancelling: ["info", "…"], succeeded: ["ok", "✓"],
  failed: ["critical", "✕"], cancelled: ["none", "–"], expired: ["warning", "!"],
};

/** Return the status of a job or a batch as a badge. */
export function statusBadge(status) {
  return badge(...(STATUSES[status] ?? ["none", ""]), status);
}

/** Return the fields of a form that are not empty. Local times become times in UTC. */
export function readForm(form) {
  const found = {};
  for (const field of form.elements) {
    const value = field.value.trim();
    if (!field.name || !value || field.closest("[hidden]")) continue;
    found[field.name] = field.type === "datetime-local" ? new Date(value).toISOString() : value;
  }
  return found;
}
