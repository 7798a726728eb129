"""Whether a replica outside of the table is next to equal to those in it, and whether it should be
compared with one of them: a part of what decide.py decides.

No state of it lasts: a comparison that failed is tried again, and one that is too old, too.
"""

from __future__ import annotations

from bitsift.cluster.fleet.observed import Replica

CLOSE_ENTRIES, CLOSE_S = 2_000, 30.0
"""A replica that lacked so few documents, so lately, is made equal while writes wait. Longer than a
step of the controller takes where much does not answer: it would be compared again for ever."""
AGAIN_S = 10.0
"""After a comparison that failed, or a replica that was not equal in time."""


def is_close(replica: Replica, now: float) -> bool:
    """Whether it may join: what it lacks can be sent while writes wait for a moment."""
    at = replica.catching_up
    return (
        at is not None
        and not at.is_outdated
        and at.ended_at is not None
        and at.lacking is not None
        and at.lacking <= CLOSE_ENTRIES
        and at.ended_at > replica.refused_at
        and now - at.ended_at < CLOSE_S
    )


def is_outdated(replica: Replica) -> bool:
    """Whether it must be copied whole."""
    return replica.catching_up is not None and replica.catching_up.is_outdated


def is_compared_next(replica: Replica, now: float) -> bool:
    """At once, and again at once where it lacked much; after a failure a while later."""
    if replica.is_copying or is_outdated(replica) or is_close(replica, now):
        return False
    at = replica.catching_up
    if at is None or at.ended_at is None:
        return at is None
    failed = at.ended_at if at.lacking is None else float("-inf")
    return now - max(replica.refused_at, failed) >= AGAIN_S
