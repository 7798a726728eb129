// Elements. Every text from a query, a document or a server goes in as a text node, never as markup.

/** h("p", {class: "x", onclick: f}, "text", child, null): false, null and undefined are left out. */
export function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export const svg = (tag, attributes, ...children) => filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value != null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

export const unseen = (text) => h("span", { class: "unseen" }, text);
export const pair = (name, value, box, cell) => h("div", box, h("dt", null, name), h("dd", cell, value));

/** Whether `node` is to show something else than before: what a reader may be pointing at is not replaced by the same. */
export function isNew(node, shown) {
  const text = JSON.stringify(shown);
  const isOther = shownIn.get(node) !== text;
  shownIn.set(node, text);
  return isOther;
}

const shownIn = new WeakMap();
