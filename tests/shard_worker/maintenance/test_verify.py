"""Checks of one shard: real files, damaged byte by byte."""

from __future__ import annotations

import multiprocessing
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.maintenance.opened import open_shard, open_store
from bitsift.cluster.maintenance.verify import Checked, Rows, Task, run_task
from bitsift.cluster.manifest import Manifest, read_manifest
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.errors import Unavailable
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.bits.index import BinaryIndex
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.maintenance.findings import (
    EXAMPLES_MAX,
    Example,
    Finding,
    Findings,
    Remedy,
)
from bitsift.shard_worker.maintenance.repair import repair_shard
from bitsift.shard_worker.maintenance.verify import verify_shard
from bitsift.shard_worker.operations import Delete, Upsert
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.packing import id_keys, pack_keys, resalt
from bitsift.shard_worker.store.successor import Successor
from bitsift.shard_worker.types import LIVE_POSITION, Query, ShardIdentity
from tests.threads import ended
from tests.writing import written

SPEC = SyntheticSpec(3_000, 64)
DATA = "shard-00000/store-00000/data.mdb"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard with lists, a segment beside them, dead rows, and rows in no snapshot."""
    folder = tmp_path_factory.mktemp("built") / "index"
    manifest = write_index(folder, SPEC, texts=[f"some words {i}" for i in range(500)])
    with open_shard(folder, manifest, 0) as shard:
        shard.train()
        add(shard, [f"later {i}" for i in range(30)])
        written(shard, Delete([str(i) for i in range(40)]))
        shard.save_bits()
        add(shard, [f"last {i}" for i in range(5)])
    return folder


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "index"))


def add(shard: Shard, ids: list[str]) -> None:
    width = shard.identity.width
    codes = np.random.default_rng(len(ids)).integers(-128, 128, (len(ids), width)).astype(np.int8)
    blank = [""] * len(ids)
    batch = Upsert(ids, blank, ids, blank, [LIVE_POSITION] * len(ids), codes)
    written(shard, batch)


def facts(index: Path) -> tuple[Path, ShardIdentity, Calibration]:
    manifest = read_manifest(index)
    return shard_folder(index, 0), manifest.identity(0), manifest.calibration


def check(index: Path) -> tuple[Finding, ...]:
    return verify_shard(*facts(index), lambda *_: None)


def repair(index: Path) -> list[str]:
    return repair_shard(*facts(index), check(index))


def the_only(findings: tuple[Finding, ...]) -> Finding:
    (finding,) = findings
    return finding


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flip_all(path: Path, what: bytes) -> None:
    """Flip a bit in each copy of ``what``: LMDB leaves old pages behind."""
    data = path.read_bytes()
    assert what in data
    path.write_bytes(data.replace(what, bytes([what[0] ^ 1]) + what[1:]))


def rows_of(manifest: Manifest, index: Path, ids: list[str]) -> list[int]:
    with open_store(index, manifest, 0) as store:
        rows = store.find_all(ids)
    assert None not in rows
    return [row for row in rows if row is not None]


def record_of(index: Path, row: int) -> bytes:
    with open_store(index, read_manifest(index), 0) as store:
        ((_, records),) = store.reader.scan_records(row, row + 1)
        return records.tobytes()


# --- nothing is wrong --------------------------------------------------------------------------


def test_a_sound_shard_has_no_findings_and_is_not_changed(index: Path) -> None:
    def contents() -> dict[Path, bytes]:
        paths = (path for path in index.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in paths if "lock" not in path.name}

    before = contents()
    seen: list[tuple[int, int]] = []
    assert verify_shard(*facts(index), lambda *rows: seen.append(rows)) == ()
    assert seen[-1] == (2 * 3_035, 2 * 3_035)
    assert contents() == before
    assert repair(index) == []


def test_what_a_crash_leaves_is_not_wrong(index: Path, tmp_path: Path) -> None:
    """Bits of the generation before, a compaction that was not ended, no bits at all."""
    shard = index / "shard-00000"
    before = {path.name: path.read_bytes() for path in shard.glob("bits-*")}
    with open_shard(index, read_manifest(index), 0) as opened:
        assert opened.compact()
    for name, content in before.items():
        (shard / name).write_bytes(content)
    (shard / "store-00002").mkdir()
    (shard / "store-00002" / "data.mdb").write_bytes(b"half")
    assert check(index) == ()
    for path in shard.glob("bits-*"):
        path.unlink()
    assert check(index) == ()


def test_a_shard_that_is_open_is_refused(index: Path) -> None:
    with (
        open_shard(index, read_manifest(index), 0),
        pytest.raises(Unavailable, match="stop that one"),
    ):
        check(index)


# --- codes and documents -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["100", "last 3"], ids=["in a block", "in no block yet"])
def test_a_damaged_code_is_named_with_row_and_id(index: Path, name: str) -> None:
    (row,) = rows_of(read_manifest(index), index, [name])
    flip_all(index / DATA, record_of(index, row))
    finding = the_only(check(index))
    assert finding == Finding(
        0, DATA, "the code of a row is damaged", Remedy.ADD_AGAIN, 1, (Example(row, name),)
    )
    assert repair(index) == []  # codes are not derived from anything
    assert the_only(check(index)) == finding


def test_the_damaged_code_of_a_dead_row_needs_nothing(index: Path) -> None:
    flip_all(index / DATA, record_of(index, 7))
    finding = the_only(check(index))
    assert (finding.remedy, finding.examples) == (Remedy.COMPACT, (Example(7, "7"),))


def test_a_damaged_document_is_named_with_its_row(index: Path) -> None:
    (row,) = rows_of(read_manifest(index), index, ["200"])
    flip_all(index / DATA, b'["200","","some words 200"')
    finding = the_only(check(index))
    assert finding.problem == "the document of a row is damaged"
    assert (finding.remedy, finding.examples) == (Remedy.RESTORE, (Example(row, None),))


def test_a_damaged_document_is_mended_by_adding_it_again(index: Path) -> None:
    flip_all(index / DATA, b'["200","","some words 200"')
    with open_shard(index, read_manifest(index), 0) as shard:
        add(shard, ["200"])
    finding = the_only(check(index))
    assert finding.remedy is Remedy.COMPACT


def test_much_damage_is_counted_and_some_of_it_named() -> None:
    findings = Findings(3)
    findings.rows("file", "broken", Remedy.RESTORE, range(1_000))
    findings.rows("file", "broken", Remedy.REPAIR, range(2))
    first, second = findings.found
    assert (first.count, len(first.examples)) == (1_000, EXAMPLES_MAX)
    assert (second.count, second.shard) == (2, 3)


# --- bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bits-00000.bits", "bits-lists.bits"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "of another index"])
def test_a_damaged_file_of_bits_is_made_anew(index: Path, name: str, damage: str) -> None:
    path = index / "shard-00000" / name
    content = path.read_bytes()
    before = answers(index)
    if damage == "flipped":
        flip(path, len(content) - 3)
    elif damage == "truncated":
        path.write_bytes(content[:-3])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        flip(path, 12)
    finding = the_only(check(index))
    assert (finding.file, finding.remedy) == (f"shard-00000/{name}", Remedy.REPAIR)
    assert any("rebuil" in line for line in repair(index))
    assert check(index) == ()
    assert answers(index) == before


@pytest.mark.parametrize("listed", [True, False])
def test_bits_that_are_whole_and_wrong_are_made_anew(index: Path, listed: bool) -> None:
    """As if the calibration had been another one: no checksum notices that."""
    before = answers(index)
    folder, identity, calibration = facts(index)
    wrong = replace(calibration, center=np.full(calibration.width, 0.1, dtype=np.float32))
    for path in folder.glob("bits-*"):
        path.unlink()
    shard = Shard(folder, wrong, identity)
    if listed:
        shard.train()
    shard.save_bits()
    shard.close()
    finding = the_only(check(index))
    name = "bits-lists.bits" if listed else "bits-00000.bits"
    assert (finding.file, finding.remedy) == (f"shard-00000/{name}", Remedy.REPAIR)
    assert finding.count > 2_000
    assert repair(index)
    assert check(index) == ()
    assert answers(index) == before


def test_bits_of_rows_that_the_store_lost_are_not_repaired_away(index: Path) -> None:
    folder, identity, _ = facts(index)
    for path in folder.glob("bits-*"):
        path.unlink()
    more = BinaryIndex(identity.width // 8, identity.index_uuid)
    more.add(np.zeros((5_000, identity.width // 8), dtype=np.uint8))
    more.save(folder)
    finding = the_only(check(index))
    assert "lost" in finding.problem
    assert finding.remedy is Remedy.RESTORE
    assert repair(index) == []


@pytest.mark.parametrize("name", ["bits-lists.json", "store-00000/blocks.pages"])
def test_hints_and_tuning_are_made_anew(index: Path, name: str) -> None:
    path = index / "shard-00000" / name
    flip(path, len(path.read_bytes()) // 2)
    finding = the_only(check(index))
    assert (finding.file, finding.remedy) == (f"shard-00000/{name}", Remedy.REPAIR)
    repair(index)
    assert check(index) == ()


def answers(index: Path) -> list[list[tuple[int, int]]]:
    """What exact searches find whose pool is the whole shard: rows and distances."""
    folder, identity, calibration = facts(index)
    shard = Shard(folder, calibration, identity)
    vectors = np.random.default_rng(3).standard_normal((8, SPEC.dim)).astype(np.float32)
    queries = [
        Query(SearchOptions(vector=v, candidates=400, mode=Mode.EXACT))
        for v in calibration.units(vectors)
    ]
    found = shard.search(queries)
    shard.close()
    return [list(zip(c.rows.tolist(), c.distances.tolist(), strict=True)) for c in found]


# --- ids ---------------------------------------------------------------------------------------


def test_a_damaged_id_map_is_made_anew_from_the_documents(index: Path) -> None:
    manifest = read_manifest(index)
    before = rows_of(manifest, index, ["100", "101"])
    flip_all(index / DATA, pack_keys(id_keys(["100"]))[0])
    problems = {finding.problem: finding for finding in check(index)}
    assert problems.keys() == {
        "the id map does not pass its checksum",
        "an id leads to the document of another id",
        "a document is not found by its id",
    }
    assert {finding.remedy for finding in problems.values()} == {Remedy.REPAIR}
    assert problems["a document is not found by its id"].examples == (Example(before[0], None),)
    assert repair(index) == ["shard-00000: rebuilt the id map from the documents"]
    assert check(index) == ()
    assert rows_of(manifest, index, ["100", "101"]) == before


def test_an_id_that_leads_behind_the_last_row_is_found(index: Path) -> None:
    key = pack_keys(id_keys(["100"]))[0]
    path = index / DATA
    data, count = re.subn(
        re.escape(key) + b"....", key + b"\x7f\0\0\0", path.read_bytes(), flags=re.S
    )
    assert count
    path.write_bytes(data)
    assert "an id leads to a row that does not exist" in {f.problem for f in check(index)}


def test_two_living_rows_of_one_id_are_found(index: Path) -> None:
    with open_store(index, read_manifest(index), 0) as store:
        row, first = store.find("100"), store.rows
        assert row is not None
        old, new = np.array([row]), np.array([first])
        ((_, record),) = store.reader.scan_records(row, row + 1)
        documents, versions = (
            store.reader.copied_documents(old, new),
            store.row_versions(row, row + 1),
        )
        Successor(store, store).put_rows(resalt(record, old, new), documents, versions)
    finding = the_only(check(index))
    assert finding.problem == "a row of an id lives beside a newer one"
    assert finding.examples == (Example(row, "100"),)


# --- the whole shard ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (lambda shard: (shard / "shard.json").unlink(), "shard-00000/shard.json"),
        (lambda shard: flip(shard / "shard.json", 60), "shard-00000/shard.json"),
        (lambda shard: (shard / "store-00000" / "data.mdb").unlink(), DATA),
        (lambda shard: (shard / "store-00000" / "data.mdb").write_bytes(b""), DATA),
        (lambda shard: (shard / "store-00000" / "data.mdb").write_bytes(
            (shard / "store-00000" / "data.mdb").read_bytes()[:400_000]), DATA),
        (lambda shard: flip_all(shard / "store-00000" / "data.mdb", b'"merged_rows"'), DATA),
    ],
    ids=["no identity", "damaged identity", "missing", "empty", "truncated", "counters"],
)  # fmt: skip
def test_a_shard_that_cannot_be_read_is_one_finding(
    index: Path, damage: Callable[[Path], object], file: str
) -> None:
    damage(index / "shard-00000")
    finding = the_only(check(index))
    assert (finding.file, finding.remedy) == (file, Remedy.RESTORE)
    assert repair(index) == []


def test_a_flipped_bit_anywhere_is_found_or_means_nothing(built: Path, tmp_path: Path) -> None:
    """Wherever a check calls the shard sound, all its documents and codes are what they were.

    In processes of their own: a flipped page number may kill the one that follows it.
    """
    forking = multiprocessing.get_context("forkserver")  # spawning takes a second each time
    forking.set_forkserver_preload(["bitsift.cluster.maintenance.verify"])
    expected = everything(built)
    seeded = random.Random(4)
    found = {"found": 0, "killed": 0, "sound": 0}
    index = tmp_path / "index"
    for _ in range(60):
        shutil.rmtree(index, ignore_errors=True)
        shutil.copytree(built, index)
        files = [path for path in sorted(index.glob("shard-*/**/*")) if path.is_file()]
        files = [path for path in files if "lock" not in path.name and path.stat().st_size]
        path = seeded.choice(files)
        data = bytearray(path.read_bytes())
        at = seeded.randrange(len(data))
        data[at] ^= 1 << seeded.randrange(8)
        path.write_bytes(data)
        ours, theirs = forking.Pipe(duplex=False)
        task = Task(*facts(index), False)
        process = forking.Process(target=run_task, args=(theirs, task))
        process.start()
        theirs.close()
        try:
            while isinstance(message := ours.recv(), Rows):
                pass
        except EOFError:
            found["killed"] += 1
            continue
        finally:
            ended(process)
        sound = isinstance(message, Checked) and not message.findings
        found["sound" if sound else "found"] += 1
        if sound:
            assert everything(index) == expected, (path.name, at)
    assert found["found"] > 20, found


def everything(index: Path) -> object:
    """All rows of the store, the dead ones, and where each id leads; then exact answers."""
    with open_store(index, read_manifest(index), 0) as store:
        rows = range(store.rows)
        codes = b"".join(
            records.tobytes() for _, records in store.reader.scan_records(0, store.rows)
        )
        documents = store.reader.documents(rows)
        ids = [document.id for document in documents]  # type: ignore[union-attr]
        held = documents, codes, store.dead().tolist(), store.find_all(ids)
    return held, answers(index)
