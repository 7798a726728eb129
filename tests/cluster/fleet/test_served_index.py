"""Who joins the table of an index: with fakes in the place of actors."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from bitsift.cluster.fleet import served_index
from bitsift.cluster.fleet.joining import Compared, Joining
from bitsift.cluster.fleet.membership import Members, Place
from bitsift.cluster.fleet.observed import Node, Observed, Phase, Replica, Table
from bitsift.cluster.fleet.served_index import Index
from bitsift.errors import BitsiftError, DeadlineExceeded, StorageFull
from tests.cluster.fleet.model_cluster import spec_of

AB, ABC = (("a", "b"),), (("a", "b", "c"),)


class FakeEnactor:
    """All that it is asked to seal is, but for ``deaf``."""

    def __init__(self, deaf: str = "") -> None:
        self._deaf = deaf
        self.failures: dict[Any, str] = {}

    def hold(self, seconds: float) -> None:
        raise DeadlineExceeded("a write has not ended")

    def seal(self, epoch: int, places: set[Place]) -> set[Place]:
        return {place for place in places if place[1] not in self._deaf}

    def joining(self, shard: int, *nodes: Iterable[str]) -> Joining:
        return Joining(shard, *(dict.fromkeys(some) for some in nodes))


class Comparison:
    """All that are compared are equal, but for ``full``, which can be read, and ``lost``, which
    cannot.
    """

    def __init__(self, full: str = "", lost: str = "") -> None:
        self._full, self._lost = full, lost
        self.asked: list[Joining] = []

    def __call__(self, joinings: list[Joining], epoch: int) -> Compared:
        (one,) = joinings or [Joining(0, {}, {}, {})]
        self.asked += joinings
        every = {*one.members, *one.new, *one.leaving}
        known = every - {*self._lost}
        complete = known - {*self._full} - {*one.leaving}
        failed: dict[Place, BitsiftError] = {
            (0, n): StorageFull("no room") for n in every - complete
        }
        return Compared({(0, n) for n in known}, {(0, n) for n in complete}, failed)


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch) -> Comparison:
    found = Comparison()
    monkeypatch.setattr(served_index, "compared", lambda *given: found(*given))
    return found


def changed(enactor: FakeEnactor, before: Members = AB, after: Members = ABC) -> list[Members]:
    """The tables that are given out as ``before`` shall be ``after``."""
    index: Any = Index.__new__(Index)
    copies = tuple(Replica(0, node, Phase.READY) for node in "abc")
    observed = Observed(Table(7, before), tuple(map(Node, "abc")), copies)
    index.state = SimpleNamespace(table=observed.table, orders=observed.orders)
    index.observed, index.enactor, index._sealed = observed, enactor, set()
    index._control = SimpleNamespace(spec=spec_of(3))
    index.watch = SimpleNamespace(refused=lambda *_: None)
    published: list[Members] = []
    index.next_epoch = lambda: 8
    index._publish = lambda shards, _: published.append(shards)
    index._change_members(after, 100.0)
    assert (not published) == bool(index._sealed)
    return published


def of(members: str = "", new: str = "", leaving: str = "") -> Joining:
    return Joining(0, *(dict.fromkeys(some) for some in (members, new, leaving)))


def test_a_copy_joins_though_writes_that_are_under_way_do_not_end(comparison: Comparison) -> None:
    """They may wait for just that: the seal ends them."""
    assert changed(FakeEnactor()) == [ABC]
    assert comparison.asked == [of("ab", "c")]


def test_who_is_not_equal_does_not_join(comparison: Comparison) -> None:
    comparison._full = "c"
    enactor = FakeEnactor()
    assert changed(enactor) == [AB]
    assert enactor.failures == {(0, "c"): "no room"}


def test_those_that_stay_are_equal_before_the_table_is_given_out(comparison: Comparison) -> None:
    assert changed(FakeEnactor(), ABC, AB) == [AB]
    assert comparison.asked == [of("ab")]


def test_one_that_leaves_is_asked_where_only_it_may_have_what_was_acknowledged(
    comparison: Comparison,
) -> None:
    """Without it one alone would be asked, which may lack what the other two had."""
    assert changed(FakeEnactor(deaf="b"), ABC, AB) == [(("a",),)]
    assert comparison.asked == [of("a", leaving="c")]


def test_no_table_follows_while_what_was_acknowledged_may_be_on_one_that_cannot_be_read(
    comparison: Comparison,
) -> None:
    comparison._lost = "c"
    assert changed(FakeEnactor(deaf="b"), ABC, AB) == []


def test_who_can_be_read_and_not_be_written_to_stops_nobody(comparison: Comparison) -> None:
    comparison._full = "b"
    assert changed(FakeEnactor(deaf="c"), ABC, AB) == [(("a",),)]


def test_what_is_not_sealed_is_not_replaced(comparison: Comparison) -> None:
    assert changed(FakeEnactor(deaf="bc"), ABC, AB) == []
    assert comparison.asked == []
