"""How Ctrl-C, SIGTERM and a lost terminal end a command: alike, and not within its shutdown."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_S = 0.01
_Handler = Callable[[int, types.FrameType | None], None]


@dataclass(slots=True)
class Ending:
    """Whether a command was asked to end."""

    asked: bool = False

    def sleep(self, seconds: float) -> None:
        """Sleep. Raises KeyboardInterrupt when the command was asked to end, now or before: an
        exception that a signal raises inside a destructor is lost.
        """
        if self.asked:
            raise KeyboardInterrupt
        time.sleep(seconds)


@contextlib.contextmanager
def terminable() -> Iterator[Ending]:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt within, so that nothing is left behind.

    SIGINT is set too: a shell starts background jobs with SIGINT ignored. SIGHUP stays ignored
    where it is, as by ``nohup``.
    """
    ending = Ending()

    def interrupt(_: int, __: types.FrameType | None) -> None:
        ending.asked = True
        raise KeyboardInterrupt

    with _handled(interrupt), _quiet_when_lost():
        yield ending


@contextlib.contextmanager
def _quiet_when_lost() -> Iterator[None]:
    """A signal that comes inside a destructor, whose exceptions Python only prints, comes again."""
    before = sys.unraisablehook

    def hook(lost: sys.UnraisableHookArgs) -> None:
        if lost.exc_type is KeyboardInterrupt:  # by another thread: here it would be lost again
            main = threading.main_thread().ident
            threading.Timer(AGAIN_S, signal.pthread_kill, (main, signal.SIGTERM)).start()
        else:
            before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """All are ignored within: what ends here ends in a bounded time, and must end whole."""
    with _handled(lambda _, __: None):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """The first of them waits until the end of the block; a second one interrupts it at once."""
    arrived: list[tuple[int, types.FrameType | None]] = []

    def later(number: int, frame: types.FrameType | None) -> None:
        arrived.append((number, frame))
        if len(arrived) > 1:
            raise KeyboardInterrupt

    with _handled(later):
        yield
    for number, frame in arrived[:1]:
        before = signal.getsignal(number)
        if not callable(before):  # the system's own way: the process ends
            raise KeyboardInterrupt
        before(number, frame)


@contextlib.contextmanager
def _handled(handler: _Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # no other may set handlers, nor is it interrupted
        return
    before = {
        number: signal.signal(number, handler)
        for number in _SIGNALS
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, earlier in before.items():
            if earlier is not None:  # None: set by something else than Python
                signal.signal(number, earlier)
