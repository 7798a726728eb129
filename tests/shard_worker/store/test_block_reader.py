"""Single codes are read past LMDB: the same bytes, fewer pages, and never a wrong one."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bitsift.shard_worker.operations import Insert
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store import block_reader as blocks_module
from bitsift.shard_worker.store.block_reader import BLOCKS_FILE, BlockReader
from bitsift.shard_worker.store.lmdb_file import DATA_FILE
from bitsift.shard_worker.types import ShardIdentity
from tests.shard_worker.small_shard import flip_a_bit_where

WIDTH = 1_024
IDENTITY = ShardIdentity(str(uuid.UUID(int=7)), 0, 1, WIDTH, WIDTH)
CODES = np.random.default_rng(0).integers(-128, 128, (2_000, WIDTH), dtype=np.int8)
ROWS = np.array([5, 1_999, 1_000, 7, 126, 127, 1_904], dtype=np.int64)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder beside the source: /tmp may lie in memory, where nothing is ever cold."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as name:
        yield Path(name) / "store"


def filled(folder: Path) -> Store:
    store = Store.create(folder, IDENTITY)
    for first in range(0, len(CODES), 300):
        part = CODES[first : first + 300]
        names, blank = [str(first + row) for row in range(len(part))], [""] * len(part)
        batch = Insert(names, blank, blank, blank, range(len(part)), part)
        store.write([batch])
    return store


def read_bytes() -> int:
    """What this process has had read from disks so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))


def forget(folder: Path) -> None:
    """Drop the data file from the page cache."""
    file = os.open(folder / DATA_FILE, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def test_rows_of_full_blocks_and_of_the_last_one_come_back(folder: Path) -> None:
    store = filled(folder)
    codes, intact = store.reader.read_codes(ROWS)
    assert intact.all()
    np.testing.assert_array_equal(codes, CODES[ROWS])
    found = store.reader._blocks.read(np.array([0, 126, 127, 1_904, 1_999]))
    assert found.any(axis=1).tolist() == [True] * 4 + [False]  # 15 x 127 rows; one is in the tail
    store.close()


def test_a_cold_row_costs_a_page_or_two_and_not_its_block(folder: Path) -> None:
    store = filled(folder)
    store.reader.save_hints(folder, store.rows)
    store.close()
    forget(folder)
    store = Store(folder, IDENTITY)
    before = read_bytes()
    rows = np.arange(0, 1_905, 127, dtype=np.int64) + 50  # one of each full block
    codes, intact = store.reader.read_codes(rows)
    read = read_bytes() - before
    assert intact.all()
    np.testing.assert_array_equal(codes, CODES[rows])
    assert len(rows) * 1_024 <= read <= len(rows) * 3 * 4_096  # a whole block has 32 pages
    store.close()


def test_a_slow_read_asks_for_all_that_follow(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(folder)
    asked: list[int] = []
    plain = BlockReader._will_need

    def watched(self, places):  # type: ignore[no-untyped-def]
        asked.append(len(places))
        plain(self, places)

    monkeypatch.setattr(BlockReader, "_will_need", watched)
    monkeypatch.setattr(blocks_module, "SLOW_READ_S", 60.0)
    store.reader.read_codes(ROWS)
    assert asked == []
    monkeypatch.setattr(blocks_module, "SLOW_READ_S", 1e-9)
    codes, _ = store.reader.read_codes(ROWS)
    assert asked == [len(ROWS) - 4]  # four are timed together
    np.testing.assert_array_equal(codes, CODES[ROWS])
    store.close()


@pytest.mark.parametrize("hint", ["missing", "damaged", "of another file", "beyond the end"])
def test_a_wrong_hint_never_gives_a_wrong_code(folder: Path, hint: str) -> None:
    store = filled(folder)
    store.reader.save_hints(folder, store.rows)
    pages = store.reader._blocks._pages.copy()
    store.close()
    path = folder / BLOCKS_FILE
    if hint == "missing":
        path.unlink()
    elif hint == "damaged":
        path.write_bytes(path.read_bytes()[:-3] + b"abc")
    store = Store(folder, IDENTITY)
    if hint == "of another file":
        store.reader._blocks._pages = np.roll(pages, 1)
    elif hint == "beyond the end":
        store.reader._blocks._pages = np.full(len(pages), 1 << 30, dtype=np.uint32)
    for _ in range(2):  # the first read goes through LMDB and learns
        codes, intact = store.reader.read_codes(ROWS)
        assert intact.all()
        np.testing.assert_array_equal(codes, CODES[ROWS])
    assert store.reader._blocks.read(np.array([5])).any()
    store.close()


def test_a_damaged_code_is_reported_whichever_way_it_is_read(folder: Path) -> None:
    store = filled(folder)
    store.reader.save_hints(folder, store.rows)
    store.close()
    flip_a_bit_where(folder / DATA_FILE, CODES[1_000].tobytes())
    store = Store(folder, IDENTITY)
    _, intact = store.reader.read_codes(ROWS)
    assert intact.tolist() == (ROWS != 1_000).tolist()
    store.close()
