// Numbers and names as people read them. Pure functions: no page, no network.

const grouped = new Intl.NumberFormat("en");

/** A finite number, or null for everything else (absent, null, text, NaN). */
export const number = (value) => (Number.isFinite(value) ? value : null);

export const integer = (value) => grouped.format(value);

export const count = (value, noun) => `${integer(value)} ${noun}${value === 1 ? "" : "s"}`;

/** 5161200 → "5.2 MB". Decimal units, as disks and RAM prices are quoted. */
export function bytes(value) {
  const units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  for (; value >= 999.5 && unit < units.length - 1; unit += 1) value /= 1000;
  return `${value.toFixed(unit > 0 && value < 9.95 ? 1 : 0)} ${units[unit]}`;
}

export function milliseconds(value) {
  return value >= 1000 ? `${(value / 1000).toFixed(2)} s` : `${value.toFixed(value < 9.95 ? 1 : 0)} ms`;
}

/** "3 May 2026"; the text itself when it is not a date. */
export function day(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? String(text) : date.toLocaleDateString("en-GB", { dateStyle: "long" });
}

/** The first `limit` characters, never half of a surrogate pair. */
export function head(text, limit) {
  return text.length <= limit ? text : text.slice(0, limit).replace(/[\uD800-\uDBFF]$/, "");
}

/** A value of a document's metadata as one short line. */
export function scalar(value) {
  const text = typeof value === "object" ? JSON.stringify(value) : String(value);
  return text.length > 80 ? `${head(text, 80)}…` : text;
}

/** The whole value, of several lines where its parts need more than one. */
export function whole(value) {
  if (typeof value !== "object") return String(value);
  const line = JSON.stringify(value);
  return line.length > 60 ? JSON.stringify(value, null, 2) : line;
}

/** Without the characters that turn the direction of what follows: for a place that cannot be set apart. */
export const straight = (text) => text.replace(/[\u061C\u200E\u200F\u202A-\u202E\u2066-\u2069]/g, "");

/** Only http and https become links: metadata is whatever somebody indexed. */
export function link(value) {
  return typeof value === "string" && /^https?:\/\//i.test(value) && URL.canParse?.(value) ? value : null;
}

/** Quoted for a POSIX shell. */
export const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
