// The entries of the browser's history: one for each settled question, each option chosen and each document opened.
//
// A question that is being typed has one entry, rewritten as it changes, until it settles: Enter, a pause, another field.
// Each entry knows where it was scrolled to and which hit had the focus.

const SETTLED_MS = 1500;
const SCROLLED_MS = 300;

let isTyping = false;
let below = null; // the address under the entry that is being typed
let newest = null; // its own
let settleTimer, scrollTimer;

/** Safari allows 100 changes in 30 s; the next one will do. */
function change(method, state, href) {
  try {
    history[method](state, "", href);
  } catch {
    // as above
  }
}

function keepPlace() {
  clearTimeout(scrollTimer);
  const hit = document.activeElement?.closest?.("[data-hit]")?.dataset.hit;
  change("replaceState", { ...history.state, y: scrollY, hit: hit ?? history.state?.hit }, location.href);
}

/** Where the reader was in this entry: {y, hit}, or null on a new one. */
export const place = () => history.state;

/** Whether this entry was opened from the one below it, so that Back leads there. */
export const isStep = () => history.state?.isStep === true;

/** A step the reader chose: Back returns from it. */
export function step(href) {
  settle();
  if (href === location.href) return;
  keepPlace();
  change("pushState", { isStep: true }, href);
}

/** The same entry with another address. */
export function amend(href) {
  if (href !== location.href) change("replaceState", history.state, href);
}

/** A question as far as it is typed. */
export function typed(href) {
  clearTimeout(settleTimer);
  settleTimer = setTimeout(settleAndTidy, SETTLED_MS);
  newest = href;
  if (isTyping) return amend(href);
  if (href === location.href) return;
  below = location.href;
  keepPlace();
  change("pushState", {}, href);
  isTyping = true;
}

/** What is typed from now on is another question. */
export function settle() {
  clearTimeout(settleTimer);
  if (isTyping) amend(newest);
  isTyping = false;
}

/** The same; a question typed and taken back leaves no entry of its own. */
export function settleAndTidy() {
  const wasTyping = isTyping;
  settle();
  if (wasTyping && location.href === below) history.back();
}

/** `onMove` is called when Back or Forward leads to another entry. */
export function follow(onMove) {
  history.scrollRestoration = "manual"; // answers come later than the browser would scroll
  addEventListener("popstate", () => {
    clearTimeout(scrollTimer);
    clearTimeout(settleTimer);
    isTyping = false;
    onMove();
  });
  addEventListener("pagehide", keepPlace);
  addEventListener("scroll", () => {
    clearTimeout(scrollTimer);
    scrollTimer = setTimeout(keepPlace, SCROLLED_MS);
  }, { passive: true });
}
