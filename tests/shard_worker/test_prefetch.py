"""Cold pages are asked for together; what is read stays the same."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shard_worker import store as store_module
from shard_worker.prefetch import will_need
from shard_worker.store import Store
from shard_worker.types import Documents

PAGE = 4096


def resident(mapped: np.memmap, page: int) -> bool:
    """Whether the page cache holds this page of the file."""
    flag = (ctypes.c_ubyte * 1)()
    address = ctypes.c_void_p(mapped.ctypes.data + page * PAGE)
    assert ctypes.CDLL(None).mincore(address, ctypes.c_size_t(PAGE), flag) == 0
    return bool(flag[0] & 1)


def evicted(path: Path) -> np.memmap:
    """The file mapped anew, with none of it in the page cache and no read-ahead."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    mapped._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]
    return mapped


@pytest.fixture
def disk_folder() -> Iterator[Path]:
    """A folder beside the source: /tmp may lie in memory, where nothing is ever cold."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        yield Path(folder)


def test_pages_that_are_asked_for_come_without_being_read(disk_folder: Path) -> None:
    path = disk_folder / "file"
    path.write_bytes(os.urandom(PAGE * 4_000))
    mapped = evicted(path)
    pages = [7, 1_500, 3_999]
    assert not any(resident(mapped, page) for page in pages)
    assert will_need([memoryview(mapped[p * PAGE + 100 : p * PAGE + 1_100]) for p in pages])
    deadline = time.monotonic() + 10
    while not all(resident(mapped, page) for page in pages):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not resident(mapped, 800)


def test_nothing_to_ask_for_is_no_error() -> None:
    will_need([])
    will_need([memoryview(b"")])


def test_a_slow_read_asks_for_all_that_follow_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store", 64)
    codes = np.random.default_rng(0).integers(-128, 128, (3_000, 64), dtype=np.int8)
    names, blank = [str(row) for row in range(3_000)], [""] * 3_000
    store.append(Documents(names, blank, blank, blank, range(3_000), codes), replace=False)
    asked: list[int] = []
    rows = np.array([5, 2_999, 1_000, 7], dtype=np.int64)

    def watched(parts):  # type: ignore[no-untyped-def]
        asked.append(len(parts))
        return will_need(parts)

    monkeypatch.setattr(store_module, "will_need", watched)
    monkeypatch.setattr(store_module, "SLOW_READ_S", 60.0)
    warm, _ = store.read_codes(rows)
    assert asked == []
    monkeypatch.setattr(store_module, "SLOW_READ_S", 0.0)
    found, intact = store.read_codes(rows)
    assert asked == [3]
    assert intact.all()
    np.testing.assert_array_equal(found, codes[rows])
    np.testing.assert_array_equal(found, warm)
    store.close()
