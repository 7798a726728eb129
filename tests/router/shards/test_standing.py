"""Replicas are compared by what each says of itself, and only where that can be compared."""

from __future__ import annotations

import pytest

from bitsift.router.shards.standing import Digest, standings
from bitsift.shard_worker.types import ShardStatus

EQUAL, DIFFERS, UNKNOWN = Digest.EQUAL, Digest.DIFFERS, Digest.UNKNOWN
OPENING = ShardStatus(0, "LOADING")
SECOND = 1_000 << 16


def ready(digest: str, version: int = 9 * SECOND) -> ShardStatus:
    return ShardStatus(0, "READY", version=version, digest=digest)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([ready("a")], [(0, None)]),
        ([ready("")], [(0, None)]),
        ([None], [(None, None)]),
        ([ready("a"), ready("a")], [(0, EQUAL)] * 2),
        ([ready("a"), ready("b")], [(0, DIFFERS)] * 2),
        ([ready("a"), ready("b"), ready("a")], [(0, EQUAL), (0, DIFFERS), (0, EQUAL)]),
        ([ready("a"), ready("")], [(0, UNKNOWN)] * 2),
        ([ready("a"), None, ready("a")], [(0, EQUAL), (None, UNKNOWN), (0, EQUAL)]),
        ([ready("a"), OPENING], [(0, UNKNOWN), (None, UNKNOWN)]),
        ([ready("a"), ready("a", 7 * SECOND)], [(0, UNKNOWN), (2_000, UNKNOWN)]),
        (
            [ready("b"), ready("a", 7 * SECOND), ready("b")],
            [(0, EQUAL), (2_000, UNKNOWN), (0, EQUAL)],
        ),
    ],
)
def test_each_replica_has_its_lag_and_whether_it_holds_what_most_hold(
    statuses: list[ShardStatus | None], expected: list[tuple[int | None, Digest | None]]
) -> None:
    assert [(it.lag_ms, it.digest) for it in standings(statuses)] == expected
