"""How the replicas of a shard stand to each other, by what each says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bitsift.shard_worker.clock import milliseconds_of
from bitsift.shard_worker.types import ShardStatus


class Digest(StrEnum):
    """Whether a replica holds the documents that the others hold."""

    EQUAL = "equal"
    DIFFERS = "differs"
    UNKNOWN = "unknown"
    """It does not answer, lags, or something is being written: digests are made when writes pause.
    """


@dataclass(frozen=True, slots=True)
class Standing:
    """``lag_ms`` is how much older the newest write of a replica is than that of the shard; None
    where it does not answer. ``digest`` None: there is nothing to compare.
    """

    lag_ms: int | None
    digest: Digest | None


def standings(statuses: Sequence[ShardStatus | None]) -> list[Standing]:
    """Of each replica of one shard, in order; None for one that does not answer."""
    ready = [it for it in statuses if it is not None and it.state == "READY"]
    newest = max((it.version for it in ready), default=0)
    digests = Counter(it.digest for it in ready if it.digest and it.version == newest)
    most = max(digests.values(), default=0)
    common = [digest for digest, count in digests.items() if count == most]
    return [_standing(it, newest, digests, common, len(statuses)) for it in statuses]


def _standing(
    status: ShardStatus | None,
    newest: int,
    digests: Counter[str],
    common: Sequence[str],
    replicas: int,
) -> Standing:
    alone = Digest.UNKNOWN if replicas > 1 else None
    if status is None or status.state != "READY":
        return Standing(None, alone)
    lag_ms = milliseconds_of(newest) - milliseconds_of(status.version)
    compared = status.digest in digests and status.version == newest and digests.total() > 1
    if not compared:
        return Standing(lag_ms, alone)
    is_equal = common == [status.digest]  # of two that differ nobody knows which is right
    return Standing(lag_ms, Digest.EQUAL if is_equal else Digest.DIFFERS)
