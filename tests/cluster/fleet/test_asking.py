"""Nobody waits without an end for an actor of a cluster: with one that never answers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from bitsift.cluster.cli import cluster as cli
from bitsift.cluster.fleet import controller, enact, following, polls, retiring, sources
from bitsift.cluster.fleet.control import Control
from bitsift.cluster.fleet.controller import ControllerActor
from bitsift.cluster.fleet.enact import Enactor
from bitsift.cluster.fleet.following import ActorSink, ActorSource
from bitsift.cluster.fleet.node_store import HeldIndex
from bitsift.cluster.fleet.polls import agent_said
from bitsift.cluster.fleet.sources import PeerBlocks, exported
from bitsift.cluster.fleet.spec import ClusterSpec, IndexSource, PlacementSpec
from bitsift.cluster.ingest import calibrate, load, placed
from bitsift.cluster.ingest.calibrate import SampleModel
from bitsift.cluster.ingest.placed import PlacedIndex
from bitsift.cluster.manifest import Manifest
from bitsift.errors import BitsiftError, DeadlineExceeded, Unavailable
from bitsift.router.shards import remote
from bitsift.router.shards.remote import RemoteLink
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.operations import Delete
from tests.cluster.fleet.model_cluster import spec_of


class FakeActor:
    """Takes any call. ``answers`` has what some of its methods answer; the others never do."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        call = SimpleNamespace(remote=lambda *_: self._answers.get(name, name))
        call.options = lambda **_: call
        return call


@pytest.fixture
def waited_s(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """How long each call that was never answered was waited for; no time goes by."""
    waited = list[float | None]()

    def get(answer: Any, timeout: float | None = None) -> Any:
        if not isinstance(answer, str):
            return answer
        waited.append(timeout)
        raise ray.exceptions.GetTimeoutError(f"{answer}: no answer in {timeout} s")

    monkeypatch.setattr(ray, "get", get)
    return waited


def enactor() -> Enactor:
    sample = np.random.default_rng(5).standard_normal((100, 64)).astype(np.float32)
    manifest = Manifest("uuid", "n", "", 1, Calibration.from_sample(sample, 64), None, {}, 7)
    made = Enactor(spec_of(1), manifest, {}, {}, lambda: 1)
    made.fleet = SimpleNamespace(writer=lambda _: FakeActor())  # type: ignore[assignment]
    return made


def model() -> SampleModel:
    made = object.__new__(SampleModel)
    made._actor = SILENT
    return made


def retire() -> None:
    agent = FakeActor(adopt=None, keep=None)
    state: Any = SimpleNamespace(to_json=dict)
    retiring.retire(agent, "a", HeldIndex("old", (), None), "new", {}, state)


def build() -> None:
    placement = PlacementSpec(data="/data")
    spec = ClusterSpec(index=IndexSource(name="i"), placement=placement)
    PlacedIndex(spec, Path("cluster.toml"), {}, {"a": FakeActor()})


SILENT = FakeActor()
BLOCKS = PeerBlocks(SILENT, "a", "uuid", 0, "b")
CALLS: dict[str, tuple[Callable[[], object], float]] = {
    "an agent": (lambda: agent_said(SILENT, "a", "report"), polls.ASK_TIMEOUT_S),
    "its removal of an index": (retire, retiring.REMOVE_TIMEOUT_S),
    "its reading of a shard": (BLOCKS.files, sources.EXPORT_TIMEOUT_S),
    "a block of that": (lambda: BLOCKS.read_block("d"), sources.BLOCK_TIMEOUT_S),
    "a batch of a reshard": (
        lambda: ActorSource(SILENT, 0, "a").written_since(0, None),
        following.READ_TIMEOUT_S,
    ),
    "the write of one": (
        lambda: ActorSink(SILENT, 0, "a").write(b"")(),
        following.WRITE_TIMEOUT_S,
    ),
    "shards that were filled": (lambda: load.answers("silent"), load.ANSWERS_TIMEOUT_S),
    "a batch of a load": (
        lambda: RemoteLink(0, SILENT).load(Delete(["a"])).statuses(),
        remote.LOADED_TIMEOUT_S,
    ),
    "a model that is loaded": (lambda: model().load(None), calibrate.MODEL_TIMEOUT_S),
    "a model at its sample": (
        lambda: model().encode(pa.table({})),
        calibrate.MODEL_TIMEOUT_S,
    ),
    "an agent during a build": (build, placed.ASK_TIMEOUT_S),
    "a writer that makes replicas equal": (lambda: enactor().settle(), enact.SETTLED_S),
    "a controller": (lambda: cli._ask("status"), cli.ASK_TIMEOUT_S),
}


@pytest.mark.parametrize("what", CALLS)
def test_an_actor_that_does_not_answer_is_given_up(what: str, waited_s: list[float | None]) -> None:
    call, limit_s = CALLS[what]
    with pytest.raises(DeadlineExceeded, match="does not answer"):
        call()
    assert waited_s == [limit_s]


def test_an_export_of_a_node_of_its_own_is_given_up(
    tmp_path: Path, waited_s: list[float | None]
) -> None:
    with pytest.raises(DeadlineExceeded, match="shard 3 does not answer"):
        exported(SILENT, 3, tmp_path)
    assert waited_s == [sources.EXPORT_TIMEOUT_S]


def test_another_build_is_waited_for_as_long_as_one_that_was_killed_may_take_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(placed, "ENDING_S", 0.05)
    monkeypatch.setattr(placed, "_POLL_S", 0.01)

    def taken(*_: object, **__: object) -> Any:
        raise ValueError("the name is taken")

    actor = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=taken))
    monkeypatch.setattr(placed, "remote", lambda _: actor)
    with pytest.raises(Unavailable, match=r"another command builds .* \(it runs x\): wait until"):
        placed._started(object, "x", "a")


def test_a_request_that_the_controller_does_not_come_to_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(controller, "REQUEST_TIMEOUT_S", 0.05)
    actor_class = ControllerActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]
    busy = actor_class.__new__(actor_class)
    busy._control, busy._failure = Control(spec_of(1)), None
    done = Future[None]()
    with pytest.raises(Unavailable, match="could not carry this out within 0 s and dropped it"):
        busy._asked(lambda _: done.set_result(None))
    busy._control._answer_requests()
    assert not done.done(), "what its caller has given up is not done later"


def test_a_controller_that_finds_no_index_and_a_cluster_that_does_not_end_are_said(
    monkeypatch: pytest.MonkeyPatch, waited_s: list[float | None]
) -> None:
    monkeypatch.setattr(cli, "POLL_S", 0.01)
    monkeypatch.setattr(cli, "START_TIMEOUT_S", 0.05)
    status = {"index": None, "failure": "no node has it"}
    actor = FakeActor(status=status)
    with pytest.raises(Unavailable, match="found no index within 0 s: no node has it"):
        cli._until_known(actor)
    with pytest.raises(BitsiftError, match="after 0 s: routers are running"):
        cli._until(actor, lambda _: "routers are running", 0.05)
    assert waited_s == []
