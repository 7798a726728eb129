"""What an answer says besides its hits: who answered, how many pass, and how long it took."""

from __future__ import annotations

from collections.abc import Sequence

from bitsift.options import SearchOptions
from bitsift.results import Coverage, FilterStage, Timings, Total
from bitsift.router.shards.missing import of_missing
from bitsift.shard_worker.types import Candidates


def total_of(gathered: Sequence[Candidates], coverage: Coverage) -> Total:
    """How many documents pass the filter that all of ``gathered`` applied."""
    plans = [part.plan for part in gathered if part.plan is not None]
    is_exact = len(plans) == coverage.shards and not coverage.failures
    is_exact &= all(plan.passing == plan.matching for plan in plans)
    return Total(sum(plan.passing for plan in plans), "eq" if is_exact else "gte")


def filter_stages(gathered: Sequence[Candidates]) -> tuple[FilterStage, ...]:
    """How each shard applied the filter."""
    return tuple(
        FilterStage(part.shard, part.plan.kind.value, part.plan.matching)
        for part in gathered
        if part.plan is not None
    )


def check_coverage(coverage: Coverage, options: SearchOptions) -> None:
    """Raises ``of_missing`` if no shard answered, or if completeness was required and missed."""
    if coverage.failures and (options.require_complete or coverage.answered == 0):
        raise of_missing(coverage)


def timings_of(
    started: float, encoded: float, fanned_out: float, rescored: float, done: float
) -> Timings:
    """What the stages between these moments took."""

    def ms(start: float, end: float) -> float:
        return round((end - start) * 1e3, 3)

    return Timings(
        encode=ms(started, encoded),
        fan_out=ms(encoded, fanned_out),
        rescore=ms(fanned_out, rescored),
        texts=ms(rescored, done),
        total=ms(started, done),
    )
