"""What a controller says where it cannot go on."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from bitsift.cluster.fleet.actors import RayNode
from bitsift.cluster.fleet.control import Control, Request
from bitsift.cluster.fleet.controller import ControllerActor
from bitsift.cluster.fleet.spec import IndexSource
from bitsift.errors import NotFound, Unavailable
from tests.cluster.fleet.model_cluster import spec_of

SHARED, OF_ONE = IndexSource(folder="/i"), IndexSource(folder="/i", node="a")


@pytest.mark.parametrize("source", [SHARED, OF_ONE])
def test_an_index_that_no_node_with_data_can_read_says_who_must_act(source: IndexSource) -> None:
    control = Control(spec_of(2))
    control.alive = {"r": RayNode("r", "", "127.0.0.1", has_data=False)}
    with pytest.raises(Unavailable, match="start a Ray node with --labels bitsift-node=NAME"):
        control.source_files(source)


def test_an_index_of_a_node_that_is_away_is_waited_for() -> None:
    control = Control(spec_of(2))
    control.alive = {"b": RayNode("b", "", "127.0.0.1")}
    with pytest.raises(NotFound, match="node a, which has the index, does not answer: start it"):
        control.source_files(OF_ONE)


class Panic(BaseException):
    """What compiled libraries raise: PyO3's PanicException is no Exception either."""


def fails(_: Any) -> None:
    raise Panic("boom")


def test_whatever_a_request_raises_it_is_answered_and_the_next_is_done() -> None:
    control = Control(spec_of(2))
    requests = [Request(fails, Future()), Request(lambda it: it.spec.placement.replicas, Future())]
    for request in requests:
        control.requests.put(request)
    control._answer_requests()
    with pytest.raises(Panic):
        requests[0].done.result(0)
    assert requests[1].done.result(0) == 2


def test_a_controller_goes_on_after_whatever_a_step_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    actor_class = ControllerActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]
    controller = actor_class.__new__(actor_class)
    controller._control = Control(spec_of(2))
    monkeypatch.setattr(Control, "step", fails_at)
    controller._step()
    assert controller._failure == "Panic: boom"


def fails_at(_: Control, __: float) -> None:
    raise Panic("boom")
