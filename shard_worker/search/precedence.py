"""Who goes first in a process: ordinary queries, and work without haste between them.

Python's lock and a core's caches are shared by all threads of a process, whatever their priority.
So an ``exhaustive`` search stops between its blocks (0.2 ms each) while another query is at work.
"""

from __future__ import annotations

import os
import sys
import threading

GIVE_WAY_MAX_S = 0.02
"""The longest that one block waits: under unending load the slow work goes on at a crawl."""

WRITES_NICE = 5
"""Queries go first: shards and routers run at 0; the writer's model, and what has no haste, at 19.
"""

SWITCH_INTERVAL_S = 2e-4
"""How long a thread may keep Python's lock from another that wants it; Python's own is 5 ms. A
search asks for it some hundred times, and would wait for writes and upkeep each time; an event loop
asks for it in each turn, and would wait for whoever unpacks or writes a large message."""


class Precedence:
    """As a context: while an ordinary query is at work. Any number of threads on both sides."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = 0
        self._free = threading.Event()
        self._free.set()

    def __enter__(self) -> None:
        with self._lock:
            self._busy += 1
            self._free.clear()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._busy -= 1
            if not self._busy:
                self._free.set()

    def give_way(self) -> None:
        """Wait until no ordinary query is at work, ``GIVE_WAY_MAX_S`` at most."""
        self._free.wait(GIVE_WAY_MAX_S)


def share_quickly() -> None:
    """Let the threads of this process have Python's lock by turns of ``SWITCH_INTERVAL_S``."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def lowest_priority() -> None:
    """Give this thread, and those that it starts, the lowest priority (Linux)."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def priority_of_writes() -> None:
    """Give this thread, and those that it starts, the priority of a writer, unless it has a lower
    one. At the lowest one nothing gets done while all cores are busy.
    """
    thread = threading.get_native_id()
    nice = max(WRITES_NICE, os.getpriority(os.PRIO_PROCESS, thread))
    os.setpriority(os.PRIO_PROCESS, thread, nice)
