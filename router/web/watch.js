// What the page knows of the server: the index, its shards, and whether it can be reached. Asked for every few seconds. No page.

import { call, connection } from "./server.js";
import { pause } from "./retry.js";

const POLL_MS = 5000;
const TROUBLE_POLL_MS = 2000;
const LOADING_POLL_MS = 1000;
const TIMEOUT_MS = 10000;

export const known = { index: null, cluster: null, isReached: true };

/** What the page does about it; path(name) is that of the index which is wanted. */
export const page = { path: (name) => `v1/${name}`, isShut: () => false, onIndex() {}, onIndexFailed() {}, onCluster() {}, onReach() {} };

let indexTimer, clusterTimer;

export async function loadIndex(attempt = 0) {
  clearTimeout(indexTimer);
  const path = page.path("index");
  const before = known.index;
  let found;
  try {
    found = await call(path);
  } catch (error) {
    if (path === page.path("index")) page.onIndexFailed(error, attempt);
    return;
  }
  if (path !== page.path("index")) return; // another is wanted by now
  known.index = found;
  if (found.loading) indexTimer = setTimeout(loadIndex, LOADING_POLL_MS);
  page.onIndex(before);
  if (!before?.loading || !found.loading) loadCluster();
}

export function loadIndexLater(attempt) {
  indexTimer = setTimeout(loadIndex, pause(attempt) * 1000, attempt + 1);
}

export const areReady = () => Boolean(known.cluster?.shards?.every?.(({ state }) => state === "READY"));

const contents = (cluster) => JSON.stringify(cluster?.shards?.map?.(({ documents, bits_bytes }) => [documents, bits_bytes]));

/** The state of the shards; the facts of the index follow what is written. */
export async function loadCluster() {
  clearTimeout(clusterTimer);
  const path = page.path("cluster");
  const before = known.cluster;
  const found = document.hidden ? before : await call(path, { timeout: TIMEOUT_MS }).catch(() => null);
  clearTimeout(clusterTimer);
  if (page.isShut()) return;
  clusterTimer = setTimeout(loadCluster, TROUBLE_POLL_MS);
  if (path !== page.path("cluster")) return;
  known.cluster = found;
  page.onCluster();
  if ((areReady() || !found) && known.isReached) {
    clearTimeout(clusterTimer);
    clusterTimer = setTimeout(loadCluster, POLL_MS);
  }
  if (before && found && known.index && !known.index.loading && contents(before) !== contents(found)) loadIndex();
}

/** Of another index from now on. */
export function forget() {
  known.index = known.cluster = null;
}

connection.onReach = (isReached) => {
  if (isReached === known.isReached) return;
  known.isReached = isReached;
  page.onReach();
  clearTimeout(clusterTimer);
  clusterTimer = setTimeout(loadCluster, isReached ? 0 : TROUBLE_POLL_MS);
};

document.addEventListener("visibilitychange", () => document.hidden || (known.cluster && loadCluster()));

/** All that the server has, {names, usual}; a key may be for one of them alone, and then there are none to choose from. */
export async function listIndexes() {
  const listed = await call("v1/indexes").catch(() => null);
  const found = Array.isArray(listed?.indexes) ? listed.indexes : [];
  return { names: found.map(({ name }) => name), usual: found.find((each) => each.default)?.name };
}
