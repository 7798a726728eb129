"""Facets over all shards: the counts of each value are added up.

Each shard sends all values of a field, as far as they have room (shard_worker/search/facets.py), so
a value that is rare in one shard and frequent in others is counted wherever it is.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import TypeVar

from bitsift.filters.operands import path_of
from bitsift.filters.parse import value_as_json
from bitsift.filters.tree import Value, sort_key
from bitsift.listing import CountOptions
from bitsift.options import FilterForm, SearchOptions
from bitsift.results import Coverage, Facets, FacetValue, ShardFailure
from bitsift.router.shards.fanout import FanOut
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.search.facets import Counted
from bitsift.shard_worker.search.listing import Listed, Listing
from bitsift.write_token import WriteToken

MERGED_MAX = 2_000
"""Values that are added up in the event loop: 1 ms; more of them in a thread."""
T = TypeVar("T")
U = TypeVar("U")


def paths_of(fields: Sequence[str]) -> list[str]:
    """The paths of checked ``fields``, as shards know them."""
    return [path_of(field, "facets") for field in fields]


def text_of(checked: FilterForm | None) -> str | None:
    """The canonical text of a checked filter."""
    return None if checked is None else str(checked)


async def facets_of(
    asked: FanOut, written: WriteToken | None, options: SearchOptions, deadline_s: float
) -> tuple[Facets | None, Sequence[ShardFailure]]:
    """The facets that ``options`` ask for, of the shards that counted, and why others did not."""
    listing = Listing(
        text_of(options.filter), deadline=Deadline(deadline_s), facets=paths_of(options.facets)
    )
    parts, failures = await asked.listed(listing, written)
    return await merged(options, parts, is_whole=not failures), failures


async def merged(
    options: SearchOptions | CountOptions, parts: Sequence[Listed], *, is_whole: bool
) -> Facets | None:
    """What ``parts`` are together, which are those of all shards if it ``is_whole``; None where no
    facets were asked for.
    """
    asked, limit = options.facets, options.facet_limit
    if sum(len(facet.counts) for part in parts for facet in part.facets) <= MERGED_MAX:
        return _merged(asked, limit, parts, is_whole=is_whole)
    return await asyncio.to_thread(_merged, asked, limit, parts, is_whole=is_whole)


def _merged(
    fields: Sequence[str], limit: int, parts: Sequence[Listed], *, is_whole: bool
) -> Facets | None:
    if not fields:
        return None
    found: Facets = {}
    for place, field in enumerate(fields):
        counts: dict[tuple[int, Value], Counted] = {}
        for part in parts:
            for value, count in part.facets[place].counts:
                key = sort_key(value)
                known = counts.get(key)
                counts[key] = value, count + (known[1] if known else 0)
        is_exact = is_whole and all(part.facets[place].is_exact for part in parts)
        order = [(-count, key) for key, (_, count) in counts.items()]
        best = heapq.nsmallest(limit, order)
        found[field] = tuple(
            FacetValue(value_as_json(value), count, "eq" if is_exact else "gte")
            for value, count in (counts[key] for _, key in best)
        )
    return found


def with_failures(coverage: Coverage, failures: Sequence[ShardFailure]) -> Coverage:
    """``coverage`` that names also those that did not count, each shard once."""
    named = {failure.shard for failure in coverage.failures}
    more = (failure for failure in failures if failure.shard not in named)
    return replace(coverage, failures=(*coverage.failures, *more))


async def both(one: Awaitable[T], other: Awaitable[U]) -> tuple[T, U]:
    """What both give, at the same time. Where one raises, the other is cancelled."""
    tasks = asyncio.ensure_future(one), asyncio.ensure_future(other)
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
