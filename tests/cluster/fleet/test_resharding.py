"""Before old shards are followed to their end, those that may lack a write are left out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bitsift.cluster.fleet.enact import HELD_S
from bitsift.cluster.fleet.observed import Node, Observed, Orders, Phase, Replica, Reshard, Table
from bitsift.cluster.fleet.resharding import SEAL_S, Resharding
from bitsift.cluster.fleet.spec import ClusterSpec
from bitsift.cluster.manifest import Manifest
from bitsift.errors import ShardUnavailable
from bitsift.shard_worker.codes import Calibration

ORDER = Reshard("new", (("a",), ("b",)), is_made=True)
SPEC = ClusterSpec.model_validate(
    {"index": {"name": "n"}, "placement": {"replicas": 3, "data": "/data/{node}"}}
)


@dataclass
class FakeEnactor:
    """Holds, and settles on what the test says."""

    behind: set[tuple[int, str]] = field(default_factory=set)
    error: ShardUnavailable | None = None
    holds: int = 0
    hold_name: str = ""
    held_until: float = 0.0

    def hold(self) -> None:
        if time.monotonic() >= self.held_until:
            self.holds += 1
            self.hold_name = f"hold {self.holds}"
        self.held_until = time.monotonic() + HELD_S

    def settle(self) -> set[tuple[int, str]]:
        if self.error is not None:
            raise self.error
        return self.behind


class FakeIndex:
    """One old shard, on three nodes; one replica is behind, by what the writer said last."""

    def __init__(self, behind: str = "") -> None:
        sample = np.random.default_rng(5).standard_normal((100, 64)).astype(np.float32)
        calibration = Calibration.from_sample(sample, 64)
        self.manifest = Manifest("old", "n", "", 1, calibration, None, {}, 7)
        self.enactor: Any = FakeEnactor()
        self.observed = Observed(
            table=Table(1, (("a", "b", "c"),)),
            nodes=tuple(Node(name) for name in "abc"),
            replicas=tuple(
                Replica(0, name, Phase.READY, is_behind=name == behind) for name in "abc"
            ),
            orders=Orders(reshard=ORDER),
            is_held=True,
        )

    def next_epoch(self) -> int:
        return 1


@pytest.fixture(autouse=True)
def no_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is there that could be told to refuse writes."""
    monkeypatch.setattr(Resharding, "_old_actors", lambda _, **__: [])


def resharding(index: FakeIndex) -> Resharding:
    control: Any = SimpleNamespace(spec=SPEC, agents={}, alive={})
    return Resharding(control, index, ORDER)  # type: ignore[arg-type]


def test_a_replica_that_is_behind_is_not_followed() -> None:
    assert resharding(FakeIndex()).seen(0.0).old == (("a", "b", "c"),)
    assert resharding(FakeIndex("b")).seen(0.0).old == (("a", "c"),)


def test_a_replica_that_was_not_made_equal_is_not_followed_until_writes_go_on() -> None:
    index = FakeIndex()
    found = resharding(index)
    index.enactor.behind = {(0, "c")}
    found._close(0.0)
    seen = found.seen(0.0)
    assert (seen.old, seen.hold) == ((("a", "b"),), "hold 1")
    found._open(1.0)
    assert found.seen(1.0).old == (("a", "b", "c"),)


def test_replicas_that_cannot_be_made_equal_end_the_hold() -> None:
    index = FakeIndex()
    found = resharding(index)
    found._close(0.0)
    index.enactor.error = ShardUnavailable("too few replicas answer")
    with pytest.raises(ShardUnavailable):
        found._close(1.0)
    assert found.seen(1.0).hold == ""
    assert index.enactor.held_until == 0.0


def test_after_old_shards_could_be_written_to_another_pass_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They refuse writes for less time than they are held."""
    index = FakeIndex()
    found = resharding(index)
    found._close(0.0)
    found._close(1.0)
    assert found.seen(1.0).hold == "hold 1"
    later = time.monotonic() + SEAL_S + 0.5
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert later < index.enactor.held_until
    found._close(9.0)
    assert found.seen(9.0).hold == "hold 2"
