// The search page: what happens when. Rendering is in view.js and facts.js, options in choices.js, files in upload.js, numbers in format.js; keys in keyboard.js; calls
// and the API key are in server.js, its form in gate.js, what is asked for every few seconds in watch.js, the address in address.js, the history in trail.js.
//
// * `wanted` is what the reader wants to see: question, options, a document. The address says it, so a link to the page is
//   a link to the answer, and Back and Forward come by as a new `wanted`.
// * At most one query is in flight; an answer is shown only if it belongs to the newest query.
// * body[data-state] is empty | loading | done | error. It becomes loading with the keystroke, not with the request;
//   body[data-query] names the query that the shown answer belongs to. Hits stay, dimmed, until others take their place.
// * The state of the shards is asked for every few seconds: the header says at once when the server is away, a partial answer is asked
//   for again when all shards are there, and facts follow what is written.
// * While the index is being filled, its facts are requested every second: the number of searchable texts is shown next
//   to answers and welcome alike. Nothing that a reader may be pointing at is replaced.
// * A server with keys answers 401 until the reader has given one. It is kept in sessionStorage (this tab, this origin), sent
//   as a header, and never put in an address, in the page or in the shell command.
// * Temporary failures (no connection, 429, 502, 503, 504) are retried with growing pauses, obeying Retry-After.

import { COUNTS, fromAddress, toAddress } from "./address.js";
import { followChoices, showChoices, showIndexes } from "./choices.js";
import { count, head, integer, milliseconds, number, straight } from "./format.js";
import { followKeys } from "./keyboard.js";
import { pause, retryLater, retryNow, stopRetrying } from "./retry.js";
import { call, hasKey, plain, Problem } from "./server.js";
import { followUploads } from "./upload.js";
import { known } from "./watch.js";
import * as facts from "./facts.js";
import * as gate from "./gate.js";
import * as trail from "./trail.js";
import * as view from "./view.js";
import * as watch from "./watch.js";

const DEBOUNCE_MS = 150;
const QUERY_CHARACTERS_MAX = 8192; // QUERY_CHARACTERS_MAX of bitsift/options.py
const HEAL_MAX_S = 60;
const SIMILAR_CHARACTERS = 300;
const TITLE_CHARACTERS = 200;
const HEALS_ITSELF = [0, 429, 502, 503, 504];
const JSON_TYPE = { "content-type": "application/json" };

const $ = (id) => document.getElementById(id);
const page = document.body;
const [form, input, clear, explain, status, notice] = ["form", "query", "clear", "explain-toggle", "status", "notice"].map($);
const [results, more, welcome, timings, funnel, record] = ["results", "more", "welcome", "timings", "funnel", "document"].map($);

let wanted = fromAddress(location.href);
let answer = null;
let answered = null; // the address of the answer
let flight = null; // the AbortController of the newest question
let place = null; // where to scroll to when the answer has come
let heals = 0;
let healAt = 0;
let debounce;

const address = (changes) => toAddress({ ...wanted, ...changes }, document.baseURI);
const api = (path) => (wanted.index ? `v1/indexes/${encodeURIComponent(wanted.index)}/${path}` : `v1/${path}`);
const question = () => wanted.query;

// --- the key ---

function askForKey({ detail }) {
  dropAnswer();
  view.hideNotice(notice);
  gate.shut(detail);
  arrange();
  const isTyping = document.activeElement === input && question();
  if (!isTyping) gate.focus();
}

function passGate() {
  const wasShut = gate.pass();
  arrange();
  if (wasShut && known.index) watch.loadCluster();
}

// --- asking ---

/** Call after anything that changes what is wanted. `wait`: the debounce while typing; 0 asks at once. */
function ask({ wait = 0, isHealing = false, mayReuse = false } = {}) {
  clearTimeout(debounce);
  flight?.abort();
  flight = null;
  stopRetrying();
  if (!isHealing) heals = 0;
  clear.hidden = input.value === "";
  if (wanted.id !== null) return openDocument(0);
  arrange();
  const excess = [...question()].length - QUERY_CHARACTERS_MAX;
  if (excess > 0) return showTooLong(excess);
  if (!question()) {
    showEmpty();
    if (!known.index) watch.loadIndex();
  } else if (mayReuse && answered === address() && page.dataset.partial === "false") {
    view.hideNotice(notice);
    setState("done");
    showStatus();
    sayTitle();
    arrive();
  } else {
    setState("loading");
    debounce = setTimeout(search, wait, 0);
  }
}

