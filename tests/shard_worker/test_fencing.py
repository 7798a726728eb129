"""Of several starts of a replica only the latest opens it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bitsift.errors import Unavailable
from bitsift.shard_worker.fencing import check_epoch, epoch_file, fence, read_epoch


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
