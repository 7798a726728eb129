// Talking to the server: calls, what went wrong with them, and the key. Knows no page.

const TIMEOUT_MS = 30000;
const KEY_NAME = "bitsift-key";
const PROXY = [502, 503, 504];
const TITLES = {
  403: "The key does not allow this",
  404: "There is no such index",
  422: "The server does not take this search",
  429: "The server is busy",
  500: "The server failed",
  502: "The server cannot be reached",
  503: "The server cannot answer now",
  504: "The server did not answer in time",
};

/** What went wrong, as the server said it (RFC 9457), or as the browser saw it (status 0), in plain words. */
export class Problem extends Error {
  constructor(status, title, detail = "", retryAfter = 0) {
    super(title);
    Object.assign(this, { status, title, detail, retryAfter });
  }
}

/** The first line of a server's message without what a library said, which follows in parentheses. */
export const plain = (message) => String(message ?? "").split(/ \(|\n/)[0].trim();

/** onReach(isReached) is called with each answer, and when none came. */
export const connection = { onReach() {} };

export async function call(path, { signal, timeout = TIMEOUT_MS, ...options } = {}) {
  let response, content;
  const limit = AbortSignal.timeout(timeout);
  try {
    const headers = { ...options.headers, ...keyHeader() };
    response = await fetch(path, { ...options, headers, signal: signal ? AbortSignal.any([signal, limit]) : limit });
    content = await response.text();
  } catch {
    if (!signal?.aborted) connection.onReach(false); // an aborted call says nothing about the server
    throw new Problem(0, "The server cannot be reached", "It may be starting, or the connection is down.");
  }
  let data;
  try {
    data = JSON.parse(content);
  } catch {
    // Not JSON: something between this page and the gateway answered. Its status says enough.
  }
  connection.onReach(Boolean(data) || !PROXY.includes(response.status));
  if (!response.ok) throw problemFrom(response, data);
  if (data && typeof data === "object") return data;
  throw new Problem(-1, "The answer cannot be read", `${path} did not answer with JSON.`);
}

/** The lines of the answer to a file, each as JSON. No limit of time: a line comes with what is stored. */
export async function* sendFile(path, file, signal) {
  const headers = { "content-type": "application/octet-stream", ...keyHeader() };
  try {
    const response = await fetch(path, { method: "POST", headers, body: file, signal });
    if (!response.ok) throw problemFrom(response, await response.json().catch(() => null));
    let rest = "";
    for await (const part of chunks(response.body.pipeThrough(new TextDecoderStream()))) {
      const lines = (rest + part).split("\n");
      rest = lines.pop();
      yield* lines.filter(Boolean).map((line) => JSON.parse(line));
    }
  } catch (error) {
    if (error instanceof Problem) throw error;
    if (!signal.aborted) connection.onReach(false);
    throw new Problem(0, "The connection broke off", "Send the file again: what is stored is left alone.");
  }
}

/** Not every browser can iterate over a stream. */
async function* chunks(stream) {
  const reader = stream.getReader();
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) yield value;
}

function problemFrom({ status, statusText, headers }, data) {
  const { title, detail } = data ?? {};
  const said = typeof detail === "string" ? detail : JSON.stringify(detail);
  const words = TITLES[status] ?? title ?? statusText ?? "The server refused";
  return new Problem(status, words, status >= 500 ? plain(said) : said, Number(headers.get("retry-after")) || 0);
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

export const hasKey = () => Boolean(key);

const keyHeader = () => (key ? { authorization: `Bearer ${key}` } : {});

export function keepKey(given) {
  key = given;
  try {
    if (key) sessionStorage.setItem(KEY_NAME, key);
    else sessionStorage.removeItem(KEY_NAME);
  } catch {
    // as above
  }
}
