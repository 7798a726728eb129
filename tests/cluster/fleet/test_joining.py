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
from bitsift.cluster.fleet.joining import Compared, Joining, compared
from bitsift.errors import Fenced, NotFound, ShardUnavailable, StorageFull
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
    monkeypatch.setattr(catching_up, "RemoteLink", lambda _, link, __: link)
    return {node: FaultyLink(shard) for node, shard in zip(NODES, shards, strict=True)}


def write(shard: Shard, *keys: str) -> None:
    codes = np.ones((1, DIMENSION), dtype=np.int8)
    for key in keys:
        shard.write([Upsert([key], [""], [key], [""], [LIVE_POSITION], codes)])


def digest(link: FaultyLink) -> bytes:
    return ReplicaState(link.shard).digests(0, 0)


def of(links: dict[str, FaultyLink], leaving: str = "") -> list[Joining]:
    here = {node: links[node] for node in "ab"}
    stay = {node: link for node, link in here.items() if node not in leaving}
    gone = {node: link for node, link in here.items() if node in leaving}
    return [Joining(0, stay, {"c": links["c"]}, gone)]


ALL = {(0, node) for node in NODES}


def test_replicas_of_the_next_table_have_all_that_one_of_the_old_has(
    links: dict[str, FaultyLink],
) -> None:
    write(links["a"].shard, "1")
    write(links["b"].shard, "2")
    assert compared(of(links), 3) == Compared(ALL, ALL)
    assert len({digest(link) for link in links.values()}) == 1
    assert len(links["c"].shard.document("2").text) == 1


def test_one_that_leaves_gives_what_it_has_and_gets_nothing(links: dict[str, FaultyLink]) -> None:
    write(links["a"].shard, "1")
    write(links["b"].shard, "2")
    links["b"].write_error = StorageFull("no room")
    assert compared(of(links, leaving="b"), 3) == Compared(ALL, ALL - {(0, "b")})
    for node in "ac":
        assert [links[node].shard.document(key).text for key in "12"] == ["1", "2"]
    with pytest.raises(NotFound):
        links["b"].shard.document("1")


def test_one_alone_is_complete(links: dict[str, FaultyLink]) -> None:
    alone = Joining(0, {"a": links["a"]}, {}, {})
    assert compared([alone], 3) == Compared({(0, "a")}, {(0, "a")})
    assert compared([Joining(0, {}, {}, {})], 3) == Compared()


def test_nobody_is_complete_who_is_not_so_in_time(
    links: dict[str, FaultyLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "JOIN_S", 0.3)
    write(links["a"].shard, "1")
    links["c"].running.clear()
    found = compared(of(links), 3)
    assert not found.known | found.complete
    assert {*found.failed} == ALL
    assert "not equal to the others within" in found.failed[0, "c"].message


def test_who_cannot_be_read_is_not_known(links: dict[str, FaultyLink]) -> None:
    write(links["a"].shard, "1")
    write(links["b"].shard, "2")
    away = links["b"].error = ShardUnavailable("it is away")
    left = ALL - {(0, "b")}
    assert compared(of(links), 3) == Compared(left, left, {(0, "b"): away})


def test_what_a_full_disk_has_is_known(links: dict[str, FaultyLink]) -> None:
    """Else a shard takes no writes though two of three replicas could."""
    write(links["a"].shard, "1")
    write(links["b"].shard, "2")
    full = links["b"].write_error = StorageFull("no room")
    assert compared(of(links), 3) == Compared(ALL, ALL - {(0, "b")}, {(0, "b"): full})
    for node in "ac":
        assert [links[node].shard.document(key).text for key in "12"] == ["1", "2"]
    links["b"].write_error, links["c"].write_error = None, full
    write(links["a"].shard, "3")
    left = ALL - {(0, "c")}
    assert compared(of(links), 3) == Compared(left, left, {(0, "c"): full})


def test_an_old_table_makes_nobody_equal(links: dict[str, FaultyLink]) -> None:
    write(links["a"].shard, "1")
    links["b"]._fence.admit(9)
    with pytest.raises(Fenced):
        compared(of(links), 3)


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
