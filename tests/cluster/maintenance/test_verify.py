"""`bitsift verify`: whole indexes, shards checked in processes of their own, the command itself."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.maintenance import verify as module
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.maintenance.verify import verify
from bitsift.cluster.manifest import read_manifest
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.errors import NotFound, Unavailable
from bitsift.shard_worker.layout import COMPLETE_FILE, MANIFEST_FILE
from bitsift.shard_worker.maintenance.findings import Remedy

SPEC = SyntheticSpec(6_000, 64)
SHARDS = 3


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "index"
    write_index(folder, SPEC, SHARDS, texts=[f"some words {i}" for i in range(100)])
    return folder


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "index"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def send_behind_the_end(path: Path) -> None:
    """Let the last block of codes lie on the last page of the file: reading it runs off the end.

    A leaf node is: sizes, flags (1: the value is on pages of its own), key size 8, key, page.
    """
    data = path.read_bytes()
    nodes = re.finditer(b"....\x01\0\x08\0" + b"\0{6}..(.{8})", data, re.DOTALL)
    pages = {node.start(1): struct.unpack("<Q", node[1])[0] for node in nodes}
    last = max(page for page in pages.values() if page < len(data) // 4096)
    changed = bytearray(data)
    committed = 1 + max(
        struct.unpack_from("<Q", data, 16 + 120 + 4096 * meta)[0] for meta in (0, 1)
    )
    for at, page in pages.items():
        if page == last:
            struct.pack_into("<Q", changed, at, committed - 1)
    path.write_bytes(changed[: committed * 4096])


def test_a_sound_index_is_counted_and_progress_ends_where_it_said(index: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(index, on_rows=lambda done, total: seen.append((done, total)))
    assert report.is_sound
    assert (report.shards, report.rows, report.repaired) == (SHARDS, SPEC.rows, ())
    assert seen[-1] == (2 * SPEC.rows, 2 * SPEC.rows)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_each_shard_is_checked_whatever_befell_the_others(index: Path) -> None:
    flip(index / "shard-00000" / "bits-00000.bits", 500)
    (index / "shard-00001" / "store-00000" / "data.mdb").write_bytes(b"")
    found = {finding.file: finding for finding in verify(index).findings}
    assert {name: (f.shard, f.remedy) for name, f in found.items()} == {
        "shard-00000/bits-00000.bits": (0, Remedy.REPAIR),
        "shard-00001/store-00000/data.mdb": (1, Remedy.RESTORE),
    }


def test_shards_that_say_nothing_are_given_up(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_MAX_S", 0.0)
    with pytest.raises(Unavailable, match=r"nothing was heard of .*shard-0000"):
        verify(index)
    assert not multiprocessing.active_children()


def test_a_store_that_kills_who_reads_it_is_a_finding(index: Path) -> None:
    send_behind_the_end(index / "shard-00001" / "store-00000" / "data.mdb")
    (finding,) = verify(index).findings
    assert re.search(r"killed the process \(SIG(BUS|SEGV)\)", finding.problem)
    assert (finding.shard, finding.remedy) == (1, Remedy.RESTORE)


def test_repair_mends_what_is_derived_and_leaves_the_rest_to_a_backup(index: Path) -> None:
    flip(index / "shard-00000" / "bits-00000.bits", 500)
    flip(index / "shard-00002" / "shard.json", 60)
    report = verify(index, repair=True)
    assert report.repaired == ("shard-00000: rebuilt the bits from the codes",)
    assert [finding.file for finding in report.findings] == ["shard-00002/shard.json"]
    assert [finding.file for finding in verify(index).findings] == ["shard-00002/shard.json"]


def test_swapped_shards_are_named(index: Path) -> None:
    (index / "shard-00000").rename(index / "aside")
    (index / "shard-00001").rename(index / "shard-00000")
    (index / "aside").rename(index / "shard-00001")
    report = verify(index)
    assert [finding.file for finding in report.findings] == [
        "shard-00000/shard.json", "shard-00001/shard.json"
    ]  # fmt: skip
    assert "holds shard 1" in report.findings[0].problem


@pytest.mark.parametrize("name", [MANIFEST_FILE, COMPLETE_FILE])
def test_damaged_files_of_the_index_itself_are_named(index: Path, name: str) -> None:
    path = index / name
    path.write_bytes(
        path.read_bytes().replace(b"documents", b"documemts").replace(b"name", b"mame")
    )
    (finding,) = verify(index).findings
    assert (finding.shard, finding.file, finding.remedy) == (None, name, Remedy.RESTORE)


def test_what_is_no_index_or_not_finished_or_running_is_refused(index: Path) -> None:
    with pytest.raises(NotFound, match="not an index"):
        verify(index.parent)
    with (
        open_shard(index, read_manifest(index), 1),
        pytest.raises(Unavailable, match=f"pid {os.getpid()}"),
    ):
        verify(index)
    (index / COMPLETE_FILE).unlink()
    with pytest.raises(Unavailable, match="has not finished"):
        verify(index)


def bitsift(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bitsift.cluster.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_says_what_is_wrong_where_and_what_to_do(index: Path) -> None:
    sound = bitsift("verify", index)
    assert (sound.returncode, sound.stderr) == (0, "")
    assert "6,000 rows in 3 shards are sound" in sound.stdout
    flip(index / "shard-00000" / "bits-00000.bits", 500)
    damaged = bitsift("verify", index)
    assert damaged.returncode == 1
    assert "shard-00000/bits-00000.bits" in damaged.stdout
    assert "bitsift verify --repair" in damaged.stdout
    report = json.loads(bitsift("verify", index, "--repair", "--json").stdout)
    assert report["sound"] is True
    assert report["repaired"] == ["shard-00000: rebuilt the bits from the codes"]
    assert bitsift("verify", index.parent).returncode == 1
    assert bitsift("verify").returncode == 2
