"""Closing a shard: the directory is let go when nothing here can change it any more."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from bitsift.errors import Unavailable
from bitsift.shard_worker import compaction
from bitsift.shard_worker import shard as shard_module
from bitsift.shard_worker.bits.index import BinaryIndex
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.id_map import StoredIds
from tests.shard_worker.small_shard import batch, contents, new_shard, open_shard
from tests.writing import written

NAMES = [str(i) for i in range(50)]


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    """A shard with something to compact."""
    made = new_shard(tmp_path / "s")
    written(made, batch(NAMES, NAMES))
    written(made, Delete(NAMES[:10]))
    return made


class Held:
    """A method that waits in the middle of a thread's work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        plain = getattr(owner, name)

        def waits(*arguments: Any, **named: Any) -> Any:
            self.reached.set()
            assert self.go_on.wait(30)
            return plain(*arguments, **named)

        monkeypatch.setattr(owner, name, waits)


def working(work: Any) -> tuple[threading.Thread, list[BaseException]]:
    raised = list[BaseException]()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def test_a_second_opener_never_meets_a_compaction(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_module, "CLOSE_WAIT_S", 0.2)
    copying = Held(monkeypatch, StoredIds, "fill")
    thread, raised = working(shard.compact)
    assert copying.reached.wait(30)
    shard.close()
    with pytest.raises(Unavailable, match="is open in another process"):
        open_shard(shard.folder)
    copying.go_on.set()
    thread.join(30)
    assert isinstance(raised[0], Unavailable), "the compaction ended for the shard is closed"
    assert [path.name for path in shard.folder.glob("store*")] == ["store-00000"]
    shard.close()
    other = open_shard(shard.folder)
    assert set(contents(other)) == set(NAMES[10:])
    other.close()


def test_closing_waits_for_a_compaction_at_its_end(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = Held(monkeypatch, compaction, "renamed_over")
    compacting, raised = working(shard.compact)
    assert ending.reached.wait(30)
    closing, _ = working(shard.close)
    with pytest.raises(Unavailable):
        open_shard(shard.folder)
    ending.go_on.set()
    compacting.join(30)
    closing.join(30)
    assert not raised
    other = open_shard(shard.folder)
    assert other.status().generation == 1
    assert set(contents(other)) == set(NAMES[10:])
    other.close()


def test_closing_waits_for_a_write_and_refuses_those_behind_it(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Held(monkeypatch, BinaryIndex, "apply")
    first, raised_first = working(lambda: written(shard, batch(["first"], ["first"])))
    assert writing.reached.wait(30)
    second, raised_second = working(lambda: written(shard, batch(["second"], ["second"])))
    closing, _ = working(shard.close)
    while not shard._generations.is_closed:
        pass
    with pytest.raises(Unavailable):
        open_shard(shard.folder)
    writing.go_on.set()
    for thread in (first, second, closing):
        thread.join(30)
    assert not raised_first
    assert isinstance(raised_second[0], Unavailable)
    other = open_shard(shard.folder)
    assert set(contents(other)) == {*NAMES[10:], "first"}
    other.close()


def test_a_closed_shard_refuses_everything_and_harms_no_other(shard: Shard) -> None:
    shard.close()
    other = open_shard(shard.folder)
    shard.close()  # a second time: the other's lock stays
    with pytest.raises(Unavailable):
        open_shard(shard.folder)
    for task in (shard.compact, shard.save_bits, shard.train, shard.maintain):
        with pytest.raises(Unavailable, match="is closed"):
            task()
    with pytest.raises(Unavailable, match="is closed"):
        written(shard, batch(["x"], ["x"]))
    with pytest.raises(Unavailable, match="closed"):
        shard.document("20")
    with pytest.raises(Unavailable, match="closed"), shard.snapshot():
        pass
    assert set(contents(other)) == set(NAMES[10:])
    assert written(other, batch(["x"], ["x"]))
    other.close()


def test_a_backup_that_reads_does_not_keep_the_directory(shard: Shard) -> None:
    with shard.snapshot() as snapshot:
        shard.close()
        target = shard.folder.parent / "copy"
        with target.open("wb") as file:
            snapshot.copy_data(file.fileno())
        assert target.stat().st_size > 0
    other = open_shard(shard.folder)
    assert set(contents(other)) == set(NAMES[10:])
    other.close()
