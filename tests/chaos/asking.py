"""Callers of a cluster with several routers: a request that one refuses is sent to another.

As docs/cluster.md tells them to. Queries come at a fixed rate, whatever the answers take, and each
answer is compared with that of the same index in one process.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from tests.fleets import Cluster
from tests.threads import in_thread

TRIES_MAX = 4
"""As Bitsift's own client."""
PAUSE_S = 0.25
"""When all were tried, before the first is tried again."""
EXHAUSTIVE_EVERY = 10
CONNECT_S = 1.0
TURN_S = 0.05
_TIMEOUT = httpx.Timeout(30.0, connect=CONNECT_S)
_AGAIN = (429, 503)


class Routers:
    """The addresses of routers, those that answer first, and the ``key`` that they are shown.
    Threads may share it.
    """

    def __init__(self, urls: Sequence[str], key: str = "") -> None:
        self._urls = list(urls)
        self._turn = 0
        self.key = key

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    def order(self) -> list[str]:
        """In which order a request tries them: the first two begin by turns."""
        self._turn += 1
        pair, others = self._urls[:2], self._urls[2:]
        return [*(pair if self._turn % 2 else reversed(pair)), *others]

    def refused(self, url: str) -> None:
        """It did not answer: the others come before it."""
        self._urls = [*(other for other in self._urls if other != url), url]


@dataclass(frozen=True, slots=True)
class Asked:
    """A query: when it was due, until when it was answered, and what became of it."""

    due_s: float
    took_s: float
    fate: str
    tries: int
    mode: str


@dataclass(slots=True)
class Asking:
    """Queries at ``per_s`` a second, until it ends."""

    cluster: Cluster
    routers: Routers
    per_s: float
    asked: list[Asked] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    enter: Callable[[], None] = lambda: None
    """Called first in the thread that asks: it may go to another network."""
    _ended: threading.Event = field(default_factory=threading.Event)

    def going_on(self) -> AbstractContextManager[None]:
        return in_thread(self._begin, self._ended)

    def _begin(self) -> None:
        self.enter()
        asyncio.run(self._run())

    async def _run(self) -> None:
        running: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(
            timeout=_TIMEOUT, trust_env=False, headers=self.headers
        ) as client:
            began_s, number = time.monotonic(), 0
            while not self._ended.is_set():
                due_s = began_s + number / self.per_s
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                task = asyncio.ensure_future(self._ask(client, number, due_s))
                running.add(task)
                task.add_done_callback(running.discard)
                number += 1
            await asyncio.gather(*running)

    async def _ask(self, client: httpx.AsyncClient, number: int, due_s: float) -> None:
        mode = "exhaustive" if number % EXHAUSTIVE_EVERY == 0 else "auto"
        query = number // 2 % len(self.cluster.queries)
        fate, tries, order = "failed", 0, self.routers.order()
        while tries < TRIES_MAX and fate == "failed":
            url = order[tries % len(order)]
            tries += 1
            try:
                body, headers = self.cluster.body(query, mode), self.routers.headers
                answer = await client.post(f"{url}/v1/search", json=body, headers=headers)
                fate = self._judged(answer, self.cluster.answer(query, mode))
            except httpx.TransportError as error:
                said = repr(error)
                self.routers.refused(url)
            else:
                said = fate
            if fate == "failed":
                if tries == TRIES_MAX:
                    self.wrong.append(f"query {number} at {url}: {said}")
                await asyncio.sleep(PAUSE_S * (tries % len(order) == 0))
        took_s = time.monotonic() - due_s
        self.asked.append(Asked(due_s, took_s, fate, tries, mode))

    def _judged(self, response: httpx.Response, expected: list[str]) -> str:
        if response.status_code in _AGAIN:
            return "failed"
        if response.status_code != 200:
            self.wrong.append(response.text[:500])
            return "refused"
        found = response.json()
        if found["partial"]:
            self.wrong.append(str(found["coverage"])[:500])
            return "partial"
        if [hit["id"] for hit in found["hits"]] != expected:
            self.wrong.append("another answer than that of the index in one process")
            return "wrong"
        return "answered"

    def between(self, begin_s: float, end_s: float) -> list[Asked]:
        """The queries that were due then."""
        return [one for one in self.asked if begin_s <= one.due_s < end_s]

    def counts(self, begin_s: float = 0.0, end_s: float = float("inf")) -> dict[str, int]:
        """Queries by what became of them, and how many needed another try."""
        found = self.between(begin_s, end_s)
        counted = Counter(one.fate for one in found)
        counted["tried again"] = sum(one.tries > 1 for one in found)
        return {"asked": len(found), **dict(sorted(counted.items()))}


def percentile_ms(found: Sequence[Asked], share: float, mode: str = "auto") -> float:
    """Of queries of one mode, from when they were due."""
    took = sorted(one.took_s for one in found if one.mode == mode)
    return round(1e3 * took[min(len(took) - 1, int(share * len(took)))], 1)


@dataclass(slots=True)
class Writes:
    """Documents, one after the other, far from all queries, so that they change no answer."""

    cluster: Cluster
    routers: Routers
    acknowledged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    enter: Callable[[], None] = lambda: None
    _ended: threading.Event = field(default_factory=threading.Event)

    def going_on(self) -> AbstractContextManager[None]:
        return in_thread(self._run, self._ended)

    def _run(self) -> None:
        self.enter()
        away = -np.sum(self.cluster.queries, axis=0)
        away /= np.linalg.norm(away)
        random, number = np.random.default_rng(7), 0
        with httpx.Client(timeout=_TIMEOUT, trust_env=False, headers=self.headers) as client:
            while not self._ended.wait(TURN_S):
                noise = 0.3 * random.standard_normal(away.size) / np.sqrt(away.size)
                self._write(client, f"new {number}", (away + noise).tolist())
                number += 1

    def _write(self, client: httpx.Client, name: str, vector: list[float]) -> None:
        """Once: what became of a write that failed is not known, so the next has another id."""
        url = self.routers.order()[0]
        body = {"documents": [{"id": name, "text": f"text of {name}", "vector": vector}]}
        try:
            headers = self.routers.headers
            said: Any = client.post(f"{url}/v1/documents", json=body, headers=headers).json()
        except httpx.TransportError as error:
            self.routers.refused(url)
            said = repr(error)
        if isinstance(said, dict) and said.get("created") == 1:
            self.acknowledged.append(name)
        else:
            self.refused.append(str(said)[:500])

    def lost(self, url: str) -> list[str]:
        """What was acknowledged, and is not there."""
        found = []
        with httpx.Client(timeout=_TIMEOUT, trust_env=False, headers=self.headers) as client:
            for name in self.acknowledged:
                headers = self.routers.headers
                response = client.get(f"{url}/v1/documents/{name}", headers=headers)
                text = response.json().get("text") if response.status_code == 200 else None
                found += [] if text == f"text of {name}" else [name]
        return found
