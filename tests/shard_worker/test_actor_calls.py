"""What a shard's actor does with a call before its shard is asked; without Ray round it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitsift.errors import FormatMismatch, RequestOutcome, ShardUnavailable, Unavailable
from bitsift.options import SearchOptions
from bitsift.shard_worker.actor import ShardActor
from bitsift.shard_worker.clock import NO_VERSION, version_at
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.types import Query, ShardIdentity
from bitsift.shard_worker.wire.frames import WIRE_VERSION, Kind, head_of
from bitsift.shard_worker.wire.search import pack_queries
from bitsift.shard_worker.wire.write import pack_writes
from tests.commands import wait_until
from tests.shard_worker.small_shard import CALIBRATION, IDENTITY, batch, new_shard, vector_of
from tests.threads import ended

DIMENSION = 64


def plain_class() -> Any:
    """The class that Ray wraps."""
    actor: Any = ShardActor
    return actor.__ray_metadata__.modified_class


@pytest.fixture
def actor(tmp_path: Path):  # type: ignore[no-untyped-def]
    """The class that Ray wraps, over a folder without a shard."""
    sample = np.eye(DIMENSION, dtype=np.float32)
    calibration = Calibration.from_sample(sample, DIMENSION)
    identity = ShardIdentity("uuid", 7, 8, DIMENSION, DIMENSION)
    made = plain_class()(str(tmp_path / "missing"), calibration.to_json(), identity)
    yield made
    made.close()
    # It logs a traceback, for which Python 3.11 parses source, as pytest does for the next test;
    # two threads at once may raise "AST constructor recursion depth mismatch" (gh-106905).
    for thread in threading.enumerate():
        if thread.name == "open":
            thread.join(10)


class Panic(BaseException):
    """What compiled libraries raise: PyO3's PanicException is no Exception either."""


def test_a_panic_in_the_thread_that_opens_is_the_reason_of_a_failed_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(*_: object) -> None:
        raise Panic("of a library")

    monkeypatch.setattr("bitsift.shard_worker.actor.Shard", panic)
    calibration = Calibration.from_sample(np.eye(DIMENSION, dtype=np.float32), DIMENSION)
    identity = ShardIdentity("uuid", 7, 8, DIMENSION, DIMENSION)
    made = plain_class()(str(tmp_path), calibration.to_json(), identity)
    opening = next(thread for thread in threading.enumerate() if thread.name == "open")
    assert wait_until(lambda: made._reason, 10)
    assert made._reason == "Panic: of a library"
    assert opening.is_alive()  # it tries again
    made.close()
    opening.join(10)


def query(deadline: Deadline) -> bytes:
    return pack_queries(
        [
            Query(
                SearchOptions(vector=np.full(DIMENSION, 1 / 8, dtype=np.float32)), deadline=deadline
            )
        ]
    )


def test_a_shard_that_is_not_open_says_so(actor) -> None:  # type: ignore[no-untyped-def]
    for ask in (actor.search, actor.exhaustive):
        with pytest.raises(ShardUnavailable, match="shard 7 is"):
            ask("a call", query(Deadline.after(5)))


def test_a_shard_that_is_not_open_yet_has_not_done_what_it_is_asked(actor) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ShardUnavailable, match="shard 7 is") as raised:
        actor.write(pack_writes([Delete(["a"])]))
    assert raised.value.outcome is RequestOutcome.NOT_DONE


def test_a_shard_refuses_a_router_of_another_release_and_says_who_must_act(actor) -> None:  # type: ignore[no-untyped-def]
    newer = bytearray(query(Deadline.after(5)))
    newer[2] = WIRE_VERSION + 1
    for ask in (actor.search, actor.exhaustive, actor.documents):
        with pytest.raises(FormatMismatch, match="update and restart this process"):
            ask("a call", bytes(newer))
    with pytest.raises(FormatMismatch, match="no wire version"):
        actor.write(b"\x80\x05 what was pickled")


def test_what_a_shard_answers_names_its_opened_copy_and_the_newest_version(
    tmp_path: Path,
) -> None:
    new_shard(tmp_path / "one").close()
    plain = ShardActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]
    made = plain(str(tmp_path / "one"), CALIBRATION.to_json(), IDENTITY)
    try:
        assert wait_until(lambda: made._shard is not None, 10)
        found = made.search("a call", pack_queries([Query(SearchOptions(vector=vector_of("a")))]))
        before = head_of(found, Kind.CANDIDATES).stamp
        assert (before.replica, before.clock) == (made._shard.replica, NO_VERSION)
        written = made.write(pack_writes([batch(["a"], ["a"])]))
        after = head_of(written, Kind.OUTCOMES).stamp
        assert after.replica == before.replica
        assert after.clock > version_at(1_700_000_000_000)
    finally:
        made.close()


def test_one_search_runs_at_a_time_whichever_way_it_came(
    actor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most = 0, 0
    both_came = threading.Barrier(2)

    def unpacked(_: bytes) -> list[Query]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.05)
        running -= 1
        return []

    monkeypatch.setattr("bitsift.shard_worker.actor.unpack_queries", unpacked)

    def search() -> None:
        both_came.wait(10)
        with pytest.raises(ShardUnavailable):
            actor.search("a call", b"")

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        ended(thread)
    assert (running, most) == (0, 1)


def test_where_ray_encrypts_its_calls_searches_stay_in_it(
    actor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ShardUnavailable, match="shard 7 is"):
        actor.searches()
    monkeypatch.setattr(actor, "_ready", lambda: None)
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with pytest.raises(Unavailable, match="encrypts"):
        actor.searches()
