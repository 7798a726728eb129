"""What a controller remembers of what it has seen."""

from __future__ import annotations

from dataclasses import replace

from bitsift.cluster.fleet.actors import RayNode
from bitsift.cluster.fleet.agent import AgentReport, CopyReport
from bitsift.cluster.fleet.catching_up import CatchUpReport
from bitsift.cluster.fleet.membership import Place
from bitsift.cluster.fleet.node_store import Held, HeldIndex
from bitsift.cluster.fleet.observed import CatchingUp, Node, Phase, Replica
from bitsift.cluster.fleet.watch import SILENT_S, Seen, Watch
from bitsift.errors import FormatMismatch, Unavailable
from bitsift.shard_worker.types import ShardStatus

UUID = "0" * 32


def report(node: str, *held: Held, copies: tuple[CopyReport, ...] = ()) -> AgentReport:
    return AgentReport(node, (HeldIndex(UUID, held, None),), copies)


def alive(*names: str) -> dict[str, RayNode]:
    return {name: RayNode(name, "z", "127.0.0.1") for name in names}


def copy_of(shard: int, *, is_running: bool) -> CopyReport:
    return CopyReport(UUID, shard, is_running, 1, 2, 1, None)


def test_a_node_that_says_nothing_for_a_while_is_lost() -> None:
    watch, reports = Watch(UUID), {"a": report("a", Held(0, True, 1))}
    watch.see_nodes(alive("a"), reports, 100)
    watch.see_replicas(reports, {}, 100)
    watch.see_nodes(alive("a"), {}, 100 + SILENT_S - 1)
    assert watch.nodes == {"a": Node("a", "z")}
    watch.see_nodes(alive("a"), {}, 100 + SILENT_S)
    assert watch.nodes == {"a": Node("a", "z", 100 + SILENT_S)}
    assert watch.replicas == {(0, "a"): Replica(0, "a", Phase.CLOSED, 100)}
    watch.see_nodes(alive("a"), reports, 200)
    assert watch.nodes == {"a": Node("a", "z")}


def test_a_node_that_ray_takes_for_dead_is_lost_at_once_and_forgotten_when_it_had_nothing() -> None:
    watch, reports = (
        Watch(UUID),
        {n: report(n) for n in "ab"} | {"a": report("a", Held(0, True, 1))},
    )
    watch.see_nodes(alive("a", "b"), reports, 100)
    watch.see_replicas(reports, {}, 100)
    watch.see_nodes({}, {}, 101)
    assert watch.nodes == {"a": Node("a", "z", 101)}


def test_the_phases_of_a_replica() -> None:
    watch = Watch(UUID)
    ready = ShardStatus(0, "READY", version=7)
    steps: list[tuple[AgentReport, dict[Place, Seen], Phase, int]] = [
        (report("a", copies=(copy_of(0, is_running=True),)), {}, Phase.INCOMING, 0),
        (report("a", Held(0, False, 0)), {}, Phase.INCOMING, 0),
        (report("a", Held(0, True, 0)), {}, Phase.CLOSED, 0),
        (report("a", Held(0, True, 1)), {(0, "a"): None}, Phase.OPENING, 0),
        (report("a", Held(0, True, 1)), {(0, "a"): ready}, Phase.READY, 7),
        (report("a", Held(0, True, 1)), {(0, "a"): Unavailable("dead")}, Phase.OPENING, 7),
        (
            report("a", Held(0, True, 1)),
            {(0, "a"): ShardStatus(0, "FAILED", reason="no disk")},
            Phase.FAILED,
            7,
        ),
    ]
    for now, (seen, said, phase, version) in enumerate(steps):
        watch.see_nodes(alive("a"), {"a": seen}, now)
        watch.see_replicas({"a": seen}, said, now)
        found = watch.replicas[0, "a"]
        assert (found.phase, found.version) == (phase, version), now
    assert watch.reasons == {(0, "a"): "no disk"}
    watch.see_replicas({"a": report("a")}, {}, 9)
    assert watch.replicas == {}


def test_how_far_a_replica_has_caught_up_is_seen_until_it_is_copied_or_gone() -> None:
    def seen(*catch_ups: CatchUpReport) -> dict[str, AgentReport]:
        return {"a": replace(report("a", Held(0, True, 1)), catch_ups=catch_ups)}

    watch, under_way = Watch(UUID), CatchUpReport(UUID, 0, 9, 4, None, None, None, False)
    steps: list[tuple[CatchUpReport, CatchingUp]] = [
        (under_way, CatchingUp()),
        (replace(under_way, last=3, ended_s=2.0), CatchingUp(98.0, 3)),
        (replace(under_way, ended_s=0.0, is_outdated=True), CatchingUp(100.0, None, True)),
    ]
    for said, expected in steps:
        watch.see_replicas(seen(said), {}, 100.0)
        assert watch.replicas[0, "a"].catching_up == expected
        assert watch.catch_ups == {(0, "a"): said}
    watch.see_replicas(seen(replace(under_way, uuid="1" * 32)), {}, 101.0)
    assert watch.replicas[0, "a"].catching_up is None
    assert watch.catch_ups == {}
    watch.refused((0, "a"), Unavailable("late"), 102.0)
    watch.see_replicas(seen(), {}, 103.0)
    assert watch.replicas[0, "a"].refused_at == 102.0


def test_one_that_is_found_outdated_as_it_is_to_join_is_outdated_until_it_is_copied() -> None:
    """Whatever a comparison with another replica of the table says."""
    ended = CatchUpReport(UUID, 0, 9, 9, 0, 1.0, None, False)
    seen = {"a": replace(report("a", Held(0, True, 1)), catch_ups=(ended,))}
    watch = Watch(UUID)
    watch.see_replicas(seen, {}, 100.0)
    watch.refused((0, "a"), FormatMismatch("copy it"), 100.0)
    watch.see_replicas(seen, {}, 101.0)
    assert watch.replicas[0, "a"].catching_up == CatchingUp(100.0, 0, True)
    watch.copied((0, "a"))
    watch.see_replicas(seen, {}, 102.0)
    assert watch.replicas[0, "a"].catching_up == CatchingUp(101.0, 0)


def test_what_an_earlier_controller_placed_is_waited_for() -> None:
    watch = Watch(UUID)
    watch.expect((("a", "b"),), 50)
    reports = {"a": report("a", Held(0, True, 1))}
    watch.see_nodes(alive("a"), reports, 51)
    watch.see_replicas(reports, {}, 51)
    assert watch.nodes == {"a": Node("a", "z"), "b": Node("b", lost_at=50)}
    assert watch.replicas[0, "b"].phase is Phase.READY


def test_a_node_for_routers_alone_is_seen_as_one() -> None:
    watch = Watch(UUID)
    watch.see_nodes({"r": RayNode("r", "z", "127.0.0.1", has_data=False)}, {"r": report("r")}, 1)
    assert watch.nodes == {"r": Node("r", "z", has_data=False)}
