"""What a shard's actor does with a call before its shard is asked; without Ray round it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from shard_worker.actor import CLOCK_SKEW_MAX_S, ShardActor
from shard_worker.codes import Calibration
from shard_worker.errors import DeadlineExceeded, ShardUnavailable
from shard_worker.types import Query, ShardIdentity
from shard_worker.wire import pack_queries

DIMENSION = 64
QUERIES = pack_queries([Query(np.full(DIMENSION, 1 / 8, dtype=np.float32))])


@pytest.fixture
def actor(tmp_path: Path):  # type: ignore[no-untyped-def]
    """The class that Ray wraps, over a folder without a shard."""
    sample = np.eye(DIMENSION, dtype=np.float32)
    calibration = Calibration.from_sample(sample, DIMENSION)
    identity = ShardIdentity("uuid", 7, 8, DIMENSION, DIMENSION)
    plain = ShardActor.__ray_metadata__.modified_class
    made = plain(str(tmp_path / "missing"), calibration.to_json(), identity)
    yield made
    made.close()


def test_work_whose_time_is_over_is_dropped(actor) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DeadlineExceeded, match=r"shard 7 came to this 1\.5"):
        actor.search(QUERIES, time.time() - CLOCK_SKEW_MAX_S - 0.5)


def test_work_in_time_by_a_clock_that_differs_a_little_is_done(actor) -> None:  # type: ignore[no-untyped-def]
    for deadline in (time.time() + 5, time.time() - CLOCK_SKEW_MAX_S / 2):
        with pytest.raises(ShardUnavailable, match="shard 7 is"):
            actor.search(QUERIES, deadline)
