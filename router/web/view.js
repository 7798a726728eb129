// What the page shows: hits, a document, notices and states turned into elements. No network, no state.
//
// Every text from a query, a document or a server goes in as a text node, never as markup. Lengths go through the CSSOM
// (element.style): a strict style-src refuses style attributes.

import { bytes, count, head, integer, link, number, scalar, whole } from "./format.js";
import { h, pair, unseen } from "./dom.js";
import { FUNNEL } from "./facts.js";

// Of each text a search brings so much: whole texts would come with every letter typed.
export const PREVIEW_CHARACTERS = 1200;
const TITLE_CHARACTERS = 300;
const METADATA_MAX = 6;
const PIECE_CHARACTERS = 20_000; // a text may be megabytes: it is laid out as it scrolls into view

// --- hits ---

let made = new Map();

/** options: {explain, dimension, addressOf, onSimilar}. A hit that is shown already stays as it is. */
export function showHits(list, hits, options) {
  const before = made;
  const focused = document.activeElement?.closest("[data-hit]")?.dataset.hit;
  const { explain, dimension, addressOf } = options;
  made = new Map();
  for (const hit of hits) {
    const key = JSON.stringify([hit, explain, dimension, addressOf(hit.id)]);
    made.set(key, before.get(key) ?? hitItem(hit, options));
  }
  list.replaceChildren(...made.values());
  if (focused !== undefined) focusHit(list, focused);
  markClamped(list);
}

/** Whether there is such a hit. */
export function focusHit(list, id) {
  const item = [...list.children].find(({ dataset }) => dataset.hit === id);
  item?.querySelector("[data-open]").focus({ preventScroll: true });
  return Boolean(item);
}

function hitItem(hit, { explain, dimension, addressOf, onSimilar }) {
  const id = String(hit.id ?? "");
  const text = typeof hit.text === "string" ? hit.text : "";
  const title = titleOf(hit);
  const metadata = Object.entries(hit.metadata ?? {}).filter(([, value]) => value != null && value !== "");
  const isRest = metadata.length > METADATA_MAX;
  const address = addressOf(id);
  return h(
    "li",
    { class: "hit", "data-hit": id },
    scoreCell(number(hit.score)),
    h(
      "div",
      null,
      h("h2", { "data-hit-title": true, dir: "auto", class: title ? null : "untitled" }, h("a", { href: address, "data-open": id }, title || head(id, 120))),
      text ? textBlock(text, id, address) : null,
      explain && hit.explain ? funnelSteps(hit.explain, dimension) : null,
      h(
        "p",
        { class: "meta" },
        h("span", { class: "id", dir: "auto", title: "document id" }, head(id, 64)),
        number(hit.shard) === null ? null : h("span", { "data-hit-shard": hit.shard }, `shard ${hit.shard}`),
        ...metadata.slice(0, METADATA_MAX).map(([name, value]) => h("span", null, h("bdi", null, scalar(name)), ": ", h("bdi", null, linked(value, scalar(value))))),
        isRest ? h("a", { href: address, "data-open": id }, `${count(metadata.length - METADATA_MAX, "more field")}`) : null,
        text || title ? h("button", { type: "button", class: "link similar", onclick: () => onSimilar(text || title) }, "More like this") : null,
      ),
    ),
  );
}

/** "" for one that nobody can see: a link has to be seen. */
const titleOf = ({ title }) => (/[^\p{C}\p{Z}]/u.test(title ?? "") ? head(title.trim(), TITLE_CHARACTERS) : "");

function linked(value, text) {
  const url = link(value);
  return url ? h("a", { href: url, rel: "noopener noreferrer" }, text) : text;
}

function scoreCell(score) {
  if (score === null) return h("div");
  const fill = h("span");
  fill.style.inlineSize = `${Math.min(1, Math.max(0, score)) * 100}%`;
  return h(
    "div",
    { class: "score", title: "cosine between the query and this document" },
    unseen("score "),
    h("span", { "data-hit-score": score }, score.toFixed(3)),
    h("span", { class: "gauge", "aria-hidden": "true" }, fill),
  );
}

function textBlock(text, id, address) {
  const characters = [...text];
  const isCut = characters.length > PREVIEW_CHARACTERS;
  const preview = isCut ? `${characters.slice(0, PREVIEW_CHARACTERS).join("")}…` : text;
  const paragraph = h("p", { class: "text clamped", dir: "auto", "data-hit-text": true }, preview);
  const toggle = () => {
    const before = button.getBoundingClientRect().top;
    const isOpen = !paragraph.classList.toggle("clamped");
    button.textContent = isOpen ? "Show less" : "Show more";
    button.setAttribute("aria-expanded", isOpen);
    rest.hidden = !(isOpen && isCut);
    if (!isOpen) scrollBy(0, button.getBoundingClientRect().top - before); // what follows stays where it is
  };
  const button = h("button", { type: "button", class: "link", "aria-expanded": "false", hidden: true, onclick: toggle }, "Show more");
  const rest = h("a", { class: "rest", href: address, "data-open": id, hidden: true }, "Whole text");
  return h("div", null, paragraph, button, rest);
}

/** Offer "Show more" where a text was cut. Reads, then writes: one layout, not one per hit. */
export function markClamped(list) {
  const texts = [...list.querySelectorAll(".clamped")];
  const cut = texts.map((text) => text.scrollHeight > text.clientHeight + 1);
  texts.forEach((text, i) => (text.nextElementSibling.hidden = !cut[i]));
}

// --- explain ---

