// What stands around the hits: the funnel, the timings and the facts of the index and its shards. No network, no state.

import { bytes, count, day, integer, milliseconds, number, quoted } from "./format.js";
import { h, isNew, pair, svg } from "./dom.js";

const LIGHTS_MAX = 32;
const TIMES = { encode: "encode", fan_out: "fan out", rescore: "rescore", texts: "texts" };
export const FUNNEL = { hamming: "Hamming", asymmetric: "asymmetric", int8: "int8" };

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
    h("p", null, h("strong", null, bytes(bits)), ` of bits instead of ${bytes(full)} of fp32`, ...(ratio > 1 ? [": ", h("strong", null, times), " smaller"] : [])),
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
  if (!isNew(section, known)) return;
  section.replaceChildren(h("h2", null, "Index"), h("dl", null, ...known.map(([name, value]) => pair(name, value, null, { "data-fact": name }))));
}

/** One light per shard (to a limit), and the count in words; a server that cannot be reached has one, red. */
export function showCluster(line, { cluster, isReached }) {
  const shards = Array.isArray(cluster?.shards) ? cluster.shards : [];
  if (!isNew(line, [isReached, ...shards.map(({ state, node }) => [state, node])])) return;
  const ready = shards.filter(({ state }) => state === "READY").length;
  const lights = shards.slice(0, LIGHTS_MAX).map(({ shard, state, node }) => {
    const title = [`shard ${shard}`, state, node].filter(Boolean).join(", ");
    return h("i", { "data-shard-state": state, title });
  });
  const words = `${ready < shards.length ? `${ready} of ` : ""}${count(shards.length, "shard")} ready`;
  const [shown, said] = isReached ? [lights, words] : [[h("i", { "data-shard-state": "FAILED" })], "Server not reached"];
  line.dataset.reached = isReached;
  line.replaceChildren(h("span", { class: "lights", "aria-hidden": "true" }, ...shown), said);
  line.hidden = isReached && !shards.length;
}

/** The search as a command. */
export function showShell(section, url, body, hasKey) {
  const header = hasKey ? '  -H "authorization: Bearer $BITSIFT_API_KEY" \\\n' : "";
  const given = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null));
  section.querySelector("code").textContent = `curl -s ${quoted(url)} \\\n  -H 'content-type: application/json' \\\n${header}  -d ${quoted(JSON.stringify(given))}`;
  section.hidden = false;
}
