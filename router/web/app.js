// The search page: what happens when. Rendering is in view.js, numbers in format.js.
//
// * At most one query is in flight; an answer is shown only if it belongs to the newest query.
// * body[data-state] is empty | loading | done | error. It becomes loading with the keystroke, not with the request;
//   body[data-query] names the query that the shown answer belongs to.
// * The address bar contains the query (?q=…&explain=1), so a link to the page is a link to the answer.
// * While the index is being filled, its facts are requested every second: the number of searchable texts is shown next
//   to answers and welcome alike. Nothing that a reader may be pointing at is replaced.
// * A server with keys answers 401 until the reader has given one. It is kept in sessionStorage (this tab, this origin), sent
//   as a header, and never put in an address, in the page or in the shell command.
// * Temporary failures (no connection, 429, 502, 503) are retried with growing pauses, obeying Retry-After.

import { count, head, milliseconds, number, quoted } from "./format.js";
import * as view from "./view.js";

const DEBOUNCE_MS = 150;
const TIMEOUT_MS = 30000;
const RETRY_MAX_S = 15;
const CLUSTER_POLL_MS = 3000;
const LOADING_POLL_MS = 1000;
const TOP_K = [10, 20, 40];
const SIMILAR_CHARACTERS = 300;
const HEALS_ITSELF = [0, 429, 502, 503];
const KEY_NAME = "bitsift-key";

const $ = (id) => document.getElementById(id);
const page = document.body;
const [form, input, clear, explain, status, notice] = ["form", "query", "clear", "explain-toggle", "status", "notice"].map($);
const [gate, keyForm, keyInput, forget] = ["gate", "key-form", "key", "forget"].map($);
const [results, more, welcome, timings, funnel] = ["results", "more", "welcome", "timings", "funnel"].map($);

let index = null;
let cluster = null;
let answer = null;
let topK = TOP_K[0];
let flight = null; // the AbortController of the newest question
let debounce, retryTimer, indexTimer, clusterTimer;

// --- talking to the server ---

/** What went wrong, as the server said it (RFC 9457), or as the browser saw it (status 0). */
class Problem extends Error {
  constructor(status, title, detail, retryAfter = 0) {
    super(title);
    Object.assign(this, { status, title, detail, retryAfter });
  }
}

async function call(path, options = {}) {
  let response, content;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, ...keyHeader() } });
    content = await response.text();
  } catch {
    throw new Problem(0, "The server cannot be reached", "It may be starting, or the connection is down.");
  }
  let data;
  try {
    data = JSON.parse(content);
  } catch {
    // Not JSON: something between this page and the gateway answered. Its status says enough.
  }
  if (!response.ok) throw problemFrom(response, data);
  if (data && typeof data === "object") return data;
  throw new Problem(-1, "The answer cannot be read", `${path} did not answer with JSON.`);
}

function problemFrom({ status, statusText, headers }, data) {
  const { title, detail } = data ?? {};
  const said = typeof detail === "string" ? detail : JSON.stringify(detail);
  return new Problem(status, title || statusText || "The server refused", said, Number(headers.get("retry-after")) || 0);
}

// --- the key ---

let key = readKey();

function readKey() {
  try {
    return sessionStorage.getItem(KEY_NAME);
  } catch {
    return null; // a browser that keeps nothing: the key lasts as long as the page
  }
}

const keyHeader = () => (key ? { authorization: `Bearer ${key}` } : {});

function keepKey(given) {
  key = given;
  try {
    if (key) sessionStorage.setItem(KEY_NAME, key);
    else sessionStorage.removeItem(KEY_NAME);
  } catch {
    // as above
  }
}

/** The form takes the place of answers, and says what the server said against the key before. */
function askForKey({ detail }) {
  $("key-problem").textContent = key ? detail : "";
  keyInput.setAttribute("aria-invalid", Boolean(key));
  keyInput.value = "";
  keepKey(null);
  view.hideNotice(notice);
  gate.hidden = false;
  showKeyUse();
  const isTyping = document.activeElement === input && question();
  if (!isTyping) keyInput.focus();
}

function showKeyUse() {
  forget.hidden = !key;
  $("docs").hidden = Boolean(key) || !gate.hidden; // a link carries no key
}

// --- asking ---

const question = () => input.value.trim();

/** Call after anything that changes the question. `wait`: the debounce while typing; 0 asks at once. */
function ask({ wait = 0, keepCount = false } = {}) {
  clearTimeout(debounce);
  flight?.abort();
  flight = null;
  clearInterval(retryTimer);
  if (!keepCount) topK = TOP_K[0];
  clear.hidden = input.value === "";
  if (question()) {
    setState("loading");
    debounce = setTimeout(search, wait, 0);
  } else {
    showEmpty();
    if (!index) loadIndex();
  }
}

