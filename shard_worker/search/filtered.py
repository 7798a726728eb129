"""Searching only the rows that pass a filter: which way, and the rows that are nearest.

What passes is known before the bits are compared (fields/index.py), so an answer is full whenever
that many documents pass, however few there are, and however far from the query. How the bits are
then compared follows from how many pass:

    none      nothing passes
    direct    so few that all of their int8 codes are read, and no bit is compared
    gather    few: their bits are brought together and scanned
    scan      many: all bits are scanned, and rows that do not pass are skipped
    probe     lists are visited, as many more as rows are left out
    test      the nearest rows are tested by their documents

The last is where the index does not know all (a field that is not indexed): documents are read, of
all rows in doubt if those are few, else of the nearest, and where these are not enough, of all.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import DeadlineExceeded
from bitsift.filters.tree import Node
from bitsift.shard_worker.bits.index import BinaryIndex, Pool
from bitsift.shard_worker.bits.parts import Parts
from bitsift.shard_worker.deadline import Check, Deadline
from bitsift.shard_worker.fields.bounds import Bits
from bitsift.shard_worker.fields.kept import Known
from bitsift.shard_worker.generation import Generation
from bitsift.shard_worker.types import FilterPlan, Plan

SETTLED_MAX = 2_048
"""Rows in doubt whose documents are all read before the search: some 20 ms, once for a filter."""
TESTED_MAX = 8_192
"""The nearest rows, in doubt or not, that a scan keeps to read the documents of those in doubt."""
GATHERED_BYTES_MAX = 32 << 20
"""Bits that are brought together for a search."""
_GATHERED_SHARE = 1 / 16
"""Up to this share bringing bits together is faster than a scan that passes rows over: at a
twentieth 1.6 ms against 2.3, at a tenth 2.1 against 1.7 (1 M codes of 48 bytes, one core)."""


@dataclass(frozen=True, slots=True, eq=False)
class Wants:
    """What queries of one pass want: the ``count`` nearest rows, of so many lists as ``nprobe``
    would be without a filter (None: of all), the ``wide`` nearest of those that are all compared,
    and all codes read of up to ``direct`` rows.
    """

    count: int
    wide: int
    nprobe: int | None
    direct: int


def pools_of(
    generation: Generation,
    node: Node,
    queries: NDArray[np.uint8],
    wants: Wants,
    deadlines: Sequence[Deadline],
) -> tuple[list[Pool], FilterPlan]:
    """The rows nearest to each of ``queries`` (n, row_bytes) that pass ``node``, and how.

    A query whose deadline is over is left out, as by ``BinaryIndex.search``. Raises
    DeadlineExceeded once all are.
    """
    check = any_of(deadlines)
    parts = generation.index.moment()
    known = _known(generation, node, parts, check)
    limited = _limited(parts, known)
    if not known.bounds.is_exact:
        found = _read_nearest(generation, node, limited, known, queries, wants, deadlines)
        if found is not None:
            most, least = _limited(parts, known), parts.only(known.bounds.lower)
            return found, FilterPlan(Plan.TEST, most.living, least.living)
        _settle_all(generation, node, known, check)
        limited = _limited(parts, known)
    pools, plan = _pools(generation.index, limited, queries, wants, deadlines)
    return pools, FilterPlan(plan, limited.living)


def passing(generation: Generation, node: Node, check: Check) -> tuple[Parts, Bits]:
    """A moment of the bits, and exactly which of its rows pass, dead ones perhaps among them."""
    parts = generation.index.moment()
    known = _known(generation, node, parts, check)
    _settle_all(generation, node, known, check)
    return parts, known.bounds.lower


def any_of(deadlines: Sequence[Deadline]) -> Check:
    """Raises DeadlineExceeded once none of ``deadlines`` is open."""

    def check() -> None:
        if not any(deadline.is_open() for deadline in deadlines):
            raise DeadlineExceeded("nobody waits any more for what passes a filter")

    return check


# --- what passes ---------------------------------------------------------------------------------


def _known(generation: Generation, node: Node, parts: Parts, check: Check) -> Known:
    """What is known of the rows of ``parts``; where little is in doubt, exactly."""
    known = generation.fields.known(node, len(parts), check)
    if not known.bounds.is_exact:
        doubtful = _doubtful(known)
        if len(doubtful) <= SETTLED_MAX:
            generation.fields.settle(known, node, doubtful, check)
    return known


def _settle_all(generation: Generation, node: Node, known: Known, check: Check) -> None:
    if not known.bounds.is_exact:
        generation.fields.settle(known, node, _doubtful(known), check)


def _doubtful(known: Known) -> NDArray[np.int64]:
    """All rows in doubt, int64 (n,); dead ones too, for what is known is known of all."""
    bits = known.bounds.doubtful
    return np.flatnonzero(np.unpackbits(bits, count=known.count, bitorder="little").view(np.bool_))


def _limited(parts: Parts, known: Known) -> Parts:
    """``parts`` where only rows that may pass are alive; made anew where one of them is not alive
    any more, or more is known.
    """
    upper = known.bounds.upper
    made_of = (upper, parts.listed, *map(len, parts.segments), *parts.marks)
    if (kept := known.marks) is not None and _are_same(made_of, kept[0]):
        return parts.with_marks(kept[1])
    limited = _made_limited(parts, known, upper)
    known.marks = made_of, limited.marks
    return limited


def _are_same(some: tuple[object, ...], others: tuple[object, ...]) -> bool:
    """Whether they are the same objects, or equal numbers."""
    pairs = zip(some, others, strict=False)
    return len(some) == len(others) and all(
        one is other or (isinstance(one, int) and one == other) for one, other in pairs
    )


def _made_limited(parts: Parts, known: Known, upper: Bits) -> Parts:
    if parts.listed is None:
        return parts.only(upper)
    view = known.view
    if view is None or view[0] is not parts.listed or view[1] is not upper:
        view = known.view = parts.listed, upper, parts.positions_in(upper)
    return parts.only(upper, view[2])


def holds(bits: Bits, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of ``rows`` (n,) are in the bitmap ``bits``."""
    return (bits[rows // 8] >> (rows % 8).astype(np.uint8) & 1).view(np.bool_)


# --- which are nearest ---------------------------------------------------------------------------


def _pools(
    index: BinaryIndex,
    limited: Parts,
    queries: NDArray[np.uint8],
    wants: Wants,
    deadlines: Sequence[Deadline],
) -> tuple[list[Pool], Plan]:
    """The nearest of the rows that are alive in ``limited``."""
    plan, lists = _plan(limited, limited.living, index.row_bytes, wants)
    if plan is Plan.PROBE:
        found = index.search(queries, wants.count, lists, wants.count, deadlines, limited)
    elif plan is Plan.SCAN:
        found = index.search(queries, wants.wide, None, None, deadlines, limited)
    else:
        count = limited.living if plan is Plan.DIRECT else wants.wide
        found = index.search_gathered(queries, count, limited, deadlines)
    return found, plan


def _plan(parts: Parts, passing: int, row_bytes: int, wants: Wants) -> tuple[Plan, int]:
    """The cheapest way to the nearest of ``passing`` rows of ``parts``, and how many lists to
    visit.
    """
    if not passing:
        return Plan.NONE, 0
    if passing <= wants.direct:
        return Plan.DIRECT, 0
    share = passing / len(parts)
    if wants.nprobe is not None and parts.listed is not None:
        lists, visited = parts.listed.lists, math.ceil(wants.nprobe / share)
        if visited * 4 <= lists and visited / lists < share:
            return Plan.PROBE, visited
    if share <= _GATHERED_SHARE and passing * row_bytes <= GATHERED_BYTES_MAX:
        return Plan.GATHER, 0
    return Plan.SCAN, 0


def _kept(pool: Pool, places: NDArray[np.bool_], count: int) -> Pool:
    """The first ``count`` rows of ``pool`` among those at ``places``."""
    chosen = np.flatnonzero(places)[:count]
    return pool.at(chosen)


def _read_nearest(
    generation: Generation,
    node: Node,
    limited: Parts,
    known: Known,
    queries: NDArray[np.uint8],
    wants: Wants,
    deadlines: Sequence[Deadline],
) -> list[Pool] | None:
    """The nearest rows that pass, where those in doubt are too many to read all of them: documents
    of the nearest ones are read. None where not enough of these pass.
    """
    kept = max(2 * wants.count, min(TESTED_MAX, 4 * wants.count))
    nearest = generation.index.search(queries, kept, None, None, deadlines, limited)
    pools: list[Pool] = []
    for pool, deadline in zip(nearest, deadlines, strict=True):
        doubtful = pool.rows[holds(known.bounds.doubtful, pool.rows)]
        with contextlib.suppress(DeadlineExceeded):  # who asked looks at it, too
            generation.fields.settle(known, node, doubtful, deadline.check)
        pools.append(_kept(pool, holds(known.bounds.lower, pool.rows), wants.count))
        complete = len(pool) < kept  # there are no others
        if deadline.is_open() and not complete and len(pools[-1]) < wants.count:
            return None
    return pools
