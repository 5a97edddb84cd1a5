// Requests to the gateway, with the key of the pages.

import { keyHeaders } from "./key.js";

/** A problem that the gateway answered. `status` is 0 if there was no answer. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? document.title ?? `the gateway answered with the status ${status}`);
    this.status = status;
    this.code = document.code ?? "";
    this.document = document;
  }
}

/**
 * Send a request, and return the JSON of the answer; null if it has none. Raises Problem.
 *
 * `query` is an object whose empty values are left out.
 */
export async function ask(method, path, { query = {}, body, signal } = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(given).toString();
  const headers = { Accept: "application/json", ...keyHeaders() };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(text ? `${path}?${text}` : path, {
      method, headers, signal, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "the gateway did not answer" });
  }
  const document = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw new Problem(answer.status, document ?? {});
  return document;
}
