"""An environment that LMDB gives up on, by a meta page that cannot be written: reads go on."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

import pytest

from bitsift.errors import RequestOutcome, Unavailable, WritesStopped
from bitsift.options import Mode
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store import environment
from bitsift.shard_worker.store.environment import READERS_MAX
from tests.shard_worker.small_shard import batch, best_of, contents, new_shard, open_shard
from tests.writing import written

NAMES = [str(i) for i in range(30)]


def take_meta_pages_away(data: Path) -> None:
    """Let the descriptor that LMDB writes meta pages with be one that only reads."""
    taken = 0
    with data.open("rb") as only_reads:
        for entry in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                is_data = Path(f"/proc/self/fd/{entry}").readlink() == data
                if is_data and fcntl.fcntl(int(entry), fcntl.F_GETFL) & os.O_DSYNC:
                    os.dup2(only_reads.fileno(), int(entry))
                    taken += 1
    assert taken == 1, "LMDB has no descriptor for its meta pages"


@pytest.fixture
def broken(tmp_path: Path) -> Shard:
    """A shard that met the failure in its last write."""
    shard = new_shard(tmp_path / "s")
    written(shard, batch(NAMES, NAMES))
    take_meta_pages_away(tmp_path / "s" / "store-00000" / "data.mdb")
    with pytest.raises(
        WritesStopped, match="Only then is it known whether this write was done"
    ) as raised:
        written(shard, batch(["0", "doubtful"], ["another", "doubtful"]))
    assert raised.value.outcome is RequestOutcome.UNKNOWN
    return shard


def test_reads_go_on_where_lmdb_gives_up(broken: Shard, tmp_path: Path) -> None:
    for mode in Mode:
        assert best_of(broken, "7", mode).id == "7"
    assert broken.document("7").text == "7"
    assert set(NAMES) <= {*contents(broken), "0"}
    assert broken.foresee([Delete(["7", "never stored"])]) == [["deleted", "missing"]]
    with broken.snapshot() as snapshot, (tmp_path / "copy").open("wb") as file:
        snapshot.copy_data(file.fileno())
    assert (tmp_path / "copy").stat().st_size > 0
    with pytest.raises(WritesStopped) as raised:
        written(broken, batch(["more"], ["more"]))
    assert raised.value.outcome is RequestOutcome.NOT_DONE
    broken.close()
    shard = open_shard(tmp_path / "s")
    found = contents(shard)
    assert found in (
        dict(zip(NAMES, NAMES, strict=True)),
        dict(zip(NAMES, NAMES, strict=True)) | {"0": "another", "doubtful": "doubtful"},
    )
    written(shard, batch(["more"], ["more"]))
    shard.close()


def test_it_is_not_taken_from_under_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "REOPEN_WAIT_S", 0.2)
    shard = new_shard(tmp_path / "s")
    written(shard, batch(NAMES, NAMES))
    with shard._current.store._env.begin() as reading:
        take_meta_pages_away(tmp_path / "s" / "store-00000" / "data.mdb")
        with pytest.raises(WritesStopped):
            written(shard, batch(["doubtful"], ["doubtful"]))
        with pytest.raises(Unavailable, match="is in use"):
            shard.document("7")
        assert reading.stat()["entries"] > 0
    assert shard.document("7").text == "7"
    shard.close()


def test_there_are_so_many_readers_at_once_and_no_more(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    written(shard, batch(NAMES, NAMES))
    with contextlib.ExitStack() as readers:
        for _ in range(READERS_MAX):
            readers.enter_context(shard._current.store._env.begin())
        with pytest.raises(Unavailable, match=f"{READERS_MAX} readers"):
            shard.document("7")
    assert shard.document("7").text == "7"
    shard.close()
