from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.maintenance.backup import back_up
from bitsift.cluster.maintenance.compact import compact
from bitsift.cluster.maintenance.opened import open_shard
from bitsift.cluster.maintenance.restore import restore
from bitsift.cluster.manifest import read_manifest
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from bitsift.errors import (
    BitsiftError,
    ChecksumMismatch,
    Corrupt,
    InvalidRequest,
    NotFound,
    StorageFull,
    Unavailable,
)
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.layout import COMPLETE_FILE
from bitsift.shard_worker.maintenance.backup import Backup, copy_shard
from bitsift.shard_worker.maintenance.repository import (
    BLOCK_BYTES,
    MARK_FILE,
    OWNER_FILE,
    Repository,
    digest_of,
    name_of,
)
from bitsift.shard_worker.operations import Delete, Insert
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import LIVE_POSITION, Document, Query
from tests.writing import written

SPEC = SyntheticSpec(6_000, 256)
SHARDS = 2


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with lists, dead rows and rows beside the lists."""
    folder = tmp_path_factory.mktemp("built") / "index"
    manifest = write_index(folder, SPEC, SHARDS, texts=[f"some words {i}" for i in range(500)])
    for number in range(SHARDS):
        with open_shard(folder, manifest, number) as shard:
            shard.train()
            written(shard, batch(shard, [f"later {number} {i}" for i in range(10)]))
            written(shard, Delete([str(i) for i in range(40)]))
            shard.save_bits()
    return folder


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built`` to do anything with."""
    return Path(shutil.copytree(built, tmp_path / "index"))


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "backup"


def batch(shard: Shard, ids: list[str], seed: int = 1) -> Insert:
    width = shard.identity.width
    codes = np.random.default_rng(seed).integers(-128, 128, (len(ids), width)).astype(np.int8)
    blank = [""] * len(ids)
    return Insert(ids, blank, ids, blank, [LIVE_POSITION] * len(ids), codes)


def answers(index: Path) -> list[tuple[int, str, list[tuple[int, int, float, str]]]]:
    """What every shard answers in every mode: (row, distance, estimate, text) of each candidate."""
    manifest = read_manifest(index)
    vectors = manifest.calibration.units(synthetic_queries(SPEC, 12))
    found = []
    for number in range(manifest.shards):
        with open_shard(index, manifest, number) as shard:
            for mode in Mode:
                queries = [
                    Query(SearchOptions(vector=vector, candidates=20, mode=mode, nprobe=3))
                    for vector in vectors
                ]
                for candidates in shard.search(queries):
                    documents = shard.documents(candidates.origin, candidates.rows.tolist())
                    texts = [d.text if isinstance(d, Document) else repr(d) for d in documents]
                    columns = (
                        candidates.rows.tolist(),
                        candidates.distances.tolist(),
                        candidates.estimates.tolist(),
                    )
                    found.append((number, mode.value, list(zip(*columns, texts, strict=True))))
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def blocks_of(dest: Path) -> set[str]:
    return {path.name for path in (dest / "blocks").rglob("*") if path.is_file()}


# --- a whole round ---------------------------------------------------------------------------


def marked(dest: Path) -> tuple[Repository, dict[str, Any]]:
    """The repository in ``dest``, and the mark of the backup in it."""
    repository = Repository(str(dest))
    mark = repository.read_mark()
    assert mark is not None
    return repository, mark


def test_a_restored_index_gives_identical_answers_in_every_mode(
    index: Path, dest: Path, tmp_path: Path
) -> None:
    before = answers(index)
    report = back_up(index, str(dest))
    shutil.rmtree(index)
    restored = restore(str(dest), tmp_path / "restored")
    assert answers(tmp_path / "restored") == before
    assert restored.documents == SPEC.rows + 20 - 40
    assert restored.index_uuid == report.index_uuid
    assert (restored.files, restored.bytes) == (report.files, report.bytes)


def test_a_round_through_object_storage(index: Path, tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}/backups/mine"
    back_up(index, url)
    restore(url, tmp_path / "restored")
    assert answers(tmp_path / "restored") == answers(index)


