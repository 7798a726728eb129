"""Clients that contend for a few documents, and remember what they asked for and were told.

Each is a thread with Bitsift's own client, whose errors say what became of a request. Some write,
delete and read the same few ids through any router; one writes ids that nobody else has; one
searches, and looks whether an answer says what it lacks.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from bitsift.client import Client, calls
from bitsift.errors import BitsiftError, NotFound, RequestOutcome
from bitsift.write_results import WriteResult
from bitsift.write_status import WriteStatus
from tests.chaos.asking import Routers
from tests.fleets import Cluster
from tests.linearizable import UNKNOWN_END, Call, violation
from tests.threads import ended

KEYS = tuple(f"key {number}" for number in range(6))
CONTENDERS = 10
PAUSE_S = 0.1
TIMEOUT_S = 20.0
"""Of one HTTP call; a client makes four at most."""
NEAR = 40
"""Hits of a search for what was written."""
_DONE = (
    WriteStatus.CREATED,
    WriteStatus.UPDATED,
    WriteStatus.UNCHANGED,
    WriteStatus.DELETED,
    WriteStatus.MISSING,
)


class History:
    """What was asked for and said, by id. Any number of threads. Times are monotonic."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls: defaultdict[str, list[Call]] = defaultdict(list)
        self.acknowledged: dict[str, str] = {}
        """The text of each id that was written once, where that was acknowledged."""
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest_s = 0.0
        self._texts: defaultdict[str, set[str]] = defaultdict(set)

    def new_text(self, key: str) -> str:
        """One that nobody has written: from now on it may be found."""
        with self._lock:
            text = f"{key}, text {len(self._texts[key])}"
            self._texts[key].add(text)
            return text

    def may_hold(self, key: str, text: str | None) -> bool:
        with self._lock:
            return text in self._texts[key]

    def wrote(self, key: str, text: str | None, began_s: float, outcome: RequestOutcome) -> None:
        """``text`` None was a deletion."""
        end_s = time.monotonic()
        self.count("deletions" if text is None else "writes", outcome.value, began_s)
        if outcome is not RequestOutcome.NOT_DONE:
            is_known = outcome is RequestOutcome.DONE
            self._add(key, Call(True, text, began_s, end_s if is_known else UNKNOWN_END))

    def read(self, key: str, text: str | None, began_s: float) -> None:
        self.count("reads", "done", began_s)
        self._add(key, Call(False, text, began_s, time.monotonic()))

    def _add(self, key: str, call: Call) -> None:
        with self._lock:
            self.calls[key].append(call)

    def count(self, what: str, outcome: str, began_s: float) -> None:
        with self._lock:
            self.counts[f"{what} {outcome}"] += 1
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)

    def broken(self) -> dict[str, str]:
        """The ids whose history nothing explains, and why."""
        found = {key: violation(its) for key, its in sorted(self.calls.items())}
        return {key: why for key, why in found.items() if why is not None}


