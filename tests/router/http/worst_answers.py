"""A gateway that is asked the worst that is legal, one request at a time; prints what it grew by.

python -m tests.router.http.worst_answers FOLDER
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import httpx
import numpy as np

from bitsift.router.answer_bytes import ANSWER_BYTES_MAX
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import ShardIdentity
from tests.fakes import UUID, make_service, make_shards, make_writer
from tests.gateways import Running
from tests.threads import ended

DIMENSION, ROWS, LONG_BYTES = 64, 200, 512 << 10
_ALLOWED = (ANSWER_BYTES_MAX - 200_000) // LONG_BYTES


class Peak:
    """The most that this process had in RAM, looked at every millisecond or so."""

    def __init__(self) -> None:
        self.most, self._end = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._end.wait(0.001):
            self.most = max(self.most, resident_bytes())

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        ended(self._thread)


def resident_bytes() -> int:
    """Anonymous RAM: the mapped store is the page cache's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon")


def ask(url: str, body: dict[str, object]) -> int:
    with httpx.stream("POST", f"{url}/v1/search", json=body, timeout=120) as answer:
        for _ in answer.iter_raw(1 << 16):
            pass
        return answer.status_code


def build(folder: Path) -> None:
    random = np.random.default_rng(0)
    units = normalize(random.standard_normal((ROWS, DIMENSION)).astype(np.float32), DIMENSION)
    emoji = "\N{SPIDER}"  # makes Python keep every character of the text in four bytes
    texts = [emoji + f"{number:>8} " * (LONG_BYTES // 9) for number in range(ROWS)]
    shards, calibration = make_shards(folder, units, DIMENSION, 2, texts)
    (folder / "calibration.json").write_text(json.dumps(calibration.to_json()))
    for shard in shards:
        shard.close()


def measured(folder: Path) -> dict[str, object]:
    calibration = Calibration.from_json(json.loads((folder / "calibration.json").read_text()))
    shards = [
        Shard(
            folder / f"shard-{n:05d}", calibration, ShardIdentity(UUID, n, 2, DIMENSION, DIMENSION)
        )
        for n in range(2)
    ]
    links = [LocalLink(shard) for shard in shards]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    names = [f"question {number}" for number in range(100)]
    legal = {"queries": names[:_ALLOWED], "top_k": 1, "timeout_ms": 60_000}
    illegal = {"queries": names, "top_k": 100, "timeout_ms": 60_000}
    ask(running.url, {"queries": names, "top_k": 100, "include": [], "timeout_ms": 60_000})
    before = resident_bytes()
    answered, refused = set(), set()
    with Peak() as peak:
        for _ in range(5):
            answered.add(ask(running.url, legal))
            refused.add(ask(running.url, illegal))
    running.stop()
    for shard in shards:
        shard.close()
    return {
        "answered": sorted(answered),
        "refused": sorted(refused),
        "grown_bytes": peak.most - before,
    }


if __name__ == "__main__":
    step, where = sys.argv[1:]
    if step == "build":
        build(Path(where))
    else:
        print(json.dumps(measured(Path(where))))
