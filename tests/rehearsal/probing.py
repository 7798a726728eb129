"""When a probe is due, and what its answers mean: the rules of a kubelet, on any clock."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from tests.rehearsal.pods import Container, Probe

BACK_OFF_S, BACK_OFF_MAX_S, BACK_OFF_FORGOTTEN_S = 10.0, 300.0, 600.0
"""A container that ends is started again at once, then after 10 s, 20 s …; after 10 minutes that it
ran, as at first."""


class Kind(enum.Enum):
    STARTUP = "startup"
    LIVENESS = "liveness"
    READINESS = "readiness"


@dataclass(slots=True)
class Watched:
    """One probe of a container that runs. Its first verdict is that nothing is known."""

    probe: Probe
    due_s: float
    is_passed: bool | None = None
    _in_row: int = 0
    _last: bool | None = None

    def record(self, answered: bool, now_s: float) -> None:
        """What an attempt that ended at ``now_s`` found."""
        self._in_row = self._in_row + 1 if answered is self._last else 1
        self._last = answered
        enough = self.probe.successes if answered else self.probe.failures
        if self._in_row >= enough:
            self.is_passed = answered
        self.due_s = max(self.due_s + self.probe.period_s, now_s)


@dataclass(slots=True)
class Probes:
    """The probes of a container, from when it was started at ``began_s``.

    The others wait until startup has passed. ``is_ready`` is what a Service goes by, ``must_end``
    that the container is to be ended and started again.
    """

    container: Container
    began_s: float
    _watched: dict[Kind, Watched] = field(default_factory=dict)
    has_started: bool = False

    def __post_init__(self) -> None:
        if self.container.startup is not None:
            self._watch(Kind.STARTUP, self.container.startup, self.began_s)
        else:
            self._begin(self.began_s)

    def _watch(self, kind: Kind, probe: Probe | None, now_s: float) -> None:
        if probe is not None:
            self._watched[kind] = Watched(probe, max(now_s, self.began_s + probe.delay_s))

    def _begin(self, now_s: float) -> None:
        self.has_started = True
        self._watched.clear()
        self._watch(Kind.LIVENESS, self.container.liveness, now_s)
        self._watch(Kind.READINESS, self.container.readiness, now_s)

    def due(self, now_s: float) -> list[tuple[Kind, Probe]]:
        """What is to be asked now."""
        return [(kind, one.probe) for kind, one in self._watched.items() if one.due_s <= now_s]

    def record(self, kind: Kind, answered: bool, now_s: float) -> None:
        watched = self._watched.get(kind)
        if watched is None:  # it was asked before startup had passed
            return
        watched.record(answered, now_s)
        if kind is Kind.STARTUP and watched.is_passed:
            self._begin(now_s)

    @property
    def is_ready(self) -> bool:
        if not self.has_started:
            return False
        watched = self._watched.get(Kind.READINESS)
        return watched is None or watched.is_passed is True

    @property
    def must_end(self) -> bool:
        return any(
            self._watched[kind].is_passed is False
            for kind in (Kind.STARTUP, Kind.LIVENESS)
            if kind in self._watched
        )


@dataclass(slots=True)
class BackOff:
    """How long to wait before a container is started again."""

    _next_s: float = 0.0

    def after(self, ran_s: float) -> float:
        """The wait after it ran for so long, in seconds."""
        if ran_s >= BACK_OFF_FORGOTTEN_S:
            self._next_s = 0.0
        waits = self._next_s
        self._next_s = min(BACK_OFF_MAX_S, max(BACK_OFF_S, 2 * waits))
        return waits
