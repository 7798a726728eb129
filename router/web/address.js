// What the page shows, as its address says it. Pure functions: no page, no network.

export const MODES = ["auto", "exact", "approximate", "exhaustive"];
export const COUNTS = [10, 20, 50, 100];
export const COUNT_MAX = 1000;
const SEARCH_CHARACTERS_MAX = 8000; // a longer address goes behind the #, which no server has to read

/** {query, count, mode, filter, explain, index, id}; what is absent or makes no sense has its default. */
export function fromAddress(href) {
  const { search, hash } = new URL(href);
  const said = new URLSearchParams(search || hash.slice(1));
  const count = Number(said.get("top_k"));
  return {
    query: (said.get("q") ?? "").trim(),
    count: Number.isInteger(count) && count > 0 && count <= COUNT_MAX ? count : COUNTS[0],
    mode: MODES.includes(said.get("mode")) ? said.get("mode") : MODES[0],
    filter: (said.get("filter") ?? "").trim(),
    explain: said.get("explain") === "1",
    index: said.get("index") ?? "",
    id: said.get("document") || null,
  };
}

/** The address of `view` on the page at `base`. Only what is not the default is in it. */
export function toAddress(view, base) {
  const said = new URLSearchParams();
  if (view.query) said.set("q", view.query);
  if (view.filter) said.set("filter", view.filter);
  if (view.mode !== MODES[0]) said.set("mode", view.mode);
  if (view.count !== COUNTS[0]) said.set("top_k", view.count);
  if (view.explain) said.set("explain", "1");
  if (view.index) said.set("index", view.index);
  if (view.id !== null) said.set("document", view.id);
  const url = new URL("./", base);
  const text = said.toString();
  if (text.length > SEARCH_CHARACTERS_MAX) url.hash = text;
  else url.search = text;
  return url.href;
}
