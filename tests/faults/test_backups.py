"""A backup while writing, and a corrupt one. More of it is in tests/cluster."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.maintenance.restore import restore
from bitsift.cluster.maintenance.verify import verify
from bitsift.cluster.manifest import BuildReport, Manifest, write_complete, write_manifest
from bitsift.errors import ChecksumMismatch, InvalidRequest
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.maintenance.backup import Backup, copy_shard
from bitsift.shard_worker.shard import Shard
from tests.crash.documents import CALIBRATION, IDENTITY, upserts
from tests.crash.server import contents
from tests.threads import ended
from tests.writing import written

NAMES = [f"always {i}" for i in range(20)]


@pytest.fixture
def index(tmp_path: Path) -> tuple[Path, Manifest]:
    """A finished index of one shard, without a model."""
    folder = tmp_path / "index"
    folder.mkdir()
    created = "2026-01-01T00:00:00+00:00"
    manifest = Manifest(IDENTITY.index_uuid, "x", created, 1, CALIBRATION, None, {}, 0)
    write_manifest(folder, manifest)
    Shard.create(shard_folder(folder, 0), IDENTITY)
    write_complete(folder, BuildReport(0, 0, 0, 1.0, 0, 0, 0, 0, (0,)))
    return folder, manifest


def write(shard: Shard, round_: int) -> None:
    """All of ``NAMES`` in a new version, and a document that stays: in one transaction."""
    written(
        shard, upserts({name: f"{round_} of {name}" for name in NAMES} | {f"{round_}": "stays"})
    )


def rounds_in(found: dict[str, str]) -> int:
    """How many rounds are there: all of the first so many, and nothing of any other."""
    rounds = sorted(int(name) for name in found if name not in NAMES)
    assert rounds == list(range(len(rounds)))
    assert {found[name] for name in NAMES} == {f"{len(rounds) - 1} of {name}" for name in NAMES}
    return len(rounds)


def test_17_a_backup_while_writing_verifies_and_is_a_committed_prefix(
    index: tuple[Path, Manifest], tmp_path: Path
) -> None:
    folder, manifest = index
    done = threading.Event()
    with open_shard(folder, manifest, 0) as shard:

        def write_on() -> None:
            round_ = 0
            while not done.is_set() and round_ < 900:
                write(shard, round_)
                round_ += 1
                if round_ % 50 == 0:
                    shard.compact()

        writer = threading.Thread(target=write_on)
        writer.start()
        while shard.status().documents < 60:
            pass
        copies = []
        for number in range(3):
            dest = f"{tmp_path}/backup-{number}"
            before = shard.status().documents - len(NAMES)
            Backup(dest, manifest.uuid).finish([copy_shard(shard, dest)])
            copies.append((before, dest, shard.status().documents - len(NAMES)))
        done.set()
        ended(writer)
        assert any(before < after for before, _, after in copies), "nothing was written meanwhile"
    for number, (before, dest, after) in enumerate(copies):
        restored = tmp_path / f"restored-{number}"
        restore(dest, restored)
        assert verify(restored).findings == ()
        with open_shard(restored, manifest, 0) as shard:
            assert before <= rounds_in(contents(shard)) <= after


def test_17_a_corrupt_backup_is_refused_and_the_live_index_stays(
    index: tuple[Path, Manifest], tmp_path: Path
) -> None:
    folder, manifest = index
    dest = tmp_path / "backup"
    with open_shard(folder, manifest, 0) as shard:
        write(shard, 0)
        Backup(str(dest), manifest.uuid).finish([copy_shard(shard, str(dest))])
    block = max((p for p in dest.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(block.read_bytes())
    data[len(data) // 2] ^= 1
    block.write_bytes(data)
    with pytest.raises(ChecksumMismatch):
        restore(str(dest), tmp_path / "restored")
    assert not (tmp_path / "restored").exists()
    with pytest.raises(InvalidRequest):
        restore(str(dest), folder)  # never over a living index
    with open_shard(folder, manifest, 0) as shard:
        assert rounds_in(contents(shard)) == 1