const request = (query) => ({ query, top_k: wanted.count, mode: wanted.mode, filter: wanted.filter || null, explain: wanted.explain, include: ["title", "text", "metadata"], text_characters: view.PREVIEW_CHARACTERS + 1 });

async function search(attempt) {
  setState("loading");
  sayTitle();
  const query = question();
  const asked = address();
  if (!answer) status.textContent = "Searching…";
  const began = performance.now();
  const found = await fly("search", request(query), attempt, search);
  if (!found) return;
  answered = asked;
  showAnswer(query, found, performance.now() - began);
}

/** The answer to the one call in flight; undefined where it was given up, or failed and that is shown. */
async function fly(path, body, attempt, again) {
  stopRetrying();
  flight?.abort();
  const mine = (flight = new AbortController());
  try {
    const found = await call(api(path), { method: "POST", headers: JSON_TYPE, body: JSON.stringify(body), signal: mine.signal });
    return flight === mine ? found : undefined;
  } catch (error) {
    if (flight === mine) showProblem(error, attempt, again);
    return undefined;
  }
}

async function openDocument(attempt) {
  setState("loading");
  const { id } = wanted;
  if (record.dataset.id !== id) record.replaceChildren();
  record.dataset.id = id;
  arrange();
  sayTitle(id);
  const found = await fly("documents/get", { ids: [id] }, attempt, openDocument);
  if (!found) return;
  passGate();
  view.hideNotice(notice);
  if (!known.index) watch.loadIndex();
  const [document_] = found.documents;
  if (!document_) {
    setState("error");
    return view.showNotice(notice, "error", "There is no such document", [`No document of this index has the id ${id}. It may have been deleted.`], "Back", leaveDocument);
  }
  view.showDocument(record, document_, { href: address({ id: null }), label: question() ? "← Back to the hits" : "← Search" });
  sayTitle(document_.title || id);
  arrange();
  setState("done");
  if (!arrive()) scrollTo(0, 0);
  record.querySelector("h1").focus({ preventScroll: true });
}

// --- showing ---

function setState(state) {
  page.dataset.state = state;
  form.setAttribute("aria-busy", state === "loading");
}

/** One view at a time, and one h1. */
function arrange() {
  const isDocument = wanted.id !== null && !gate.isShut();
  page.dataset.view = isDocument ? "document" : "list";
  record.hidden = !isDocument;
  welcome.hidden = isDocument || Boolean(question()) || gate.isShut() || !welcome.firstChild || page.dataset.state === "error";
  $("heading").hidden = isDocument && Boolean(record.firstChild) || !welcome.hidden || gate.isShut();
  $("heading").textContent = isDocument ? "Document" : question() ? "Hits" : "Search by meaning";
  gate.showKeyUse();
}

/** Back to where the reader was in this entry of the history; false where it is a new one. */
function arrive() {
  const there = place;
  place = null;
  if (!there || there.y === undefined) return false;
  if (there.hit !== undefined && wanted.id === null && document.activeElement !== input) view.focusHit(results, there.hit);
  scrollTo(0, there.y);
  return true;
}

function dropAnswer() {
  answer = answered = null;
  delete page.dataset.query;
  delete page.dataset.partial;
  results.replaceChildren();
  status.textContent = $("round-trip").textContent = "";
  for (const part of [timings, funnel, more, $("shell")]) part.hidden = true;
}

function showEmpty() {
  dropAnswer();
  sayTitle();
  view.hideNotice(notice);
  view.showWelcome(welcome, known.index, goTo);
  setState("empty");
  arrange();
  arrive();
}

function showAnswer(query, found, roundTrip) {
  answer = { ...found, query, hits: Array.isArray(found.hits) ? found.hits : [], roundTrip };
  if (answer.hits.length) showHits();
  else view.showNothing(results, known.index, wanted.filter);
  facts.showTimings(timings, answer.timings_ms);
  const next = COUNTS.find((size) => size > wanted.count);
  more.hidden = answer.hits.length < wanted.count || !next;
  more.textContent = `Show ${next - wanted.count} more`;
  const { include, text_characters, ...body } = request(query);
  facts.showShell($("shell"), new URL(api("search"), document.baseURI).href, body, hasKey());
  showStatus();
  page.dataset.query = query;
  setState("done");
  passGate();
  showCoverage(answer);
  arrive();
  if (!known.index) watch.loadIndex();
}

