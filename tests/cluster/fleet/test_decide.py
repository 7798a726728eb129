"""What a controller decides: on a cluster on paper that loses nodes, copies and the controller."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitsift.cluster.fleet.closeness import CLOSE_ENTRIES
from bitsift.cluster.fleet.decide import decide, first_places, lacking
from bitsift.cluster.fleet.observed import (
    CatchingUp,
    CatchUp,
    CopyReplica,
    Extra,
    Loss,
    Move,
    Node,
    Observed,
    Orders,
    Phase,
    Publish,
    Replica,
    StartReplica,
    StopReplica,
    StopRouter,
    Table,
)
from bitsift.cluster.fleet.orders import added, lost, moved, pending
from bitsift.errors import InvalidRequest, NotFound, Unavailable
from tests.cluster.fleet.model_cluster import BROKEN, ModelCluster, changed, spec_of
from tests.cluster.fleet.model_disk import Disk

NAMES = ("a", "b", "c", "d", "e")
CHANGES: list[dict[str, dict[str, Any]]] = [
    {"shards": {"compact_above": 0.5}},
    {"shards": BROKEN},
    {"serve": {"write_acks": "all"}},
    {"serve": {"query_cache": 7}, "shards": {"exact_budget_ms": 5.0}},
]


def cluster(nodes: int, shards: int, replicas: int, zones: int = 1, **more: Any) -> ModelCluster:
    found = {name: f"z{number % zones}" for number, name in enumerate(NAMES[:nodes])}
    return ModelCluster(spec_of(replicas, **more), found, shards)


def served(nodes: int, shards: int, replicas: int, zones: int = 1, **more: Any) -> ModelCluster:
    model = cluster(nodes, shards, replicas, zones, **more)
    model.settle()
    return model


def assert_full(model: ModelCluster) -> None:
    """Each shard has its copies, where nodes allow, and nothing is left over."""
    here = [name for name in model.zones if name not in model.lost]
    for shard, members in enumerate(model.table.shards):
        fit = [name for name in here if not model.orders.avoids(shard, name)]
        wanted = model.spec.placement.replicas + model.orders.extra(shard)
        assert len([name for name in members if name in fit]) == min(wanted, len(fit))
        assert set(members) == set(model.whole(shard))
        if len(fit) >= wanted:
            assert sorted(members) == sorted(
                node for number, node in model.disks if number == shard and node in here
            )


def test_an_index_is_copied_to_as_many_nodes_as_are_wanted_and_evenly() -> None:
    model = served(4, 6, 2, routers=2)
    assert_full(model)
    loads = [sum(node == name for _, node in model.disks) for name in model.zones]
    assert loads == [3, 3, 3, 3]
    assert set(model.routers) == {"a", "b"}


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3))
def test_a_new_index_is_built_evenly_and_where_its_copies_stay(
    nodes: int, shards: int, replicas: int, zones: int
) -> None:
    model = cluster(nodes, shards, replicas, zones)
    seen = [Node(name, zone) for name, zone in model.zones.items()]
    places = first_places(model.spec, [*seen, Node("gone", lost_at=1.0)], shards)
    loads = [places.count(name) for name in model.zones]
    assert sum(loads) == shards
    assert max(loads) - min(loads) <= 1
    model.table = Table(1, tuple((node,) for node in places))
    model.disks = {place: Disk(is_whole=True) for place in enumerate(places)}
    model.settle()
    assert_full(model)
    for node, members in zip(places, model.table.shards, strict=True):
        assert node in members


def test_the_copies_of_a_shard_are_in_several_zones() -> None:
    model = served(5, 4, 2, zones=2)
    for members in model.table.shards:
        assert len({model.zones[node] for node in members}) == 2


def test_a_zone_that_comes_later_gets_its_copy() -> None:
    model = cluster(4, 2, 2, zones=2)
    for node in ("b", "d"):
        model.lose(node)
    model.settle()
    for node in ("b", "d"):
        model.back(node)
    model.settle()
    assert_full(model)
    for members in model.table.shards:
        assert len({model.zones[node] for node in members}) == 2


def test_a_lost_node_keeps_its_replicas_for_the_grace_period() -> None:
    model = served(3, 2, 2, grace_s=30)
    lost = model.table.shards[0][0]
    model.lose(lost)
    for _ in range(25):
        assert not any(isinstance(action, CopyReplica) for action in model.tick())
    assert all(lost not in members and members for members in model.table.shards)
    model.settle()
    assert all(len(members) == 2 for members in model.table.shards)


def test_a_node_that_returns_opens_what_it_has_and_nothing_is_copied() -> None:
    model = served(3, 2, 2, grace_s=30)
    lost = model.table.shards[0][0]
    model.lose(lost)
    model.tick()
    model.back(lost)
    before = model.table.shards
    for _ in range(30):
        assert not any(isinstance(action, CopyReplica) for action in model.tick())
    assert_full(model)
    assert any(lost in members for members in model.table.shards), before


def test_a_node_that_returns_after_writes_catches_up_by_difference_before_it_answers() -> None:
    model = served(3, 1, 2, grace_s=60)
    lost = model.table.shards[0][0]
    model.lose(lost)
    model.tick()
    model.write(0)
    assert model.written == [1]
    model.back(lost)
    while lost not in model.table.shards[0]:
        assert not any(isinstance(action, CopyReplica) for action in model.tick())
    assert model.disks[0, lost].version == 1


def test_where_deletions_were_forgotten_it_is_copied_whole() -> None:
    model = served(3, 1, 2, grace_s=60)
    lost = model.table.shards[0][0]
    model.lose(lost)
    model.tick()
    model.write(0)
    model.disks[0, lost].is_outdated = True
    model.back(lost)
    copied = False
    for _ in range(40):
        copied |= CopyReplica(0, model.table.shards[0][0], lost) in model.tick(late_write=0)
    assert copied
    assert lost in model.table.shards[0]


def test_one_that_was_not_equal_in_time_waits_before_writes_are_held_for_it_again() -> None:
    nodes = cluster(2, 1, 2).observe().nodes
    for refused_at, joins in ((float("-inf"), True), (99.5, False)):
        outside = Replica(
            0, "b", Phase.READY, catching_up=CatchingUp(99.0, 3), refused_at=refused_at
        )
        seen = Observed(Table(1, (("a",),)), nodes, (Replica(0, "a", Phase.READY), outside))
        actions = decide(spec_of(2), seen, 100.0)
        assert (Publish((("a", "b"),)) in actions) is joins
        assert not any(isinstance(action, CatchUp) for action in actions)


def test_one_that_lacks_too_much_catches_up_before_writes_are_held() -> None:
    nodes = cluster(2, 1, 2).observe().nodes
    for lacking_, joins in ((CLOSE_ENTRIES, True), (CLOSE_ENTRIES + 1, False)):
        outside = Replica(0, "b", Phase.READY, catching_up=CatchingUp(99.0, lacking_))
        seen = Observed(Table(1, (("a",),)), nodes, (Replica(0, "a", Phase.READY), outside))
        actions = decide(spec_of(2), seen, 100.0)
        assert (Publish((("a", "b"),)) in actions) is joins
        assert (CatchUp(0, "a", "b") in actions) is not joins


def test_who_leaves_does_not_wait_for_who_joins() -> None:
    """Of another shard, too: writes that wait for the one would keep the other out."""
    nodes = tuple(Node(name) for name in "abcd")
    close = CatchingUp(99.0, 0)
    frozen = Replica(0, "b", Phase.OPENING)
    copies = [Replica(shard, name, Phase.READY) for shard, name in ((0, "a"), (1, "a"), (1, "b"))]
    copies += [Replica(shard, "c", Phase.READY, catching_up=close) for shard in range(2)]
    seen = Observed(Table(1, (("a", "b"), ("a", "b"))), nodes, (*copies, frozen))
    assert Publish((("a",), ("a", "b"))) in decide(spec_of(3), seen, 100.0)
    seen = replace(seen, table=Table(2, (("a",), ("a", "b"))))
    assert Publish((("a", "c"), ("a", "b", "c"))) in decide(spec_of(3), seen, 100.0)


def test_one_joins_however_long_a_step_takes() -> None:
    """Its comparison ended just after the last step began, 15 s ago."""
    nodes = cluster(2, 1, 2).observe().nodes
    outside = Replica(0, "b", Phase.READY, catching_up=CatchingUp(85.0, 3))
    seen = Observed(Table(1, (("a",),)), nodes, (Replica(0, "a", Phase.READY), outside))
    assert Publish((("a", "b"),)) in decide(spec_of(2), seen, 100.0)


def test_writes_are_not_held_where_the_table_cannot_change() -> None:
    """A majority of three is lost; a fourth node has a copy."""
    nodes = tuple(Node(name, lost_at=1.0 if name in "bc" else None) for name in "abcd")
    copies = [Replica(0, name, Phase.READY, catching_up=CatchingUp(99.0, 0)) for name in "abcd"]
    seen = Observed(Table(1, (("a", "b", "c"),)), nodes, tuple(copies))
    assert seen.stuck(0, 3) == ("b", "c")
    joined = Publish((("a", "d"),))
    assert joined not in decide(spec_of(3), seen, 100.0)
    given_up = replace(seen, orders=lost(seen, 0, 3))
    assert given_up.stuck(0, 3) == ()
    left = replace(given_up, table=Table(2, (("a",),)))
    assert Publish((("a",),)) in decide(spec_of(3), given_up, 100.0)
    assert joined in decide(spec_of(3), left, 100.0)


def test_nothing_is_given_up_that_may_answer() -> None:
    nodes = tuple(Node(name) for name in "abc")
    copies = tuple(Replica(0, name, Phase.READY) for name in "abc")
    seen = Observed(Table(1, (("a", "b", "c"),)), nodes, copies)
    with pytest.raises(InvalidRequest, match="nothing to give up"):
        lost(seen, 0, 3)
    with pytest.raises(NotFound, match="no shard 1"):
        lost(seen, 1, 3)
    with pytest.raises(Unavailable, match="Start one of these nodes: a, b, c"):
        lost(replace(seen, replicas=()), 0, 3)
    kept = replace(seen, orders=Orders(losses=(Loss(0, ("b", "c")),)))
    assert pending(kept) == kept.orders
    left = replace(kept, table=Table(2, (("a",),)))
    assert pending(left) == Orders()


def test_draining_copies_first() -> None:
    model = served(3, 2, 2)
    model.with_orders(drained=frozenset("a"))
    while "a" in {node for members in model.table.shards for node in members}:
        model.tick()
        assert all(len(model.whole(shard)) >= 2 for shard in range(2))
    model.settle()
    assert not [place for place in model.disks if place[1] == "a"]
    assert "a" not in model.routers


def test_where_no_node_is_free_a_drained_one_goes_on() -> None:
    model = served(2, 1, 2)
    model.with_orders(drained=frozenset("a"))
    model.settle()
    assert model.table.shards == (("a", "b"),)
    assert lacking(model.spec, model.observe(), model.now) == {0: 1}


def test_a_move_ends_where_it_was_ordered() -> None:
    model = served(4, 1, 2)
    source = model.table.shards[0][0]
    target = next(name for name in "dcba" if name not in model.table.shards[0])
    model.with_orders(moves=(Move(0, source, target),))
    model.settle()
    assert target in model.table.shards[0]
    assert source not in model.table.shards[0]
    assert (0, source) not in model.disks


def test_a_copy_more_lies_on_the_node_that_was_named() -> None:
    model = served(4, 2, 2)
    target = next(name for name in "dcba" if name not in model.table.shards[1])
    model.with_orders(extras=(Extra(1, target),))
    model.settle()
    assert target in model.table.shards[1]
    assert [len(members) for members in model.table.shards] == [2, 3]
    model.with_orders(extras=())
    model.settle()
    assert_full(model)


def test_routers_end_before_shards_and_disks_stay() -> None:
    model = served(3, 2, 2, routers=2)
    disks = set(model.disks)
    model.with_orders(stopped=True)
    first = model.tick()
    assert first
    assert all(isinstance(action, StopRouter) for action in first)
    assert all(isinstance(action, StopReplica) for action in model.tick())
    assert not model.actors
    assert set(model.disks) == disks
    assert model.tick() == ()


def test_a_shard_whose_nodes_are_all_lost_is_not_filled_from_the_index() -> None:
    model = served(4, 1, 2)
    model.write(0)
    for node in model.table.shards[0]:
        model.lose(node)
    for _ in range(100):
        assert not any(isinstance(action, CopyReplica) for action in model.tick())
    for node in list(model.lost):
        model.back(node)
    model.settle()
    assert_full(model)


def test_a_copy_takes_the_place_of_one_that_does_not_come_back_only_where_it_is_as_new() -> None:
    for writes in (0, 1):
        model = served(2, 1, 2)
        model.lose("a")
        model.tick()
        for _ in range(writes):
            model.write(0)
        model.tick()
        model.lose("b")
        model.back("a")
        for _ in range(5):
            model.tick()
            assert model.table.shards == (("b",),)  # it may be back
        model.settle()
        assert model.table.shards == ((("b",),) if writes else (("a",),))


def test_a_copy_joins_while_no_write_runs() -> None:
    model = served(3, 1, 2, grace_s=60)
    lost = model.table.shards[0][0]
    model.lose(lost)
    model.tick()
    model.back(lost)
    for _ in range(40):
        model.tick(late_write=0)  # each second, after the controller has looked
    assert lost in model.table.shards[0]
    assert model.written[0] > 10


def test_an_empty_disk_that_reports_first_is_not_filled_before_others_have_reported() -> None:
    spec, table = spec_of(1), Table(0, ((),))
    model = ModelCluster(spec, {"a": ""}, 1)
    assert not any(isinstance(action, CopyReplica) for action in model.tick())
    late = Observed(table, model.observe().nodes, (Replica(0, "a", Phase.CLOSED),), since=0.0)
    assert StartReplica(0, "a") in decide(spec, late, 100.0)


@pytest.mark.parametrize("phase", [Phase.CLOSED, Phase.OPENING])
def test_no_copy_answers_alone_while_another_may_be_newer(phase: Phase) -> None:
    spec, nodes = spec_of(2), cluster(2, 1, 2).observe().nodes
    ready = Replica(0, "a", Phase.READY, version=5)
    both = Observed(Table(0, ((),)), nodes, (ready, Replica(0, "b", phase, since=100.0)))
    assert not any(getattr(action, "shards", ()) for action in decide(spec, both, 100.0))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_happens_it_comes_to_what_the_spec_says(data: st.DataObject) -> None:
    """The model asserts at each step; at last all nodes are back."""
    draw = data.draw
    model = cluster(
        nodes=draw(st.integers(1, 5)),
        shards=draw(st.integers(1, 3)),
        replicas=draw(st.integers(1, 3)),
        zones=draw(st.integers(1, 3)),
        routers=draw(st.integers(1, 3)),
        grace_s=draw(st.sampled_from([0.0, 5.0, 20.0])),
    )
    names = st.sampled_from(sorted(model.zones))
    shards = st.integers(0, model.shards - 1)
    happens = st.sampled_from(
        ["tick"] * 8 + ["write"] * 4 + ["late write"] * 2
        + ["lose", "lose", "back", "back", "crash", "fail_copy", "forget", "drain", "move", "more"]
        + ["change", "change"]
    )  # fmt: skip
    for event in draw(st.lists(happens, max_size=80)):
        match event:
            case "tick":
                model.tick()
            case "write":
                model.write(draw(shards))
            case "late write":
                model.tick(draw(shards))
            case "lose":
                model.lose(draw(names))
            case "back":
                model.back(draw(names))
            case "crash":
                model.crash((draw(shards), draw(names)))
            case "fail_copy":
                model.fail_copy((draw(shards), draw(names)))
            case "forget":
                model.forget()
            case "drain":
                model.with_orders(drained=model.orders.drained ^ {draw(names)})
            case "move":
                move = Move(draw(shards), draw(names), draw(names))
                model.with_orders(moves=(move,) if move.source != move.target else ())
            case "more":
                extra = Extra(draw(shards), draw(st.none() | names))
                model.with_orders(extras=(extra,) if not model.orders.extras else ())
            case "change":
                model.spec = changed(model.spec, **draw(st.sampled_from(CHANGES)))
    for node in list(model.lost):
        model.back(node)
    model.with_orders(moves=(), extras=())
    model.spec = changed(model.spec, shards={"exact_budget_ms": 1.0})
    model.settle(1_000)
    assert_full(model)
    if not lacking(model.spec, model.observe(), model.now):  # else it waits for more nodes
        assert not model.outdated()


def test_a_node_for_routers_alone_holds_no_replica_and_data_nodes_have_no_router() -> None:
    model = cluster(3, 2, 2, routers=5)
    model.routers_alone = frozenset({"c"})
    model.settle()
    assert {node for _, node in model.disks} == {"a", "b"}
    assert set(model.routers) == {"c"}
    model.lose("c")
    model.settle()
    assert set(model.routers) - {"c"} == {"a", "b"}  # until one for routers alone is there again
    model.back("c")
    model.settle()
    assert set(model.routers) == {"c"}


def test_a_replica_cannot_be_ordered_to_a_node_for_routers_alone() -> None:
    replicas = (Replica(0, "a", Phase.READY),)
    nodes = (Node("a"), Node("r", has_data=False))
    observed = Observed(Table(1, (("a",),)), nodes, replicas)
    with pytest.raises(InvalidRequest, match="for routers alone"):
        moved(observed, 0, "a", "r")
    with pytest.raises(InvalidRequest, match="for routers alone"):
        added(observed, 0, "r")
