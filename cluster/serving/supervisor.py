"""Heals a served index: decides from what was seen what to restart, and why.

A plain class: it calls nothing and starts nothing (watch.py does). Ray itself restarts actors whose
process ended; what Ray does not heal is decided here:

    the GCS (Ray's control store) ended, or is silent    restarted alone; queries are still answered
    the raylet ended, or the GCS declared it dead        the local cluster is replaced as a whole
    several of Ray's processes ended at once             someone stopped Ray: the command ends too
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

RAYLET, GCS = "raylet", "GCS"
SETTLE_S = 2.0
"""From the end of the raylet to the reaction: by then it is clear if all of Ray was stopped."""
TOGETHER_S = 5.0
"""A process that ended within this time of the raylet ended together with it."""
GCS_SILENT_MAX_S = 15.0
STOPPED_MAX_S = 40.0
"""A stopped GCS (SIGSTOP) may be continued. After 60 s without a GCS all of Ray ends itself."""
GCS_STARTS_MAX = 3
REPLACED_MAX = 3
WITHIN_S = 600.0
"""The time over which restarts are counted; after too many comes the next step: replace, end."""


class Step(Enum):
    """What to do now."""

    NOTHING = "nothing"
    START_GCS = "start the GCS again"
    REPLACE = "replace the local Ray cluster"
    END = "end"


@dataclass(frozen=True, slots=True)
class Actor:
    """An actor of the index as Ray knows it: ``pid`` of its newest process, alive or not."""

    pid: int
    is_alive: bool
    is_stopped: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """One look. ``ended`` are Ray's own processes that are gone, with their pids;
    ``router_is_gone`` says that Ray will not restart it.
    """

    ended: Mapping[str, int] = field(default_factory=dict)
    actors: Mapping[str, Actor] = field(default_factory=dict)
    node_is_alive: bool = True
    router_is_gone: bool = False
    gcs_silent_s: float = 0.0
    gcs_is_stopped: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """A step, and why, for the log."""

    step: Step
    why: str = ""


class Supervisor:
    """Remembers what it has seen and done, across all clusters that one command starts."""

    def __init__(self) -> None:
        self.has_begun = False
        """Whether the newest cluster has been started, and is watched."""
        self._lost_at_s: float | None = None
        self._ended_at_s: dict[str, float] = {}
        self._gcs_starts_s: list[float] = []
        self._replaced_s: list[float] = []
        self._actors: dict[str, Actor] = {}

    def decide(self, seen: Seen, now_s: float) -> Decision:
        """What to do after this look, at ``now_s`` on a monotonic clock."""
        self._ended_at_s = {name: self._ended_at_s.get(name, now_s) for name in seen.ended}
        lost = self._lost(seen)
        if lost is not None:
            self._lost_at_s = now_s if self._lost_at_s is None else self._lost_at_s
            if together := self._ended_with_it(self._lost_at_s):
                return Decision(Step.END, f"{together} ended together: Ray was stopped as a whole")
            if now_s - self._lost_at_s < SETTLE_S:
                return Decision(Step.NOTHING)
            return self._replace(lost, now_s)
        self._lost_at_s = None
        silent = _gcs_trouble(seen)
        return Decision(Step.NOTHING) if silent is None else self._start_gcs(silent, now_s)

    def start_failed(self, why: str, now_s: float) -> Decision:
        """What to do after another cluster could not be started."""
        return self._replace(f"the index could not be restarted ({why})", now_s)

    def narrate(self, actors: Mapping[str, Actor]) -> list[str]:
        """What happened to the index's actors since the last look, one line each."""
        lines = []
        for name, now in actors.items():
            before = self._actors.get(name, now)
            if before.is_alive and not now.is_alive:
                lines.append(f"{name} (pid {before.pid}) ended; Ray restarts it")
            elif before.is_alive and before.pid != now.pid:
                lines.append(f"{name} (pid {before.pid}) ended; restarted as pid {now.pid}")
            elif (
                now.is_alive and not before.is_alive and before.pid
            ):  # it had none before its first
                lines.append(f"{name} was restarted as pid {now.pid}")
            elif now.is_stopped and not before.is_stopped:
                lines.append(f"{name} (pid {now.pid}) is stopped, perhaps by SIGSTOP")
            elif before.is_stopped and not now.is_stopped:
                lines.append(f"{name} (pid {now.pid}) runs again")
        self._actors = dict(actors)
        return lines

    def begun(self) -> None:
        """Another cluster was started: nothing is known of its processes yet."""
        self.has_begun = True
        self._actors = {}
        self._ended_at_s = {}
        self._lost_at_s = None
        self._gcs_starts_s = []

    def _lost(self, seen: Seen) -> str | None:
        if RAYLET in seen.ended:
            return f"the raylet (pid {seen.ended[RAYLET]}) ended"
        if not seen.node_is_alive:
            return "Ray declared its node dead, because the raylet did not answer"
        if seen.router_is_gone:
            return "Ray no longer restarts the router"
        return None

    def _ended_with_it(self, lost_at_s: float) -> str | None:
        """Names of Ray's processes that ended about then, if there are several."""
        times = self._ended_at_s.items()
        names = [name for name, at_s in times if abs(at_s - lost_at_s) <= TOGETHER_S]
        return " and ".join(f"the {name}" for name in sorted(names)) if len(names) > 1 else None

    def _start_gcs(self, why: str, now_s: float) -> Decision:
        self._gcs_starts_s = [*_recent(self._gcs_starts_s, now_s), now_s]
        if len(self._gcs_starts_s) > GCS_STARTS_MAX:
            return self._replace(f"{why}, after {GCS_STARTS_MAX} restarts", now_s)
        return Decision(Step.START_GCS, why)

    def _replace(self, why: str, now_s: float) -> Decision:
        self._replaced_s = [*_recent(self._replaced_s, now_s), now_s]
        if len(self._replaced_s) > REPLACED_MAX:
            times = f"for the {len(self._replaced_s)}th time in {WITHIN_S:.0f} s"
            return Decision(Step.END, f"{why}, {times}")
        return Decision(Step.REPLACE, why)


def _gcs_trouble(seen: Seen) -> str | None:
    if GCS in seen.ended:
        return f"Ray's control store (GCS, pid {seen.ended[GCS]}) ended"
    limit_s = STOPPED_MAX_S if seen.gcs_is_stopped else GCS_SILENT_MAX_S
    if seen.gcs_silent_s > limit_s:
        return f"Ray's control store (GCS) did not answer for {seen.gcs_silent_s:.0f} s"
    return None


def _recent(times_s: list[float], now_s: float) -> list[float]:
    return [time_s for time_s in times_s if now_s - time_s < WITHIN_S]
