"""What a controller tells the actors: with fakes for these."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bitsift.cluster.fleet import enact
from bitsift.cluster.fleet.enact import Enactor
from bitsift.cluster.fleet.spec import ClusterSpec, IndexSource, PlacementSpec
from bitsift.cluster.manifest import Manifest
from bitsift.router.shards.placement import ReplicaTable
from bitsift.shard_worker.codes import Calibration

SPEC = ClusterSpec(index=IndexSource(folder="index"), placement=PlacementSpec(data="data"))
TABLE = ReplicaTable(1, ((),))


class FakeRouter:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda given: self.told.append((name, given)))


@pytest.fixture
def enactor(monkeypatch: pytest.MonkeyPatch) -> Enactor:
    monkeypatch.setattr(enact, "asked", lambda *_: None)
    sample = np.random.default_rng(5).standard_normal((100, 64)).astype(np.float32)
    manifest = Manifest("uuid", "n", "", 1, Calibration.from_sample(sample, 64), None, {}, 7)
    return Enactor(SPEC, manifest, {}, {}, lambda: 1)


@pytest.mark.parametrize("writer", [None, FakeRouter()], ids=["gone", "there"])
def test_routers_are_told_of_a_writer_only_where_there_is_one(
    enactor: Enactor, writer: FakeRouter | None
) -> None:
    """Without one they keep the earlier, whose end they can tell their callers."""
    router, fleet = FakeRouter(), SimpleNamespace(writer=lambda _: writer)
    fleet.router = lambda _: router
    enactor.fleet = fleet  # type: ignore[assignment]
    enactor.place(TABLE, ["a"])
    through = [("write_through", writer)] if writer is not None else []
    assert router.told == [("place", TABLE), *through]
