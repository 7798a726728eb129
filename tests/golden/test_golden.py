"""Format version 1 is frozen: an index that an earlier program wrote opens and answers for ever."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest

from cluster.manifest import read_manifest
from cluster.opened import open_shard
from cluster.verify import verify
from shard_worker.types import Outcome
from tests.golden.make import ANSWERS, INDEX, answers, document_id, documents


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A copy: opening an index makes its lock files."""
    return Path(shutil.copytree(INDEX, tmp_path / "index"))


def test_the_golden_index_gives_the_answers_of_the_program_that_wrote_it(index: Path) -> None:
    expected = orjson.loads(ANSWERS.read_bytes())
    for then, now in zip(expected, answers(index), strict=True):
        np.testing.assert_allclose(now.pop("scores"), then.pop("scores"), atol=2e-5)
        assert orjson.loads(orjson.dumps(now)) == then


def test_it_is_found_sound(index: Path) -> None:
    report = verify(index)
    assert report.is_sound, report


def test_it_can_be_written_to(index: Path) -> None:
    manifest = read_manifest(index)
    with open_shard(index, manifest, 0) as shard:
        assert shard.status().generation == 1
        before = shard.status().documents
        number = next(
            n for n in range(500, 7_000) if shard.positions_of([document_id(n)]) != [None]
        )
        assert shard.append(documents([number], 2, manifest.calibration)) == [Outcome.REPLACED]
        assert shard.delete([document_id(number)]) == [Outcome.DELETED]
        assert shard.compact()
        assert shard.status().documents == before - 1
