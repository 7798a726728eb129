// What the page shows: answers, notices and facts turned into elements. No network, no state.
//
// Every text from a query, a document or a server goes in as a text node, never as markup. Lengths go through the CSSOM
// (element.style): a strict style-src refuses style attributes.

import { bytes, count, day, head, integer, link, milliseconds, number, scalar } from "./format.js";

// A text may be a megabyte, and laying that out takes seconds.
const PREVIEW_CHARACTERS = 1200;
const EXPANDED_CHARACTERS = 50_000;
const METADATA_MAX = 6;
const LIGHTS_MAX = 32;

const TIMES = { encode: "encode", fan_out: "fan out", rescore: "rescore", texts: "texts" };
const FUNNEL = { hamming: "Hamming", asymmetric: "asymmetric", int8: "int8" };

/** h("p", {class: "x", onclick: f}, "text", child, null): false, null and undefined are left out. */
function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

const svg = (tag, attributes, ...children) => filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value != null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const unseen = (text) => h("span", { class: "unseen" }, text);
const pair = (name, value, box, cell) => h("div", box, h("dt", null, name), h("dd", cell, value));

// --- hits ---

export function showHits(list, hits, options) {
  list.replaceChildren(...hits.map((hit) => hitItem(hit, options)));
  markClamped(list);
}

