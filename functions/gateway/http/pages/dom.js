// Elements of the pages, and how a page that shows live figures changes them.

const SVG = "http://www.w3.org/2000/svg";

/** The text of a figure that is not known. */
export const UNKNOWN = "–";

/** Return the element with this id. */
export function place(id) {
  return document.getElementById(id);
}

/** Return a word with a symbol, in the colour of its severity: ok, info, warning, critical or none. */
export function badge(severity, symbol, text) {
  return h("span", { class: `badge ${severity}` },
    symbol ? h("span", { class: "symbol", "aria-hidden": "true" }, symbol) : null, text);
}

function make(created, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    // The policy of the pages forbids the attribute `style`, but not the property.
    if (name === "style") Object.assign(created.style, value);
    else created.setAttribute(name, value === true ? "" : value);
  }
  created.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return created;
}

/** Return a new HTML element with these attributes and children. A null is left out. */
export function h(name, attributes = {}, ...children) {
  return make(document.createElement(name), attributes, children);
}

/** Return a new SVG element with these attributes and children. A null is left out. */
export function svg(name, attributes = {}, ...children) {
  return make(document.createElementNS(SVG, name), attributes, children);
}

/** Return whether `update` may change `node` into `made`. */
function isSame(node, made) {
  return node.nodeName === made.nodeName && node.dataset?.key === made.dataset?.key;
}

/**
 * Give `parent` these children. Elements that it has already stay and are only changed, so they keep
 * the focus, the selection, and whether they are open. `data-key` identifies the rows of a list, and
 * `data-kept` is for elements whose children something else sets.
 */
export function update(parent, ...children) {
  const wanted = children.flat().filter((child) => child !== null && child !== undefined);
  const keyed = new Map();
  for (const node of parent.children) if (node.dataset?.key) keyed.set(node.dataset.key, node);
  let next = parent.firstChild;
  for (const child of wanted) {
    const made = typeof child === "string" ? document.createTextNode(child) : child;
    const moved = made.dataset?.key && keyed.get(made.dataset.key);
    if (moved && moved !== next && isSame(moved, made)) parent.insertBefore(moved, next);
    const node = moved && isSame(moved, made) ? moved : next;
    if (node && isSame(node, made)) {
      next = node.nextSibling;
      change(node, made);
    } else {
      parent.insertBefore(made, next);
    }
  }
  while (next) {
    const following = next.nextSibling;
    next.remove();
    next = following;
  }
}

function change(node, made) {
  if (node.nodeType !== Node.ELEMENT_NODE) {
    if (node.data !== made.data) node.data = made.data;
    return;
  }
  for (const { name } of [...node.attributes]) {
    if (name !== "open" && name !== "style" && !made.hasAttribute(name)) node.removeAttribute(name);
  }
  for (const { name, value } of made.attributes) {
    if (name !== "style" && node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  if (node.style.cssText !== made.style.cssText) node.style.cssText = made.style.cssText;
  if (!("kept" in made.dataset)) update(node, [...made.childNodes]);
}

/**
 * Return a table. On narrow screens its style sheet shows each row as a card, in which `title` is
 * the name of a value. The roles keep it a table there.
 *
 * `columns` are {title, isNumber, isLong, isWide, isSpoken}, and `rows` are {key, cells}. The first cell
 * names its row. In a card, a long value has two places, and a wide one a line without the title.
 */
export function table(caption, columns, rows) {
  const head = columns.map(({ title, isNumber, isSpoken }) => h("th", {
    scope: "col", role: "columnheader", class: isNumber ? "number" : null,
  }, isSpoken ? h("span", { class: "spoken" }, title) : title));
  const body = rows.map(({ key, cells }) => h("tr", { role: "row", "data-key": key },
    cells.map((cell, number) => {
      const { title, isNumber, isLong, isWide } = columns[number];
      const classes = [isNumber && "number", isLong && "long", isWide && "wide"].filter(Boolean).join(" ") || null;
      return number === 0
        ? h("th", { scope: "row", role: "rowheader" }, cell)
        : h("td", { role: "cell", class: classes, "data-title": title, "data-unknown": cell === UNKNOWN }, cell);
    })));
  return h("table", { class: "figures", role: "table" },
    h("caption", { class: "spoken" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    h("tbody", { role: "rowgroup" }, body));
}
