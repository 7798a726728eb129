"""Of several starts of a replica only the latest opens it."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from bitsift.errors import Fenced, RequestOutcome, Unavailable
from bitsift.shard_worker import fencing
from bitsift.shard_worker.fencing import TableFence, check_epoch, epoch_file, fence, read_epoch
from tests.commands import wait_until


def test_only_the_latest_epoch_may_open(tmp_path: Path) -> None:
    folder = tmp_path / "shard-00003"
    check_epoch(folder, 0)
    fence(folder, 5)
    fence(folder, 5)
    check_epoch(folder, 5)
    with pytest.raises(Unavailable, match="for an actor of epoch 5, this one is of epoch 4"):
        fence(folder, 4)
    for epoch in (0, 4, 6):
        with pytest.raises(Unavailable, match=f"this one is of epoch {epoch}"):
            check_epoch(folder, epoch)


def test_the_epoch_stays_when_the_folder_is_exchanged(tmp_path: Path) -> None:
    folder = tmp_path / "shard-00003"
    folder.mkdir()
    fence(folder, 7)
    shutil.rmtree(folder)
    assert read_epoch(folder) == 7
    assert epoch_file(folder).parent == tmp_path


def test_writes_under_an_older_table_are_refused_through_restarts(tmp_path: Path) -> None:
    folder = tmp_path / "shard-00003"
    first = TableFence.beside(folder)
    for epoch in (0, 4, 4, 6):
        first.admit(epoch)
    for table in (first, TableFence.beside(folder)):
        with pytest.raises(Fenced, match="of epoch 5 is refused: that of epoch 6") as raised:
            table.admit(5)
        assert raised.value.outcome is RequestOutcome.NOT_DONE
        with pytest.raises(Fenced):
            table.check(5)
        for epoch in (0, 6, 7):
            table.check(epoch)
        table.admit(0)  # a bulk load has no table
        table.admit(6)


def test_what_could_not_be_kept_is_not_in_force() -> None:
    def keep(epoch: int) -> None:
        raise OSError("no room")

    table = TableFence(3, keep)
    with pytest.raises(OSError, match="no room"):
        table.admit(4)
    table.admit(3)


def test_a_newer_table_is_in_force_when_writes_under_the_older_one_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, done = TableFence(3, lambda _: None), list[str]()

    def seal() -> None:
        table.admit(4)
        done.append("sealed")

    sealing = threading.Thread(target=seal)
    with table.writing(0), table.writing(3):
        sealing.start()
        assert wait_until(lambda: _refuses(table, 3))
        assert not done
        done.append("written")
    sealing.join(30)
    assert done == ["written", "sealed"]
    monkeypatch.setattr(fencing, "ENDED_S", 0.01)
    with table.writing(4), pytest.raises(Unavailable, match="has not ended yet"):
        table.admit(5)
    with table.writing(0):
        table.admit(6)


def _refuses(table: TableFence, epoch: int) -> bool:
    try:
        table.check(epoch)
    except Fenced:
        return True
    return False


def test_of_two_controllers_that_choose_one_epoch_the_second_is_refused(tmp_path: Path) -> None:
    table = TableFence.beside(tmp_path / "shard-00003")
    table.admit(4, is_new=True)
    with pytest.raises(Fenced):
        table.admit(4, is_new=True)
    table.admit(4)
    table.admit(5, is_new=True)
