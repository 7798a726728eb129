"""What goes on while processes are killed: searches whose answers are known, and writes that are
remembered when they are acknowledged.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries

SPEC = SyntheticSpec(400, 64)
TIMEOUT_MS = 3_000
CLIENT_TIMEOUT_S = 60
PAUSE_S = 0.03
QUERIES = [query.tolist() for query in synthetic_queries(SPEC, 8)]


def search(url: str, number: int, timeout_ms: int = TIMEOUT_MS) -> httpx.Response:
    body = {"vector": QUERIES[number % len(QUERIES)], "top_k": 5, "timeout_ms": timeout_ms}
    return httpx.post(f"{url}/v1/search", json=body, timeout=CLIENT_TIMEOUT_S)


def upsert(url: str, key: str) -> httpx.Response:
    """A document far from every query, so that it changes no answer."""
    vector = (-np.sum(QUERIES, axis=0)).tolist()
    body = {"documents": [{"id": key, "text": f"text of {key}", "vector": vector}]}
    return httpx.post(f"{url}/v1/documents", json=body, timeout=CLIENT_TIMEOUT_S)


def hits(answer: dict[str, Any]) -> list[tuple[str, float]]:
    return [(hit["id"], hit["score"]) for hit in answer["hits"]]


@dataclass
class Load:
    """Runs in threads until it is stopped. ``truth`` are the whole answers, by query."""

    url: str
    truth: list[list[tuple[str, float]]]
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    slowest_s: dict[str, float] = field(default_factory=dict)
    latest_partial_s: float = 0.0
    """What the newest partial answer took."""
    reasons: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def running(self, kind: str) -> Iterator[None]:
        """``kind`` idle, reads or writes."""
        stop = threading.Event()
        work = {"idle": [], "reads": [self._read, self._read], "writes": [self._write]}[kind]
        threads = [
            threading.Thread(target=self._until, args=(stop, one, number), daemon=True)
            for number, one in enumerate(work)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(2 * CLIENT_TIMEOUT_S)

    def _until(self, stop: threading.Event, one: Any, thread: int) -> None:
        turn = thread
        while not stop.is_set():
            started_s = time.monotonic()
            try:
                fate = one(turn)
            except httpx.TransportError:
                fate = "refused or cut off"
            took_s = time.monotonic() - started_s
            if fate == "partial":
                self.latest_partial_s = took_s
            self.counts[fate] += 1
            self.slowest_s[fate] = max(took_s, self.slowest_s.get(fate, 0.0))
            turn += 2
            time.sleep(PAUSE_S)

    def _read(self, turn: int) -> str:
        response = search(self.url, turn)
        if response.status_code != 200:
            return self._refused(response)
        answer = response.json()
        expected = self.truth[turn % len(QUERIES)]
        if not answer["partial"]:
            if hits(answer) != expected:
                self.wrong.append(f"whole, but {hits(answer)} instead of {expected}")
            return "answered"
        failures = answer["coverage"]["failures"]
        self.reasons |= {failure["message"] for failure in failures}
        if not failures:
            self.wrong.append("partial without a reason")
        return "partial"

    def _write(self, turn: int) -> str:
        key = f"w{turn}-{time.monotonic_ns()}"
        response = upsert(self.url, key)
        if response.status_code != 200:
            return self._refused(response)
        (result,) = response.json()["results"]
        if result["status"] in ("created", "updated"):
            self.acknowledged.append(key)
            return "written"
        return "not written"

    def _refused(self, response: httpx.Response) -> str:
        if response.status_code not in (429, 503, 504):
            self.wrong.append(f"HTTP {response.status_code}: {response.text[:200]}")
        return f"HTTP {response.status_code}"
