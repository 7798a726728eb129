"""An event loop on a simulated clock: where it would wait, the clock jumps to the next timer.

The code that runs in it is the product's own, and knows nothing of it: while a simulation runs,
``time.monotonic`` is the loop's clock too. There are two kinds of it:

    waiting only    computing takes no time; the same seed gives the same answers at the same times
    with CPU        what this thread computes takes as long on the clock as it takes the processor
                    (thread time, so neighbours on a busy machine do not count; without what it
                    takes to look at this clock, twenty times as long as at a real one)

What other machines compute (``elsewhere``) takes none of this one's time. Threads cannot be
simulated: handing work to one is an error, as is waiting for what no timer will bring.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")
STARTED_S = 1_000.0
"""What the clock says at the beginning."""
LOOKS, LOOK_SHARE = 500, 0.9
"""Looks at the clock that are timed; and how much of that is taken off, to be on the safe side."""


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: tells ``jump`` for how long it would have."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulation waits for what no timer will bring")
        self._jump(max(0.0, timeout))
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """``counts_cpu`` chooses the kind of clock. ``simulate`` runs a coroutine in one."""

    def __init__(self, *, counts_cpu: bool = False) -> None:
        self._counts_cpu = counts_cpu
        self._at_s = STARTED_S
        self._shown_s = STARTED_S
        self._charged_s = 0.0
        self._not_ours_s = 0.0
        self._cpu_before_s = time.thread_time()
        self._looks, self._look_s = 0, 0.0
        self._look_s = self._cost_of_a_look()
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        self._looks += 1
        now_s = self._at_s + (self.cpu_s if self._counts_cpu else 0.0)
        self._shown_s = max(self._shown_s, now_s)  # a look may be cheaper than the cheapest before
        return self._shown_s

    @property
    def cpu_s(self) -> float:
        """Seconds of the processor that this machine has used so far, charged ones included."""
        computed_s = time.thread_time() - self._cpu_before_s - self._not_ours_s
        return computed_s - self._looks * self._look_s + self._charged_s

    def _cost_of_a_look(self) -> float:
        """Seconds, as few as it may take: more would let the clock go back."""

        def look_often() -> float:
            before_s = time.thread_time()
            for _ in range(LOOKS):
                self.time()
            return (time.thread_time() - before_s) / LOOKS

        cheapest_s = min(look_often() for _ in range(10))
        self._looks, self._shown_s = 0, STARTED_S
        return cheapest_s * LOOK_SHARE

    def charge(self, seconds: float) -> None:
        """Processor time, measured elsewhere, of what is not run here."""
        self._charged_s += seconds

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Around what another machine computes."""
        before_s, looks = time.thread_time(), self._looks
        try:
            yield
        finally:
            self._not_ours_s += time.thread_time() - before_s
            self._looks = looks

    def run_in_executor(self, *_: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("the simulation has one thread: what is this work for another?")

    def _jump(self, seconds: float) -> None:
        self._at_s += seconds


def simulated_loop() -> SimulatedLoop:
    """The loop that runs; an error outside of a simulation."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop), loop
    return loop


def simulate(main: Coroutine[Any, Any, T], *, counts_cpu: bool = False) -> T:
    """What ``main`` returns, run on a simulated clock."""
    loop = SimulatedLoop(counts_cpu=counts_cpu)
    with (
        mock.patch.object(time, "monotonic", loop.time),
        asyncio.Runner(loop_factory=lambda: loop) as runner,
    ):
        return runner.run(main)