function showStatus() {
  const { hits: found, total, roundTrip } = answer;
  const passing = total ? `, ${total.relation === "gte" ? "at least " : ""}${integer(total.value)} pass the filter` : "";
  status.textContent = `${found.length ? count(found.length, "hit") : "No hits"}${passing}`;
  $("round-trip").textContent = `${milliseconds(roundTrip)} round trip`;
}

/** The hits and what depends on the explain switch. */
function showHits() {
  const dimension = number(known.index?.dimension) ?? number(known.index?.model?.dimension);
  const onSimilar = (text) => goTo(head(text, SIMILAR_CHARACTERS));
  const addressOf = (id) => address({ id });
  view.showHits(results, answer.hits, { explain: wanted.explain, dimension, addressOf, onSimilar });
  facts.showFunnel(funnel, wanted.explain ? answer.hits : []);
}

function showCoverage({ coverage, partial }) {
  const failures = coverage?.failures ?? [];
  const isPartial = partial === true || failures.length > 0;
  page.dataset.partial = isPartial;
  if (!isPartial) return view.hideNotice(notice);
  healAt = Date.now() + Math.min(2 ** heals, HEAL_MAX_S) * 1000;
  heals += 1;
  const title = `Partial answer: ${coverage?.answered ?? "?"} of ${count(coverage?.shards ?? 0, "shard")} answered`;
  const lines = failures.map(({ shard, error, message }) => {
    const said = error === "DeadlineExceeded" ? `shard ${shard} did not answer in time` : plain(message);
    return said.startsWith(`shard ${shard}`) ? `S${said.slice(1)}` : `Shard ${shard}: ${said || "no answer"}`;
  });
  view.showNotice(notice, "partial", title, [...new Set(lines), "The search is repeated when all shards are ready."], "Search again", () => search(0));
  watch.loadCluster();
}

/** What is left of an earlier answer stays, and is said to be of that one. */
function showStale() {
  setState("error");
  arrange();
  if (!answer) status.textContent = "";
  else status.textContent = `Still shown: ${count(answer.hits.length, "hit")} for “${straight(head(answer.query, 80))}”`;
  $("round-trip").textContent = "";
}

function showTooLong(excess) {
  showStale();
  const lines = [`It has ${integer(QUERY_CHARACTERS_MAX + excess)} characters, ${integer(excess)} too many: ${integer(QUERY_CHARACTERS_MAX)} are the limit.`];
  view.showNotice(notice, "error", "The question is too long", lines);
}

/** Says what is wrong, and asks again by itself when that can help. */
function showProblem(error, attempt, again) {
  const { status: code, title, detail, retryAfter } = error instanceof Problem ? error : new Problem(-1, "This page failed", String(error));
  const isTemporary = HEALS_ITSELF.includes(code);
  if (code === 401) {
    setState("error");
    return askForKey(error);
  }
  showStale();
  if (code === 0) view.showLoading($("loading"), null); // nobody knows
  const [kind, label] = isTemporary ? ["wait", "Try now"] : ["error", code >= 400 && code < 500 ? null : "Try again"];
  view.showNotice(notice, kind, title, [detail], label, () => again(attempt));
  if (isTemporary) retryLater(Math.max(retryAfter, pause(attempt)), attempt, again, sayWhen);
}

function sayWhen(seconds) {
  notice.querySelector(".countdown").textContent = `Trying again in ${seconds} s`;
}

// --- the index and the cluster ---

const isAsked = () => Boolean(question()) || wanted.id !== null;

watch.page.path = api;
watch.page.isShut = gate.isShut;

watch.page.onIndexFailed = async (error, attempt) => {
  if (error.status === 404) return showIndexes(await watch.listIndexes(), wanted.index); // there are others
  // While a query is in flight, its own notice reports failures; the facts follow quietly.
  if (!isAsked()) showProblem(error, attempt, watch.loadIndex);
  else if (error.status !== 401) watch.loadIndexLater(attempt); // a key is asked for with the answer
};

watch.page.onIndex = async (before) => {
  const { index } = known;
  if (!isAsked()) stopRetrying();
  passGate();
  facts.showMemory($("memory"), index.memory);
  facts.showFacts($("facts"), index, known.cluster);
  view.showLoading($("loading"), index.loading);
  if (before && page.dataset.state === "empty") view.showClaim(welcome, index);
  else if (!isAsked()) showEmpty();
  if (before?.loading) showMore();
  if (!before) showIndexes(await watch.listIndexes(), wanted.index);
};

