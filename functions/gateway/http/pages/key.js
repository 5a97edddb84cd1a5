// The API key of the pages. It is kept in sessionStorage, so it ends with the browser's tab, and it is
// sent in the Authorization header only.

const NAME = "loosely.api-key";
const listeners = new Set();
let inMemory = "";

/** Return the API key; "" if there is none. */
export function readKey() {
  try {
    return sessionStorage.getItem(NAME) ?? "";
  } catch {
    return inMemory; // the browser refuses storage
  }
}

function storeKey(key) {
  inMemory = key;
  try {
    if (key) sessionStorage.setItem(NAME, key);
    else sessionStorage.removeItem(NAME);
  } catch {
    // The key stays in memory until the page is closed.
  }
  for (const listener of listeners) listener(key);
}

/** Call `listener` with the new key whenever the user changes the key. */
export function onKeyChange(listener) {
  listeners.add(listener);
}

/** Return the headers that a request to the gateway needs: none, or Authorization. */
export function keyHeaders() {
  const key = readKey();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Return a new element with these properties and children. A child may be a text. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Add the field for the API key to the header of the page. */
export function addKeyField() {
  const state = element("span", { role: "status" });
  const input = element("input", {
    type: "password", id: "api-key", autocomplete: "off", spellcheck: false, size: 24,
  });
  const label = element("label", { htmlFor: "api-key" }, "API key");
  const form = element("form", {}, label, input,
    element("button", { type: "submit" }, "Use"),
    element("button", { type: "reset" }, "Forget"));
  const details = element("details", { className: "key" },
    element("summary", {}, "API key: ", state), form);
  const show = () => { state.textContent = readKey() ? "set" : "none"; };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    storeKey(input.value.trim());
    input.value = "";
    show();
  });
  form.addEventListener("reset", () => {
    storeKey("");
    show();
  });
  show();
  document.querySelector("header.site").append(details);
}
