"""A shard says which writes it has applied, and answers nothing that must see a later one."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from bitsift.cluster.maintenance.opened import open_shard as open_of_index
from bitsift.cluster.manifest import read_manifest
from bitsift.errors import ReplicaBehind, Unavailable
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.operations import Delete, Operation
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import Candidates, Query
from bitsift.write_token import NOTHING, Reached, WriteToken, index_mark
from tests.golden.make import golden_index
from tests.shard_worker.small_shard import IDENTITY, batch, new_shard, open_shard, unit_vectors
from tests.writing import written

NOW = int(time.time() * 1e3) << 16


def query(least: int | None, mode: Mode = Mode.EXACT) -> Query:
    reached = {} if least is None else {0: Reached(0, least)}
    text = WriteToken(index_mark(IDENTITY.index_uuid), reached).text() if reached else None
    return Query(SearchOptions(vector=unit_vectors(1)[0], mode=mode, read_your_writes=text))


@pytest.mark.parametrize("mode", [Mode.EXACT, Mode.EXHAUSTIVE])
def test_a_query_that_must_see_more_gets_an_error_in_its_place(tmp_path: Path, mode: Mode) -> None:
    shard = new_shard(tmp_path / "shard")
    written(shard, dataclasses.replace(batch(["a"], ["one"]), version=NOW))
    asked = [query(least, mode) for least in (None, NOW + 1, NOW, 1, NOW + (1 << 16))]
    found = shard.answers(asked)
    kinds = [Candidates, ReplicaBehind, Candidates, Candidates, ReplicaBehind]
    assert [type(answer) for answer in found] == kinds
    assert all(len(answer) == 1 for answer in found if isinstance(answer, Candidates))
    with pytest.raises(ReplicaBehind, match="0.001 s older"):
        shard.search([asked[-1]])
    assert shard.document("a", Reached(0, NOW)).text == "one"
    with pytest.raises(ReplicaBehind):
        shard.document("a", Reached(0, NOW + 1))
    shard.close()


def test_what_was_refused_is_not_applied_and_what_was_is_after_a_restart(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "shard")
    written(shard, dataclasses.replace(batch(["a"], ["one"]), version=NOW))
    with pytest.raises(Unavailable, match="ahead of this machine's clock"):
        written(shard, Delete(["a"], NOW + (4_000_000 << 16)))
    shard.refuse_writes(60)
    shard.write([Delete(["a"], NOW + 5)])
    assert shard.applied.reached.version == NOW
    shard.close()
    shard = open_shard(tmp_path / "shard")
    assert shard.applied.reached.version == NOW
    written(shard, Delete(["none"], NOW + 7))
    shard.compact()
    assert shard.applied.reached.version == NOW + 7
    shard.close()


def test_its_own_versions_count_too(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "shard")
    written(shard, batch(["a"], ["one"]))
    before = shard.applied.reached.version
    assert before > 0
    written(shard, batch(["a"], ["one"]))  # changes nothing
    assert shard.applied.reached.version == before
    shard.close()


def test_format_1_knows_only_what_was_written_since_it_was_opened(tmp_path: Path) -> None:
    index = Path(shutil.copytree(golden_index(1), tmp_path / "index"))
    manifest = read_manifest(index)
    with open_of_index(index, manifest, 0) as shard:
        assert shard.applied.reached.version == 0
        ids, width = ["new"], manifest.calibration.width
        given = batch(ids, ["x"])
        codes = np.ones((1, width), dtype=np.int8)
        written(shard, dataclasses.replace(given, codes=codes, version=NOW))
        assert shard.applied.reached.version == NOW
        assert shard.document("new", Reached(0, NOW)).text == "x"
    with open_of_index(index, manifest, 0) as shard:
        assert shard.applied.reached.version == 0


def test_what_is_lacking_is_known_after_a_restart(tmp_path: Path) -> None:
    """It was sent the newest of what it lacks first, and ended then."""
    shard = new_shard(tmp_path / "shard")
    written(shard, dataclasses.replace(batch(["a"], ["one"]), version=NOW))
    operation = dataclasses.replace(batch(["b"], ["two"]), version=NOW + 7)
    shard.applied.begin_mending([operation])
    written(shard, operation)
    shard.close()
    shard = open_shard(tmp_path / "shard")
    assert shard.applied.reached.version == NOW
    with pytest.raises(ReplicaBehind):
        shard.document("b", Reached(0, NOW + 7))
    shard.applied.mended(NOTHING)
    shard.close()
    shard = open_shard(tmp_path / "shard")
    assert shard.applied.reached.version == NOW + 7
    shard.close()


def _reached(shard: Shard, term: int, *operations: Operation) -> Reached:
    shard.applied.advance(term, operations, shard.write(operations))
    return shard.applied.reached


def test_a_newer_version_of_an_earlier_coordinator_shows_nothing(tmp_path: Path) -> None:
    """Its clock was ahead, and the replica was cut off with it."""
    shard = new_shard(tmp_path / "shard")
    assert _reached(shard, 3, Delete(["a"], NOW + 900)) == Reached(3, NOW + 900)
    later = Reached(5, NOW)
    with pytest.raises(ReplicaBehind, match="not been compared with the other replicas"):
        shard.document("a", later)
    shard.applied.mended(Reached(5, 0))
    with pytest.raises(ReplicaBehind, match="s older"):
        shard.document("a", later)
    assert _reached(shard, 5, Delete(["b"], NOW)) == later
    shard.applied.check(later)
    shard.applied.check(Reached(3, NOW + (1 << 40)))
    assert _reached(shard, 3, Delete(["c"], NOW + 901)) == later
    shard.close()


@pytest.mark.parametrize("is_newer", [True, False])
def test_how_far_it_is_outlives_a_restart_unless_it_is_in_doubt(
    tmp_path: Path, is_newer: bool
) -> None:
    """What is older than the newest of the term before may or may not have come."""
    shard = new_shard(tmp_path / "shard")
    _reached(shard, 3, Delete(["a"], NOW + 900))
    shard.applied.mended(Reached(5, 0))
    version = NOW + 901 if is_newer else NOW
    assert _reached(shard, 5, Delete(["b"], version)) == Reached(5, version)
    shard.close()
    shard = open_shard(tmp_path / "shard")
    assert shard.applied.reached == Reached(5, version if is_newer else 0)
    assert _reached(shard, 5, Delete(["c"], NOW + 902)) == Reached(5, NOW + 902)
    shard.close()


def test_what_comes_while_it_is_mended_counts_when_that_is_done(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "shard")
    _reached(shard, 3, Delete(["a"], NOW))
    shard.applied.begin_mending([Delete(["lacked"], NOW + 8)])
    shard.write([Delete(["lacked"], NOW + 8)])
    assert _reached(shard, 3, Delete(["b"], NOW + 9)) == Reached(3, NOW)
    shard.applied.mended(NOTHING)
    assert shard.applied.reached == Reached(3, NOW + 9)
    shard.close()


def test_nothing_after_one_that_failed_counts(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "shard")
    too_new = Delete(["b"], NOW + (4_000_000 << 16))
    asked = [Delete(["a"], NOW), too_new, Delete(["c"], NOW + 2)]
    shard.applied.advance(3, asked, [[], Unavailable("no"), Unavailable("no")])
    assert shard.applied.reached == Reached(3, NOW)
    shard.applied.advance(4, asked[1:], [Unavailable("no"), Unavailable("no")])
    assert shard.applied.reached == Reached(3, NOW)
    shard.close()
