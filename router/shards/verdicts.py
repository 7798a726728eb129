"""What became of an operation that was tried in several versions, or not at all."""

from __future__ import annotations

from collections.abc import Iterable

from bitsift.errors import BitsiftError, Fenced, RequestOutcome, ShardUnavailable
from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.operations import Outcome, Statuses
from bitsift.write_status import WriteStatus


def combined(before: Outcome | None, now: Outcome) -> Outcome:
    """In an earlier version and in a later one."""
    if isinstance(before, list) and isinstance(now, BitsiftError):
        return now.with_outcome(RequestOutcome.UNKNOWN)  # some of it was done
    if isinstance(before, list) and isinstance(now, list):
        pairs = zip(before, now, strict=True)
        return [new if old is WriteStatus.SUPERSEDED else old for old, new in pairs]
    return now


def final(outcome: Outcome | None, version: int | None, attempts: int) -> Outcome:
    """What is answered, with the ``version`` in which it was done, after so many ``attempts``."""
    if outcome is None or is_superseded(outcome):
        return _given_up(attempts)
    if not isinstance(outcome, list):
        return outcome
    gone = (WriteStatus.DELETED, WriteStatus.MISSING, WriteStatus.REJECTED)
    stored = version or NO_VERSION
    return Statuses(outcome, [NO_VERSION if it in gone else stored for it in outcome])


def is_superseded(outcome: Outcome | None) -> bool:
    """Whether it must be tried again in a later version."""
    return isinstance(outcome, list) and WriteStatus.SUPERSEDED in outcome


def _given_up(attempts: int) -> BitsiftError:
    """After so many versions."""
    said = f"others wrote the same documents {attempts} times in between; read them, try again"
    return ShardUnavailable(said)


def refused(shard: int) -> Fenced:
    """By replicas that know a newer table."""
    return Fenced(f"a newer table of the replicas of shard {shard} is in force: try again")


def not_done(said: str) -> ShardUnavailable:
    """For sure: it was sent to nobody."""
    return ShardUnavailable(said).with_outcome(RequestOutcome.NOT_DONE)


def of_several(said: Iterable[WriteStatus]) -> WriteStatus:
    """Of one document, by several replicas: SUPERSEDED if one says so, UNCHANGED if all do."""
    found = list(said)
    if WriteStatus.SUPERSEDED in found:
        return WriteStatus.SUPERSEDED
    return next((it for it in found if it is not WriteStatus.UNCHANGED), WriteStatus.UNCHANGED)
