"""Each document has the version of the write that stored it, whatever happens to its row."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.errors import ChecksumMismatch, Unavailable
from bitsift.shard_worker.clock import HybridClock, milliseconds_of, version_at
from bitsift.shard_worker.maintenance.verify import verify_shard
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.versions import (
    pack_block,
    pack_waiting,
    unpack_block,
    unpack_waiting,
)
from bitsift.write_status import WriteStatus
from tests.shard_worker.small_shard import (
    CALIBRATION,
    IDENTITY,
    batch,
    contents,
    flip_a_bit_where,
    new_shard,
    open_shard,
)
from tests.writing import written

versions_ = st.integers(0, (1 << 63) - 1)


@given(st.lists(versions_, min_size=1, max_size=300), st.integers(0, 1 << 40))
def test_versions_of_a_block_come_back_in_whatever_order_they_are(
    given_: list[int], block: int
) -> None:
    packed = pack_block(np.array(given_, dtype=np.uint64), block)
    assert unpack_block(packed, block, len(given_)).tolist() == given_
    for wrong in (packed[:-1], packed[:-1] + bytes([packed[-1] ^ 1]), b""):
        with pytest.raises(ChecksumMismatch):
            unpack_block(wrong, block, len(given_))
    with pytest.raises(ChecksumMismatch):
        unpack_block(packed, block + 1, len(given_))
    with pytest.raises(ChecksumMismatch):
        unpack_block(packed, block, len(given_) + 1)


@given(versions_, st.integers(0, 1 << 40))
def test_a_version_that_waits_comes_back(version: int, row: int) -> None:
    (packed,) = pack_waiting(np.array([version], dtype=np.uint64), row)
    assert unpack_waiting(packed, row) == version
    with pytest.raises(ChecksumMismatch):
        unpack_waiting(packed, row + 1)
    with pytest.raises(ChecksumMismatch):
        unpack_waiting(packed[1:], row)


def test_a_version_takes_a_fraction_of_its_eight_bytes() -> None:
    rows, now = 127, 1_800_000_000_000
    loaded = np.full(rows, version_at(now), dtype=np.uint64)
    steps = np.random.default_rng(0).integers(1, 200, rows)  # ms from write to write
    one_by_one = (now + np.cumsum(steps)).astype(np.uint64) << np.uint64(16)
    assert len(pack_block(loaded, 7)) <= 40
    assert len(pack_block(one_by_one, 7)) < 2 * rows


def versions_of(shard: Shard, *ids: str) -> list[int | None]:
    return shard._current.store.versions_of(ids)


def test_each_write_gives_its_documents_a_newer_version(tmp_path: Path) -> None:
    before_ms = int(time.time() * 1e3)
    shard = new_shard(tmp_path / "s")
    names = [str(i) for i in range(shard._current.store.reader.block_rows + 7)]
    written(shard, batch(names, names))
    loaded = versions_of(shard, *names)
    assert len(set(loaded)) == 1, "one write, one version"
    assert before_ms <= milliseconds_of(loaded[0] or 0) <= int(time.time() * 1e3)
    written(shard, batch(["0"], ["other"]))
    newer, *rest = versions_of(shard, *names)
    assert newer is not None
    assert newer > (loaded[0] or 0)
    assert rest == loaded[1:]
    written(shard, batch(["0"], ["other"]))
    assert versions_of(shard, "0", "none") == [newer, None], "nothing was written"
    shard.close()
    shard = open_shard(tmp_path / "s")
    assert versions_of(shard, *names) == [newer, *rest]
    shard.close()


def test_a_version_that_a_write_brings_is_kept_and_later_ones_are_greater(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    ahead = version_at(int(time.time() * 1e3) + 60_000)
    a, b = batch(["a"], ["a"]), batch(["b"], ["b"])
    shard.write([dataclasses.replace(a, version=ahead), dataclasses.replace(b, version=7)])
    assert versions_of(shard, "a", "b") == [ahead, 7]
    written(shard, batch(["c"], ["c"]))
    assert (versions_of(shard, "c")[0] or 0) > ahead
    shard.write([Delete(["b"], version=ahead + 9), Delete(["a"])])
    (later,) = versions_of(shard, "a")
    assert versions_of(shard, "b") == [ahead + 9]
    assert (later or 0) > ahead + 1
    assert shard.newest_version >= ahead + 9
    shard.close()
    shard = open_shard(tmp_path / "s")
    written(shard, batch(["d"], ["d"]))
    assert (versions_of(shard, "d")[0] or 0) > ahead + 9
    shard.close()


def test_a_write_from_too_far_ahead_is_refused_alone(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    a, b = batch(["a"], ["a"]), batch(["b"], ["b"])
    year_3000 = version_at(32_503_680_000_000)
    refused, done = shard.write([dataclasses.replace(a, version=year_3000), b])
    assert isinstance(refused, Unavailable)
    assert done == [WriteStatus.CREATED]
    assert (versions_of(shard, "b")[0] or 0) < year_3000
    shard.close()


def test_a_version_stays_through_blocks_compactions_and_restarts(tmp_path: Path) -> None:
    shard, expected = new_shard(tmp_path / "s"), dict[str, int | None]()
    size = shard._current.store.reader.block_rows
    for first in range(0, 3 * size, size // 4):  # blocks of several writes, and a tail
        names = [str(i) for i in range(first, first + size // 4)]
        written(shard, batch(names, names))
        expected |= dict(zip(names, versions_of(shard, *names), strict=True))
    assert len(set(expected.values())) == 12
    written(shard, Delete([str(i) for i in range(0, 3 * size, 7)]))
    for _ in range(2):
        living = [name for number, name in enumerate(expected) if number % 7]
        assert versions_of(shard, *living) == [expected[name] for name in living]
        shard.compact()
        shard.close()
        shard = open_shard(tmp_path / "s")
    shard.close()


def test_versions_grow_when_the_wall_clock_was_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = new_shard(tmp_path / "s")
    written(shard, batch(["a"], ["one"]))
    (first,) = versions_of(shard, "a")
    shard.close()
    with monkeypatch.context() as patched:
        patched.setattr(HybridClock, "_wall_ms", lambda _: 1_000_000_000_000)
        shard = open_shard(tmp_path / "s")
        written(shard, batch(["a"], ["two"]))
        written(shard, Delete(["b"]))
        shard.compact()
        written(shard, batch(["a"], ["three"]))
        (last,) = versions_of(shard, "a")
    assert first is not None
    assert last == first + 3, "a tick for each write, though one of them changed nothing"
    shard.close()


@pytest.mark.parametrize("where", ["block", "tail"])
def test_a_damaged_version_is_older_than_any_and_is_reported(tmp_path: Path, where: str) -> None:
    shard = new_shard(tmp_path / "s")
    size = shard._current.store.reader.block_rows
    names = [str(i) for i in range(size if where == "block" else 3)]
    written(shard, batch(names, names))
    (version,) = set(versions_of(shard, *names))
    texts = contents(shard) if where == "tail" else {}
    shard.close()
    value = pack_block(np.full(size, version, dtype=np.uint64), 0)
    if where == "tail":
        (value,) = pack_waiting(np.array([version], dtype=np.uint64), 1)
    flip_a_bit_where(tmp_path / "s" / "store-00000" / "data.mdb", value)
    findings = verify_shard(tmp_path / "s", IDENTITY, CALIBRATION, lambda _, __: None)
    assert {finding.problem for finding in findings} == {"the version of a row is damaged"}
    assert sum(finding.count for finding in findings) == (size if where == "block" else 1)
    with contextlib.closing(open_shard(tmp_path / "s")) as shard:
        assert versions_of(shard, "1") == [0]
        assert contents(shard) == texts or where == "block"
        written(shard, batch(["1"], ["again"]))
        assert (versions_of(shard, "1")[0] or 0) > (version or 0)
