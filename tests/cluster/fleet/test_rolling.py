"""What runs with other settings than the spec's is restarted, one at a time, and nobody notices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bitsift.cluster.fleet import settings
from bitsift.cluster.fleet.decide import decide, lacking
from bitsift.cluster.fleet.observed import (
    Action,
    EndWriter,
    Phase,
    Publish,
    Replica,
    Reshard,
    RestartRouter,
    Router,
    StartReplica,
    StopReplica,
)
from bitsift.cluster.fleet.rolling import Progress, progress
from tests.cluster.fleet.model_cluster import BROKEN, ModelCluster, changed, spec_of

ALL: dict[str, dict[str, Any]] = {
    "serve": {"write_acks": "all"},
    "shards": {"exact_budget_ms": 1.0},
}


def served(nodes: str = "abc", replicas: int = 2, routers: int = 2) -> ModelCluster:
    model = ModelCluster(spec_of(replicas, routers), dict.fromkeys(nodes, ""), 2)
    model.settle()
    return model


def restarts(model: ModelCluster, seconds: int) -> list[Action]:
    """What ended something, in order."""
    found = [action for _ in range(seconds) for action in model.tick()]
    return [it for it in found if isinstance(it, RestartRouter | EndWriter | StopReplica)]


def how_far(model: ModelCluster) -> Progress | None:
    observed = model.observe()
    return progress(model.spec, observed, lacking(model.spec, observed, model.now))


def test_routers_come_first_then_the_writer_then_one_replica_after_the_other() -> None:
    model = served()
    replicas = set(model.actors)
    model.spec = changed(model.spec, **ALL)
    assert how_far(model) == Progress(0, 7, None)
    done = []
    for _ in range(100):
        done += restarts(model, 1)
        found = how_far(model)
        assert found is None or found.done <= len(done)
    routers, writer, ended = done[:2], done[2], done[3:]
    assert routers == [RestartRouter("a"), RestartRouter("b")]
    assert writer == EndWriter()
    assert len(ended) == 4
    assert {(it.shard, it.node) for it in ended if isinstance(it, StopReplica)} == replicas
    assert how_far(model) is None
    assert not model.outdated()


def test_only_what_has_the_changed_setting_is_restarted() -> None:
    cases: list[tuple[dict[str, dict[str, Any]], type[Action]]] = [
        ({"serve": {"query_cache": 1}}, RestartRouter),
        ({"shards": {"compact_above": 0.5}}, StopReplica),
    ]
    for change, kind in cases:
        model = served()
        model.spec = changed(model.spec, **change)
        assert {type(it) for it in restarts(model, 100)} == {kind}
        assert not model.outdated()
    model = served()
    model.spec = changed(model.spec, placement={"grace_s": 99.0})
    assert restarts(model, 30) == []


def test_the_only_copy_of_a_shard_is_restarted_where_it_is() -> None:
    model = served("ab", replicas=1)
    model.write(0)
    table = model.table.shards
    model.spec = changed(model.spec, **ALL)
    for _ in range(60):
        model.tick()
        assert model.table.shards == table
    assert not model.outdated()
    assert model.written == [1, 0]


def test_settings_with_which_no_replica_opens_end_one_and_no_more_and_the_next_ones_heal_it() -> (
    None
):
    model = served(replicas=3)
    model.spec = changed(model.spec, shards=BROKEN)
    assert len(restarts(model, 8)) == 1
    restarts(model, 200)
    assert all(len(members) >= 2 for members in model.table.shards)
    assert sum(model._is_broken(place) for place in model.actors) == 1
    assert how_far(model) is not None
    model.spec = changed(model.spec, shards={"exact_budget_ms": 2.0})
    model.settle(1_000)
    assert not model.outdated()
    assert [len(members) for members in model.table.shards] == [3, 3]


def test_a_shard_of_which_no_copy_opens_is_healed_by_other_settings() -> None:
    model = served("ab", routers=1)
    for place in model.started_with:
        if isinstance(place, tuple):
            model.started_with[place] = changed(model.spec, shards=BROKEN)
    assert not any(model._answers(place) for place in model.actors)
    model.settle(1_000)
    assert not model.outdated()
    assert model.table.shards == (("a", "b"), ("a", "b"))


def test_nothing_that_answers_is_restarted_while_a_node_is_lost() -> None:
    model = served("ab")
    model.lose("b")
    model.tick()
    model.spec = changed(model.spec, **ALL)
    assert restarts(model, 60) == []
    found = how_far(model)
    assert found is not None
    assert found.waits_for == "2 routers that answer"
    model.spec = changed(model.spec, placement={"routers": 1})
    assert restarts(model, 60) == [RestartRouter("a"), EndWriter()]
    found = how_far(model)
    assert found is not None
    assert found.waits_for == "a copy of shard 0 that answers"
    model.back("b")
    model.settle(1_000)
    assert not model.outdated()


@pytest.mark.parametrize("other", ["reshard", "copy"])
def test_writer_and_replicas_wait_for_a_reshard_and_for_a_copy(other: str) -> None:
    model = served()
    model.spec = changed(model.spec, **ALL)
    restarts(model, 6)
    observed = model.observe()
    if other == "reshard":
        orders = replace(observed.orders, reshard=Reshard("new", (("a",),)))
        observed = replace(observed, orders=orders)
    else:
        copied = Replica(0, "c", Phase.INCOMING, is_copying=True)
        observed = replace(observed, replicas=(*observed.replicas, copied))
    observed = replace(
        observed,
        writer="other",
        routers=dict.fromkeys("ab", Router(True, settings.of_routers(model.spec))),
    )
    assert not any(
        isinstance(it, EndWriter | StopReplica) for it in decide(model.spec, observed, model.now)
    )
    found = progress(model.spec, observed, {})
    assert found is not None
    assert other in str(found.waits_for)


def test_what_has_not_said_its_settings_is_let_alone() -> None:
    model = served()
    model.spec = changed(model.spec, **ALL)
    observed = model.observe()
    silent = replace(
        observed,
        routers=dict.fromkeys(observed.routers, Router(is_well=False)),
        writer=None,
        replicas=tuple(replace(it, settings=None) for it in observed.replicas),
    )
    assert decide(model.spec, silent, model.now) == ()
    assert progress(model.spec, silent, {}) is None


def test_a_router_that_does_not_answer_is_restarted_at_once_with_other_settings() -> None:
    model = served()
    observed, other = model.observe(), changed(model.spec, serve={"query_cache": 9})
    both = {
        "a": Router(True, settings.of_routers(model.spec)),
        "b": Router(False, settings.of_routers(model.spec)),
    }
    actions = decide(other, replace(observed, routers=both), model.now)
    assert actions == (RestartRouter("b"),)


def test_a_replica_is_not_opened_before_it_was_closed() -> None:
    model = served()
    model.spec = changed(model.spec, shards={"exact_budget_ms": 1.0})
    opened = set(model.actors)
    for _ in range(80):
        for action in model.tick():
            if isinstance(action, StopReplica):
                opened.remove((action.shard, action.node))
            if isinstance(action, StartReplica):
                assert (action.shard, action.node) not in opened
                opened.add((action.shard, action.node))
    assert len(opened) == 4


def given_up(model: ModelCluster, **seen: Any) -> bool:
    """Whether a shard is to have fewer copies that answer than are wanted."""
    actions = decide(model.spec, replace(model.observe(), **seen), model.now)
    tables = [it.shards for it in actions if isinstance(it, Publish)]
    return any(len(members) < 2 for table in tables for members in table)


def test_no_copy_is_given_up_while_another_is_about_to_leave_or_to_join() -> None:
    model = served()
    model.spec = changed(model.spec, shards={"exact_budget_ms": 1.0})
    assert given_up(model)
    settled = model.observe()
    (third,) = {"a", "b", "c"} - set(settled.table.shards[0])
    for phase in (Phase.READY, Phase.OPENING, Phase.CLOSED):
        more = replace(settled.replicas[0], shard=0, node=third, phase=phase)
        assert not given_up(model, replicas=(*settled.replicas, more)), phase
    shards = (("a", "b", "c"), settled.table.shards[1])
    one_too_many = replace(settled.replicas[0], shard=0, node=third)
    assert not given_up(
        model,
        table=replace(settled.table, shards=shards),
        replicas=(*settled.replicas, one_too_many),
    )


def test_no_copy_is_given_up_before_another_writer_is_there() -> None:
    model = served()
    model.spec = changed(model.spec, shards={"exact_budget_ms": 1.0})
    assert given_up(model)
    assert not given_up(model, writer=None)
    assert not given_up(model, writer="other")