/** The lights, and a partial answer that may be whole by now. */
watch.page.onCluster = () => {
  facts.showCluster($("cluster"), known);
  facts.showFacts($("facts"), known.index, known.cluster);
  const isHealable = page.dataset.partial === "true" && page.dataset.state === "done" && wanted.id === null;
  if (isHealable && watch.areReady() && Date.now() >= healAt) ask({ isHealing: true });
};

watch.page.onReach = () => {
  if (known.isReached) retryNow();
  facts.showCluster($("cluster"), known);
};

/** An answer from before more was loaded: one without hits is asked again, another when all is there. */
function showMore() {
  if (page.dataset.state !== "done" || !answer || wanted.id !== null) return;
  const again = () => search(0);
  if (!answer.hits.length) again();
  else if (!known.index.loading) view.showNotice(notice, "wait", `All ${count(known.index.documents, "text")} are loaded`, ["This answer is from before that."], "Search again", again);
}

function showAdded() {
  watch.loadIndex();
  if (question() && wanted.id === null) search(0);
}

// --- the address and the shell command ---

function sayTitle(what = question()) {
  document.title = what ? `${straight(head(what, TITLE_CHARACTERS))} · Bitsift` : "Bitsift";
}

/** A step the reader chose: Back returns from it. */
function go(changes) {
  trail.step(address(changes));
  show({ ...wanted, ...changes });
}

function goTo(query) {
  go({ query: query.trim(), id: null });
  scrollTo(0, 0);
  status.focus({ preventScroll: true });
}

/** Another view of the same question, in the same entry of the history. */
function refine(changes) {
  trail.settle();
  trail.amend(address(changes));
  show({ ...wanted, ...changes });
}

function leaveDocument() {
  if (trail.isStep()) history.back();
  else go({ id: null });
}

function show(next) {
  if (next.index !== wanted.index) watch.forget();
  wanted = next;
  if (input.value.trim() !== wanted.query) input.value = wanted.query;
  explain.checked = wanted.explain;
  showChoices(wanted);
  ask({ mayReuse: true });
}

// --- events ---

function typed() {
  place = null;
  wanted = { ...wanted, query: input.value.trim(), id: null };
  if ([...question()].length <= QUERY_CHARACTERS_MAX) trail.typed(address());
  ask({ wait: DEBOUNCE_MS });
}

function clearQuestion() {
  input.value = "";
  input.focus();
  typed();
}

function openHit(event) {
  const { target, button, ctrlKey, metaKey, shiftKey, altKey } = event;
  const link = target.closest("[data-open], [data-back]");
  if (!link || button || ctrlKey || metaKey || shiftKey || altKey) return; // a new tab, as the reader wants
  event.preventDefault();
  if (link.dataset.open === undefined) return leaveDocument();
  link.closest("[data-hit]")?.querySelector("[data-open]").focus({ preventScroll: true }); // Back returns to it
  go({ id: link.dataset.open });
}

const pointAt = ({ target }) => facts.followHit(funnel, target.closest("[data-hit]")?.dataset.hit);

input.addEventListener("input", ({ isComposing }) => isComposing || typed());
input.addEventListener("compositionend", typed);
input.addEventListener("blur", trail.settle);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  trail.settleAndTidy();
  ask();
});
clear.addEventListener("click", clearQuestion);
gate.followKey(() => {
  ask();
  if (!isAsked() && known.index) watch.loadIndex(); // nothing else would say whether the key is good
});
explain.addEventListener("change", () => {
  const isShown = answer && !explain.checked && answered === address();
  if (isShown) answered = address({ explain: false });
  refine({ explain: explain.checked });
  if (isShown && wanted.id === null) showHits();
});
more.addEventListener("click", () => refine({ count: COUNTS.find((size) => size > wanted.count) }));
followChoices(go, (size) => refine({ count: size }));
followUploads({ path: api, onKey: (problem) => askForKey({ detail: problem.detail }), onAdded: showAdded });
results.addEventListener("click", openHit);
record.addEventListener("click", openHit);
for (const name of ["pointerover", "pointerleave", "focusin"]) results.addEventListener(name, pointAt);
followKeys({ isList: () => page.dataset.view === "list", hasHits: () => Boolean(answer?.hits.length), leaveDocument, clearQuestion });
addEventListener("resize", () => view.markClamped(results));
trail.follow(() => {
  const next = fromAddress(location.href);
  if (toAddress(next, document.baseURI) === address()) return;
  place = trail.place();
  show(next);
});

trail.amend(address());
place = trail.place();
show(wanted);
if (isAsked()) watch.loadIndex();
