"""What a server holds, over time: all of it must come back."""

from __future__ import annotations

import os
import time
from typing import Any

from bitsift.shard_worker.generations import RETIRED_S
from tests.fuzz.targets import Target

HANG_S = 60.0
NOISE = 3
"""Files, threads and tasks more than before."""
POOL_THREADS_MAX = min(32, (os.cpu_count() or 1) + 4)
"""asyncio's pool starts a thread when none of it is idle, up to so many, and keeps them."""
RAM_PLATEAU = 1.25
RAM_NOISE_BYTES = 48 << 20


def settled(target: Target, files: int) -> dict[str, Any]:
    """The state once nothing is under way any more, or that of a server that holds something.

    Waits for ``files`` open files too: those of before a compaction stay open for a while, for
    requests that may still ask for them.
    """
    started = time.monotonic()
    while True:
        state = target.state()
        is_idle = not state.get("connections") and state.get("admissions_idle", True)
        waited_s = time.monotonic() - started
        if is_idle and (state["files"] <= files + NOISE or waited_s > RETIRED_S + 10):
            return state
        if waited_s > HANG_S + 30:
            return state
        time.sleep(0.2)


def leaks(states: list[dict[str, Any]]) -> list[str]:
    """What grew, from one settled state to the next, that should not."""
    first, last = states[0], states[-1]
    found = [
        f"{what}: {first[what]} at first, {last[what]} at last"
        for what, more in (
            ("files", NOISE),
            ("threads", NOISE + POOL_THREADS_MAX),
            ("tasks", NOISE),
        )
        if what in first and last[what] > first[what] + more
    ]
    most = max(state["anonymous_bytes"] for state in states[:2])
    if last["anonymous_bytes"] > RAM_PLATEAU * most + RAM_NOISE_BYTES:
        found.append(f"RAM: {most:,} bytes at first, {last['anonymous_bytes']:,} at last")
    if last.get("connections") or not last.get("admissions_idle", True):
        found.append(f"not given back: {last}")
    return found
