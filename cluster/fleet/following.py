"""New shards become what an old one is, while it answers and is written to.

A follower does all that an old shard holds in the new shards that own it, as operations with the
versions that they have, and then what came meanwhile, pass after pass (written_since.py). The
newest version stays, so it does not matter what comes twice: one that was killed is begun again
since the version that its last whole pass reached; from the beginning where the shard has several
replicas, for one may lack what is older than the newest that it has.

A whole pass that began when nothing was written any more has left nothing out: it is *caught up*.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bitsift.cluster.fleet.hydration import Pace
from bitsift.errors import Unavailable
from bitsift.router.shards.placement import Placement
from bitsift.router.shards.ray_calls import asked, sent, shard_callee
from bitsift.router.shards.routed import routed
from bitsift.shard_worker.operations import statuses
from bitsift.shard_worker.wire.write import pack_writes, unpack_outcomes, unpack_writes
from bitsift.shard_worker.written_since import Changes, Mark

PAUSE_S = 1.0
"""Between two passes."""
READ_TIMEOUT_S, WRITE_TIMEOUT_S = 60.0, 60.0


class Source(Protocol):
    """The old shard."""

    def written_since(self, since: int, mark: Mark | None) -> Changes: ...


class Sink(Protocol):
    """A copy of a new shard. ``write`` begins to do packed operations; what it returns waits until
    they are on its disk, and raises where one was not done.
    """

    def write(self, operations: bytes) -> Callable[[], object]: ...


@dataclass(slots=True)
class FollowProgress:
    """How far a follower is. ``rows`` of ``total_rows`` were looked at in this pass, of which there
    were ``passes`` before, the last one of ``pass_s`` seconds. A later one begins ``since``.

    ``caught_up`` is what ``catch_up`` was last given before a pass that has ended; ``documents``
    were in the old shard then.
    """

    since: int = 0
    rows: int = 0
    total_rows: int = 0
    passes: int = 0
    pass_s: float = 0.0
    documents: int = 0
    caught_up: str = ""


class Follower:
    """Of one old shard. ``run`` in a thread of its own, until ``end``."""

    def __init__(
        self, source: Source, sinks: Mapping[int, Sequence[Sink]], pace: Pace, since: int
    ) -> None:
        """``sinks`` are all copies of every new shard, by its number."""
        self._source = source
        self._sinks = sinks
        self._placement = Placement(len(sinks))
        self._pace = pace
        self._mark: Mark | None = None
        self._wanted = ""
        self._woken, self._ended = threading.Event(), threading.Event()
        self.progress = FollowProgress(since)

    def run(self) -> None:
        """Pass after pass. Raises what source and sinks do."""
        while not self._ended.is_set():
            self._woken.clear()
            wanted, begun = self._wanted, time.monotonic()
            if not self._pass():
                return
            self.progress.pass_s = time.monotonic() - begun
            self.progress.passes += 1
            self.progress.caught_up = wanted
            self._woken.wait(PAUSE_S)

    def catch_up(self, wanted: str) -> None:
        """Begin a pass after this moment, and say ``wanted`` when it has ended."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._woken.set()

    def end(self) -> None:
        """At the next batch."""
        self._ended.set()
        self._woken.set()

    def _pass(self) -> bool:
        """Whether it came to its end."""
        mark = self._mark
        while not self._ended.is_set():
            found = self._source.written_since(self.progress.since, mark)
            if mark is not None and found.mark.opened[0] != mark.opened[0]:
                raise Unavailable("the old shard was opened again: another follower begins")
            mark = found.mark
            self._write(found)
            self.progress.rows, self.progress.total_rows = mark.row, mark.stop
            if mark.is_ended:
                self._mark, self.progress.since = mark, mark.version
                self.progress.documents = found.documents
                return True
        return False

    def _write(self, found: Changes) -> None:
        waiting = []
        for shard, operations in routed(found.operations, self._placement).items():
            packed = pack_writes(operations)
            self._pace.take(len(packed))
            waiting += [sink.write(packed) for sink in self._sinks[shard]]
        for wait in waiting:
            wait()


@dataclass(frozen=True, slots=True)
class ActorSource:
    """An old shard, by the actor that has it open."""

    actor: Any
    shard: int
    node: str

    def written_since(self, since: int, mark: Mark | None) -> Changes:
        callee = shard_callee(self.shard, self.node)
        packed, mark, documents = asked(
            sent(self.actor.written_since, callee, since, mark), callee, READ_TIMEOUT_S
        )
        assert mark is not None
        return Changes(unpack_writes(packed), mark, documents)


@dataclass(frozen=True, slots=True)
class ActorSink:
    """A copy of a new shard, by its actor, which does this in the thread of bulk loads."""

    actor: Any
    shard: int
    node: str

    def write(self, operations: bytes) -> Callable[[], object]:
        callee = shard_callee(self.shard, self.node)
        reference = sent(self.actor.write.options(concurrency_group="load"), callee, operations)
        return lambda: statuses(unpack_outcomes(asked(reference, callee, WRITE_TIMEOUT_S)))
