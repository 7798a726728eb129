"""`bitsift reshard`: other shards, the same documents, versions, deletions and answers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import shutil
import tempfile
import time
import uuid
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.cli.main import app
from bitsift.cluster.ingest.create import create_index
from bitsift.cluster.maintenance import recalibrate
from bitsift.cluster.maintenance import reshard as module
from bitsift.cluster.maintenance.opened import open_shard, open_store
from bitsift.cluster.maintenance.reshard import PROGRESS_FILE, reshard
from bitsift.cluster.maintenance.verify import verify
from bitsift.cluster.manifest import (
    BuildReport,
    Manifest,
    open_manifest,
    read_complete,
    read_manifest,
    write_complete,
)
from bitsift.cluster.new_index import make_index
from bitsift.cluster.serving.local import open_local
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.errors import (
    ChecksumMismatch,
    FormatMismatch,
    InvalidRequest,
    StorageFull,
    Unavailable,
)
from bitsift.options import Mode, SearchOptions
from bitsift.router.shards.placement import Placement
from bitsift.shard_worker.codes import Calibration, Transform, normalize
from bitsift.shard_worker.layout import shard_folder, store_folder
from bitsift.shard_worker.operations import Delete, Upsert
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.lmdb_file import DATA_FILE
from bitsift.shard_worker.types import ShardSettings
from bitsift.write_status import WriteStatus
from tests.crash.processes import fresh_processes
from tests.golden.make import golden_index
from tests.in_ram import ram
from tests.shard_worker.small_shard import (
    CALIBRATION,
    batch,
    flip_a_bit_where,
    unit_vectors,
    vector_of,
)
from tests.writing import written

NOT_REAL = BuildReport(0, 0, 0, 0.0, 0, 0, 0, 0, ())
"""The report of an index that a test has written."""
Usage = namedtuple("Usage", "total used free")
Contents = dict[str, tuple[Any, ...]]


@contextlib.contextmanager
def new_index(folder: Path, shards: int) -> Iterator[list[Shard]]:
    """The shards, open, of an index that is whole at the end."""
    manifest = Manifest(
        str(uuid.uuid4()), folder.name, "2026-11-28T00:00:00+00:00", shards, CALIBRATION, None,
        {}, 0,
    )  # fmt: skip
    make_index(folder, manifest)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(open_shard(folder, manifest, n)) for n in range(shards)]
    write_complete(folder, NOT_REAL)


def contents(index: Path) -> Contents:
    """By id all that is kept of a document, and by ("deleted", id) the version of its deletion."""
    found: Contents = {}
    manifest = read_manifest(index)
    for number in range(manifest.shards):
        with open_store(index, manifest, number) as store:
            rows = np.setdiff1d(np.arange(store.rows), store.dead())
            codes, intact = store.reader.read_codes(rows)
            assert intact.all()
            with store.parts.env.begin() as txn:
                said = [store.reader.content(txn, row) for row in rows.tolist()]
            for content, code in zip(said, codes, strict=True):
                name = content[0]
                assert Placement(manifest.shards).owners(name) == (number,)
                assert name not in found, "one id twice"
                (version,) = store.versions_of([name])
                found[name] = (*content, code.tobytes(), version)
            found |= {f"deleted {stone.id}": (stone.version,) for stone in store.deleted()}
    return found


def everything(index: Path, count: int = 300) -> list[list[tuple[str, float, str]]]:
    """Exhaustive answers down to the last document, in order, with equal scores among them."""
    dimension = read_manifest(index).calibration.dimension
    vectors = [np.resize(it, dimension) for it in (*unit_vectors(2, 77), vector_of("twin"))]
    with open_local(index) as service:

        async def ask() -> list[Any]:
            asked = [SearchOptions(vector=vector, mode=Mode.EXHAUSTIVE, top_k=count)
                     for vector in vectors]  # fmt: skip
            return [await service.search(options) for options in asked]

        found = asyncio.run(ask())
    assert not any(answer.partial for answer in found)
    return [[(hit.id, hit.score, hit.text) for hit in answer.hits] for answer in found]


ids = st.sampled_from([f"id {n}" for n in range(12)])
changes = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(ids, min_size=1, max_size=4, unique=True),
                  st.sampled_from(["one", "two", "twin"])),
        st.tuples(st.just("delete"), st.lists(ids, min_size=1, max_size=3, unique=True),
                  st.just("")),
        st.tuples(st.just("compact"), st.just([]), st.just("")),
    ),
    max_size=14,
)  # fmt: skip


def change(shards: list[Shard], how: str, names: list[str], text: str) -> None:
    for number, places in Placement(len(shards)).by_owner(names).items():
        mine = [names[place] for place in places.tolist()]
        made = Delete(mine) if how == "delete" else batch(mine, [text] * len(mine))
        written(shards[number], made)
    if how == "compact":
        for shard in shards:
            shard.compact()


@settings(max_examples=12)
@given(changes, st.integers(1, 5), st.integers(1, 7), st.integers(1, 4))
def test_any_history_is_the_same_in_any_number_of_shards(
    history: list[tuple[str, list[str], str]], before: int, after: int, at_once: int
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="reshard-", dir=ram()) as folder,
        pytest.MonkeyPatch.context() as m,
    ):
        m.setattr(module, "OPEN_SHARDS_MAX", at_once)
        m.setattr(module, "ROWS_AT_ONCE", 3)
        m.setattr(module, "NOTED_ROWS", 6)
        old, new = Path(folder, "old"), Path(folder, "new")
        with new_index(old, before) as shards:
            for how, names, text in history:
                change(shards, how, names, text)
        report = reshard(old, new, after)
        assert contents(new) == contents(old)
        assert everything(new, 50) == everything(old, 50)
        assert (report.shards_before, report.shards) == (before, after)
        assert report.documents == sum(not key.startswith("deleted") for key in contents(old))
        assert not (new / PROGRESS_FILE).exists()


def saw(seen: list[tuple[int, int]], done: int, total: int) -> None:
    seen.append((done, total))


def test_2_to_3_to_8_shards_give_the_same_exhaustive_answers(tmp_path: Path) -> None:
    spec = SyntheticSpec(6_000, 32)
    write_index(tmp_path / "2", spec, 2, texts=[f"some words {i}" for i in range(100)])
    before = everything(tmp_path / "2")
    for old, new in ((2, 3), (3, 8)):
        seen: list[tuple[int, int]] = []
        on_rows = functools.partial(saw, seen)
        reshard(tmp_path / str(old), tmp_path / str(new), new, on_rows)
        assert seen == sorted(seen)
        assert seen[-1] == (spec.rows, spec.rows)
        assert everything(tmp_path / str(new)) == before
    assert verify(tmp_path / "8").is_sound
    manifests = [read_manifest(tmp_path / name) for name in ("2", "3", "8")]
    assert len({manifest.uuid for manifest in manifests}) == 3
    assert len({orjson.dumps(manifest.calibration.to_json()) for manifest in manifests}) == 1
    report = read_complete(tmp_path / "8")
    assert report is not None
    assert sum(report.shard_documents) == report.documents == spec.rows
    assert min(report.shard_documents) > 0


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two shards with 60 documents, of which one was changed and one deleted."""
    names = [f"id {n}" for n in range(60)]
    with new_index(tmp_path / "small", 2) as shards:
        change(shards, "put", names, "one")
        change(shards, "put", ["id 7"], "two")
        change(shards, "delete", ["id 8"], "")
    return tmp_path / "small"


