"""What a shard's actor does with a call before its shard is asked; without Ray round it."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from shard_worker.actor import ShardActor
from shard_worker.codes import Calibration
from shard_worker.deadline import Deadline
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
    # It logs a traceback, for which Python 3.11 parses source, as pytest does for the next test;
    # two threads at once may raise "AST constructor recursion depth mismatch" (gh-106905).
    for thread in threading.enumerate():
        if thread.name == "open":
            thread.join(10)


def test_work_whose_time_is_over_is_dropped(actor) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DeadlineExceeded, match=r"shard 7 came to this 1\.5"):
        actor.search(QUERIES, Deadline.after(-1.5))


def test_work_in_time_is_done_and_so_is_that_of_another_machine(actor) -> None:  # type: ignore[no-untyped-def]
    for deadline in (Deadline.after(5), Deadline(at_s=0.0, boot="another machine")):
        with pytest.raises(ShardUnavailable, match="shard 7 is"):
            actor.search(QUERIES, deadline)