/** How one hit moved: rank and measure at each stage, and by how many ranks it rose or fell. */
function funnelSteps(explain, dimension) {
  let last = null;
  const steps = Object.entries(FUNNEL).map(([key, name]) => {
    const rank = number(explain[key]?.rank);
    const risen = rank !== null && last !== null ? last - rank : 0;
    last = rank ?? last;
    return h(
      "li",
      { "data-stage": key, "data-rank": rank },
      h("span", { class: "stage" }, name),
      h("span", { class: "rank" }, rank === null ? "–" : `#${integer(rank)}`, risen ? moved(risen) : null),
      h("span", { class: "measure" }, measure(explain[key], dimension)),
    );
  });
  return h("ol", { class: "steps", "aria-label": "Through the funnel" }, ...steps);
}

function moved(risen) {
  const [word, arrow] = risen > 0 ? ["up", "▲"] : ["down", "▼"];
  return h("span", { class: word }, unseen(`${word} `), h("span", { "aria-hidden": "true" }, arrow), integer(Math.abs(risen)));
}

function measure(stage, dimension) {
  const [distance, score] = [number(stage?.distance), number(stage?.score)];
  if (distance !== null) return `${integer(distance)}${dimension ? ` of ${integer(dimension)}` : ""} bits`;
  return score === null ? "not ranked" : score.toFixed(3);
}

// --- a document ---

/** back: {href, label}, the way to where the reader came from. */
export function showDocument(section, found, back) {
  const title = titleOf(found);
  const own = { id: found.id, shard: found.shard, version: found.version };
  const metadata = Object.entries(found.metadata ?? {});
  const row = ([name, value]) => pair(h("bdi", null, name), linked(value, whole(value)), { "data-field": name }, { dir: "auto" });
  const parts = [
    h("p", null, h("a", { href: back.href, "data-back": true }, back.label)),
    h("h1", { dir: "auto", tabindex: "-1", class: title ? null : "untitled" }, title || head(String(found.id), TITLE_CHARACTERS)),
    title.length < (found.title ?? "").trim().length && h("p", { class: "text", dir: "auto" }, found.title.trim()),
    h("h2", null, "Metadata"),
    h("dl", { id: "fields" }, ...metadata.map(row), ...Object.entries(own).filter(([, value]) => value != null).map(row)),
    h("h2", null, "Text"),
    h("div", { class: "text", dir: "auto", "data-document-text": true }, ...pieces(found.text ?? "").map((piece) => h("div", { class: "piece" }, piece))),
  ];
  section.replaceChildren(...parts.filter(Boolean));
}

/** A text in pieces, cut at the ends of lines, else between words. */
export function pieces(text) {
  const found = [];
  let from = 0;
  while (text.length - from > PIECE_CHARACTERS) {
    const most = text.slice(from, from + PIECE_CHARACTERS);
    const end = [most.lastIndexOf("\n"), most.lastIndexOf(" ")].find((at) => at > 0) ?? head(`${most}.`, PIECE_CHARACTERS).length - 1;
    found.push(most.slice(0, end + 1));
    from += end + 1;
  }
  return [...found, text.slice(from)];
}

// --- states ---

export function showWelcome(section, index, onExample) {
  const examples = index?.examples;
  section.replaceChildren(h("h1"), h("p"));
  showClaim(section, index);
  if (!examples?.length || isEmpty(index)) return;
  const buttons = examples.map(String).map((text) => h("button", { type: "button", class: "button", dir: "auto", "data-example": text, onclick: () => onExample(text) }, text));
  section.append(h("h2", null, "Try"), h("ul", { class: "examples" }, ...buttons.map((button) => h("li", null, button))));
}

/** The welcome's own lines, written where they stand: its buttons stay under the reader's pointer. */
export function showClaim(section, index) {
  const { documents, memory } = index ?? {};
  const [claim, advice] = section.children;
  claim.textContent = "Search by meaning, not by words.";
  advice.textContent = "Use your own words. Nothing has to match literally.";
  if (isEmpty(index)) [claim.textContent, advice.textContent] = ["This index holds no documents yet.", "Add some: bitsift index SOURCE --out INDEX"];
  else if (documents && memory?.bits_bytes) claim.textContent = `${count(documents, "text")}, searched by meaning in ${bytes(memory.bits_bytes)} of RAM.`;
}

const isEmpty = (index) => index?.documents === 0 && !index.loading;

/** How much of the index can be found already; loading null: nothing is being loaded. */
export function showLoading(section, loading) {
  section.hidden = !loading;
  if (!loading) return section.replaceChildren();
  const { done, total } = loading;
  if (!section.firstChild) section.append(h("p"), h("progress", { "aria-label": "texts loaded" }));
  const [line, bar] = section.children;
  line.textContent = `${integer(done)} of ${count(total, "text")} are loaded; more every second.`;
  [bar.max, bar.value] = [Math.max(1, total), done];
}

export function showNothing(list, index, filter) {
  const others = filter ? "No document that passes the filter was found." : "No document was found. Try other words.";
  const why = index?.loading ? "The first texts are still being loaded." : isEmpty(index) ? "This index holds no documents yet." : others;
  list.replaceChildren(h("li", { class: "nothing", id: "nothing" }, h("strong", null, "No hits"), h("span", null, why)));
}

/** kind: "partial" | "error" | "wait"; lines: texts; button: its label and what it does, or no label. */
export function showNotice(section, kind, title, lines, label, onclick) {
  section.dataset.kind = kind;
  section.setAttribute("role", kind === "error" ? "alert" : "status");
  const button = label && h("button", { type: "button", class: "button", onclick }, label);
  section.replaceChildren(
    h("div", null, h("strong", null, title), ...lines.filter(Boolean).map((line) => h("p", { dir: "auto" }, line))),
    h("div", { class: "act" }, h("span", { class: "countdown", "aria-hidden": "true" }), button || null),
  );
  section.hidden = false;
}

export function hideNotice(section) {
  section.hidden = true;
  section.replaceChildren();
  delete section.dataset.kind;
}