def test_an_older_write_brings_nothing_back_in_the_new_index(small: Path, tmp_path: Path) -> None:
    reshard(small, tmp_path / "new", 3)
    manifest, version = read_manifest(tmp_path / "new"), contents(small)["deleted id 8"][0]
    (owner,) = Placement(3).owners("id 8")
    with open_shard(tmp_path / "new", manifest, owner) as shard:
        again = batch(["id 8"], ["one"])
        columns = {name: getattr(again, name) for name in Upsert.__dataclass_fields__}
        assert written(shard, Upsert(**{**columns, "version": version})) == [WriteStatus.UNCHANGED]
        assert shard.newest_version >= version
        newer = Upsert(**{**columns, "version": version + 1})
        assert written(shard, newer) == [WriteStatus.CREATED]


def test_what_was_forgotten_is_known_in_every_new_shard(tmp_path: Path) -> None:
    with new_index(tmp_path / "old", 2) as shards:
        change(shards, "put", ["id 1", "id 2", "id 3"], "one")
        change(shards, "delete", ["id 1", "id 2", "id 3"], "")
        newest = max(shard.newest_version for shard in shards)
    manifest = read_manifest(tmp_path / "old")
    for number in range(2):
        folder, identity = shard_folder(tmp_path / "old", number), manifest.identity(number)
        forgetful = Shard(folder, CALIBRATION, identity, ShardSettings(tombstone_grace_s=-1.0))
        forgetful.compact()
        forgetful.close()
    reshard(tmp_path / "old", tmp_path / "new", 3)
    for number in range(3):
        with open_store(tmp_path / "new", read_manifest(tmp_path / "new"), number) as store:
            assert store.counters.newest_version == store.counters.forgotten_version == newest
    assert contents(tmp_path / "new") == {}


