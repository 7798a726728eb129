"""One cell of the kill matrix: a process, a signal, a load; what must be seen, said and kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.serving.leftovers import marked_folders
from tests.chaos.load import QUERIES, SPEC, Load, hits, search, upsert
from tests.chaos.server import Server, signalled
from tests.commands import wait_until
from tests.e2e.support import check_unlocked

VICTIMS = (
    "shard", "both shards", "writer", "router", "raylet", "GCS", "main", "dashboard",
    "dashboard agent", "runtime-env agent",
)  # fmt: skip
SIGNALS = ("KILL", "STOP", "TERM")
LOADS = ("idle", "reads", "writes")
SHARDS = 2
HEAL_S = {"router": 10, "shard": 15, "both shards": 15, "writer": 15}
"""The bars; all else has 30 s."""
HEAL_OTHERS_S = 30
WAIT_S = 120
"""How long a cell waits for what does not come in time, so that it can say how late it came."""
_ACTORS = {"shard": "shard 0", "both shards": "shard 1", "writer": "writer", "router": "router"}
_OF_RAY = {"raylet", "GCS", "dashboard agent"}


@dataclass(frozen=True)
class Cell:
    victim: str
    signal: str
    load: str


@dataclass
class Outcome:
    """What was seen. ``problems`` empty: as wanted."""

    cell: Cell
    healed_s: float | None
    counts: dict[str, int]
    slowest_s: dict[str, float]
    acknowledged: int
    said: list[str]
    problems: list[str]

    def row(self) -> str:
        healed = "–" if self.healed_s is None else f"{self.healed_s:5.1f} s"
        seen = ", ".join(f"{count} {fate}" for fate, count in sorted(self.counts.items()))
        verdict = "; ".join(self.problems) or "as wanted"
        cell = self.cell
        return f"{cell.victim:18} {cell.signal:5} {cell.load:6} {healed:>8}  {verdict}  ({seen})"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Server]:
    """A server of a new index; nothing of it is left at the end."""
    write_index(folder / "index", SPEC, SHARDS)
    server = Server(folder / "index", folder / "log")
    try:
        server.wait_ready()
        yield server
    finally:
        server.kill()


def run_cell(cell: Cell, server: Server, stop_s: float) -> Outcome:
    """Signal the victim under load, and wait until all is well again."""
    problems: list[str] = []
    truth = [hits(search(server.url, number).json()) for number in range(len(QUERIES))]
    load = Load(server.url, truth)
    with load.running(cell.load):
        time.sleep(1.0)
        before = server.pids(cell.victim)
        assert before, f"no {cell.victim}"
        said_before, mark = len(server.said()), server.mark()
        with signalled(before, cell.signal, stop_s):
            began_s = time.monotonic()
            if cell.signal == "STOP":
                _during_stop(cell, server, load, stop_s, problems)
            elif cell.victim == "main":
                server.start_again()
        if cell.signal == "STOP":
            began_s = time.monotonic()
        healed = wait_until(lambda: _is_well(cell, server, before, truth, said_before), WAIT_S)
        healed_s = round(time.monotonic() - began_s, 1) if healed else None
    problems += _judged(cell, server, load, healed_s, said_before)
    if (cell.victim, cell.signal) == ("main", "KILL") and (left := marked_folders(mark)):
        problems.append(f"temporary folders of the killed server are left: {left}")
    said = server.said()[said_before:].splitlines()
    slowest = {fate: round(took_s, 2) for fate, took_s in load.slowest_s.items()}
    counts, kept = dict(load.counts), len(load.acknowledged)
    return Outcome(cell, healed_s, counts, slowest, kept, said, problems)


def what_is_left(server: Server) -> list[str]:
    """Ctrl-C, and what is wrong then."""
    try:
        status = server.stop()
        check_unlocked(server.index)
    except Exception as error:
        return [f"the end: {type(error).__name__}: {error}"]
    return [] if status == 0 else [f"exit status {status}"]


def _during_stop(
    cell: Cell, server: Server, load: Load, stop_s: float, problems: list[str]
) -> None:
    """A stopped shard under reads: answers come at once and say partial, and so does the router."""
    if (cell.victim, cell.load) != ("shard", "reads"):
        return
    opened = wait_until(lambda: any("breaker open" in reason for reason in load.reasons), stop_s)
    if not opened:
        problems.append("the breaker did not open")
        return
    time.sleep(1.0)
    slow = [search(server.url, number).elapsed.total_seconds() for number in range(8)]
    if sorted(slow)[len(slow) // 2] > 1.0:
        problems.append(f"answers do not come at once while it is open: {slow}")
    states = {
        shard["shard"]: shard["replicas"][0]["breaker"] for shard in server.cluster()["shards"]
    }
    if states[0] == "closed":
        problems.append(f"/v1/cluster says {states}")


def _is_well(
    cell: Cell, server: Server, before: list[int], truth: list[Any], said_before: int
) -> bool:
    """Everything answers, whole and right, and takes writes; the victim is another process."""
    with contextlib.suppress(httpx.TransportError, KeyError):
        answer = search(server.url, 0).json()
        if answer.get("partial", True) or hits(answer) != truth[0]:
            return False
        written = upsert(server.url, f"probe-{time.monotonic_ns()}")
        cluster = server.cluster()
        states = {shard["state"] for shard in cluster["shards"]}
        breakers = {it["breaker"] for shard in cluster["shards"] for it in shard["replicas"]}
        return (
            written.status_code == 200
            and written.json()["created"] == 1
            and (states, breakers) == ({"READY"}, {"closed"})
            and _is_replaced(cell, server, before, said_before)
        )
    return False


def _is_replaced(cell: Cell, server: Server, before: list[int], said_before: int) -> bool:
    said = server.said()[said_before:]
    if cell.signal != "STOP" and cell.victim == "main":  # until then its leftovers answer
        return "Bitsift answers on" in said
    if cell.signal == "STOP" or cell.victim in ("dashboard", "runtime-env agent"):
        return True
    if (cell.victim, cell.signal) == ("GCS", "TERM"):  # it stays until it was silent for too long
        return "control store" in said
    now = server.pids(cell.victim)
    return bool(now) and not set(now) & set(before)


def _judged(
    cell: Cell, server: Server, load: Load, healed_s: float | None, said_before: int
) -> list[str]:
    problems = list(load.wrong)
    if "(raylet)" in server.said()[said_before:]:
        problems.append("Ray's own lines are on standard output")
    limit_s = HEAL_S.get(cell.victim, HEAL_OTHERS_S)
    if healed_s is None:
        return [*problems, f"not healed in {WAIT_S} s"]
    if healed_s > limit_s:
        problems.append(f"healed after {healed_s} s, not {limit_s}")
    lost = [key for key in load.acknowledged if not _holds(server.url, key)]
    if lost:
        problems.append(f"{len(lost)} acknowledged documents are lost: {lost[:3]}")
    wanted = _wanted_line(cell)
    if wanted and not wait_until(lambda: wanted in server.said()[said_before:]):
        problems.append(f"the log does not say {wanted!r}")
    if wanted and cell.victim != "main" and not wait_until(lambda: _tells(server, wanted)):
        problems.append(f"/v1/cluster does not say {wanted!r} but {server.cluster()['healed']}")
    return problems


def _tells(server: Server, wanted: str) -> bool:
    return any(wanted in event["what"] for event in server.cluster()["healed"])


def _wanted_line(cell: Cell) -> str | None:
    """What the log and /v1/cluster must say."""
    if cell.signal == "STOP":
        return f"{_ACTORS[cell.victim]} (pid" if cell.victim in _ACTORS else None
    if cell.victim == "router":
        return "the router listens again on"
    if cell.victim in _ACTORS:
        return f"{_ACTORS[cell.victim]} (pid"
    if cell.victim == "GCS":
        return "control store (GCS"
    return "healed: http" if cell.victim in _OF_RAY else None


def _holds(url: str, key: str) -> bool:
    found = httpx.get(f"{url}/v1/documents/{key}", timeout=30)
    return found.status_code == 200 and found.json()["text"] == f"text of {key}"
