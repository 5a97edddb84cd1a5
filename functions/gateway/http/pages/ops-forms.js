// The filters of the page /ops.

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