def test_format_1_becomes_the_current_one_and_anything_is_newer(tmp_path: Path) -> None:
    old = Path(shutil.copytree(golden_index(1), tmp_path / "old"))
    before, found = everything(old), contents(old)
    reshard(old, tmp_path / "new", 3)
    assert everything(tmp_path / "new") == before
    assert {content[-1] for content in found.values()} == {0}
    assert {content[-1] for content in contents(tmp_path / "new").values()} == {1}


def test_what_a_newer_bitsift_has_said_is_not_lost(tmp_path: Path) -> None:
    old = Path(shutil.copytree(golden_index(2), tmp_path / "old"))
    with pytest.raises(FormatMismatch, match=r"says counter_of_2_7, fields_of_2_7, which"):
        reshard(old, tmp_path / "new", 3)
    assert not (tmp_path / "new").exists()


# --- killed, and run again -------------------------------------------------------------------


KILLS = 6


def run(old: Path, new: Path, begun: Path) -> None:
    """In a process of its own: in steps small enough to be killed in between."""
    module.ROWS_AT_ONCE, module.NOTED_ROWS, module.OPEN_SHARDS_MAX = 64, 256, 2
    begun.touch()
    reshard(old, new, 5)


def test_killed_at_any_instant_it_goes_on_and_is_the_same(tmp_path: Path) -> None:
    old, new, chance = tmp_path / "old", tmp_path / "new", random.Random(3)
    with new_index(old, 3) as shards:
        for text in ("one", "two", "twin"):
            change(shards, "put", [f"{text} {n}" for n in range(500)], text)
        change(shards, "put", [f"one {n}" for n in range(0, 500, 9)], "two")
        change(shards, "delete", [f"two {n}" for n in range(0, 500, 7)], "")
    before, kills = (contents(old), everything(old)), 0
    for turn in range(KILLS):
        begun = tmp_path / f"begun {turn}"
        process = fresh_processes().Process(target=run, args=(old, new, begun))
        process.start()
        until(begun.exists)
        process.join(chance.uniform(0.0, 0.1))
        kills += process.is_alive()
        process.kill()
        process.join(30)
    assert kills > 1
    reshard(old, new, 5)
    assert (contents(new), everything(new)) == before
    assert contents(old) == before[0]
    assert verify(new).is_sound


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Stopped(Exception):
    """What a progress callback raises to end a run in its midst."""


def stop(*_: int) -> None:
    raise Stopped


def test_an_old_index_that_changed_since_is_read_again(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 8)
    with pytest.raises(Stopped):
        reshard(small, new, 3, lambda done, total: stop() if done > total * 0.7 else None)
    with contextlib.ExitStack() as stack:
        manifest = read_manifest(small)
        shards = [stack.enter_context(open_shard(small, manifest, n)) for n in range(2)]
        change(shards, "delete", [f"id {n}" for n in range(10, 20)], "")
        change(shards, "put", [f"id {n}" for n in range(20, 30)], "twin")
        change(shards, "put", ["new"], "one")
    reshard(small, new, 3)
    assert contents(new) == contents(small)


def test_a_finished_one_is_left_as_it_is(small: Path, tmp_path: Path) -> None:
    first = reshard(small, tmp_path / "new", 3)
    before = (tmp_path / "new" / "complete.json").read_bytes()
    again = reshard(small, tmp_path / "new", 3)
    assert (again.already_complete, again.index_uuid) == (True, first.index_uuid)
    assert (tmp_path / "new" / "complete.json").read_bytes() == before


