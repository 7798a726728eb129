// The options of a search: what they show, and what was chosen. No network.

import { COUNTS } from "./address.js";

const $ = (id) => document.getElementById(id);
const [panel, toggle, mode, size, filter, indexes] = ["options", "options-toggle", "mode", "count", "filter", "index"].map($);

function open(isOpen) {
  panel.hidden = !isOpen;
  toggle.setAttribute("aria-expanded", isOpen);
}

export function showChoices(wanted) {
  mode.value = wanted.mode;
  filter.value = wanted.filter;
  if (wanted.index) indexes.value = wanted.index;
  const sizes = [...new Set([...COUNTS, wanted.count])].sort((a, b) => a - b);
  size.replaceChildren(...sizes.map((count) => new Option(count, count, false, count === wanted.count)));
  if (wanted.mode !== "auto" || wanted.filter || wanted.index) open(true);
}

export function showIndexes({ names, usual }, wanted) {
  const shown = wanted || usual;
  const all = names.includes(shown) ? names : [...names, shown]; // an alias
  indexes.replaceChildren(...all.map((name) => new Option(name, name)));
  indexes.value = shown;
  indexes.parentElement.hidden = names.length < 2;
}

/** onStep(changes): another answer. onCount(count): more or fewer of the same. */
export function followChoices(onStep, onCount) {
  toggle.addEventListener("click", () => open(panel.hidden));
  mode.addEventListener("change", () => onStep({ mode: mode.value }));
  filter.addEventListener("change", () => onStep({ filter: filter.value.trim() }));
  indexes.addEventListener("change", () => onStep({ index: indexes.value, id: null }));
  size.addEventListener("change", () => onCount(Number(size.value)));
}