const request = (query) => ({ query, top_k: topK, explain: explain.checked, include: ["title", "text", "metadata"] });

async function search(attempt) {
  clearInterval(retryTimer);
  const query = question();
  const mine = new AbortController();
  flight = mine;
  rememberInAddress();
  setState("loading");
  if (!answer) status.textContent = "Searching…";
  const signal = AbortSignal.any([mine.signal, AbortSignal.timeout(TIMEOUT_MS)]);
  const began = performance.now();
  try {
    const headers = { "content-type": "application/json" };
    const found = await call("v1/search", { method: "POST", headers, body: JSON.stringify(request(query)), signal });
    if (flight === mine) showAnswer(query, found, performance.now() - began);
  } catch (error) {
    if (flight === mine) showProblem(error, attempt, search);
  }
}

// --- showing ---

function setState(state) {
  page.dataset.state = state;
  form.setAttribute("aria-busy", state === "loading");
}

function dropAnswer() {
  answer = null;
  delete page.dataset.query;
  delete page.dataset.partial;
  results.replaceChildren();
  status.textContent = $("round-trip").textContent = "";
  for (const part of [timings, funnel, more, welcome, $("shell")]) part.hidden = true;
}

function showEmpty() {
  dropAnswer();
  rememberInAddress();
  view.hideNotice(notice);
  view.showWelcome(welcome, index, goTo);
  welcome.hidden = false;
  setState("empty");
}

function showAnswer(query, found, roundTrip) {
  answer = { ...found, hits: Array.isArray(found.hits) ? found.hits : [] };
  const size = answer.hits.length;
  welcome.hidden = gate.hidden = true;
  showKeyUse();
  if (size) showHits();
  else view.showNothing(results, index);
  view.showTimings(timings, answer.timings_ms);
  const next = TOP_K[TOP_K.indexOf(topK) + 1];
  more.hidden = size < topK || !next;
  more.textContent = `Show ${next - topK} more`;
  $("shell").hidden = false;
  status.textContent = size ? count(size, "hit") : "No hits";
  $("round-trip").textContent = `${milliseconds(roundTrip)} round trip`;
  showCoverage(answer);
  page.dataset.query = query;
  setState("done");
  if (!index) loadIndex();
}

/** The hits and what depends on the explain switch. */
function showHits() {
  const dimension = number(index?.dimension) ?? number(index?.model?.dimension);
  const onSimilar = (text) => goTo(head(text, SIMILAR_CHARACTERS));
  view.showHits(results, answer.hits, { explain: explain.checked, dimension, onSimilar });
  view.showFunnel(funnel, explain.checked ? answer.hits : []);
}

function showCoverage({ coverage, partial }) {
  const failures = coverage?.failures ?? [];
  const isPartial = partial === true || failures.length > 0;
  page.dataset.partial = isPartial;
  if (!isPartial) return view.hideNotice(notice);
  const title = `Partial answer: ${coverage?.answered ?? "?"} of ${count(coverage?.shards ?? 0, "shard")} answered`;
  const lines = failures.map(({ shard, error, message }) => `Shard ${shard}: ${[error, message].filter(Boolean).join(", ")}`);
  view.showNotice(notice, "partial", title, lines, "Search again", () => ask({ keepCount: true }));
  loadCluster();
}

/** Says what is wrong, and asks again by itself when that can help. */
function showProblem(error, attempt, again) {
  const { status: code, title, detail, retryAfter } = error instanceof Problem ? error : new Problem(-1, "This page failed", String(error));
  const heals = HEALS_ITSELF.includes(code);
  dropAnswer();
  setState("error");
  if (code === 401) return askForKey(error);
  if (code === 0) view.showLoading($("loading"), null); // nobody knows
  const [kind, label] = heals ? ["wait", "Try now"] : ["error", "Try again"];
  view.showNotice(notice, kind, code > 0 ? `${title} (${code})` : title, [detail], label, () => again(attempt));
  if (heals) retryLater(Math.max(retryAfter, pause(attempt)), attempt + 1, again);
}

// --- asking again ---

const pause = (attempt) => Math.min(2 ** attempt, RETRY_MAX_S);

function retryLater(seconds, attempt, again) {
  clearInterval(retryTimer);
  const due = Date.now() + seconds * 1000;
  const tick = () => {
    const left = due - Date.now();
    if (left <= 0 && !document.hidden) again(attempt);
    else notice.querySelector(".countdown").textContent = `Trying again in ${Math.max(1, Math.ceil(left / 1000))} s`;
  };
  retryTimer = setInterval(tick, 250);
  tick();
}

// --- the index and the cluster ---

