"""Who joins the table of an index: with fakes in the place of actors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bitsift.cluster.fleet.observed import Node, Observed, Phase, Replica, Table
from bitsift.cluster.fleet.served_index import Index
from bitsift.errors import DeadlineExceeded
from tests.cluster.fleet.model_cluster import spec_of

AB, ABC = (("a", "b"),), (("a", "b", "c"),)


class FakeEnactor:
    """All that it is asked to seal is, but for ``deaf``; whoever is compared is equal."""

    def __init__(self, deaf: str = "") -> None:
        self._deaf = deaf
        self.failures: dict[Any, str] = {}
        self.compared: list[set[tuple[int, str]]] = []

    def hold(self, seconds: float) -> None:
        raise DeadlineExceeded("a write has not ended")

    def seal(self, epoch: int, places: set[tuple[int, str]]) -> set[tuple[int, str]]:
        return {place for place in places if place[1] not in self._deaf}

    def unequal(self, epoch: int, *places: set[tuple[int, str]]) -> dict[Any, Any]:
        self.compared += [set(some) for some in places]
        return {}


def changed(enactor: FakeEnactor) -> Any:
    """The table after ``c`` was to join it."""
    index: Any = Index.__new__(Index)
    copies = tuple(Replica(0, node, Phase.READY) for node in "abc")
    observed = Observed(Table(7, AB), tuple(map(Node, "abc")), copies)
    index.state = SimpleNamespace(table=observed.table, orders=observed.orders)
    index.observed, index.enactor, index._sealed = observed, enactor, set()
    index._control = SimpleNamespace(spec=spec_of(3))
    index.watch = SimpleNamespace(refused=lambda *_: None)
    published: list[Any] = []
    index.next_epoch = lambda: 8
    index._publish = lambda shards, _: published.append(shards)
    index._change_members(ABC, 100.0)
    return published


def test_a_copy_joins_though_writes_that_are_under_way_do_not_end() -> None:
    """They may wait for just that: the seal ends them."""
    enactor = FakeEnactor()
    assert changed(enactor) == [ABC]
    assert enactor.compared == [{(0, "a"), (0, "b")}, {(0, "c")}]


def test_nobody_joins_while_one_of_the_table_can_still_be_written_to() -> None:
    """It is not sealed, so what it has may change after it was compared."""
    enactor = FakeEnactor(deaf="b")
    assert changed(enactor) == [AB]
    assert (0, "c") in enactor.failures
