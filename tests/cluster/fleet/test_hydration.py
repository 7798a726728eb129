"""A shard is copied block by block: whole and equal or not at all, and never twice."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.fleet.hydration import (
    Blocks,
    CopyProgress,
    FolderBlocks,
    Pace,
    hydrate,
    settle,
)
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.manifest import read_manifest
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.errors import ChecksumMismatch, FormatMismatch, NotFound, StorageFull, Unavailable
from bitsift.shard_worker.layout import SHARD_FILE, FolderLock, shard_folder, store_folder
from bitsift.shard_worker.maintenance.backup import BackupFile
from bitsift.shard_worker.maintenance.repository import BLOCK_BYTES
from bitsift.shard_worker.operations import Upsert
from bitsift.shard_worker.shard import Shard
from tests.foreign import gone_or_changed, put, state
from tests.writing import written

RATE = 1 << 40


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "index"
    write_index(folder, SyntheticSpec(20_000, 256), 2, texts=[f"text {i}" for i in range(500)])
    return folder


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "index"))


def copied(source: Blocks, index: Path, target: Path, rate: int = RATE) -> CopyProgress:
    progress = CopyProgress()
    target.parent.mkdir(parents=True, exist_ok=True)
    hydrate(source, target, read_manifest(index).identity(0), Pace(rate), progress)
    return progress


def ids_of(index: Path, folder: Path) -> set[str]:
    manifest = read_manifest(index)
    shard = Shard(folder, manifest.calibration, manifest.identity(0))
    try:
        with shard._current.reading() as generation:
            rows = range(generation.store.rows)
            return {document.id for document in shard.documents(shard.origin, list(rows))}  # type: ignore[union-attr]
    finally:
        shard.close()


def write_some(index: Path, count: int) -> None:
    manifest = read_manifest(index)
    width = manifest.identity(0).width
    with open_shard(index, manifest, 0) as shard:
        ids = [f"new {number}" for number in range(count)]
        codes = np.ones((count, width), dtype=np.int8)
        batch = Upsert(ids, ids, ids, [""] * count, [-1] * count, codes)
        written(shard, batch)
        shard.save_bits()


class Breaking:
    """A source that is lost after some blocks, and counts what was asked of it."""

    def __init__(self, source: Blocks, after: int) -> None:
        self._source, self._left, self.asked = source, after, 0
        self._lock = threading.Lock()

    def files(self) -> Sequence[BackupFile]:
        return self._source.files()

    def read_block(self, digest: str) -> bytes:
        with self._lock:
            self._left -= 1
            if self._left < 0:
                raise Unavailable("node b cannot be reached")
            self.asked += 1
        return self._source.read_block(digest)

    def close(self) -> None:
        self._source.close()


def test_a_copy_is_equal_and_opens(index: Path, tmp_path: Path) -> None:
    target = tmp_path / "node" / "shard-00000"
    source = FolderBlocks(shard_folder(index, 0))
    progress = copied(source, index, target)
    assert progress.fetched_bytes > BLOCK_BYTES
    assert progress.done_bytes == progress.total_bytes
    for file in source.files():
        assert (target / file.name).read_bytes() == (
            shard_folder(index, 0) / file.name
        ).read_bytes()
    source.close()
    assert ids_of(index, target) == ids_of(index, shard_folder(index, 0))
    assert not (target.parent / "shard-00000.incoming").exists()


def test_an_interrupted_copy_goes_on_where_it_was(index: Path, tmp_path: Path) -> None:
    target = tmp_path / "node" / "shard-00000"
    source = FolderBlocks(shard_folder(index, 0))
    blocks = {digest for file in source.files() for digest in file.blocks}
    first = Breaking(source, 3)
    with pytest.raises(Unavailable, match="node b"):
        copied(first, index, target)
    assert not target.exists()
    assert (target.parent / "shard-00000.incoming").exists()
    second = Breaking(source, 10_000)
    copied(second, index, target)
    assert first.asked == 3
    assert 0 < second.asked <= len(blocks) - 3  # fewer: blocks of other files may be alike


def test_what_a_replica_holds_already_is_not_fetched(index: Path, tmp_path: Path) -> None:
    target = tmp_path / "node" / "shard-00000"
    source = FolderBlocks(shard_folder(index, 0))
    whole = copied(source, index, target).fetched_bytes
    source.close()
    write_some(index, 20)
    source = FolderBlocks(shard_folder(index, 0))
    again = copied(source, index, target).fetched_bytes
    source.close()
    assert 0 < again < whole * 3 / 4  # the pages of the field index are new, too
    found = ids_of(index, target)
    assert {f"new {number}" for number in range(20)} <= found
    assert found == ids_of(index, shard_folder(index, 0))


def test_a_damaged_replica_is_made_whole(index: Path, tmp_path: Path) -> None:
    target = tmp_path / "node" / "shard-00000"
    source = FolderBlocks(shard_folder(index, 0))
    copied(source, index, target)
    (data,) = target.rglob("data.mdb")
    with data.open("r+b") as file:
        file.seek(100_000)
        file.write(b"\xff" * 100)
    assert copied(source, index, target).fetched_bytes == min(BLOCK_BYTES, data.stat().st_size)
    source.close()


def test_a_damaged_block_is_refused_and_the_replica_stays(index: Path, tmp_path: Path) -> None:
    target = tmp_path / "node" / "shard-00000"
    source = FolderBlocks(shard_folder(index, 0))
    (data,) = shard_folder(index, 0).rglob("data.mdb")
    with data.open("r+b") as file:
        file.seek(100_000)
        file.write(b"\xff" * 100)
    with pytest.raises(ChecksumMismatch, match=r"data\.mdb: block .* is damaged"):
        copied(source, index, target)
    assert not target.exists()


def test_another_shard_is_refused(index: Path, tmp_path: Path) -> None:
    source = FolderBlocks(shard_folder(index, 1))
    with pytest.raises(FormatMismatch, match="holds shard 1 of 2"):
        copied(source, index, tmp_path / "shard-00000")


def test_what_somebody_has_open_is_neither_read_nor_replaced(index: Path, tmp_path: Path) -> None:
    target = tmp_path / "node" / "shard-00000"
    source = FolderBlocks(shard_folder(index, 0))
    with pytest.raises(Unavailable, match="is open in another process"):
        FolderBlocks(shard_folder(index, 0))
    copied(source, index, target)
    lock = FolderLock(target)
    with pytest.raises(Unavailable, match="is open in another process"):
        copied(source, index, target)
    lock.release()


def test_what_does_not_fit_is_refused_before_it_is_fetched(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=1_000_000))
    source = Breaking(FolderBlocks(shard_folder(index, 0)), 0)
    with pytest.raises(StorageFull, match=r"0\.0 GB free.*add disk"):
        copied(source, index, tmp_path / "shard-00000")


def test_a_list_that_is_older_than_the_blocks_is_refused(index: Path) -> None:
    source = FolderBlocks(shard_folder(index, 0))
    with pytest.raises(NotFound, match="ask for the list of files again"):
        source.read_block("0" * 64)


def test_an_exchange_that_was_interrupted_is_undone_or_ended(tmp_path: Path) -> None:
    folder, old = tmp_path / "shard-00000", tmp_path / "shard-00000.replaced-0123abcd"
    for there in (False, True):
        old.mkdir()
        (old / SHARD_FILE).write_text("old")
        if there:
            shutil.rmtree(folder)
            folder.mkdir()
        settle(old)
        assert not old.exists()
        assert (folder / SHARD_FILE).exists() is not there


def test_what_somebody_put_into_a_replica_stays_when_it_is_replaced(
    index: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shard-00000"
    shutil.copytree(index / "shard-00000", folder)
    kept = [put(folder / "notes.txt"), put(folder / "bits-2024" / "a.txt")]
    kept.append(put(tmp_path / "shard-00000.old" / "data.mdb"))  # a copy for the case of need
    twice = put(folder / store_folder(folder).name / "notes.txt")
    before = state(*kept, tmp_path / "shard-00000.old")
    manifest = read_manifest(index)
    source = FolderBlocks(index / "shard-00000")
    hydrate(source, folder, manifest.identity(0), Pace(1 << 40), CopyProgress())
    source.close()
    assert gone_or_changed(before, *kept, tmp_path / "shard-00000.old") == []
    (old,) = tmp_path.glob("shard-00000.replaced-*")
    assert [path for path in old.rglob("*") if path.is_file()] == [old / twice.relative_to(folder)]


def test_a_copy_keeps_to_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: 1_000.0)
    monkeypatch.setattr(time, "sleep", slept.append)
    pace = Pace(100)
    for _ in range(5):
        pace.take(50)
    assert slept == pytest.approx([0, 0.25, 0.75, 1.25, 1.75])
