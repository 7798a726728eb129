"""RouterActor's own thread: whatever is raised in it, /readyz is told."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle

from bitsift.router.actor import RouterActor
from bitsift.router.description import IndexDescription, ModelSpec
from bitsift.router.model.encoder import Encoder
from bitsift.router.model.spec import EncoderSpec
from bitsift.router.reports import RouterReport
from bitsift.router.shards.placement import ReplicaTable
from bitsift.router.write.writer import WriterActor
from bitsift.shard_worker.actor import ShardActor
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.search.precedence import SWITCH_INTERVAL_S
from tests.commands import wait_until

CALIBRATION = Calibration.from_sample(np.eye(64, dtype=np.float32), 64)


class Panic(BaseException):
    """What compiled libraries raise: PyO3's PanicException is no Exception either."""


def router_of(encoder: EncoderSpec | None, model: ModelSpec | None = None) -> Any:
    """A RouterActor without shards, and without Ray round it."""
    actor: Any = RouterActor
    plain = actor.__ray_metadata__.modified_class
    description = IndexDescription("test", "", "", 0, CALIBRATION, model)
    return plain(description, ReplicaTable(0, ()), None, encoder, settings="those")


def test_no_thread_of_the_router_keeps_pythons_lock_from_the_event_loop_for_long() -> None:
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(0.005)
        router_of(None)
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    finally:
        sys.setswitchinterval(before)


def test_an_encoder_that_panics_is_a_failure_and_not_loading_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*_: Any, **__: Any) -> Encoder:
        raise Panic("called `Option::unwrap()` on a `None` value")

    monkeypatch.setattr(Encoder, "load", load)
    router = router_of(EncoderSpec("a"))
    assert wait_until(lambda: asyncio.run(router.encoder_failure()), 10)
    assert asyncio.run(router.encoder_failure()).startswith("Panic: called")


def test_a_router_says_whether_it_can_answer_and_with_what_it_was_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*_: Any, **__: Any) -> Encoder:
        raise Panic("no memory")

    monkeypatch.setattr(Encoder, "load", load)
    model = ModelSpec("a", "", 64, "", "", None)

    async def scenario(router: Any) -> RouterReport:
        report: RouterReport = await router.report("127.0.0.1", 0, None)
        assert report == await router.report("127.0.0.1", 0, None)
        await router.stop()
        return report

    without = asyncio.run(scenario(router_of(None)))
    assert (without.is_loaded, without.settings) == (True, "those")
    assert without.url.startswith("http://127.0.0.1:")
    router = router_of(EncoderSpec("a"), model)
    assert wait_until(lambda: asyncio.run(router.encoder_failure()), 10)
    failed = asyncio.run(scenario(router))
    assert (failed.is_loaded, failed.failure) == (False, "Panic: no memory")


@pytest.mark.parametrize(
    "actor", [RouterActor, WriterActor, ShardActor], ids=["router", "writer", "shard"]
)
def test_ray_can_send_the_class_of_each_actor(actor: Any) -> None:
    """By value: what its methods name from their modules goes along, and a ContextVar cannot."""
    assert cloudpickle.dumps(actor.__ray_metadata__.modified_class)