def test_until_it_is_whole_it_is_no_index_to_serve(small: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        reshard(small, tmp_path / "new", 3, stop)
    with pytest.raises(Unavailable, match="run the same command again"):
        open_manifest(tmp_path / "new")


# --- refused ---------------------------------------------------------------------------------


def test_folders_of_others_are_refused_and_left_as_they_are(small: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").write_text("mine")
    with pytest.raises(InvalidRequest, match="choose another --out"):
        reshard(small, tmp_path / "new", 3)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine.txt"]
    reshard(small, tmp_path / "three", 3)
    for out, shards in ((small, 2), (small, 3), (tmp_path / "three", 4)):
        before = contents(out)
        with pytest.raises(InvalidRequest, match="choose another --out"):
            reshard(small, out, shards)
        assert contents(out) == before
    for shards in (0, 4_097):
        with pytest.raises(InvalidRequest, match="is not between 1 and 4096"):
            reshard(small, tmp_path / "four", shards)


def test_an_index_that_is_open_elsewhere_is_refused(small: Path, tmp_path: Path) -> None:
    with (
        open_shard(small, read_manifest(small), 1),
        pytest.raises(Unavailable, match="stop that one first"),
    ):
        reshard(small, tmp_path / "new", 3)
    assert not (tmp_path / "new").exists()


def test_a_damaged_document_is_named_and_nothing_is_whole(small: Path, tmp_path: Path) -> None:
    flip_a_bit_where(store_folder(shard_folder(small, 0)) / DATA_FILE, b'"two"')
    flip_a_bit_where(store_folder(shard_folder(small, 1)) / DATA_FILE, b'"id 11"')
    with pytest.raises(ChecksumMismatch, match=r"the document of row \d+ is damaged"):
        reshard(small, tmp_path / "new", 3)
    with pytest.raises(Unavailable):
        open_manifest(tmp_path / "new")


def test_without_room_nothing_is_written(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = Usage(1 << 40, 1 << 40, 10)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(StorageFull, match="run it again"):
        reshard(small, tmp_path / "new", 3)
    assert not list((tmp_path / "new").iterdir())


# --- another calibration ---------------------------------------------------------------------

_AROUND = np.random.default_rng(3).standard_normal(64).astype(np.float32) * 2


def vectors_around(rows: int, seed: int) -> np.ndarray:
    """float32 (rows, 64), with much in common."""
    random = np.random.default_rng(seed)
    return random.standard_normal((rows, 64)).astype(np.float32) + _AROUND


def add(index: Path, first: int, vectors: np.ndarray) -> None:
    """Store ``vectors`` under the numbers from ``first`` on, as a writer would."""
    manifest = read_manifest(index)
    codes = manifest.calibration.quantize(manifest.calibration.units(vectors))[0]
    owners = Placement(manifest.shards).by_owner([str(first + n) for n in range(len(vectors))])
    for number, places in owners.items():
        ids = [str(first + place) for place in places.tolist()]
        blank = [""] * len(ids)
        with open_shard(index, manifest, number) as shard:
            written(shard, Upsert(ids, ids, blank, blank, [0] * len(ids), codes[places]))


def errors(index: Path, vectors: np.ndarray) -> np.ndarray:
    """By number, by how much the decoded vector misses the true one, float64 (n,)."""
    manifest = read_manifest(index)
    decoded, units = {}, manifest.calibration.units(vectors)
    for name, content in contents(index).items():
        codes = np.frombuffer(content[-2], dtype=np.int8)[None]
        if name.isdigit():
            decoded[int(name)] = manifest.calibration.decode(codes)[0]
    return np.array([np.linalg.norm(decoded[n] - units[n]) for n in range(len(units))])


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """1,000 documents in what was created empty, without a sample."""
    create_index(tmp_path / "filled", dimensions=64, shards=2)
    add(tmp_path / "filled", 0, vectors_around(1_000, 0))
    return tmp_path / "filled"


def test_calibrated_anew_old_rows_lose_little_and_new_ones_are_as_fine_as_they_can_be(
    filled: Path, tmp_path: Path
) -> None:
    vectors = vectors_around(1_500, 0)
    new = tmp_path / "new"
    before = errors(filled, vectors[:1_000])
    report = reshard(filled, new, 3, recalibrate=True)
    assert (report.documents, report.shards) == (1_000, 3)
    add(new, 1_000, vectors[1_000:])
    after = errors(new, vectors)
    assert after[:1_000].mean() < before.mean() * 1.1
    assert after[1_000:].mean() < before.mean() / 2
    assert verify(new).is_sound
    manifest = read_manifest(new)
    assert manifest.calibrated_at == 1_000
    assert manifest.uuid != read_manifest(filled).uuid


def test_all_but_the_codes_stays_when_an_index_is_calibrated_anew(
    filled: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(filled)
    with open_shard(filled, manifest, 0) as shard:
        written(shard, Delete(["0", "1", "2", "3", "4", "5"]))
    add(filled, 1_000, vectors_around(20, 8))
    reshard(filled, tmp_path / "new", 2, recalibrate=True)

    def without_codes(index: Path) -> Contents:
        return {name: (*it[:-2], it[-1]) for name, it in contents(index).items()}

    assert without_codes(tmp_path / "new") == without_codes(filled)


def test_it_is_calibrated_anew_at_a_thousand_and_then_when_it_is_ten_times_as_large(
    filled: Path, tmp_path: Path
) -> None:
    create_index(tmp_path / "few", dimensions=64, shards=1)
    add(tmp_path / "few", 0, vectors_around(999, 1))
    with pytest.raises(InvalidRequest, match="from 1,000 on"):
        reshard(tmp_path / "few", tmp_path / "new", 1, recalibrate=True)
    assert not (tmp_path / "new").exists()
    reshard(filled, tmp_path / "new", 2, recalibrate=True)
    reshard(
        tmp_path / "new", tmp_path / "spread", 3
    )  # which changes no calibration, and keeps when
    add(tmp_path / "spread", 1_000, vectors_around(8_999, 2))
    with pytest.raises(InvalidRequest, match="from 10,000 on"):
        reshard(tmp_path / "spread", tmp_path / "newer", 3, recalibrate=True)
    add(tmp_path / "spread", 9_999, vectors_around(1, 2))
    assert reshard(tmp_path / "spread", tmp_path / "newer", 3, recalibrate=True).documents == 10_000


def test_killed_it_goes_on_with_the_calibration_that_it_began_with(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 64)
    with pytest.raises(Stopped):
        reshard(
            filled, tmp_path / "new", 2,
            lambda done, total: stop() if done > total * 0.7 else None, recalibrate=True,
        )  # fmt: skip
    begun = read_manifest(tmp_path / "new").calibration
    with pytest.raises(InvalidRequest, match="choose another --out"):
        reshard(filled, tmp_path / "new", 2)
    add(filled, 1_000, vectors_around(50, 5))
    assert reshard(filled, tmp_path / "new", 2, recalibrate=True).documents == 1_050
    assert np.array_equal(read_manifest(tmp_path / "new").calibration.step, begun.step)
    vectors = np.concatenate([vectors_around(1_000, 0), vectors_around(50, 5)])
    assert errors(tmp_path / "new", vectors).max() < errors(filled, vectors).max() * 1.2


@pytest.mark.parametrize("transform", [Transform.CENTER, Transform.CENTER_ROTATE])
def test_the_transform_of_an_index_stays(transform: Transform) -> None:
    sample = normalize(vectors_around(2_000, 1), 64)
    old = Calibration.from_sample(sample, 64, transform)
    codes = old.quantize(old.units(sample))[0]
    # as stores give them: codes of what was turned already
    new = recalibrate.calibrated(old.decode(codes), old)
    assert new.rotation_seed == old.rotation_seed
    assert new.center is old.center
    recoded = recalibrate.Recoding(old, new).codes(codes)
    assert np.abs(new.decode(recoded) - old.decode(codes)).max() <= new.step[:64].max() * 0.51
    differing = np.unpackbits(new.bits(recoded) ^ old.bits(codes)).mean()
    assert differing < 0.02


def test_the_command_says_what_it_made(small: Path, tmp_path: Path) -> None:
    arguments = ["reshard", str(small), "--shards", "3", "--out", str(tmp_path / "new")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "59 documents in 3 shards" in done.stdout
    again = orjson.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert (again["already_complete"], again["documents"]) == (True, 59)