def test_progress_ends_at_the_size_of_what_was_copied(
    index: Path, dest: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    report = back_up(index, str(dest), lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert all(done <= total for done, total in seen)
    seen.clear()
    restore(str(dest), tmp_path / "restored", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (report.bytes, report.bytes)


# --- incremental -----------------------------------------------------------------------------


def test_a_second_backup_sends_only_what_changed(index: Path, dest: Path) -> None:
    first = back_up(index, str(dest))
    again = back_up(index, str(dest))
    assert first.blocks_new == first.blocks
    assert (again.blocks_new, again.bytes_stored, again.blocks_removed) == (0, 0, 0)
    with open_shard(index, read_manifest(index), 0) as shard:
        written(shard, batch(shard, ["one more"]))
    changed = back_up(index, str(dest))
    assert 0 < changed.blocks_new < first.blocks / 2


def test_blocks_that_nothing_needs_are_removed_after_the_mark(
    index: Path, dest: Path, tmp_path: Path
) -> None:
    back_up(index, str(dest))
    leftover = dest / "blocks" / "ab" / f"{'ab' * 32}.{'0' * 32}.partial"
    leftover.parent.mkdir(exist_ok=True)
    leftover.write_bytes(b"of a killed backup")
    compact(index)
    report = back_up(index, str(dest))
    assert report.blocks_removed > 1
    mark = Repository(str(dest)).read_mark()
    assert mark is not None
    assert blocks_of(dest) == {digest for file in mark["files"] for digest in file["blocks"]}
    restore(str(dest), tmp_path / "restored")
    assert answers(tmp_path / "restored") == answers(index)


KILLED = """
import os, sys
from pathlib import Path
from bitsift.cluster.maintenance.backup import back_up
from bitsift.shard_worker.maintenance import backup, repository
steps = 0
put, mark, remove = (getattr(repository.Repository, name) for name in ("put_block", "write_mark", "remove"))
def killing(method):
    def step(*arguments):
        global steps
        steps += 1
        if steps == int(sys.argv[3]):
            os.kill(os.getpid(), 9)
        return method(*arguments)
    return step
repository.Repository.put_block = killing(put)
repository.Repository.write_mark = killing(mark)
repository.Repository.remove = killing(remove)
back_up(Path(sys.argv[1]), sys.argv[2])
"""  # noqa: E501


def test_a_backup_killed_at_any_point_leaves_the_earlier_one_or_the_new_one(
    index: Path, dest: Path, tmp_path: Path
) -> None:
    back_up(index, str(dest))
    old = answers(index)
    with open_shard(index, read_manifest(index), 0) as shard:
        written(shard, batch(shard, [f"new {i}" for i in range(3_000)]))
        shard.save_bits()
    new = answers(index)
    assert old != new
    outcomes = []
    for step in range(1, 40):
        copy = shutil.copytree(dest, tmp_path / f"dest-{step}")
        arguments = [str(index), str(copy), str(step)]
        done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, timeout=120)
        restore(str(copy), tmp_path / f"restored-{step}")
        found = answers(tmp_path / f"restored-{step}")
        outcomes.append("old" if found == old else "new" if found == new else "neither")
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL  # the fault fired
    assert outcomes.count("old") > 3
    assert outcomes == ["old"] * outcomes.count("old") + ["new"] * outcomes.count("new")
    assert outcomes.count("new") == 2  # killed before the sweep; not killed


def test_a_disk_that_fails_on_the_way_is_named_and_the_earlier_backup_stays(
    index: Path, dest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(index, str(dest))
    mark = (dest / MARK_FILE).read_bytes()
    with open_shard(index, read_manifest(index), 0) as shard:
        written(shard, batch(shard, ["one more"]))

    def full(*_: object) -> int:
        raise StorageFull("no room")

    monkeypatch.setattr(Repository, "put_block", full)
    with pytest.raises(StorageFull, match="no room"):
        back_up(index, str(dest))
    assert (dest / MARK_FILE).read_bytes() == mark


# --- while writes go on (fault 17) -------------------------------------------------------------


def test_a_copy_made_while_writing_is_a_committed_prefix(
    index: Path, dest: Path, tmp_path: Path
) -> None:
    """Between any two blocks that are read a batch is written; deletes and compaction as well."""
    manifest = read_manifest(index)
    run = Backup(str(dest), manifest.uuid)
    names: list[str] = []

    def write(_: int) -> None:
        names.append(f"while copying {len(names)}")
        written(shard, batch(shard, [names[-1]], seed=len(names)))
        written(shard, Delete([str(40 + len(names))]))
        if len(names) == 3:
            assert shard.compact()

    with open_shard(index, manifest, 0) as shard:
        copies = [copy_shard(shard, str(dest), write)]
        generation = shard.status().generation
    with open_shard(index, manifest, 1) as other:
        copies.append(copy_shard(other, str(dest)))
    run.finish(copies)
    assert len(names) > 4  # the fault fired
    assert generation == 1
    restore(str(dest), tmp_path / "restored")
    with open_shard(tmp_path / "restored", manifest, 0) as shard:
        there = [is_there(shard, document_id) for document_id in names]
        gone = [not is_there(shard, str(41 + i)) for i in range(len(names))]
    prefix = sum(there)
    assert there == [True] * prefix + [False] * (len(names) - prefix)
    assert [gone[i] for i in range(1, len(names), 2)] == [
        i < prefix for i in range(1, len(names), 2)
    ]
    assert len(answers(tmp_path / "restored")) == len(answers(index))


def is_there(shard: Shard, document_id: str) -> bool:
    try:
        return shard.document(document_id).id == document_id
    except NotFound:
        return False


def test_a_running_index_is_refused_with_a_way_out(index: Path, dest: Path) -> None:
    with (
        open_shard(index, read_manifest(index), 0),
        pytest.raises(Unavailable, match="running cluster"),
    ):
        back_up(index, str(dest))
    assert not dest.exists()


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("below", [".", "copy", "shard-00000/copy"])
def test_a_copy_inside_of_the_index_is_refused(index: Path, below: str) -> None:
    before = sorted(index.rglob("*"))
    with pytest.raises(InvalidRequest, match="is inside the index"):
        back_up(index, str(index / below))
    assert sorted(index.rglob("*")) == before


def test_a_build_that_has_not_ended_is_not_backed_up(index: Path, dest: Path) -> None:
    (index / COMPLETE_FILE).unlink()
    with pytest.raises(Unavailable, match="has not finished"):
        back_up(index, str(dest))
    run = Backup(str(dest), read_manifest(index).uuid)
    with open_shard(index, read_manifest(index), 0) as shard:
        copies = [copy_shard(shard, str(dest))]
    with pytest.raises(Unavailable, match="has not finished"):
        run.finish(copies)


def test_the_backup_of_another_index_is_not_overwritten(
    index: Path, dest: Path, tmp_path: Path
) -> None:
    write_index(tmp_path / "other", SyntheticSpec(100, 64))
    back_up(tmp_path / "other", str(dest))
    before = files_of(dest)
    with pytest.raises(InvalidRequest, match="another destination"):
        back_up(index, str(dest))
    assert files_of(dest) == before


def test_two_first_backups_into_one_place_leave_the_one_that_ends_first(
    index: Path, dest: Path, tmp_path: Path
) -> None:
    write_index(tmp_path / "other", SyntheticSpec(100, 64))
    run = Backup(str(dest), read_manifest(index).uuid)
    (dest / OWNER_FILE).unlink()  # as if both had seen an empty folder
    back_up(tmp_path / "other", str(dest))
    mark = (dest / MARK_FILE).read_bytes()
    copies = []
    for number in range(SHARDS):
        with open_shard(index, read_manifest(index), number) as shard:
            copies.append(copy_shard(shard, str(dest)))
    with pytest.raises(InvalidRequest, match="another destination"):
        run.finish(copies)
    assert (dest / MARK_FILE).read_bytes() == mark
    restore(str(dest), tmp_path / "restored")


def test_blocks_that_another_run_took_away_are_noticed_before_the_mark(
    index: Path, dest: Path
) -> None:
    manifest = read_manifest(index)
    run = Backup(str(dest), manifest.uuid)
    copies = []
    for number in range(SHARDS):
        with open_shard(index, manifest, number) as shard:
            copies.append(copy_shard(shard, str(dest)))
    taken = copies[0].files[-1].blocks[0]
    (dest / "blocks" / name_of(taken)).unlink()
    with pytest.raises(Unavailable, match="1 blocks are gone"):
        run.finish(copies)
    assert not (dest / MARK_FILE).exists()


def test_an_existing_index_is_left_as_it_is(index: Path, dest: Path) -> None:
    back_up(index, str(dest))
    before = files_of(index)
    with pytest.raises(InvalidRequest, match="exists"):
        restore(str(dest), index)
    assert files_of(index) == before


def test_a_half_copy_is_refused(index: Path, dest: Path, tmp_path: Path) -> None:
    back_up(index, str(dest))
    (dest / MARK_FILE).unlink()
    for source in (dest, tmp_path / "nothing"):
        with pytest.raises(NotFound, match="no complete backup"):
            restore(str(source), tmp_path / "restored")
    assert not list(tmp_path.glob("restored*"))


@pytest.mark.parametrize("damage", ["missing", "flipped", "truncated", "swapped"])
def test_a_damaged_backup_is_refused_by_name_and_leaves_nothing(
    index: Path, dest: Path, tmp_path: Path, damage: str
) -> None:
    back_up(index, str(dest))
    live = files_of(index)
    blocks = sorted(path for path in (dest / "blocks").rglob("*") if path.is_file())
    largest = max(blocks, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "missing":
        largest.unlink()
    else:
        others = [path for path in blocks if path != largest]
        contents = {
            "flipped": bytes(data), "truncated": bytes(data[:-1]), "swapped": others[0].read_bytes()
        }  # fmt: skip
        largest.write_bytes(contents[damage])
    with pytest.raises(BitsiftError, match=largest.name) as refused:
        restore(str(dest), tmp_path / "restored")
    assert isinstance(refused.value, NotFound if damage == "missing" else ChecksumMismatch)
    assert not list(tmp_path.glob("restored*"))
    assert files_of(index) == live


@pytest.mark.parametrize(
    "name", ["../outside", "/tmp/outside", "shard-00000/../../outside", "mine/a.bits"]
)
def test_a_mark_that_leads_out_of_the_index_is_refused(
    index: Path, dest: Path, tmp_path: Path, name: str
) -> None:
    back_up(index, str(dest))
    repository, mark = marked(dest)
    mark["files"][0]["name"] = name
    repository.write_mark(mark)
    with pytest.raises(Corrupt, match="not a file of an index"):
        restore(str(dest), tmp_path / "restored")
    assert not list(tmp_path.glob("*outside*"))


def test_a_backup_whose_shard_cannot_be_opened_makes_no_index(
    index: Path, dest: Path, tmp_path: Path
) -> None:
    """Whole by its digests, and still no index: the restore proves what it made."""
    back_up(index, str(dest))
    repository, mark = marked(dest)
    data = next(file for file in mark["files"] if file["name"].endswith("data.mdb"))
    first = bytearray(repository.read_block(data["blocks"][0]))
    first[16:48] = bytes(32)
    data["blocks"][0] = digest_of(bytes(first))
    repository.put_block(data["blocks"][0], bytes(first))
    repository.write_mark(mark)
    with pytest.raises(Corrupt, match=r"data\.mdb"):
        restore(str(dest), tmp_path / "restored")
    assert not list(tmp_path.glob("restored*"))


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    index: Path, dest: Path, tmp_path: Path
) -> None:
    back_up(index, str(dest))
    repository, mark = marked(dest)
    blocks = 1 + 2 * shutil.disk_usage(tmp_path).free // BLOCK_BYTES
    mark["files"] = [
        {"name": "rejects.jsonl", "bytes": blocks * BLOCK_BYTES, "blocks": ["0" * 64] * blocks}
    ]
    repository.write_mark(mark)
    with pytest.raises(StorageFull, match="free"):
        restore(str(dest), tmp_path / "restored")
    assert not list(tmp_path.glob("restored*"))
