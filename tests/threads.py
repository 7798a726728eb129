"""Threads and processes of tests: waited for with an end."""

from __future__ import annotations

import threading
from multiprocessing.process import BaseProcess

ENDS_WITHIN_S = 120.0
"""Far longer than any of them takes on a busy machine."""


def ended(worker: threading.Thread | BaseProcess) -> None:
    """Wait until it has come to its end; an AssertionError where it does not."""
    worker.join(ENDS_WITHIN_S)
    assert not worker.is_alive(), f"{worker.name} goes on after {ENDS_WITHIN_S:.0f} s"
