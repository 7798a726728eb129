"""Between a commit and the RAM that follows it: nothing is skipped, or writes stop and say so."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsift.errors import NotFound, RequestOutcome, Unavailable, WritesStopped
from bitsift.options import Mode
from bitsift.shard_worker import compaction, generation
from bitsift.shard_worker.bits import lists
from bitsift.shard_worker.bits.index import BinaryIndex
from bitsift.shard_worker.bits.parts import Parts
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.block_reader import BlockReader
from bitsift.shard_worker.store.commits import Commits
from bitsift.shard_worker.store.ids import IdMap
from bitsift.write_status import WriteStatus
from tests.shard_worker.small_shard import batch, best_of, contents, new_shard, open_shard
from tests.writing import written

Fail = Callable[..., Any]


def fails_with(error: BaseException) -> Fail:
    def fails(*_: object, **__: object) -> None:
        raise error

    return fails


def add(shard: Shard, *names: str) -> list[WriteStatus]:
    return written(shard, batch(names, [f"text of {name}" for name in names]))


def almost_a_block(folder: Path) -> tuple[Shard, int]:
    """A shard whose next batch of eight fills a block, and how many rows it has."""
    shard = new_shard(folder)
    rows = shard._current.store.reader.block_rows - 4
    add(shard, *(str(i) for i in range(rows)))
    return shard, rows


def bits_files(shard: Shard) -> set[Path]:
    return set(shard.folder.glob("bits-*"))


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (os, "pread", OSError(errno.EIO, "Input/output error")),
        (BlockReader, "learn", MemoryError()),
    ],
)
def test_a_hint_that_cannot_be_read_after_a_commit_is_no_error_of_the_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: BaseException
) -> None:
    shard, rows = almost_a_block(tmp_path / "s")
    names, fired = [f"a{i}" for i in range(8)], []

    def fails(*_: object) -> None:
        fired.append(1)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fails)
        assert add(shard, *names) == [WriteStatus.CREATED] * 8
        assert fired, "no hint was to be learnt"
    assert add(shard, "later") == [WriteStatus.CREATED]
    assert len(shard._current.index) == shard.status().rows == rows + 9
    for _ in range(2):
        for mode in Mode:
            for document in (*names, "later", "7"):
                assert best_of(shard, f"text of {document}", mode).id == document
        shard.save_bits()
        shard.close()
        shard = open_shard(tmp_path / "s")
    shard.close()


@pytest.mark.parametrize(
    ("owner", "name"), [(IdMap, "add"), (BinaryIndex, "apply"), (Parts, "without")]
)
@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EIO, "x"), KeyboardInterrupt()])
def test_ram_that_cannot_follow_a_commit_stops_writes_until_a_restart(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    error: BaseException,
) -> None:
    shard = new_shard(tmp_path / "s")
    add(shard, "a", "b")
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fails_with(error))
        with pytest.raises(WritesStopped, match=type(error).__name__) as raised:
            written(shard, batch(["a", "c"], ["another text of a", "text of c"]))
        assert raised.value.outcome is RequestOutcome.UNKNOWN
    with pytest.raises(WritesStopped, match="restart") as raised:
        add(shard, "d")
    assert raised.value.outcome is RequestOutcome.NOT_DONE
    assert best_of(shard, "text of b").id == "b"
    with pytest.raises(NotFound):
        shard.document("never stored")  # a lookup does not wait for what does not come
    with pytest.raises(WritesStopped):
        shard.save_bits()
    shard.close()
    shard = open_shard(tmp_path / "s")
    texts = {"a": "another text of a", "b": "text of b", "c": "text of c"}
    assert contents(shard) == texts  # it was durable, though nobody was told
    assert add(shard, "d") == [WriteStatus.CREATED]
    shard.close()


def test_a_commit_that_nothing_followed_is_noticed_by_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an interrupt in the instant after LMDB's commit would leave it."""
    shard = new_shard(tmp_path / "s")
    add(shard, "a")

    def commits_only(self: Commits, txn: Any, counters: Any, then: Any = None) -> None:
        self._put(txn, counters)
        txn.commit()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Commits, "commit", commits_only)
        with pytest.raises(KeyboardInterrupt):
            add(shard, "b")
    with pytest.raises(WritesStopped, match="the disk and RAM disagree about the rows"):
        add(shard, "c")
    shard.close()
    shard = open_shard(tmp_path / "s")
    assert set(contents(shard)) == {"a", "b"}
    shard.close()


@pytest.mark.parametrize("maintain", [Shard.save_bits, Shard.train, Shard.compact])
def test_bits_of_other_rows_than_the_stores_stop_writes_and_never_become_a_snapshot(
    tmp_path: Path, maintain: Callable[[Shard], object]
) -> None:
    shard = new_shard(tmp_path / "s")
    add(shard, "a", "b")
    add(shard, "a")
    written(shard, Delete(["b"]))
    add(shard, "c")
    shard.save_bits()
    index = shard._current.index
    index.add(np.zeros((1, index.row_bytes), dtype=np.uint8))  # the breach
    files = {path: path.read_bytes() for path in bits_files(shard)}
    with pytest.raises(WritesStopped, match="bits of 4 rows, the store has 3 rows"):
        maintain(shard)
    with pytest.raises(WritesStopped):
        add(shard, "d")
    assert {path: path.read_bytes() for path in bits_files(shard)} == files
    shard.close()
    shard = open_shard(tmp_path / "s")
    assert set(contents(shard)) == {"a", "c"}
    add(shard, "d")
    assert best_of(shard, "text of d").id == "d"
    shard.close()


