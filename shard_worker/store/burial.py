"""Giving up rows that are damaged, so that another replica's sound documents take their place.

In its own version a document would change nothing while its damaged row lives. A row that is given
up is dead without having been deleted: nothing is remembered of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitsift.shard_worker.store.store import Store, Then, Written


def bury(store: Store, rows: Sequence[int], then: Then) -> int:
    """Let those of ``rows`` die that live, in one synced transaction; returns how many.

    ``then`` brings RAM to the same state. No other write may run. Raises as ``Store.write``.
    """
    parts = store.parts
    with parts.commits.transaction() as txn:
        living = [row for row in sorted(set(rows)) if not store.reader.is_dead(txn, row)]
        if not living:
            return 0
        parts.writer.put_dead(txn, dict.fromkeys(living, b""))
        dead = np.array(living, dtype=np.int64)
        written = Written([], np.empty((0, store.reader.width), dtype=np.int8), dead)
        parts.commits.commit(txn, store.counters.with_dead(dead), lambda: then(written))
    return len(living)
