"""An upgrade is killed again and again, at random instants, and never loses a document.

python -m tests.crash.upgrades [--kills 200]

A golden index in format 1 is upgraded in a process of its own: by what ``bitsift upgrade`` does, or
by compactions of its shards, which take writes meanwhile. The process is killed by SIGKILL, all
that is there is held against what was there before and what was acknowledged since, and it goes on
with the same index until all of it is in format 2; then with a fresh one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import random
import shutil
import signal
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.maintenance.upgrade import format_of, plan_upgrade, upgrade
from bitsift.cluster.maintenance.verify import verify
from bitsift.cluster.manifest import read_manifest
from bitsift.shard_worker.types import Document
from tests.crash.processes import fresh_processes
from tests.golden.make import SHARDS, documents, golden_index
from tests.threads import ended
from tests.writing import written

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "upgrade_kills.json"
_WITHIN_S = 120.0
_NEW_DOCUMENTS = 40
"""Documents that are written while a shard is compacted."""
Contents = dict[str, int]
"""By id a checksum of all that a document is: texts, metadata, code."""


# --- in processes of their own ---------------------------------------------------------------


def by_command(index: Path, begun: Path, _: Path) -> None:
    """What ``bitsift upgrade`` does."""
    begun.touch()
    upgrade(plan_upgrade(index))


def by_compaction(index: Path, begun: Path, ledger: Path) -> None:
    """Compactions of shards that take writes; each that is acknowledged goes into ``ledger``."""
    manifest = read_manifest(index)
    for number in range(SHARDS):
        with open_shard(index, manifest, number) as shard, ledger.open("a") as acknowledged:
            begun.touch()
            plain = documents([0], 9, manifest.calibration)

            def write(number: int = number, plain: Any = plain) -> None:
                for turn in range(_NEW_DOCUMENTS):
                    name = f"new {number} {turn} {time.time_ns()}"
                    written(shard, dataclasses.replace(plain, ids=[name]))
                    acknowledged.write(f"{name}\n")
                    acknowledged.flush()

            writer = threading.Thread(target=write)
            writer.start()
            shard.compact()
            ended(writer)


def tell_contents(index: Path, answer: Path) -> None:
    """Write what is there as JSON to ``answer``."""
    found: Contents = {}
    manifest = read_manifest(index)
    for number in range(SHARDS):
        with open_shard(index, manifest, number) as shard:
            store = shard._current.store
            rows = np.setdiff1d(np.arange(store.rows), store.dead())
            codes, intact = store.reader.read_codes(rows)
            assert intact.all(), "a code is damaged"
            assert len(shard._current.index) == store.rows
            for document, code in zip(store.reader.documents(rows.tolist()), codes, strict=True):
                assert isinstance(document, Document), document
                assert document.id not in found, "one id twice"
                said = [document.title, document.text, document.metadata]
                found[document.id] = zlib.crc32(json.dumps(said).encode() + code.tobytes())
            some = list(found)[:: max(len(found) // 50, 1)]
            assert all(shard.document(name).id == name for name in some if _is_in(shard, name))
    answer.write_text(json.dumps(found))


def _is_in(shard: Any, name: str) -> bool:
    return shard._current.store.find(name) is not None


_WORKS = by_command, by_compaction

# --- the loop --------------------------------------------------------------------------------


class UpgradeLoop:
    """``run`` as many kills as wanted; what was lost is raised as an AssertionError."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._processes = fresh_processes()
        self._lasts_s = dict[Any, float]()
        """How long each takes, as it was last seen to come to its end."""
        self.kills = Counter[str]()
        self.ended = Counter[str]()
        self.formats = Counter[str]()
        """What the shards were in when it was killed."""
        self.documents = 0
        self.acknowledged = 0

    def run(self, kills: int) -> dict[str, Any]:
        """Kill so many times, in turns in ``bitsift upgrade`` and in a compaction; the report."""
        for work in _WORKS:  # to its end, to know how long it takes
            with self._golden() as (index, expected):
                self._live_and_die(index, work, expected, _WITHIN_S)
        while self.kills.total() < kills:
            with self._golden() as (index, expected):
                while self.kills.total() < kills and not self._is_upgraded(index):
                    work = _WORKS[self.kills.total() % 2]
                    within_s = self._random.uniform(0, 1.1 * self._lasts_s[work])
                    self._live_and_die(index, work, expected, within_s)
        return self.report()

    @contextlib.contextmanager
    def _golden(self) -> Iterator[tuple[Path, Contents]]:
        """A fresh index in format 1, and what it holds."""
        index = Path(shutil.copytree(golden_index(1), self._folder / "index"))
        try:
            yield index, self._contents(index)
        finally:
            shutil.rmtree(index)

    def _is_upgraded(self, index: Path) -> bool:
        return all(format_of(index, number).major == 2 for number in range(SHARDS))

    def _live_and_die(self, index: Path, work: Any, expected: Contents, within_s: float) -> None:
        """One life, to its end or its death ``within_s``. What is there then is what must be."""
        begun, ledger = self._folder / "begun", self._folder / "ledger"
        begun.unlink(missing_ok=True)
        ledger.write_text("")
        process = self._processes.Process(target=work, args=(index, begun, ledger), daemon=True)
        process.start()
        self._wait_for(begun, process)
        started = time.monotonic()
        process.join(within_s)
        process.kill()
        ended(process)
        is_done = process.exitcode == 0
        assert is_done or process.exitcode == -signal.SIGKILL, process.exitcode
        if is_done:
            self._lasts_s[work] = time.monotonic() - started
            self.ended[work.__name__] += 1
        else:
            self.kills[work.__name__] += 1
            formats = " and ".join(str(format_of(index, n).major) for n in range(SHARDS))
            self.formats[formats] += 1
        self._check(index, ledger.read_text().splitlines(), expected)
        if is_done:
            assert self._is_upgraded(index)
            assert verify(index).is_sound

    def _wait_for(self, begun: Path, process: Any) -> None:
        deadline = time.monotonic() + _WITHIN_S
        while not begun.exists():
            assert process.is_alive(), f"it ended by {process.exitcode}"
            assert time.monotonic() < deadline, "it did not begin"
            time.sleep(0.001)

    def _check(self, index: Path, acknowledged: list[str], expected: Contents) -> None:
        """All documents of before, all that were acknowledged, and at most one more."""
        found = self._contents(index)
        lost = [name for name in expected if found.get(name) != expected[name]]
        assert not lost, f"lost or changed: {lost[:10]}"
        missing = [name for name in acknowledged if name not in found]
        assert not missing, f"acknowledged and lost: {missing[:10]}"
        more = found.keys() - expected.keys() - set(acknowledged)
        assert len(more) <= 1, f"from nowhere: {sorted(more)[:10]}"
        expected |= found
        self.documents += len(expected)
        self.acknowledged += len(acknowledged)

    def _contents(self, index: Path) -> Contents:
        answer = self._folder / "contents.json"
        answer.unlink(missing_ok=True)
        process = self._processes.Process(target=tell_contents, args=(index, answer), daemon=True)
        process.start()
        process.join(_WITHIN_S)
        assert process.exitcode == 0, f"the index cannot be read: {process.exitcode}"
        found: Contents = json.loads(answer.read_text())
        return found

    def report(self) -> dict[str, Any]:
        return {
            "kills": self.kills.total(),
            "kills_by_work": dict(sorted(self.kills.items())),
            "formats_of_the_shards_then": dict(sorted(self.formats.items())),
            "came_to_their_end": dict(sorted(self.ended.items())),
            "documents_checked": self.documents,
            "documents_lost": 0,
            "acknowledged_meanwhile": self.acknowledged,
            "acknowledged_lost": 0,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.upgrades", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = UpgradeLoop(Path(folder), options.seed).run(options.kills)
    spent = {"seed": options.seed, "seconds": round(time.monotonic() - started, 1)}
    print(json.dumps(write_result(RESULT, {**spent, **found}), indent=2))


if __name__ == "__main__":
    main()
