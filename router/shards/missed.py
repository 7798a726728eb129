"""What a replica that is behind, or has left the table, was not sent meanwhile."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

MISSED_MAX = 64
"""Nodes that have left of which it is counted what they missed; the latest are kept."""


@dataclass(slots=True)
class Missed:
    """Since when it is sent no writes, in seconds since 1970, and of how many documents; ``behind``
    says why, while it is in the table still.
    """

    since_s: float = field(default_factory=time.time)
    documents: int = 0
    behind: str | None = None


def kept(
    before: dict[str, Missed],
    left: Sequence[str],
    current: Collection[str],
    behind: Collection[str],
) -> dict[str, Missed]:
    """What is counted under a new table, by node: those that ``left`` just now come first.

    ``current`` nodes are sent all writes, ``behind`` ones are in the table and are not.
    """
    missed = dict.fromkeys(left) | before
    found = {node: it or Missed() for node, it in missed.items() if node not in current}
    gone = [node for node in found if node not in behind]
    for node in gone:
        found[node].behind = None
    for node in gone[MISSED_MAX:]:
        del found[node]
    return found
