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
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.types import Candidates, Query
from bitsift.write_token import WriteToken, index_mark
from tests.golden.make import golden_index
from tests.shard_worker.small_shard import IDENTITY, batch, new_shard, open_shard, unit_vectors
from tests.writing import written

NOW = int(time.time() * 1e3) << 16


def query(least: int | None, mode: Mode = Mode.EXACT) -> Query:
    token = None if least is None else WriteToken(index_mark(IDENTITY.index_uuid), 1, {0: least})
    text = None if token is None else token.text()
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
    assert shard.document("a", NOW).text == "one"
    with pytest.raises(ReplicaBehind):
        shard.document("a", NOW + 1)
    shard.close()


def test_what_was_refused_is_not_applied_and_what_was_is_after_a_restart(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "shard")
    written(shard, dataclasses.replace(batch(["a"], ["one"]), version=NOW))
    with pytest.raises(Unavailable, match="ahead of this machine's clock"):
        written(shard, Delete(["a"], NOW + (4_000_000 << 16)))
    shard.refuse_writes(60)
    shard.write([Delete(["a"], NOW + 5)])
    assert shard.applied_version == NOW
    shard.close()
    shard = open_shard(tmp_path / "shard")
    assert shard.applied_version == NOW
    written(shard, Delete(["none"], NOW + 7))
    shard.compact()
    assert shard.applied_version == NOW + 7
    shard.close()


def test_its_own_versions_count_too(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "shard")
    written(shard, batch(["a"], ["one"]))
    before = shard.applied_version
    assert before > 0
    written(shard, batch(["a"], ["one"]))  # changes nothing
    assert shard.applied_version == before
    shard.close()


def test_format_1_knows_only_what_was_written_since_it_was_opened(tmp_path: Path) -> None:
    index = Path(shutil.copytree(golden_index(1), tmp_path / "index"))
    manifest = read_manifest(index)
    with open_of_index(index, manifest, 0) as shard:
        assert shard.applied_version == 0
        ids, width = ["new"], manifest.calibration.width
        given = batch(ids, ["x"])
        codes = np.ones((1, width), dtype=np.int8)
        written(shard, dataclasses.replace(given, codes=codes, version=NOW))
        assert shard.applied_version == NOW
        assert shard.document("new", NOW).text == "x"
    with open_of_index(index, manifest, 0) as shard:
        assert shard.applied_version == 0


def test_what_is_lacking_is_known_after_a_restart(tmp_path: Path) -> None:
    """It was sent the newest of what it lacks first, and ended then."""
    shard = new_shard(tmp_path / "shard")
    written(shard, dataclasses.replace(batch(["a"], ["one"]), version=NOW))
    operation = dataclasses.replace(batch(["b"], ["two"]), version=NOW + 7)
    shard.applied.begin_mending([operation])
    written(shard, operation)
    shard.close()
    shard = open_shard(tmp_path / "shard")
    assert shard.applied_version == NOW
    with pytest.raises(ReplicaBehind):
        shard.document("b", NOW + 7)
    shard.applied.mended()
    shard.close()
    shard = open_shard(tmp_path / "shard")
    assert shard.applied_version == NOW + 7
    assert not list(tmp_path.glob("*.mending.json"))
    shard.close()