class Clients:
    """Threads that go on until they are told to end."""

    def __init__(self, cluster: Cluster, urls: Sequence[str], seed: int) -> None:
        self.history = History()
        self._cluster, self._seed = cluster, seed
        self._routers = Routers(urls)
        self._clients = {url: Client(url, timeout_s=TIMEOUT_S) for url in urls}
        self._ended, self._may_write = threading.Event(), threading.Event()
        self._may_write.set()
        away = -np.sum(cluster.queries, axis=0)
        self._away = away / np.linalg.norm(away)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        work = [self._contend] * CONTENDERS + [self._add_new, self._search]
        threads = [
            threading.Thread(target=self._until_ended, args=(one, Random(f"{self._seed} {number}")))
            for number, one in enumerate(work)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                ended(thread)

    def writes(self, go_on: bool) -> None:
        """Whether documents are written and read; those under way end."""
        (self._may_write.set if go_on else self._may_write.clear)()

    def _until_ended(self, one: Callable[[Random, int], None], random: Random) -> None:
        number = 0
        while not self._ended.wait(random.uniform(0.0, 2 * PAUSE_S)):
            if not self._may_write.is_set() and one != self._search:
                continue
            try:
                one(random, number)
            except Exception as error:  # none that the client should let through
                self.history.wrong.append(f"{one.__name__} raised {error!r}")
            number += 1

    # --- documents -------------------------------------------------------------------------

    def _contend(self, random: Random, number: int) -> None:
        key, kind = random.choice(KEYS), random.random()
        if kind < 0.35:
            self._write(random, key)
        elif kind < 0.45:
            self._delete(key)
        else:
            self.read(key, self._routers.order()[0])

    def _add_new(self, random: Random, number: int) -> None:
        key = f"new {number}"
        text, outcome = self._write(random, key)
        if outcome is RequestOutcome.DONE:
            self.history.acknowledged[key] = text
        time.sleep(3 * PAUSE_S)

    def _write(self, random: Random, key: str) -> tuple[str, RequestOutcome]:
        noise = np.array([random.gauss(0.0, 0.3 / self._away.size**0.5) for _ in self._away])
        text = self.history.new_text(key)
        document = {"id": key, "text": text, "vector": (self._away + noise).tolist()}
        (call,) = calls.upserts(document, 1)
        return text, self._written(key, text, call)

    def _delete(self, key: str) -> None:
        (call,) = calls.deletes(key)
        self._written(key, None, call)

    def _written(self, key: str, text: str | None, call: calls.Call[Any]) -> RequestOutcome:
        began_s, url = time.monotonic(), self._routers.order()[0]
        try:
            answer = self._clients[url]._send(replace(call, timeout_s=TIMEOUT_S))
            outcome = self._outcome(answer.results[0])
        except BitsiftError as error:
            self._refused(url, error)
            outcome = error.outcome
        self.history.wrote(key, text, began_s, outcome)
        return outcome

    def _outcome(self, result: WriteResult) -> RequestOutcome:
        if result.status in _DONE:
            return RequestOutcome.DONE
        if result.error is None or result.status is not WriteStatus.FAILED:
            self.history.wrong.append(f"a good write is {result}")
            return RequestOutcome.UNKNOWN
        return result.error.outcome

    def read(self, key: str, url: str) -> bool:
        """Whether the router said what the document is, or that there is none."""
        began_s, text = time.monotonic(), None
        try:
            text = self._clients[url].get(key).text
        except NotFound:
            pass
        except BitsiftError as error:
            self._refused(url, error)
            self.history.count("reads", "refused", began_s)
            return False
        self.history.read(key, text, began_s)
        return True

    def _refused(self, url: str, error: BitsiftError) -> None:
        if error.status not in (429, 503, 504, 507):
            self.history.wrong.append(f"{error.status} {error!r}")
        if "cannot be reached" in error.message or "broke off" in error.message:
            self._routers.refused(url)

    # --- searches ----------------------------------------------------------------------------

    def _search(self, random: Random, number: int) -> None:
        began_s, url = time.monotonic(), self._routers.order()[0]
        near = {"vector": self._away.tolist(), "top_k": NEAR, "mode": "exhaustive"}
        query = number // 2 % len(self._cluster.queries)
        body = near if number % 2 else self._cluster.body(query)
        try:
            answer = self._clients[url].search(**body)
        except BitsiftError as error:
            self._refused(url, error)
            self.history.count("searches", "refused", began_s)
            return
        self.history.count("searches", "partial" if answer.partial else "whole", began_s)
        coverage = answer.coverage
        is_whole = coverage.answered == coverage.shards and not coverage.failures
        if is_whole is answer.partial:
            self.history.wrong.append(f"partial {answer.partial}: {coverage}")
        expected = None if number % 2 or answer.partial else self._cluster.answer(query)
        if expected is not None and [hit.id for hit in answer.hits] != expected:
            self.history.wrong.append(f"query {query} has another answer: {answer}"[:1_000])
        for hit in answer.hits:
            is_ours = hit.id.startswith(("key ", "new "))
            if is_ours and not self.history.may_hold(hit.id, hit.text):
                self.history.wrong.append(f"nobody wrote what a search found: {hit}")


def lost(history: History) -> list[str]:
    """Ids that were written once, acknowledged, and are not what the last reads found."""
    last = functools.partial(max, key=lambda call: call.end)
    reads = {key: [call for call in its if not call.is_write] for key, its in history.calls.items()}
    return [
        key
        for key, text in history.acknowledged.items()
        if not reads[key] or last(reads[key]).value != text
    ]
