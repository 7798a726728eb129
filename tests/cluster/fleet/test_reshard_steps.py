"""What is decided of a reshard, on paper: nodes, copies, followers and controllers are lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsift.cluster.fleet.following import FollowProgress
from bitsift.cluster.fleet.observed import (
    MakeReplica,
    Node,
    Phase,
    Replica,
    Reshard,
    StartReplica,
)
from bitsift.cluster.fleet.reshard_steps import (
    AGAIN_S,
    CLOSE_S,
    LEFT_OUT_S,
    CatchUp,
    Close,
    Drop,
    Follow,
    Following,
    LeaveOut,
    Made,
    Open,
    Seen,
    Step,
    Switch,
    next_steps,
    targets_of,
    without,
)

Place = tuple[int, str]
NAMES = ("a", "b", "c", "d")


@given(st.integers(1, 8), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))
def test_copies_of_new_shards_are_spread_over_nodes_and_zones(
    nodes: int, shards: int, replicas: int, zones: int
) -> None:
    there = [Node(f"n{number}", f"z{number % zones}") for number in range(nodes)]
    targets = targets_of(there, shards, replicas)
    assert len(targets) == shards
    for chosen in targets:
        assert len(set(chosen)) == len(chosen) == min(replicas, nodes)
        in_zones = {node.zone for node in there if node.name in chosen}
        assert len(in_zones) == min(len(chosen), zones, nodes)
    loads = Counter(node for chosen in targets for node in chosen)
    if zones == 1:
        assert max(loads.values()) - min(loads[node.name] for node in there) <= 1


@dataclass
class Model:
    """Old shards on nodes a and b, new ones on those of the order. A copy holds the writes that
    came to it; a follower that has made a pass has given all copies what was there when it began.
    """

    order: Reshard
    old: int = 2
    now: float = 1_000.0
    written: int = 0
    here: set[str] = field(default_factory=lambda: set(NAMES))
    lost: dict[str, float] = field(default_factory=dict)
    copies: dict[Place, Replica] = field(default_factory=dict)
    holds: dict[tuple[Place, int], int] = field(default_factory=dict)
    """Of each copy, and each old shard: how many of its writes it has."""
    followers: dict[int, Following] = field(default_factory=dict)
    wanted: dict[int, str] = field(default_factory=dict)
    hold: str = ""
    hold_since: float | None = None
    closed_at: float = float("-inf")
    ended: Step | None = None
    holds_count: int = 0

    def seen(self) -> Seen:
        old = tuple(tuple(n for n in ("a", "b") if n in self.here) for _ in range(self.old))
        return Seen(
            old, frozenset(self.here), self.lost, self.copies, self.followers, self.hold,
            self.hold_since, self.closed_at,
        )  # fmt: skip

    def lose(self, node: str, *, disk: bool) -> None:
        self.here.discard(node)
        self.lost[node] = self.now
        self.followers = {s: f for s, f in self.followers.items() if f.node != node}
        for place in [place for place in self.copies if place[1] == node]:
            self.copies[place] = replace(self.copies[place], phase=Phase.CLOSED, since=self.now)
            if disk:
                del self.copies[place]
                self.holds = {key: count for key, count in self.holds.items() if key[0] != place}

    def back(self, node: str) -> None:
        self.here.add(node)
        self.lost.pop(node, None)

    def tick(self, *, write: bool = True) -> None:
        self.now += 1
        if write and not self.hold:
            self.written += 1
        for shard, following in self.followers.items():
            self._run(shard, following)
        for step in next_steps(self.order, self.seen(), self.now):
            self.do(step)

    def _run(self, shard: int, following: Following) -> None:
        """A pass, if all copies that it writes to are there."""
        if not all(self._is_open(place) for place in following.targets):
            return
        for place in following.targets:
            self.holds[place, shard] = self.written
        caught_up, passes = self.wanted.get(shard, ""), following.progress.passes + 1
        progress = replace(following.progress, passes=passes, pass_s=0.1, caught_up=caught_up)
        self.followers[shard] = replace(following, progress=progress)

    def _is_open(self, place: Place) -> bool:
        is_here = place in self.copies and place[1] in self.here
        return is_here and self.copies[place].phase is Phase.READY

    def do(self, step: Step) -> None:
        assert self.ended is None
        match step:
            case MakeReplica(shard, node):
                assert not self.order.is_made, "one that had lost what it had would be made again"
                assert node in self.here
                self.copies[shard, node] = Replica(shard, node, Phase.CLOSED, self.now)
            case StartReplica(shard, node):
                self.copies[shard, node] = Replica(shard, node, Phase.READY, self.now)
            case Made():
                assert set(self.order.places()) <= set(self.copies)
                self.order = replace(self.order, is_made=True)
            case LeaveOut(places):
                self.order = without(self.order, places)
                assert all(self.order.targets)
            case Follow(shard, node):
                assert node in self.here
                assert all(self._is_open(place) for place in self.order.places())
                targets = tuple(self.order.places())
                self.followers[shard] = Following(node, targets, FollowProgress())
            case Close():
                if self.hold_since is None:
                    self.hold_since = self.now
                    self.holds_count += 1
                self.hold = f"hold {self.holds_count}"
            case Open():
                self.hold, self.hold_since, self.closed_at = "", None, self.now
            case CatchUp(shard, node):
                assert self.hold
                assert self.followers[shard].node == node
                self.wanted[shard] = self.hold
            case Switch():
                assert self.hold, "a write may have come in between"
                for place in self.order.places():
                    assert self._is_open(place)
                    held = [self.holds.get((place, shard), 0) for shard in range(self.old)]
                    assert held == [self.written] * self.old, "something is missing"
                self.ended = step
            case Drop():
                self.ended = step

    def settle(self, seconds: int = 300) -> None:
        for _ in range(seconds):
            if self.ended is not None:
                return
            self.tick()
        raise AssertionError(f"no end: {next_steps(self.order, self.seen(), self.now)}")


def model(shards: int = 3, replicas: int = 2) -> Model:
    return Model(Reshard("new", targets_of([Node(name) for name in NAMES], shards, replicas)))


def test_new_shards_are_made_filled_and_take_over() -> None:
    cluster = model()
    cluster.settle()
    assert isinstance(cluster.ended, Switch)
    assert cluster.holds_count == 1
    assert [len(nodes) for nodes in cluster.order.targets] == [2, 2, 2]


def test_a_copy_that_is_lost_on_the_way_is_left_out() -> None:
    cluster = model()
    for _ in range(3):
        cluster.tick()
    cluster.lose("d", disk=True)
    cluster.settle()
    assert isinstance(cluster.ended, Switch)
    assert "d" not in str(cluster.order.targets)


def test_without_a_copy_of_a_new_shard_the_reshard_is_dropped() -> None:
    cluster = model(replicas=1)
    for _ in range(3):
        cluster.tick()
    cluster.lose("c", disk=False)
    cluster.settle()
    assert cluster.ended == Drop("no copy of new shard 2 is left: see that its nodes last")


def test_a_node_that_is_back_in_time_goes_on() -> None:
    cluster = model(replicas=1)
    for _ in range(3):
        cluster.tick()
    cluster.lose("c", disk=False)
    for _ in range(int(LEFT_OUT_S / 2)):
        cluster.tick()
    cluster.back("c")
    cluster.settle()
    assert isinstance(cluster.ended, Switch)


def test_a_disk_that_comes_back_empty_is_not_filled_from_the_midst() -> None:
    cluster = model(replicas=1)
    for _ in range(4):
        cluster.tick()
    assert cluster.order.is_made
    cluster.lose("c", disk=True)
    cluster.back("c")
    cluster.settle()
    assert isinstance(cluster.ended, Drop)


def test_writes_that_were_held_in_vain_go_on_and_are_held_again_later() -> None:
    cluster = model()
    while not cluster.hold:
        cluster.tick()
    begun = cluster.now
    while cluster.hold:
        cluster.now += 1  # the followers do not come to their end
        for step in next_steps(cluster.order, cluster.seen(), cluster.now):
            cluster.do(step)
        cluster.wanted = {}
    assert cluster.now - begun == pytest.approx(CLOSE_S, abs=1)
    for _ in range(int(AGAIN_S) - 1):
        cluster.tick()
        assert not cluster.hold
    cluster.settle()
    assert cluster.holds_count == 2
    assert isinstance(cluster.ended, Switch)


events = st.lists(
    st.tuples(
        st.sampled_from(["lose", "lose disk", "back", "crash", "follower", "controller", "hold"]),
        st.sampled_from(NAMES),
        st.integers(0, 12),
    ),
    max_size=8,
)


@settings(max_examples=200)
@given(events, st.integers(1, 4), st.integers(1, 3))
def test_whatever_is_lost_nothing_is_missing_after_the_switch(
    befell: list[tuple[str, str, int]], shards: int, replicas: int
) -> None:
    cluster = model(shards, replicas)
    for how, node, seconds in befell:
        for _ in range(seconds):
            if cluster.ended is None:
                cluster.tick()
        if cluster.ended is not None:
            return
        match how:
            case "lose" | "lose disk":
                cluster.lose(node, disk=how == "lose disk")
            case "back":
                cluster.back(node)
            case "crash":
                for place in [p for p in cluster.copies if p[1] == node and node in cluster.here]:
                    cluster.copies[place] = Replica(*place, Phase.CLOSED, cluster.now)
            case "follower":
                cluster.followers.clear()
            case "controller":
                cluster.hold, cluster.hold_since = "", None
                cluster.closed_at = float("-inf")
            case "hold":  # it ended before it was prolonged
                cluster.hold = ""
                cluster.holds_count += 1
    for node in NAMES:
        cluster.back(node)
    cluster.settle()
    assert isinstance(cluster.ended, Switch | Drop)
