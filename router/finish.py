"""What is done with the hits of an answer once they are known: highlights, their order, and how
much of their texts is returned.

The first two read what may not be included: it is fetched with the hits, and left out at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bitsift.options import Included, SearchOptions
from bitsift.results import Hit
from bitsift.router.highlight import highlighted
from bitsift.router.model.query_vectors import QueryVectors
from bitsift.sorting import in_order, sort_key_of


def with_needed(options: SearchOptions) -> SearchOptions:
    """``options`` that include what their highlights and their order are made of."""
    needed: list[Included] = ["text"] if options.highlight else []
    needed += ["metadata"] if options.sort else []
    more = tuple(field for field in needed if field not in options.include)
    return replace(options, include=(*options.include, *more)) if more else options


async def finished(
    hits: Sequence[Hit],
    asked: SearchOptions,
    query: NDArray[np.float32],
    vectors: QueryVectors,
    deadline_s: float,
) -> tuple[Hit, ...]:
    """``hits``, best first, as they were ``asked`` for. ``query`` is the vector (width,)."""
    found = list(hits)
    if asked.highlight:
        found = await highlighted(found, query, vectors, deadline_s)
    if asked.sort:
        found = in_order(found, [sort_key_of(text) for text in asked.sort], _metadata)
    if asked.highlight and "text" not in asked.include:
        found = [replace(hit, text=None) for hit in found]
    if asked.sort and "metadata" not in asked.include:
        found = [replace(hit, metadata=None) for hit in found]
    if asked.text_characters is not None:
        found = [_shortened(hit, asked.text_characters) for hit in found]
    return tuple(found)


def _shortened(hit: Hit, characters: int) -> Hit:
    title, text = hit.title, hit.text
    return replace(hit, title=title and title[:characters], text=text and text[:characters])


def _metadata(hit: Hit) -> dict[str, object]:
    return hit.metadata or {}
