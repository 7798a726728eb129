"""ControllerActor: looks each second what is there, and does what ``decide`` says.

It keeps no truth. What outlives it lies on the data disks (state.py): started again at any instant,
by Ray or by `bitsift cluster up` after Ray's control store was wiped, it goes on from there.

Its loop has a thread of its own: what it asks of Ray blocks while Ray's control store is away. The
methods of the actor answer all the while.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import ray

from bitsift.cluster.fleet import orders
from bitsift.cluster.fleet.control import Control, Request
from bitsift.cluster.fleet.observed import Observed, Orders
from bitsift.cluster.fleet.spec import ClusterSpec
from bitsift.cluster.fleet.status import status_of
from bitsift.errors import Unavailable, reason

log = logging.getLogger(__name__)

STEP_S = 1.0
REQUEST_TIMEOUT_S = 30.0
"""A step asks many actors, of which some may not answer."""
_THREADS = {"ask": 8}


@ray.remote(  # type: ignore[call-overload]
    max_restarts=-1, max_task_retries=0, num_cpus=0.001, concurrency_groups=_THREADS
)
class ControllerActor:
    """The one controller of a Ray cluster."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """``spec`` is where it begins to look; a newer one that the disks have goes before it."""
        self._control = Control(ClusterSpec.model_validate(spec))
        self._stepped_at = time.monotonic()
        self._failure: str | None = "it has just begun"
        threading.Thread(target=self._run, name="control", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._step()
            time.sleep(STEP_S)

    def _step(self) -> None:
        try:
            self._control.step(time.monotonic())
            self._failure, self._stepped_at = None, time.monotonic()
        except BaseException as error:  # whatever it is: the next step looks again
            self._failure = reason(error)
            log.exception("a step of the controller failed")

    # --- what operators ask for ------------------------------------------------------------

    @ray.method(concurrency_group="ask")
    def up(self, spec: dict[str, Any]) -> None:
        """Make the cluster what ``spec`` says from now on. Raises Unavailable, InvalidRequest."""
        wanted = ClusterSpec.model_validate(spec)
        self._asked(lambda control: control.index.change_spec(wanted))

    @ray.method(concurrency_group="ask")
    def down(self) -> None:
        """End routers, then replicas; ``status`` says when. The disks keep all."""
        self._order(lambda observed: replace(observed.orders, stopped=True))

    @ray.method(concurrency_group="ask")
    def move(self, shard: int, source: str, target: str) -> None:
        """Raises NotFound, InvalidRequest, Unavailable; so do the following."""
        self._order(lambda observed: orders.moved(observed, shard, source, target))

    @ray.method(concurrency_group="ask")
    def add_replica(self, shard: int, node: str | None) -> None:
        self._order(lambda observed: orders.added(observed, shard, node))

    @ray.method(concurrency_group="ask")
    def accept_loss(self, shard: int) -> None:
        def accept(control: Control) -> None:
            wanted = control.spec.placement.replicas
            control.index.change_orders(orders.lost(control.index.observed, shard, wanted))

        self._asked(accept)

    @ray.method(concurrency_group="ask")
    def drain(self, node: str, undo: bool) -> None:
        self._order(lambda observed: orders.drained(observed, node, undo=undo))

    @ray.method(concurrency_group="ask")
    def reshard(self, shards: int) -> None:
        """Begin. Raises StorageFull and FormatMismatch besides."""
        self._asked(lambda control: control.index.begin_reshard(shards))

    @ray.method(concurrency_group="ask")
    def drop_reshard(self) -> None:
        """Also one that keeps the index from being served: its end may be known elsewhere only."""
        self._control.is_reshard_forgone = True
        try:
            self._asked(lambda control: control.index.drop_reshard("an operator has dropped it"))
        finally:
            self._control.is_reshard_forgone = False

    def _order(self, change: Callable[[Observed], Orders]) -> None:
        self._asked(lambda control: control.index.change_orders(change(control.index.observed)))

    def _asked(self, change: Callable[[Control], None]) -> None:
        """Have it done between two steps."""
        request = Request(change, Future())
        self._control.requests.put(request)
        try:
            request.done.result(REQUEST_TIMEOUT_S)
        except TimeoutError as error:
            if request.done.cancel():
                raise Unavailable(
                    f"the controller could not carry this out within {REQUEST_TIMEOUT_S:.0f} s and "
                    f"dropped it: {self._failure or 'a step takes long; Ray may not be answering'}"
                ) from error
            request.done.result(REQUEST_TIMEOUT_S)

    @ray.method(concurrency_group="ask")
    def status(self) -> dict[str, Any]:
        """What was seen with the last step, as JSON."""
        return status_of(self._control, time.monotonic()) | {
            "failure": self._failure,
            "step_age_s": round(time.monotonic() - self._stepped_at, 1),
        }
