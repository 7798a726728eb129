"""An event loop on a virtual clock, in one thread: where it would wait, the clock jumps.

benchmarks/simulated_loop.py is asyncio's own loop over such a clock, for what it charges processor
time. This one runs callbacks and timers and nothing else: no selector, no handles that only debug
mode needs, no contexts (nothing here has context variables). A history takes a third of the time
in it, which is what thousands of them need.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from asyncio.events import _set_running_loop
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast
from unittest import mock

T = TypeVar("T")
STARTED_S = 1_000.0
"""What the clock says at the beginning."""


class _Turn:
    """A callback that is due, now or later; also what asyncio calls a timer's handle."""

    __slots__ = ("args", "at_s", "callback")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], at_s: float) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.at_s = at_s

    def cancel(self) -> None:
        self.callback, self.args = None, ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self.at_s


class VirtualLoop:
    """``run`` runs one coroutine to its end, with ``time.monotonic`` on the loop's clock too."""

    def __init__(self) -> None:
        self._self = cast(asyncio.AbstractEventLoop, self)
        """What asyncio takes it for: it asks for no more than there is here."""
        self._now_s = STARTED_S
        self._ready: deque[_Turn] = deque()
        self._timers: list[tuple[float, int, _Turn]] = []
        self._numbers = itertools.count()
        self._tasks = itertools.count()
        self.turns = 0
        """Callbacks so far: the same for the same seed, or something is not deterministic."""

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """What ``main`` returns. Then everything else is cancelled, and has ended."""
        _set_running_loop(self._self)
        try:
            with mock.patch.object(time, "monotonic", self.time):
                task: asyncio.Task[T] = self.create_task(main)
                try:
                    self._run_until(task)
                    return task.result()
                finally:
                    self._end_all()
        finally:
            _set_running_loop(None)

    def _run_until(self, future: asyncio.Future[Any]) -> None:
        ready, timers, done = self._ready, self._timers, future.done
        pop, take = heapq.heappop, ready.popleft
        while not done():
            while ready:
                turn = take()
                if turn.callback is not None:
                    self.turns += 1
                    turn.callback(*turn.args)
            if done():
                return
            if not timers:
                raise RuntimeError("the simulation waits for what no timer will bring")
            at_s, _, turn = pop(timers)
            if turn.callback is not None:
                if at_s > self._now_s:
                    self._now_s = at_s
                self.turns += 1
                turn.callback(*turn.args)

    def _end_all(self) -> None:
        while tasks := asyncio.all_tasks(self._self):
            # A set of tasks has the order of their addresses.
            ordered = sorted(tasks, key=asyncio.Task.get_name)
            for task in ordered:
                task.cancel()
            self._run_until(asyncio.gather(*ordered, return_exceptions=True))

    # --- what asyncio asks of a loop ---------------------------------------------------------

    def time(self) -> float:
        return self._now_s

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        turn = _Turn(callback, args, self._now_s)
        self._ready.append(turn)
        return turn

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Any:
        turn = _Turn(callback, args, when)
        heapq.heappush(self._timers, (when, next(self._numbers), turn))
        return turn

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> Any:
        return self.call_at(self._now_s + delay, callback, *args)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> Any:
        return asyncio.Task(coro, loop=self._self, name=name or f"{next(self._tasks):09}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Of an error that nobody looked at: a caller that ended has left it behind."""

    def run_in_executor(self, *_: Any) -> Any:
        raise RuntimeError("the simulation has one thread: what is this work for another?")


async def pause(seconds: float) -> None:
    """``asyncio.sleep`` of the simulation, for the hundred thousands of messages of a history."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_later(seconds, _wake, future)
    await future


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
