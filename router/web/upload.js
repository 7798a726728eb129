// Adding the documents of a file: its form, and what became of its records. The server reads the file, as `bitsift index` does.

import { count, integer } from "./format.js";
import { h } from "./dom.js";
import { Problem, sendFile } from "./server.js";

const PROBLEMS_MAX = 20;

const $ = (id) => document.getElementById(id);
const [toggle, form, file, said, problems, submit] = ["add-toggle", "add", "add-file", "add-said", "add-problems", "add-submit"].map($);
const fields = { text_field: $("add-text"), title_field: $("add-title"), id_field: $("add-id") };

let flight = null;

function open(isOpen) {
  form.hidden = !isOpen;
  toggle.setAttribute("aria-expanded", isOpen);
}

/** path(rest): the address of a route of this index. onAdded(): something was stored. onKey(problem): a key is asked for. */
export function followUploads({ path, onAdded, onKey }) {
  toggle.addEventListener("click", () => open(form.hidden));
  file.addEventListener("change", () => show("", []));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (flight) flight.abort();
    else if (file.files.length) add(file.files[0], { path, onAdded, onKey });
  });
  addEventListener("dragover", (event) => event.dataTransfer.types.includes("Files") && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault(); // else the browser would leave the page for the file
    open(true);
    if (flight) return;
    file.files = event.dataTransfer.files;
    show("", []);
    submit.focus();
  });
}

function show(text, items) {
  said.textContent = text;
  problems.replaceChildren(...items.map((item) => h("li", { dir: "auto" }, item)));
}

async function add(chosen, { path, onAdded, onKey }) {
  const named = Object.entries(fields).map(([name, field]) => [name, field.value.trim()]);
  const options = new URLSearchParams([["name", chosen.name], ...named.filter(([, value]) => value)]);
  const [items, kept] = [[], { totals: {}, bad: 0, last: null }];
  const mine = (flight = new AbortController());
  submit.textContent = "Stop";
  show(`Sending ${chosen.name}…`, items);
  try {
    for await (const line of sendFile(`${path("documents/file")}?${options}`, chosen, mine.signal)) take(line, kept, items);
    show(ending(kept), [...(kept.last?.notes ?? []), ...items]);
  } catch (error) {
    const problem = error instanceof Problem ? error : new Problem(-1, "This page failed", String(error));
    if (problem.status === 401) onKey(problem);
    const reason = mine.signal.aborted ? "Stopped." : problem.status === 422 ? problem.detail : `${problem.title}. ${problem.detail}`;
    show([reason, inWords(kept.totals)].filter(Boolean).join(" Until then: "), items);
  } finally {
    flight = null;
    submit.textContent = "Add";
    if (stored(kept.totals)) onAdded();
  }
}

function take(line, kept, items) {
  if (line.totals) {
    kept.totals = line.totals;
    if ("token" in line) kept.last = line;
    said.textContent = `${inWords(line.totals)} so far`;
    return;
  }
  kept.bad += 1;
  if (items.length < PROBLEMS_MAX) items.push(`line ${integer(line.line)}: ${line.error?.detail ?? line.status}`);
  else if (kept.bad === PROBLEMS_MAX + 1) items.push("… and more");
}

const inWords = (totals) => Object.entries(totals).filter(([, number]) => number).map(([status, number]) => `${integer(number)} ${status}`).join(", ");
const stored = ({ created = 0, updated = 0 }) => created + updated;

function ending({ totals, last }) {
  if (!last) return ["The answer was cut off: send the file again, what is stored is left alone.", inWords(totals)].filter(Boolean).join(" Until then: ");
  const sum = Object.values(totals).reduce((all, number) => all + number, 0);
  const all = sum ? `${count(sum, "record")}: ${inWords(totals)}.` : "There are no documents in it.";
  return last.error ? `${last.error.detail}. Until then: ${all}` : all;
}
