// The keys: slash to the field, arrows through the hits, Enter opens one (it is a link), Escape back.

const $ = (id) => document.getElementById(id);
const [form, input, results] = ["form", "query", "results"].map($);

/** From hit to hit, and from and to the field. */
function move(by) {
  const hits = [...results.children];
  const next = hits.indexOf(document.activeElement.closest("[data-hit]")) + by;
  if (next >= hits.length) return;
  const [target, shown] = next < 0 ? [input, form] : [hits[next].querySelector("[data-open]"), hits[next]];
  target.focus({ preventScroll: true });
  shown.scrollIntoView({ block: "nearest" });
}

/** page: {isList(), hasHits(), leaveDocument(), clearQuestion()}. */
export function followKeys(page) {
  addEventListener("keydown", (event) => {
    const { key, target, isComposing, ctrlKey, metaKey, altKey, shiftKey } = event;
    const isInput = target === input;
    const isInHits = results.contains(target);
    const isElsewhere = !isInput && target.matches("input:not([type=checkbox]), select, textarea");
    if (isComposing || ctrlKey || metaKey || altKey || isElsewhere) return;
    const isArrow = page.isList() && page.hasHits() && !shiftKey;
    if (key === "/" && !isInput) input.focus();
    else if (key === "Escape" && !page.isList()) page.leaveDocument();
    else if (key === "Escape" && isInHits) input.focus();
    else if (key === "Escape" && input.value !== "") page.clearQuestion();
    else if (key === "ArrowDown" && isArrow && (isInput || isInHits)) move(1);
    else if (key === "ArrowUp" && isArrow && isInHits) move(-1);
    else return;
    event.preventDefault();
  });
}
