"""Of several actors that were started for one replica only the latest may open it.

Ray starts an actor again by itself, minutes later perhaps, on a node that was cut off. Each start
of a replica has an epoch, greater than those before, which is written beside its folder first:

    shard-00003.epoch.json    {"epoch": 17}

An actor of another epoch opens nothing, and closes what it has. It lies beside the folder, for a
copy of the shard takes the folder's place.
"""

from __future__ import annotations

from pathlib import Path

from bitsift.errors import NotFound, Unavailable
from bitsift.shard_worker.layout import read_json, write_json


def epoch_file(folder: Path) -> Path:
    """Where the epoch of the replica in ``folder`` stands."""
    return folder.with_name(f"{folder.name}.epoch.json")


def read_epoch(folder: Path) -> int:
    """The latest epoch that the replica in ``folder`` was given; 0: none. Raises Corrupt."""
    try:
        return int(read_json(epoch_file(folder))["epoch"])
    except NotFound:
        return 0


def fence(folder: Path, epoch: int) -> None:
    """From now on actors of ``epoch`` alone may open the replica. Raises as ``check_epoch``."""
    latest = read_epoch(folder)
    if epoch < latest:
        raise _late(folder, epoch, latest)
    if epoch > latest:
        write_json(epoch_file(folder), {"epoch": epoch})


def check_epoch(folder: Path, epoch: int) -> None:
    """Raises Unavailable where a later actor was started for the replica in ``folder``."""
    latest = read_epoch(folder)
    if epoch != latest:
        raise _late(folder, epoch, latest)


def _late(folder: Path, epoch: int, latest: int) -> Unavailable:
    return Unavailable(
        f"{folder} is for an actor of epoch {latest}, this one is of epoch {epoch}: "
        "the controller has started another, and ends this one"
    )
