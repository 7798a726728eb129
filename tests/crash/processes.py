"""Processes that begin with all modules loaded, forked in 20 ms from one that did nothing else.

Not from this one: a thread pool of OpenMP or a lock that it has would hang in the child.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext


def fresh_processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "tests.crash.server", "tests.faults.flips"])
    return context
