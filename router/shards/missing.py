"""The error of a request that cannot be answered because shards are missing."""

from __future__ import annotations

from bitsift.errors import (
    BitsiftError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ReplicaBehind,
    RequestOutcome,
    ShardUnavailable,
)
from bitsift.results import Coverage

_SAID_BY_ALL = (InvalidRequest, DeadlineExceeded, Overloaded, ReplicaBehind)
"""What is the error of the whole where every shard has it."""


def of_missing(coverage: Coverage) -> BitsiftError:
    """What all shards have in common, or ShardUnavailable; nothing was done."""
    kinds = {failure.error for failure in coverage.failures}
    reasons = "; ".join(f"shard {it.shard}: {it.message}" for it in coverage.failures)
    said = f"{coverage.answered} of {coverage.shards} shards answered completely ({reasons})"
    common = (kind for kind in _SAID_BY_ALL if not coverage.answered and kinds == {kind.__name__})
    return next(common, ShardUnavailable)(said).with_outcome(RequestOutcome.NOT_DONE)
