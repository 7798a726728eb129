"""What goes on during a measurement or a test, in threads and processes: each has an end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess

ENDS_WITHIN_S = 120.0
"""Far longer than any of them takes on a busy machine."""


def ended(worker: threading.Thread | BaseProcess) -> None:
    """Wait until it has come to its end; an AssertionError where it does not."""
    worker.join(ENDS_WITHIN_S)
    assert not worker.is_alive(), f"{worker.name} goes on after {ENDS_WITHIN_S:.0f} s"


@contextlib.contextmanager
def in_thread(run: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    """``run`` in a thread of its own during the block, at whose end ``stop`` is set."""
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        ended(thread)
