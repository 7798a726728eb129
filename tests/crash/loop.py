"""The crash loop: a shard process is killed again and again under load, and never loses a word.

Every other time it is killed at a random instant, else it kills itself at a named point
(points.py). After each restart, of all that any client ever was told: every acknowledged change is
there and no other; the one that each client had under way is there whole or not at all.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitsift.shard_worker.shard import Shard
from tests.crash import points
from tests.crash.clients import Searcher, Writer, connect, start
from tests.crash.documents import IDENTITY
from tests.crash.processes import fresh_processes
from tests.crash.server import serve
from tests.threads import ended

WRITERS, SEARCHERS = 3, 1
_RANDOM_AFTER_S = 0.02, 0.6
_POINT_WITHIN_S = 3.0
_START_WITHIN_S = 120.0


class CrashLoop:
    """``run`` as many kills as wanted, then ask for the ``report``."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self._folder = folder
        self._shard = folder / "shard"
        self._random = random.Random(seed)
        self._processes = fresh_processes()
        self._writers = [Writer(number, folder, seed + number) for number in range(WRITERS)]
        self._searchers = [Searcher(self._writers, seed + i) for i in range(SEARCHERS)]
        self._failures: list[BaseException] = []
        self.kills: Counter[str] = Counter()
        self._opened_s: list[float] = []
        self.generations = 0
        Shard.create(self._shard, IDENTITY)

    def run(self, kills: int) -> None:
        """Raises AssertionError at the first word that was lost, halved or made up."""
        order = list(points.ALL)
        self._random.shuffle(order)
        for number in range(kills):
            point = order[number // 2 % len(order)] if number % 2 else None
            self._live_and_die(number, point)
        self._live_and_die(kills, None)  # the last restart is looked at as well

    def close(self) -> None:
        for writer in self._writers:
            writer.close()

    def _live_and_die(self, number: int, point: str | None) -> None:
        """One life of the server: opened, looked at, worked with, killed."""
        address = str(self._folder / f"socket-{number}")
        last_words = self._folder / "last-words"
        last_words.unlink(missing_ok=True)
        after = self._random.randint(1, 12 if point in _FREQUENT else 2)
        arguments = self._shard, address, point, after, number
        server = self._processes.Process(target=serve, args=arguments, daemon=True)
        server.start()
        try:
            if self._inspect(address, server):
                self._work(address, server, point)
        finally:
            server.kill()
            ended(server)
        assert server.exitcode == -signal.SIGKILL, f"the shard ended by {server.exitcode}"
        if self._failures:
            raise self._failures[0]
        by_itself = last_words.exists()
        assert not by_itself or last_words.read_text() == point
        self.kills[point if by_itself and point else "at a random instant"] += 1

    def _inspect(self, address: str, server: Any) -> bool:
        """Hold what is there against all ledgers. False when it was killed meanwhile."""
        deadline = time.monotonic() + _START_WITHIN_S
        while not Path(address).exists():
            if not server.is_alive():
                return False  # the point lay in its opening
            if time.monotonic() > deadline:
                os.kill(server.pid, signal.SIGABRT)  # it says where it stands
                ended(server)
                raise AssertionError("the shard did not start")
            time.sleep(0.002)
        with connect(address) as connection:
            connection.send(("contents",))
            contents = connection.recv()
            for writer in self._writers:
                writer.settle(contents)
            strangers = set(contents) - {name for w in self._writers for name in w.names}
            assert not strangers, strangers
            connection.send(("begin",))
            try:
                self._opened_s.append(connection.recv())
            except (EOFError, ConnectionError):
                return False  # the point lay in the first task, which began before the answer
        return True

    def _work(self, address: str, server: Any, point: str | None) -> None:
        clients: list[Writer | Searcher] = [*self._writers, *self._searchers]
        threads = [start(client.run, address, self._failures) for client in clients]
        if point is not None:
            server.join(_POINT_WITHIN_S)
        else:
            time.sleep(self._random.uniform(*_RANDOM_AFTER_S))
        server.kill()
        for thread in threads:
            ended(thread)

    def report(self) -> dict[str, Any]:
        """What was done and seen; what was lost would have been raised."""
        settled = Counter[str]()
        for writer in self._writers:
            settled.update(writer.settled)
        return {
            "kills": sum(self.kills.values()),
            "kills_by_place": dict(sorted(self.kills.items())),
            "acknowledged_changes": sum(writer.acknowledged for writer in self._writers),
            "acknowledged_changes_lost": 0,
            "half_written_changes_seen": 0,
            "under_way_and_there": settled["was done"],
            "under_way_and_not_there": settled["was not done"],
            "answers_checked": sum(searcher.checked for searcher in self._searchers),
            "just_written_documents_found_first": sum(s.found_first for s in self._searchers),
            "opened_ms_p50": round(1e3 * statistics.median(self._opened_s), 1),
            "opened_ms_max": round(1e3 * max(self._opened_s), 1),
        }


def run_loop(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """The report of one loop in ``folder``, which is made."""
    folder.mkdir()
    loop = CrashLoop(folder, seed)
    loop.run(kills)
    loop.close()
    return loop.report()


def together(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The reports of several loops as one; the median of their medians."""
    merged: dict[str, Any] = {}
    for key in reports[0]:
        values = [report[key] for report in reports]
        if key == "kills_by_place":
            merged[key] = dict(sorted(sum(map(Counter, values), Counter[str]()).items()))
        elif key == "opened_ms_p50":
            merged[key] = round(statistics.median(values), 1)
        else:
            merged[key] = max(values) if key == "opened_ms_max" else sum(values)
    return merged


_FREQUENT = {
    "in the transaction, before any of it",
    "in the transaction, codes and texts are put",
    "in the transaction, before its commit",
    "committed, not yet in RAM",
    "written, not yet acknowledged",
}
"""Points that every change passes."""
