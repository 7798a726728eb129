"""Two processes at one shard, and readers that were killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitsift.errors import Unavailable
from bitsift.shard_worker.layout import store_folder
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import ShardSettings
from bitsift.write_status import WriteStatus
from tests.crash.documents import upserts
from tests.crash.server import contents
from tests.faults.support import ROOT, open_shard, there
from tests.writing import written

AT_ONCE, DOCUMENTS = 100, 1_000
_READER = """
import lmdb, sys
env = lmdb.open(sys.argv[1], readonly=True, max_dbs=8)
with env.begin() as txn:
    print("reading", txn.id(), flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def running(*command: object) -> Iterator[subprocess.Popen[str]]:
    """A process to talk to, killed by SIGKILL at the end."""
    process = subprocess.Popen(
        [*map(str, command)], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def say(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin and process.stdout
    if line:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


def test_14_the_second_process_at_a_shard_is_refused_and_the_first_is_unharmed(
    folder: Path,
) -> None:
    with running(sys.executable, "-m", "tests.faults.child", folder, "hold") as first:
        assert say(first, "") == "open"
        assert say(first, "a") == "stored a"
        with pytest.raises(Unavailable, match=rf"pid {first.pid}\)"):
            open_shard(folder)
        with pytest.raises(Unavailable):
            open_shard(folder)  # the refusal released nothing
        assert say(first, "b") == "stored b"
    assert there(folder) == {"a": "text of a", "b": "text of b"}


def readers(shard: Shard) -> int:
    """Transactions that LMDB believes to be reading, this process's threads left out."""
    lines = shard._current.store._env._env.readers().splitlines()[1:]
    return sum(1 for line in lines if not line.rstrip().endswith("-") and "(no" not in line)


@pytest.mark.parametrize("rewrites", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_16_killed_readers_are_reaped_and_the_file_stays_bounded(
    folder: Path, rewrites: int
) -> None:
    # The generations before stay open for a while: 100 of them would reserve 100 TB of addresses.
    shard = open_shard(folder, ShardSettings(store_bytes_max=1 << 30))
    names = [str(i) for i in range(DOCUMENTS)]
    for first in range(0, DOCUMENTS, AT_ONCE):
        written(shard, upserts({name: f"0 of {name}" for name in names[first : first + AT_ONCE]}))
    shard.compact()
    with running(sys.executable, "-c", _READER, store_folder(folder)) as reader:
        assert say(reader, "").startswith("reading")
        assert readers(shard) == 1
    assert readers(shard) == 1, "the killed reader left nothing behind"
    shard.maintain()
    assert readers(shard) == 0
    largest = 0
    for batch in range(rewrites // AT_ONCE):
        first = batch * AT_ONCE % DOCUMENTS
        texts = {name: f"{batch + 1} of {name}" for name in names[first : first + AT_ONCE]}
        assert written(shard, upserts(texts)) == [WriteStatus.UPDATED] * AT_ONCE
        shard.maintain()
        data = store_folder(folder) / "data.mdb"
        largest = max(largest, data.stat().st_blocks * 512)
    assert shard.status().generation > rewrites // (4 * DOCUMENTS)
    assert largest < 8 << 20, "1,000 documents of 100 bytes, rewritten again and again"
    found = contents_of(shard)
    assert found["7"] == f"{rewrites // AT_ONCE - DOCUMENTS // AT_ONCE + 1} of 7"
    shard.close()


def contents_of(shard: Shard) -> dict[str, str]:
    written(shard, Delete(["999"]))  # one search returns less than 1,000
    found = contents(shard)
    assert len(found) == DOCUMENTS - 1
    return found
