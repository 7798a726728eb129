"""`bitsift upgrade`: format 1 becomes format 2, and nothing else changes."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from bitsift.cluster.cli.main import app
from bitsift.cluster.maintenance.backup import back_up
from bitsift.cluster.maintenance.opened import open_shard, open_store
from bitsift.cluster.maintenance.restore import restore
from bitsift.cluster.maintenance.upgrade import format_of, plan_upgrade, upgrade
from bitsift.cluster.maintenance.verify import verify
from bitsift.cluster.manifest import read_manifest
from bitsift.errors import Corrupt, FormatMismatch, StorageFull, Unavailable
from bitsift.shard_worker.format_version import CURRENT, FORMAT_1
from bitsift.shard_worker.layout import read_shard_file, shard_folder, store_folder, write_json
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.store.packing import pack_meta
from bitsift.shard_worker.types import Document
from bitsift.write_status import WriteStatus
from tests.golden.make import SHARDS, answers, document_id, documents, golden_index
from tests.writing import written

Usage = namedtuple("Usage", "total used free")
DISK_USAGE = "bitsift.cluster.maintenance.upgrade.shutil.disk_usage"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """In format 1."""
    return Path(shutil.copytree(golden_index(1), tmp_path / "index"))


def files(index: Path) -> dict[str, bytes]:
    paths = (path for path in index.rglob("*") if path.is_file())
    return {
        str(path.relative_to(index)): path.read_bytes()
        for path in paths
        if path.suffix in (".json", ".mdb", ".bits") and path.name != "lock.mdb"
    }


def formats(index: Path) -> list[int]:
    return [format_of(index, shard).major for shard in range(SHARDS)]


def test_the_command_changes_no_answer_and_says_what_it_takes(index: Path) -> None:
    before = answers(index)
    done = CliRunner().invoke(app, ["upgrade", str(index), "--json"])
    assert done.exit_code == 0, done.output
    report = orjson.loads(done.stdout)
    assert (report["shards_upgraded"], report["format"]) == (SHARDS, str(CURRENT))
    assert report["bytes_needed"] > (index / "shard-00000").stat().st_size
    assert "2 of 2 shards are in an earlier format" in done.stderr
    assert formats(index) == [2, 2]
    assert answers(index) == before
    assert verify(index).is_sound
    names = {path.name for path in (index / "shard-00000").iterdir() if path.is_dir()}
    assert names == {"store-00002"}, "the store of format 1 is gone"


def test_a_second_run_does_nothing(index: Path) -> None:
    upgrade(plan_upgrade(index))
    before = files(index)
    plan = plan_upgrade(index)
    assert (plan.shards, plan.rows, plan.bytes_needed) == ((), 0, 0)
    assert upgrade(plan).shards_upgraded == 0
    assert files(index) == before


def test_it_goes_on_where_it_was(index: Path) -> None:
    """As a run that was killed leaves it: one shard is done, of the other half a store is there."""
    before = answers(index)
    with open_shard(index, read_manifest(index), 0) as shard:
        assert shard.upgrade()
    half = index / "shard-00001" / "store-00002"
    half.mkdir()
    (half / "data.mdb").write_bytes(b"half")
    assert plan_upgrade(index).shards == (1,)
    rows = list[tuple[int, int]]()
    report = upgrade(plan_upgrade(index), lambda done, total: rows.append((done, total)))
    assert report.shards_upgraded == 1
    assert rows == sorted(rows)
    assert rows[-1] == (report.rows, report.rows)
    assert answers(index) == before
    assert verify(index).is_sound


def test_without_room_it_refuses_before_anything_is_written(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, needed = files(index), plan_upgrade(index).bytes_needed
    with monkeypatch.context() as patched:
        patched.setattr(DISK_USAGE, lambda _: Usage(1 << 40, 0, needed - 1))
        with pytest.raises(StorageFull, match=r"GB are free; free .* and run it again"):
            upgrade(plan_upgrade(index))
    assert files(index) == before
    with monkeypatch.context() as patched:
        patched.setattr(DISK_USAGE, lambda _: Usage(1 << 40, 0, needed))
        upgrade(plan_upgrade(index))
    assert formats(index) == [2, 2]


def test_what_it_asks_for_is_enough_and_not_far_too_much(index: Path) -> None:
    needed = plan_upgrade(index).bytes_needed - (16 << 20)
    upgrade(plan_upgrade(index))
    largest = 0
    for number in range(SHARDS):
        folder = shard_folder(index, number)
        lists = (folder / "bits-lists.bits").stat().st_size
        with open_shard(index, read_manifest(index), number) as shard:
            largest = max(largest, shard._current.store.used_bytes + lists)
    assert 0.5 * needed < largest < needed + (16 << 20)


def test_an_index_that_is_served_is_refused(index: Path) -> None:
    with (
        open_shard(index, read_manifest(index), 1),
        pytest.raises(Unavailable, match="stop that one first"),
    ):
        plan_upgrade(index)
    assert formats(index) == [1, 1]


def test_a_store_in_format_1_takes_writes_in_format_1(index: Path) -> None:
    manifest = read_manifest(index)
    number = next(n for n in range(600, 7_000) if n % 2)
    with open_shard(index, manifest, 0) as shard:
        name = document_id(number)
        assert written(shard, documents([number], 5, manifest.calibration))
        assert shard._current.store.versions_of([name]) == [0], "no version is kept"
        assert written(shard, Delete([name, "never"])) == [WriteStatus.DELETED, WriteStatus.MISSING]
        assert shard._current.store.deleted() == []
        written(shard, documents([number], 6, manifest.calibration))
        shard.save_bits()
        held = shard._current.store
        names = [path.name for path in held.path.iterdir()]
        assert held.counters.newest_version == held.counters.tombstones == 0
        assert held.entries().keys() == {"codes", "tail", "documents", "ids", "dead", "meta"}
        assert sorted(names) == ["blocks.pages", "data.mdb", "lock.mdb"]
    assert formats(index) == [1, 1]
    assert read_shard_file(shard_folder(index, 0)).format == FORMAT_1
    assert store_folder(shard_folder(index, 0)).name == "store"
    upgrade(plan_upgrade(index))
    with open_shard(index, manifest, 0) as shard:
        found = shard.document(name)
        assert isinstance(found, Document)
        assert "of 6" in found.text


@pytest.mark.parametrize("upgraded", [False, True])
def test_a_backup_brings_back_the_format_that_it_was_made_of(
    index: Path, tmp_path: Path, upgraded: bool
) -> None:
    dest = str(tmp_path / "backup")
    before = answers(index)
    back_up(index, dest)
    if upgraded:
        upgrade(plan_upgrade(index))
        back_up(index, dest)  # over the one in format 1
    restore(dest, tmp_path / "again")
    assert formats(tmp_path / "again") == ([2, 2] if upgraded else [1, 1])
    assert answers(tmp_path / "again") == before
    assert verify(tmp_path / "again").is_sound


def test_a_store_of_a_newer_major_is_refused_and_stays_as_it_is(index: Path) -> None:
    upgrade(plan_upgrade(index))
    manifest = read_manifest(index)
    with open_store(index, manifest, 0) as store, store.parts.commits.transaction() as txn:
        value = pack_meta({"major": 3, "minor": 1})
        txn.put(b"format", value, db=store.parts.env.databases["meta"])
        store.parts.commits.commit(txn, store.counters)
    before = files(index)
    said = r"data.mdb has format version 3\.1, this program reads 1 to 2 .* must install a bitsift"
    with pytest.raises(FormatMismatch, match=said), open_shard(index, manifest, 0):
        raise AssertionError
    assert files(index) == before


def test_shard_json_says_where_its_store_is_and_leads_nowhere_else(index: Path) -> None:
    upgrade(plan_upgrade(index))
    path = shard_folder(index, 0) / "shard.json"
    facts = orjson.loads(path.read_bytes())
    facts = {
        key: value for key, value in facts.items() if key not in ("format_version", "checksum")
    }
    for elsewhere in ("../shard-00001/store-00002", "store-1", "", "store-00002/x"):
        write_json(path, facts | {"store": elsewhere})
        with pytest.raises(Corrupt, match="not the folder of a store"):
            store_folder(path.parent)
    write_json(path, {key: value for key, value in facts.items() if key != "store"})
    with pytest.raises(Corrupt, match="lacks 'store'"):
        store_folder(path.parent)
