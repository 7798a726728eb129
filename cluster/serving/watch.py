"""The thin part of supervision: watches Ray and the index's actors, and does what is decided.

A thread asks the GCS, since that call never returns while the GCS is away; the main thread watches
processes, and makes the router listen again after its process ended.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime

from bitsift.cluster.interrupts import Ending
from bitsift.cluster.serving.claim import Marked
from bitsift.cluster.serving.launch import ASK_TIMEOUT_S, Serving
from bitsift.cluster.serving.others import do_next_order
from bitsift.cluster.serving.own_ray import OwnRay
from bitsift.cluster.serving.ray_cluster import OnStep
from bitsift.cluster.serving.supervisor import Actor, Seen, Step, Supervisor
from bitsift.errors import BitsiftError, Unavailable
from bitsift.router.shards.ray_calls import ROUTER, asked, is_gone

LOOK_S = 0.5
AGAIN_S = 5.0
"""Wait after a failed start: a port may be taken for a moment, or the machine too busy."""
ASK_GCS_S = 1.0
EVENTS_MAX = 50
"""How many of the newest events /v1/cluster shows."""
Start = Callable[[str | None], AbstractContextManager[Serving]]
"""Starts everything. Called with the address to listen on again, None the first time."""


class ClusterLost(Exception):
    """The local Ray cluster must be replaced; lost at ``at_s`` on the monotonic clock."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.at_s = time.monotonic()


class Journal:
    """What happened, in order: one log line each, and the newest for /v1/cluster."""

    def __init__(self, say: OnStep) -> None:
        self._say = say
        self.events: list[dict[str, str]] = []

    def add(self, line: str) -> None:
        """Log the line and keep it."""
        self._say(line)
        event = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "what": line}
        self.events = [*self.events, event][-EVENTS_MAX:]


def keep_serving(start: Start, processes: Marked, ending: Ending, say: OnStep) -> None:
    """Serve, and heal what breaks, until the command is told to end.

    ``processes`` are those that ``start`` starts. Raises Unavailable if it cannot be healed.
    """
    supervisor, journal, url, lost_s = Supervisor(), Journal(say), None, 0.0
    while True:
        supervisor.has_begun = False
        try:
            with start(url) as serving:
                if url is not None:
                    took_s = time.monotonic() - lost_s
                    journal.add(f"healed: {serving.url} answers again after {took_s:.1f} s")
                url = serving.url
                supervisor.begun()
                _Watch(serving, supervisor, journal, processes).until_lost(ending)
        except ClusterLost as lost:
            lost_s = lost.at_s
        except BitsiftError as error:
            if url is None or supervisor.has_begun:
                raise
            decision = supervisor.start_failed(error.message, time.monotonic())
            if decision.step is Step.END:
                raise Unavailable(decision.why) from error
            journal.add(f"{decision.why}: trying again")
            processes.end()
            ending.sleep(AGAIN_S)


class _Watch:
    """One cluster, watched until it is lost."""

    def __init__(
        self, serving: Serving, supervisor: Supervisor, journal: Journal, processes: Marked
    ) -> None:
        self._serving = serving
        self._supervisor = supervisor
        self._journal = journal
        self._processes = processes
        self._ray = OwnRay()
        self._asking = threading.Event()
        self._actors: dict[str, Actor] = {}
        self._node_is_alive = True
        self._heard_s = time.monotonic()
        self._listening = serving.listen_again()
        self._router_pid: int | None = None
        self._router_is_gone = False
        self._told: object = None

    def until_lost(self, ending: Ending) -> None:
        """Raises ClusterLost if everything must be restarted, Unavailable if all must end."""
        self._asking.set()
        threading.Thread(target=self._ask_gcs, name="ask-gcs", daemon=True).start()
        if self._serving.others is not None:
            threading.Thread(target=self._do_orders, name="orders", daemon=True).start()
        try:
            while True:
                ending.sleep(LOOK_S)
                self._look()
        finally:
            self._asking.clear()

    def _look(self) -> None:
        self._look_at_router()
        seen = Seen(
            ended=self._ray.ended(),
            actors=self._actors,
            node_is_alive=self._node_is_alive,
            router_is_gone=self._router_is_gone,
            gcs_silent_s=time.monotonic() - self._heard_s if self._ray.is_local else 0.0,
            gcs_is_stopped=self._ray.gcs_is_stopped(),
        )
        for line in self._supervisor.narrate(seen.actors):
            self._journal.add(line)
        decision = self._supervisor.decide(seen, time.monotonic())
        match decision.step:
            case Step.START_GCS:
                self._journal.add(f"{decision.why}: restarting it; queries are still answered")
                self._start_gcs()
            case Step.REPLACE:
                self._give_up(decision.why)
            case Step.END:
                self._serving.abandon()
                raise Unavailable(decision.why)
            case Step.NOTHING:
                self._tell()

    def _start_gcs(self) -> None:
        try:
            self._ray.start_gcs()
        except Exception as error:  # of any class: Ray's own starts raise what they like
            self._journal.add(f"the GCS cannot be restarted: {type(error).__name__}: {error}")
        self._heard_s = time.monotonic()

    def _give_up(self, why: str) -> None:
        """End every process of the cluster, so that the folders and the port are free again."""
        said = "ending what is left of this Ray cluster, then restarting Ray and the index"
        lost = ClusterLost(why)
        self._journal.add(f"{why}: {said}")
        self._serving.abandon()
        pids = self._processes.end(spared=self._ray.gcs_pid)  # Ray's own end takes 5 s without it
        self._journal.add(f"ended processes {', '.join(map(str, pids))}")
        raise lost

    def _look_at_router(self) -> None:
        """A restarted router is told to listen.

        Raises Unavailable if Ray will not restart it on a cluster that this command did not start:
        others must heal that.
        """
        if not self._ray.has_answered(self._listening):
            return
        self._router_is_gone = False
        try:
            pid = asked(self._listening, ROUTER, ASK_TIMEOUT_S)
            if self._router_pid not in (None, pid):
                self._serving.tell_others()
                self._journal.add(f"the router listens again on {self._serving.url} (pid {pid})")
            self._router_pid = pid
        except BitsiftError as error:
            self._router_is_gone = is_gone(error)
            if self._router_is_gone and not self._ray.is_local:
                raise
        self._listening = self._serving.listen_again()

    def _tell(self) -> None:
        """Sends the events for /v1/cluster, also to a restarted router."""
        news = self._router_pid, self._journal.events
        if news != self._told:
            self._serving.tell(self._journal.events)
            self._told = news

    def _do_orders(self) -> None:
        """Runs in its own thread while the cluster is watched."""
        serving, others = self._serving, self._serving.others
        assert others is not None
        while self._asking.is_set():
            try:
                do_next_order(serving.router, others, serving.tell_others)
            except BitsiftError:  # the router is away: whoever waited for an order is, too
                time.sleep(ASK_GCS_S)

    def _ask_gcs(self) -> None:
        """Runs in its own thread while the cluster is watched."""
        names = self._serving.names()
        while self._asking.is_set():
            with contextlib.suppress(Exception):  # of any class: it will be asked again
                self._actors = self._ray.actors(names)
                self._node_is_alive = self._ray.node_is_alive()
                self._heard_s = time.monotonic()
            time.sleep(ASK_GCS_S)
