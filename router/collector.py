"""Python's collector of reference cycles, which stops every thread while it walks the objects.

Thirty-two requests of a hundred questions are 250,000 objects that all are still needed: to walk
them takes 20 ms and more, and once nothing else is walked Python does so several times a second.
Answers leave hardly a cycle behind (tests/router/test_collector.py), so it can be rare.
"""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 700
"""Python's own: objects that were made and not freed until the youngest are walked."""
YOUNG_TO_MIDDLE = 2
"""Python's own is 10, and 5 walked the middle generation for 1.0 to 1.6 ms, each time that as many
objects of questions had been made. More often, fewer at a time: an object is walked as often."""
MIDDLE_TO_ALL = 5_000
"""Collections of the middle generation until all is walked: seven million new objects. Python's own
is 10."""


def settle() -> None:
    """Exclude all present objects for good, and walk the rest rarely."""
    gc.collect()
    gc.freeze()  # a collection that walks all of torch's objects stops answers for 0.3 s
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_TO_MIDDLE, MIDDLE_TO_ALL)
