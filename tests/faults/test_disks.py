"""Disks that are full, fail, or take no writes any more."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitsift.errors import RequestOutcome, ShardUnavailable, StorageFull
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.native import kernels
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store import block_reader as blocks
from bitsift.shard_worker.types import Query, ShardSettings
from bitsift.write_status import WriteStatus
from tests.crash.documents import upserts, vectors_of
from tests.crash.server import contents
from tests.faults.support import check_batches, child, new_shard, open_shard, strace, there
from tests.faults.support import stored_by as acknowledged_by
from tests.shard_worker.kernel_ways import going
from tests.writing import written

LONG = os.urandom(20_000).hex()


def fill(shard: Shard, first: int = 0) -> tuple[int, StorageFull]:
    """Batches until one is refused: how many documents there are, and the refusal."""
    stored = first
    while stored < first + 5_000:
        try:
            written(shard, upserts({str(stored + i): f"{stored + i} {LONG}" for i in range(10)}))
        except StorageFull as error:
            return stored, error
        stored += 10
    raise AssertionError("the disk was never full")


def check_full(shard: Shard, stored: int) -> None:
    """Searches and deletes work, all that was acknowledged is there, nothing else is."""
    assert len(contents(shard)) == stored > 0
    (found,) = shard.search(
        [Query(SearchOptions(vector=vectors_of([f"7 {LONG}"])[0], mode=Mode.EXACT))]
    )
    assert shard.documents(found.origin, found.rows.tolist())[0] == shard.document("7")
    ids = [str(i) for i in range(stored)]
    assert set(written(shard, Delete(ids[10:]))) == {WriteStatus.DELETED}
    assert set(contents(shard)) == set(ids[:10])
    assert shard.status().writes_stopped is None


def test_4_a_full_disk_refuses_upserts_and_recovers_when_there_is_room(
    disk: Callable[[str], Path],
) -> None:
    place = disk("24m")
    shard = new_shard(place / "shard")
    ballast = place / "ballast"
    ballast.write_bytes(bytes(8 << 20))
    stored, error = fill(shard)
    free = os.statvfs(place)
    assert free.f_bavail * free.f_frsize < 2 << 20, "the disk was not full"
    assert "add disk space" in error.message
    check_full(shard, stored)
    assert fill(shard, stored)[0] == stored  # still full
    ballast.unlink()
    more, _ = fill(shard, stored)
    assert more > stored
    assert len(contents(shard)) >= more - stored
    shard.close()
    assert len(there(place / "shard")) >= more - stored


def test_4_a_disk_that_is_full_during_a_compaction_keeps_the_old_state(
    disk: Callable[[str], Path],
) -> None:
    place = disk("24m")
    (place / "ballast").write_bytes(bytes(8 << 20))
    shard = new_shard(place / "shard")
    stored, _ = fill(shard)
    written(shard, Delete([str(i) for i in range(10)]))
    with pytest.raises(StorageFull):
        shard.compact()
    assert len(contents(shard)) == stored - 10
    assert [path.name for path in (place / "shard").glob("store*")] == ["store-00000"]
    (place / "ballast").unlink()
    written(shard, Delete([str(i) for i in range(10, stored - 20)]))
    assert shard.compact()  # what lives now fits beside
    assert len(contents(shard)) == 20
    assert fill(shard, stored)[0] > stored
    shard.close()


def test_5_a_map_at_its_cap_is_a_full_disk(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s", ShardSettings(store_bytes_max=16 << 20))
    stored, error = fill(shard)
    assert "beyond the configured 16777216 bytes" in error.message
    assert (tmp_path / "s" / "store-00000" / "data.mdb").stat().st_size <= 16 << 20
    check_full(shard, stored)
    assert shard.compact()
    assert fill(shard, stored)[0] > stored
    shard.close()
    shard = open_shard(tmp_path / "s", ShardSettings(store_bytes_max=32 << 20))
    assert fill(shard, 10_000)[0] > 10_000  # the cap is a setting, not a property of the file
    shard.close()


@pytest.mark.needs("strace")
@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        ("fdatasync:error=EIO:when=6+", "Input/output error"),
        ("fdatasync:error=EIO:when=6", "Input/output error"),  # the next would succeed
        ("fallocate:error=EIO:when=1", "Input/output error"),
        ("writev:error=EIO:when=8", "Input/output error"),
        ("fdatasync,pwrite64,writev,fallocate:error=EROFS:when=25+", "Read-only file system"),
    ],
)
def test_6_and_7_a_disk_that_fails_stops_writes_and_reads_go_on(
    folder: Path, failing: str, reason: str
) -> None:
    done = child(folder, "write", under=strace(failing))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("stored")]
    refused, stopped, read, again = lines
    acknowledged = acknowledged_by(done)
    assert refused.startswith("refused WritesStopped") and reason in refused, refused
    assert reason in stopped and "check the disk" in stopped
    assert read == f"read {5 * len(acknowledged)}"
    assert again.startswith("refused WritesStopped"), again
    assert check_batches(there(folder), acknowledged) == len(acknowledged)


def test_7_a_shard_on_a_read_only_disk_is_not_opened_and_says_why(
    disk: Callable[[str], Path],
) -> None:
    place = disk("8m")
    shard = new_shard(place / "shard")
    written(shard, upserts({"a": "one"}))
    shard.close()
    remount = ["mount", "-o", "remount,ro", str(place)]
    subprocess.run(remount, check=True, timeout=120)
    with pytest.raises(ShardUnavailable, match=r"Read-only file system.*check its disk"):
        open_shard(place / "shard")
    subprocess.run([*remount[:2], "remount,rw", str(place)], check=True, timeout=120)
    assert there(place / "shard") == {"a": "one"}


@pytest.mark.parametrize("way", ["faiss", "best"])
def test_a_disk_that_fails_a_read_is_named_with_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Other shards answer without it; a read has changed nothing."""
    shard = new_shard(folder / "shard")
    written(shard, upserts({"a": "one"}))
    failed: list[int] = []

    def fails(*arguments: object) -> None:
        failed.append(len(arguments))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(blocks.BlockReader, "_positions", lambda self, rows: np.full(len(rows), 1))
    monkeypatch.setattr("os.pread", fails)
    monkeypatch.setattr(kernels, "read", fails)
    with pytest.raises(ShardUnavailable) as raised, going(way):
        shard.search([Query(SearchOptions(vector=vectors_of(["a"])[0], mode=Mode.EXACT))])
    assert failed
    assert "data.mdb cannot be used (Input/output error): check its disk" in raised.value.message
    assert raised.value.outcome is RequestOutcome.NOT_DONE
    monkeypatch.undo()
    assert set(contents(shard)) == {"a"}
    shard.close()