function hitItem(hit, { explain, dimension, onSimilar }) {
  const id = String(hit.id ?? "");
  const text = typeof hit.text === "string" ? hit.text : "";
  const title = typeof hit.title === "string" ? hit.title.trim() : "";
  const metadata = Object.entries(hit.metadata ?? {}).filter(([, value]) => value != null && value !== "");
  const url = link(hit.metadata?.url);
  const heading = title || head(id, 120);
  return h(
    "li",
    { class: "hit", "data-hit": id },
    scoreCell(number(hit.score)),
    h(
      "div",
      null,
      h("h2", { "data-hit-title": true, dir: "auto", class: title ? null : "untitled" }, url ? h("a", { href: url, rel: "noopener noreferrer" }, heading) : heading),
      text ? textBlock(text) : null,
      explain && hit.explain ? funnelSteps(hit.explain, dimension) : null,
      h(
        "p",
        { class: "meta" },
        h("span", { class: "id", title: "document id" }, head(id, 64)),
        number(hit.shard) === null ? null : h("span", { "data-hit-shard": hit.shard }, `shard ${hit.shard}`),
        ...metadata.slice(0, METADATA_MAX).map(([name, value]) => h("span", { dir: "auto" }, `${scalar(name)}: ${scalar(value)}`)),
        text || title ? h("button", { type: "button", class: "link similar", onclick: () => onSimilar(text || title) }, "More like this") : null,
      ),
    ),
  );
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

function textBlock(text) {
  const preview = head(text, PREVIEW_CHARACTERS);
  const rest = text.length > EXPANDED_CHARACTERS ? `… (${integer(text.length)} characters in all)` : "";
  const paragraph = h("p", { class: "text clamped", dir: "auto", "data-hit-text": true }, preview);
  const toggle = () => {
    const isOpen = !paragraph.classList.toggle("clamped");
    paragraph.textContent = isOpen ? head(text, EXPANDED_CHARACTERS) + rest : preview;
    button.textContent = isOpen ? "Show less" : "Show more";
    button.setAttribute("aria-expanded", isOpen);
  };
  const button = h("button", { type: "button", class: "link", "aria-expanded": "false", hidden: true, onclick: toggle }, "Show more");
  return h("div", null, paragraph, button);
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

/** One line per hit across the stages, ranks on a log scale. The same figures stand as text under each hit. */
export function showFunnel(section, hits) {
  const names = Object.values(FUNNEL);
  const paths = hits
    .map((hit) => [hit.id, Object.keys(FUNNEL).map((key) => number(hit.explain?.[key]?.rank))])
    .filter(([, ranks]) => ranks.filter(Boolean).length > 1);
  section.hidden = !paths.length;
  const [left, right, top, bottom] = [34, 268, 12, 168];
  const worst = Math.max(40, ...paths.flatMap(([, ranks]) => ranks));
  const x = (stage) => left + ((right - left) * stage) / (names.length - 1);
  const y = (rank) => top + ((bottom - top) * Math.log(rank)) / Math.log(worst);
  const ticks = [1, 3, 10, 40, 100, 400, 1000, 4000].filter((rank) => rank <= worst);
  const chart = svg(
    "svg",
    { viewBox: "0 0 300 196", role: "img", "aria-label": "Rank of each hit at the stages of the funnel" },
    ...ticks.map((rank) => svg("path", { class: "grid", d: `M${left} ${y(rank)}H${right}` })),
    ...ticks.map((rank) => svg("text", { x: left - 9, y: y(rank) + 3.5, "text-anchor": "end" }, `#${rank}`)),
    ...names.map((name, stage) => svg("text", { x: x(stage), y: bottom + 20, "text-anchor": "middle" }, name)),
  );
  for (const [id, ranks] of paths) {
    const points = ranks.map((rank, stage) => rank && [x(stage), y(rank)]).filter(Boolean);
    const dots = points.map(([cx, cy]) => svg("circle", { cx, cy, r: 2.6 }));
    chart.append(svg("g", { "data-path": id }, svg("polyline", { points: points.join(" ") }), ...dots));
  }
  section.replaceChildren(h("h2", null, "Through the funnel"), chart, h("p", null, "Bits find the candidates, int8 orders them. Point at a hit to follow it."));
}

export function followHit(section, id) {
  for (const path of section.querySelectorAll("[data-path]")) path.classList.toggle("followed", path.dataset.path === id);
}

// --- timings ---

export function showTimings(section, timings) {
  const parts = Object.entries(TIMES).map(([key, name]) => [key, name, number(timings?.[key])]).filter(([, , value]) => value !== null);
  const sum = parts.reduce((all, [, , value]) => all + value, 0);
  const total = number(timings?.total) ?? sum;
  if (total - sum > Math.max(0.05, total * 0.02)) parts.push(["other", "other", total - sum]);
  const strip = h("div", { class: "strip", "aria-hidden": "true" });
  const list = h("dl");
  for (const [key, name, value] of [...parts, ["total", "total", total]]) {
    const row = pair(name, milliseconds(value), { "data-stage": key }, { "data-ms": value });
    row.style.setProperty("--tone", `var(--${key})`);
    list.append(row);
    if (key === "total") break;
    const piece = h("span");
    piece.style.background = `var(--${key})`;
    piece.style.flexGrow = Math.max(value, total / 250);
    strip.append(piece);
  }
  section.replaceChildren(strip, list);
  section.hidden = !parts.length;
}

// --- the index ---

/** RAM against fp32, drawn: as many cells as fp32 would fill, the lit one is what the bits take. */
export function showMemory(section, memory) {
  const [bits, full] = [number(memory?.bits_bytes), number(memory?.float32_bytes)];
  section.hidden = !bits || !full;
  if (section.hidden) return;
  const ratio = number(memory.ratio) ?? full / bits;
  const times = `${ratio.toFixed(ratio < 9.95 ? 1 : 0)}×`;
  const cells = Array.from({ length: Math.min(64, Math.max(2, Math.round(ratio))) }, () => h("span"));
  section.replaceChildren(
    h("h2", null, "Memory"),
    h("div", { class: "cells", "aria-hidden": "true" }, ...cells),
    h("p", null, h("strong", null, bytes(bits)), ` of bits instead of ${bytes(full)} of fp32: `, h("strong", null, times), " smaller"),
  );
}

export function showFacts(section, index, cluster) {
  const dimension = number(index?.model?.dimension) ?? number(index?.dimension);
  const numbered = (value) => (number(value) === null ? null : integer(value));
  const facts = {
    name: index?.name,
    documents: numbered(index?.documents),
    model: index?.model?.name,
    dimensions: numbered(dimension),
    encoder: cluster?.encoder?.backend,
    shards: numbered(index?.shards ?? cluster?.shards?.length),
    "on disk": index?.disk?.bytes ? bytes(index.disk.bytes) : null,
    built: index?.created ? day(index.created) : null,
  };
  const known = Object.entries(facts).filter(([, value]) => value);
  section.hidden = !known.length;
  section.replaceChildren(h("h2", null, "Index"), h("dl", null, ...known.map(([name, value]) => pair(name, value, null, { "data-fact": name }))));
}

/** One light per shard (to a limit), and the count in words. */
export function showCluster(line, cluster) {
  const shards = Array.isArray(cluster?.shards) ? cluster.shards : [];
  const ready = shards.filter(({ state }) => state === "READY").length;
  const lights = shards.slice(0, LIGHTS_MAX).map(({ shard, state, node, reason }) => {
    const title = [`shard ${shard}`, state, node, reason].filter(Boolean).join(", ");
    return h("i", { "data-shard-state": state, title });
  });
  const words = `${ready < shards.length ? `${ready} of ` : ""}${count(shards.length, "shard")} ready`;
  line.replaceChildren(h("span", { class: "lights", "aria-hidden": "true" }, ...lights), words);
  line.hidden = !shards.length;
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

export function showNothing(list, index) {
  const why = index?.loading ? "The first texts are still being loaded." : isEmpty(index) ? "This index holds no documents yet." : "No document was found. Try other words.";
  list.replaceChildren(h("li", { class: "nothing", id: "nothing" }, h("strong", null, "No hits"), h("span", null, why)));
}

/** kind: "partial" | "error" | "wait"; lines: texts; button: its label and what it does. */
export function showNotice(section, kind, title, lines, label, onclick) {
  section.dataset.kind = kind;
  section.setAttribute("role", kind === "error" ? "alert" : "status");
  section.replaceChildren(
    h("div", null, h("strong", null, title), ...lines.filter(Boolean).map((line) => h("p", { dir: "auto" }, line))),
    h("div", { class: "act" }, h("span", { class: "countdown", "aria-hidden": "true" }), h("button", { type: "button", class: "button", onclick }, label)),
  );
  section.hidden = false;
}

export function hideNotice(section) {
  section.hidden = true;
  section.replaceChildren();
  delete section.dataset.kind;
}