async function loadIndex(attempt = 0) {
  clearTimeout(indexTimer);
  if (!question()) clearInterval(retryTimer);
  const before = index;
  try {
    index = await call("v1/index");
  } catch (error) {
    // While a query is in flight, its own notice reports failures; the facts follow quietly.
    if (question() && error.status === 401) return; // asked for again with the answer
    if (question()) indexTimer = setTimeout(loadIndex, pause(attempt) * 1000, attempt + 1);
    else showProblem(error, attempt, loadIndex);
    return;
  }
  gate.hidden = true;
  showKeyUse();
  view.showMemory($("memory"), index.memory);
  view.showLoading($("loading"), index.loading);
  if (index.loading) indexTimer = setTimeout(loadIndex, LOADING_POLL_MS);
  if (before && page.dataset.state === "empty") view.showClaim(welcome, index);
  else if (!question()) showEmpty();
  if (before?.loading) showMore();
  if (before?.loading && index.loading) view.showFacts($("facts"), index, cluster);
  else loadCluster();
}

/** An answer from before more was loaded: one without hits is asked again, another when all is there. */
function showMore() {
  if (page.dataset.state !== "done") return;
  const again = () => ask({ keepCount: true });
  if (!answer.hits.length) again();
  else if (!index.loading) view.showNotice(notice, "wait", `All ${count(index.documents, "text")} are loaded`, ["This answer is from before that."], "Search again", again);
}

async function loadCluster() {
  clearTimeout(clusterTimer);
  cluster = await call("v1/cluster").catch(() => null); // the lights go out; a question will say what is wrong
  view.showCluster($("cluster"), cluster);
  view.showFacts($("facts"), index, cluster);
  if (cluster?.shards?.some?.(({ state }) => state !== "READY")) clusterTimer = setTimeout(loadCluster, CLUSTER_POLL_MS);
}

// --- the address and the shell command ---

function address(query) {
  const url = new URL("./", document.baseURI);
  if (query) url.searchParams.set("q", query);
  if (explain.checked) url.searchParams.set("explain", "1");
  return url.href;
}

function rememberInAddress() {
  const query = question();
  document.title = query ? `${query} · Bitsift` : "Bitsift";
  try {
    if (address(query) !== location.href) history.replaceState(null, "", address(query));
  } catch {
    // Safari allows 100 changes in 30 s; the next one will carry the question.
  }
  const { include, ...body } = request(query);
  const url = new URL("v1/search", document.baseURI).href;
  $("curl").textContent = `curl -s ${quoted(url)} \\\n  -H 'content-type: application/json' \\\n${key ? '  -H "authorization: Bearer $BITSIFT_API_KEY" \\\n' : ""}  -d ${quoted(JSON.stringify(body))}`;
}

/** A step the reader chose (an example, "More like this"): Back returns from it, unlike from each letter typed. */
function goTo(query) {
  if (query.trim() !== question()) history.pushState(null, "", address(query.trim()));
  input.value = query;
  scrollTo(0, 0);
  status.focus({ preventScroll: true });
  ask();
}

function readAddress() {
  const parameters = new URLSearchParams(location.search);
  input.value = parameters.get("q") ?? "";
  explain.checked = parameters.get("explain") === "1";
  ask();
}

// --- events ---

function clearQuestion() {
  input.value = "";
  input.focus();
  ask();
}

const follow = ({ target }) => view.followHit(funnel, target.closest("[data-hit]")?.dataset.hit);

input.addEventListener("input", ({ isComposing }) => isComposing || ask({ wait: DEBOUNCE_MS }));
input.addEventListener("compositionend", () => ask({ wait: DEBOUNCE_MS }));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
clear.addEventListener("click", clearQuestion);
keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(keyInput.value.trim());
  ask();
});
forget.addEventListener("click", () => {
  keepKey(null);
  location.reload();
});
explain.addEventListener("change", () => {
  if (answer && !explain.checked) showHits();
  else if (question()) return ask({ keepCount: true });
  rememberInAddress();
});
more.addEventListener("click", () => {
  topK = TOP_K[TOP_K.indexOf(topK) + 1];
  ask({ keepCount: true });
});
for (const name of ["pointerover", "pointerleave", "focusin"]) results.addEventListener(name, follow);
addEventListener("keydown", (event) => {
  const { key, target, isComposing, ctrlKey, metaKey, altKey } = event;
  const focuses = key === "/" && target !== input && !ctrlKey && !metaKey && !altKey;
  const clears = key === "Escape" && input.value !== "";
  if (isComposing || !(focuses || clears)) return;
  event.preventDefault();
  if (clears) clearQuestion();
  else input.focus();
});
addEventListener("resize", () => view.markClamped(results));
addEventListener("popstate", readAddress);

readAddress();
if (question()) loadIndex();
