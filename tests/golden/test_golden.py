"""The formats are frozen: an index that an earlier program wrote opens and answers for ever."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from bitsift.cluster.maintenance.opened import open_shard, open_store
from bitsift.cluster.maintenance.verify import verify
from bitsift.cluster.manifest import Manifest, read_manifest
from bitsift.options import Mode
from bitsift.shard_worker.format_version import CURRENT
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.shard import Shard
from bitsift.write_status import WriteStatus
from tests.golden.make import (
    SHARDS,
    answers,
    document_id,
    documents,
    golden_answers,
    golden_index,
    versions,
)
from tests.writing import written

MAJORS = (1, 2)
SAID = {major: orjson.loads(golden_answers(major).read_bytes()) for major in MAJORS}
EXPECTED = {1: SAID[1], 2: SAID[2]["answers"]}


@pytest.fixture(params=MAJORS)
def major(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def index(major: int, tmp_path: Path) -> Path:
    """A copy: opening an index makes its lock files."""
    return Path(shutil.copytree(golden_index(major), tmp_path / "index"))


def test_the_golden_index_gives_the_answers_of_the_program_that_wrote_it(
    index: Path, major: int
) -> None:
    """Or better ones, but for ``exhaustive``: later programs read more codes."""
    for then, found in zip(EXPECTED[major], answers(index), strict=True):
        now = orjson.loads(orjson.dumps(found))
        if now["mode"] == Mode.EXHAUSTIVE:
            np.testing.assert_allclose(now.pop("scores"), then["scores"], atol=2e-5)
            assert now.items() <= then.items()
            continue
        assert [now[it] for it in ("query", "mode", "first")] == [
            then[it] for it in ("query", "mode", "first")
        ]
        scores = dict(zip(now["ids"], now["scores"], strict=True))
        for name, score in zip(then["ids"], then["scores"], strict=True):
            assert scores.get(name, score) == pytest.approx(score, abs=2e-5)
            assert name in scores or score <= min(now["scores"]) + 2e-5


def test_it_is_found_sound(index: Path) -> None:
    report = verify(index)
    assert report.is_sound, report


def test_it_can_be_written_to(index: Path, major: int) -> None:
    manifest = read_manifest(index)
    with open_shard(index, manifest, 0) as shard:
        assert shard.status().generation == 1
        assert shard.status().format[0] == str(major)
        before = shard.status().documents
        ids = [document_id(n) for n in range(500, 7_000)]
        (found,) = shard.foresee([Delete(ids)])
        number = 500 + found.index(WriteStatus.DELETED)
        assert written(shard, documents([number], 2, manifest.calibration)) == [WriteStatus.UPDATED]
        assert written(shard, Delete([document_id(number)])) == [WriteStatus.DELETED]
        assert shard.compact()
        assert shard.status().documents == before - 1
        assert shard.status().format == str(CURRENT)


def each_shard(index: Path, manifest: Manifest, do: Callable[[Shard], object]) -> None:
    for number in range(SHARDS):
        with open_shard(index, manifest, number) as shard:
            do(shard)


def test_an_upgrade_changes_no_answer_in_any_mode(tmp_path: Path) -> None:
    index = Path(shutil.copytree(golden_index(1), tmp_path / "index"))
    before = answers(index)
    each_shard(index, read_manifest(index), Shard.upgrade)
    assert answers(index) == before
    assert verify(index).is_sound


def test_versions_and_tombstones_are_what_they_were_after_a_compaction_too(tmp_path: Path) -> None:
    index = Path(shutil.copytree(golden_index(2), tmp_path / "index"))
    expected = SAID[2]["versions"]
    assert orjson.loads(orjson.dumps(versions(index))) == expected
    forever = 1e9
    for number in range(SHARDS):
        with open_shard(index, read_manifest(index), number) as shard:
            object.__setattr__(shard._maintenance._settings, "tombstone_grace_s", forever)
            assert shard.compact()
    assert orjson.loads(orjson.dumps(versions(index))) == expected
    assert all(gone for _, gone in expected.values())


def test_what_a_newer_minor_version_added_is_kept(tmp_path: Path) -> None:
    index = Path(shutil.copytree(golden_index(2), tmp_path / "index"))
    manifest = read_manifest(index)

    def check(named: int) -> None:
        for number in range(SHARDS):
            folder = index / f"shard-{number:05d}"
            assert orjson.loads((folder / "shard.json").read_bytes())["fact_of_2_7"] == "kept"
            assert (folder / f"store-{named:05d}").is_dir()
            with open_store(index, manifest, number) as store:
                assert store.counters.others == {"counter_of_2_7": {"rows": 5}}
                assert dict(store.parts.unknown_meta()).keys() == {b"fields_of_2_7"}

    check(1)
    each_shard(index, manifest, lambda shard: written(shard, Delete(["1", "2", "3", "4", "5"])))
    check(1)
    each_shard(index, manifest, Shard.compact)
    check(2)
