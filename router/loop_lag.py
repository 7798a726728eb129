"""How late the event loop is, and how much of that is this process's own doing.

A thread asks the loop for a sign of life, as a client would, at moments that the loop does not
choose. What passes until the answer is lag, whatever the reason. A block is the lag in which this
process computed: the loop itself, or a thread that kept Python's lock from it. The rest is the
operating system's: the CPU was with other processes. Two things tell them apart: the CPU time of
the process, which is known everywhere, and how long the thread in question waited for a CPU, which
Linux says in schedstat, unless the kernel was built without it. Where it was, a block is an upper
bound: threads that compute without Python's lock, as the encoder's, count too.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

EVERY_S = 0.05
RECENT_S = 0.01
"""So long before it asks, the thread looks how much CPU time has been used."""
WINDOW_S = 60.0


def queued_s(thread: int) -> float:
    """Seconds that a thread of this process has waited for a CPU; 0 if the system does not say."""
    try:
        _, waited_ns, _ = Path(f"/proc/self/task/{thread}/schedstat").read_text().split()
    except OSError:
        return 0.0
    return int(waited_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of time, in seconds: of the monotonic clock, of CPU that all threads have used, and
    for how long the thread that asks, and the loop's, have waited for a CPU.
    """

    at_s: float
    cpu_s: float
    asker_queued_s: float = 0.0
    loop_queued_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The loop was to be asked at ``due_s``; ``woken`` is when the thread woke, ``answered`` when
    the loop answered. ``before`` is the latest moment known before it was due.
    """

    due_s: float
    before: Moment
    woken: Moment
    answered: Moment

    @property
    def late_s(self) -> float:
        """How late the thread woke: what kept it may have kept the loop as well."""
        return max(0.0, self.woken.at_s - self.due_s)

    @property
    def waited_s(self) -> float:
        return self.answered.at_s - self.woken.at_s

    @property
    def lag_s(self) -> float:
        return self.late_s + self.waited_s

    @property
    def block_s(self) -> float:
        """In each of the two parts of the lag, at most the CPU time that was used, and at most what
        is left when the wait for a CPU is taken off.

        A call that sleeps in the kernel uses no CPU and is in the lag alone.
        """
        before, woken, answered = self.before, self.woken, self.answered
        late_s = self.late_s - (woken.asker_queued_s - before.asker_queued_s)
        waited_s = self.waited_s - (answered.loop_queued_s - woken.loop_queued_s)
        late_s = min(late_s, woken.cpu_s - before.cpu_s)
        return max(0.0, late_s) + max(0.0, min(waited_s, answered.cpu_s - woken.cpu_s))


class LoopLag:
    """Measures the event loop that runs it, over the last ``WINDOW_S``: 20 samples a second.

    ``observe`` is told the lag and the block of each, in seconds.
    """

    def __init__(self, observe: Callable[[float, float], None] = lambda _lag, _block: None) -> None:
        self._samples: deque[Sample] = deque(maxlen=round(WINDOW_S / EVERY_S))
        self._observe = observe

    async def run(self) -> None:
        """Until it is cancelled."""
        loop, ended, mine = asyncio.get_running_loop(), threading.Event(), threading.get_native_id()
        asked = loop, mine, ended
        threading.Thread(target=self._ask, args=asked, name="loop-lag", daemon=True).start()
        try:
            await loop.create_future()
        finally:
            ended.set()

    def _ask(
        self, loop: asyncio.AbstractEventLoop, loop_thread: int, ended: threading.Event
    ) -> None:
        asker = threading.get_native_id()

        def now() -> Moment:
            at_s, cpu_s = time.monotonic(), time.process_time()
            return Moment(at_s, cpu_s, queued_s(asker), queued_s(loop_thread))

        def answer(due_s: float, before: Moment, woken: Moment) -> None:
            at_s, cpu_s = time.monotonic(), time.process_time()
            answered = Moment(at_s, cpu_s, loop_queued_s=queued_s(loop_thread))
            sample = Sample(due_s, before, woken, answered)
            self._samples.append(sample)
            self._observe(sample.lag_s, sample.block_s)

        before = now()
        with contextlib.suppress(RuntimeError):  # the loop was closed
            while not ended.wait(EVERY_S - RECENT_S):
                due_s = before.at_s + EVERY_S
                recent = now()
                if recent.at_s < due_s:
                    ended.wait(due_s - recent.at_s)
                    before = recent
                woken = now()
                loop.call_soon_threadsafe(answer, due_s, before, woken)
                before = woken

    def facts(self) -> dict[str, float | int]:
        """Milliseconds: ``lag`` for whatever reason, ``block`` while this process computed."""
        samples = list(self._samples)
        lag_ms = np.array([sample.lag_s for sample in samples] or [0.0]) * 1e3
        block_ms = np.array([sample.block_s for sample in samples] or [0.0]) * 1e3
        half, most = np.percentile(lag_ms, [50, 99])
        return {
            "samples": len(samples),
            "lag_p50_ms": round(float(half), 2),
            "lag_p99_ms": round(float(most), 2),
            "lag_max_ms": round(float(lag_ms.max()), 2),
            "block_p99_ms": round(float(np.percentile(block_ms, 99)), 2),
            "block_max_ms": round(float(block_ms.max()), 2),
        }
