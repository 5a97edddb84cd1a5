// Requests of the pages to the gateway, with the user's key.

import { keyHeaders } from "./key.js";

/** A problem document (RFC 9457), or a failure of the page itself with the same members. */
export class Problem extends Error {
  constructor(document, retryAfterSeconds = null) {
    super(document.detail ?? document.title);
    this.document = document;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** Send a request to the gateway, and return the response. Raises Problem. */
export async function send(path, options = {}) {
  const headers = { ...options.headers, ...keyHeaders() };
  const response = await fetchFrom("the gateway", path, { ...options, headers });
  if (response.ok) return response;
  const document = await response.json().catch(() => ({}));
  const wait = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  throw new Problem({ title: `The gateway answered ${response.status}`, status: response.status, ...document },
    Number.isNaN(wait) ? null : wait);
}

/** Return the response of any server. `whom` names the server for the user. Raises Problem. */
export async function fetchFrom(whom, url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({
      title: `${whom[0].toUpperCase()}${whom.slice(1)} cannot be reached`, isUnreachable: true,
      detail: `The browser got no answer from ${whom}. Check that it is running and that this machine has a connection.`,
    });
  }
}

/**
 * Send a request, and return the JSON of the response; null if it has none. Raises Problem.
 *
 * `query` is an object whose empty values are left out.
 */
export async function ask(method, path, { query = {}, body, signal } = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(given).toString();
  const response = await send(text ? `${path}?${text}` : path, {
    method, signal, cache: "no-store",
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return response.status === 204 ? null : response.json();
}
