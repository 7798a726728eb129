"""Replicas that catch up, and that join: real shards in the place of actors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bitsift.cluster.fleet import catching_up, joining
from bitsift.cluster.fleet.catching_up import CatchingUp, CatchUpOrder, CatchUpReport
from bitsift.cluster.fleet.joining import Joining, unequal
from bitsift.errors import Fenced, ShardUnavailable, StorageFull, Unavailable
from bitsift.shard_worker.operations import Delete, Upsert
from bitsift.shard_worker.replica_state import ReplicaState
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import LIVE_POSITION, ShardSettings
from tests.commands import wait_until
from tests.replicas import FaultyLink, make_replicas

DIMENSION = 64
NOTHING = np.empty((0, DIMENSION), dtype=np.float32)
NODES = "abc"


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[list[Shard]]:
    with contextlib.ExitStack() as opened:
        yield make_replicas(opened, tmp_path, NOTHING, DIMENSION, 1, len(NODES))[0]


@pytest.fixture
def links(shards: list[Shard], monkeypatch: pytest.MonkeyPatch) -> dict[str, FaultyLink]:
    """By node. Each takes the place of an actor and of the link to it."""
    for module in (catching_up, joining):
        monkeypatch.setattr(module, "RemoteLink", lambda _, link, __: link)
    return {node: FaultyLink(shard) for node, shard in zip(NODES, shards, strict=True)}


def write(shard: Shard, *keys: str) -> None:
    codes = np.ones((1, DIMENSION), dtype=np.int8)
    for key in keys:
        shard.write([Upsert([key], [""], [key], [""], [LIVE_POSITION], codes)])


def digest(link: FaultyLink) -> bytes:
    return ReplicaState(link.shard).digests(0, 0)


def of(links: dict[str, FaultyLink]) -> list[Joining]:
    return [Joining(0, {node: links[node] for node in "ab"}, {"c": links["c"]})]


def test_a_replica_that_joins_is_equal_to_all_members(links: dict[str, FaultyLink]) -> None:
    """What one of them has alone is on all."""
    write(links["a"].shard, "1")
    write(links["b"].shard, "2")
    assert unequal(of(links), 3) == {}
    assert len({digest(link) for link in links.values()}) == 1
    assert len(links["c"].shard.document("2").text) == 1


def test_nobody_joins_who_is_not_equal_in_time(
    links: dict[str, FaultyLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "JOIN_S", 0.3)
    write(links["a"].shard, "1")
    links["c"].running.clear()
    (error,) = unequal(of(links), 3).values()
    assert isinstance(error, Unavailable)
    assert "not equal to the others within" in error.message


def test_nobody_joins_while_it_is_not_known_what_a_member_has(links: dict[str, FaultyLink]) -> None:
    write(links["a"].shard, "1")
    write(links["b"].shard, "2")
    away = links["b"].error = ShardUnavailable("it is away")
    assert unequal(of(links), 3) == {(0, "c"): away}


def test_a_full_disk_of_a_member_keeps_nobody_out(links: dict[str, FaultyLink]) -> None:
    """Else a shard takes no writes though two of three replicas could."""
    write(links["a"].shard, "1")
    write(links["b"].shard, "2")
    full = links["b"].write_error = StorageFull("no room")
    assert unequal(of(links), 3) == {}
    for key in "12":
        assert links["c"].shard.document(key).text == key
    links["b"].write_error, links["c"].write_error = None, full
    write(links["a"].shard, "3")
    assert unequal(of(links), 3) == {(0, "c"): full}


def test_an_old_table_makes_nobody_equal(links: dict[str, FaultyLink]) -> None:
    write(links["a"].shard, "1")
    links["b"]._fence.admit(9)
    with pytest.raises(Fenced):
        unequal(of(links), 3)


def caught_up(links: dict[str, FaultyLink], epoch: int = 3) -> CatchUpReport:
    found = CatchingUp(CatchUpOrder("u", 0, epoch, "c", links["c"], "a", links["a"]))
    assert wait_until(lambda: not found.is_running)
    return found.report()


def test_a_replica_catches_up_with_one_of_the_table(links: dict[str, FaultyLink]) -> None:
    write(links["a"].shard, "1", "2")
    report = caught_up(links)
    assert (report.missed, report.sent, report.last, report.error) == (2, 2, 2, None)
    assert digest(links["a"]) == digest(links["c"])
    assert caught_up(links).last == 0
    before = caught_up(links).ended_s
    assert before is not None
    assert before < time.monotonic()


def test_it_says_why_it_has_not_caught_up(links: dict[str, FaultyLink]) -> None:
    write(links["a"].shard, "1")
    links["c"].write_error = StorageFull("no room")
    report = caught_up(links)
    assert (report.last, report.error, report.is_outdated) == (None, "no room", False)


def test_one_that_missed_deletions_which_are_forgotten_is_outdated(
    links: dict[str, FaultyLink],
) -> None:
    """It is told nothing: it must be copied."""
    for node in "ac":
        codes = np.ones((1, DIMENSION), dtype=np.int8)
        upsert = Upsert(["1"], [""], ["1"], [""], [LIVE_POSITION], codes, version=1 << 40)
        links[node].shard.write([upsert])
    member = links["a"].shard
    object.__setattr__(member._maintenance, "_settings", ShardSettings(tombstone_grace_s=-1.0))
    member.write([Delete(["1"])])
    member.compact()
    write(member, "2")
    report = caught_up(links)
    assert report.is_outdated
    assert report.error is not None
    assert "copied whole" in report.error
    assert links["c"].calls["mend"] == 0
