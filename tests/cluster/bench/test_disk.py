from __future__ import annotations

import os
from pathlib import Path

import pytest

from bitsift.cluster.bench.disk import disk_use, drop_from_cache, read_from_disk_bytes, stores_of
from bitsift.cluster.bench.index import write_index
from bitsift.cluster.sources.synthetic import SyntheticSpec

ROWS, DIMENSION = 6_000, 256


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk") / "index"
    write_index(folder, SyntheticSpec(ROWS, DIMENSION), shards=2, texts=["some words " * 20])
    return folder


def test_the_parts_of_an_index_add_up_to_its_files(index: Path) -> None:
    use = disk_use(index)
    files = [path for path in index.glob("shard-*/**/*") if path.is_file()]
    sizes = sum(
        path.stat().st_size for path in files if path.name not in ("lock.mdb", "shard.lock")
    )
    assert use["total"] == sizes
    assert use["without_texts"] == use["total"] - use["documents"]
    assert use["payload"] == use["codes"] + use["bits"]


def test_codes_and_bits_take_little_more_than_their_bytes(index: Path) -> None:
    use = disk_use(index)
    assert ROWS * DIMENSION <= use["codes"] <= 1.06 * ROWS * DIMENSION
    assert ROWS * DIMENSION / 8 <= use["bits"] <= 1.06 * ROWS * DIMENSION / 8


def test_a_store_that_was_dropped_from_the_cache_is_read_from_disk_again(index: Path) -> None:
    for store in stores_of(index):
        store.read_bytes()
    drop_from_cache(index)
    before = read_from_disk_bytes([os.getpid()])
    sizes = [len(store.read_bytes()) for store in stores_of(index)]
    assert len(sizes) == 2
    used = disk_use(index)
    stored = used["total"] - used["free"] - used["bits"]  # the rest is reserved, and was never read
    assert read_from_disk_bytes([os.getpid()]) - before >= 0.9 * stored