def test_a_breach_before_a_write_refuses_it_and_says_so(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    add(shard, "a")
    index = shard._current.index
    index.add(np.zeros((1, index.row_bytes), dtype=np.uint8))
    with pytest.raises(WritesStopped, match="bits of 2 rows, the store has 1 rows"):
        add(shard, "b")
    assert "bits of 2 rows" in (shard.status().writes_stopped or "")
    shard.close()
    shard = open_shard(tmp_path / "s")
    assert set(contents(shard)) == {"a"}, "refused, and yet there"
    shard.close()


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_ids_that_ram_does_not_follow_into_the_database_stop_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    shard = new_shard(tmp_path / "s")
    add(shard, "a", "b")
    with monkeypatch.context() as patched:
        patched.setattr(IdMap, "_merged", fails_with(error))
        with pytest.raises(WritesStopped):
            shard.save_bits()
    with pytest.raises(WritesStopped):
        add(shard, "c")
    assert shard.document("a").text == "text of a"
    shard.close()
    shard = open_shard(tmp_path / "s")
    assert shard._current.store.ids_are_intact()
    assert set(contents(shard)) == {"a", "b"}
    shard.close()


def test_ids_that_cannot_be_merged_after_a_write_are_no_error_of_the_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "PENDING_MAX", 2)
    shard = new_shard(tmp_path / "s")
    with monkeypatch.context() as patched:
        patched.setattr(IdMap, "_merge_part", fails_with(MemoryError()))
        assert add(shard, "a", "b") == [WriteStatus.CREATED] * 2
    assert add(shard, "c") == [WriteStatus.CREATED]
    assert shard._current.store.pending_ids == 0
    assert set(contents(shard)) == {"a", "b", "c"}
    shard.close()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), MemoryError(), KeyboardInterrupt()])
def test_a_compaction_that_is_renamed_and_not_safe_is_taken_and_stops_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    shard = new_shard(tmp_path / "s")
    add(shard, "a", "b", "c")
    written(shard, Delete(["b"]))
    with monkeypatch.context() as patched:
        patched.setattr(compaction, "sync_folder", fails_with(error))
        assert shard.compact()
    with pytest.raises(WritesStopped, match="may not be durable"):
        add(shard, "d")
    assert set(contents(shard)) == {"a", "c"}
    shard.close()
    shard = open_shard(tmp_path / "s")
    assert set(contents(shard)) == {"a", "c"}
    assert add(shard, "d") == [WriteStatus.CREATED]
    shard.close()


def test_nothing_is_written_to_a_store_whose_file_a_compaction_has_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an interrupt between the rename and the swap in RAM would leave it."""
    shard = new_shard(tmp_path / "s")
    add(shard, "a", "b", "c")
    written(shard, Delete(["b"]))
    plain = compaction.Compaction.finish

    def interrupted(self: compaction.Compaction) -> None:
        plain(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(compaction.Compaction, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shard.compact()
    with pytest.raises(WritesStopped):
        add(shard, "d")  # would be gone with this process
    assert set(contents(shard)) == {"a", "c"}
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    copied = open_shard(tmp_path / "copy")  # as the next process would find it
    assert set(contents(copied)) == {"a", "c"}
    copied.close()
    shard.close()


def test_a_compaction_that_copied_too_few_rows_does_not_take_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = new_shard(tmp_path / "s")
    add(shard, "a", "b", "c")
    written(shard, Delete(["b"]))
    plain = compaction.Compaction._copy_rows

    def loses_one(self: Any, living: Any, chunk: Any, with_bits: bool) -> None:
        plain(self, living[:-1], chunk, with_bits)

    with monkeypatch.context() as patched:
        patched.setattr(compaction.Compaction, "_copy_rows", loses_one)
        with pytest.raises(WritesStopped, match="1 documents, 2 were to be copied"):
            shard.compact()
    assert shard.status().writes_stopped is None, "the old generation stands"
    assert add(shard, "d") == [WriteStatus.CREATED]
    assert set(contents(shard)) == {"a", "c", "d"}
    assert shard.compact()
    assert set(contents(shard)) == {"a", "c", "d"}
    shard.close()


def test_the_environment_does_not_choose_the_format_of_a_store(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from bitsift.shard_worker.operations import Delete
from tests.shard_worker.store.test_breach import add, contents, new_shard, open_shard
from tests.writing import written
shard = new_shard(Path(sys.argv[1]))
add(shard, "a", "b")
written(shard, Delete(["b"]))
assert shard.compact()
shard.close()
assert set(contents(open_shard(Path(sys.argv[1])))) == {"a"}
"""
    environment = {**os.environ, "LMDB_DEFAULT_LIB_VERSION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "s"], env=environment, timeout=120, check=False,
        cwd=Path(__file__).parents[3], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shard = open_shard(tmp_path / "s")
    assert set(contents(shard)) == {"a"}
    shard.close()


def test_a_write_that_changes_nothing_leaves_no_transaction(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    add(shard, "a")
    counters = shard._current.store.counters
    assert add(shard, "a") == [WriteStatus.UNCHANGED]
    assert written(shard, Delete(["b"])) == [WriteStatus.MISSING]
    assert dataclasses.asdict(shard._current.store.counters) == dataclasses.asdict(counters)
    shard.close()


def test_lists_that_are_renamed_and_not_synced_are_kept_by_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = new_shard(tmp_path / "s")
    add(shard, *(str(i) for i in range(40)))
    shard.train()
    written(shard, Delete(["0"]))
    with monkeypatch.context() as patched:
        patched.setattr(lists, "sync_folder", fails_with(OSError(errno.EIO, "x")))
        with pytest.raises(Unavailable):
            shard.compact()
    shard.save_bits()
    shard.close()
    shard = open_shard(tmp_path / "s")
    listed = shard._current.index.listed
    assert set(contents(shard)) == {str(i) for i in range(1, 40)}
    shard.close()
    assert listed is not None and len(listed) == 39
