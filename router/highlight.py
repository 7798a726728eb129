"""Highlights: of each hit's text the sentence that is nearest to the query, by the same model.

Sentences of all hits together have a budget. A text with more than its share has neighbours joined,
so that all of it is looked at. They are encoded as documents, in small batches that take turns with
the queries of others (model/query_vectors.py).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import BitsiftError
from bitsift.results import Highlight, Hit
from bitsift.router.model.query_vectors import QueryVectors
from bitsift.router.sentences import sentences

PASSAGES_MAX = 100
"""Of all hits of a search: 70 of them took 0.46 s of CPU, on a busy machine (all-MiniLM-L6-v2)."""
CHARACTERS_MAX = 8_192
"""Of a text that are looked at, from its beginning."""
Span = tuple[int, int]


async def highlighted(
    hits: Sequence[Hit], query: NDArray[np.float32], vectors: QueryVectors, deadline_s: float
) -> list[Hit]:
    """``hits``, which have their texts, with what is nearest to ``query`` (width,); without, where
    the text is blank, or all of them where the model had no time.
    """
    share = max(1, PASSAGES_MAX // max(1, len(hits)))
    spans = [passages((hit.text or "")[:CHARACTERS_MAX], share) for hit in hits]
    texts = [
        (hit.text or "")[start:end]
        for hit, found in zip(hits, spans, strict=True)
        if len(found) > 1  # of one there is no choice
        for start, end in found
    ]
    try:
        async with asyncio.timeout(deadline_s - time.monotonic()):
            units = iter(await vectors.of_passages(texts))
    except (TimeoutError, BitsiftError):
        return list(hits)
    best = [_best(found, units, query) for found in spans]
    return [
        replace(hit, highlight=Highlight((hit.text or "")[start:end], start, end)) if end else hit
        for hit, (start, end) in zip(hits, best, strict=True)
    ]


def passages(text: str, most: int) -> list[Span]:
    """The sentences of ``text``; where there are more than ``most``, neighbours together."""
    found = sentences(text)
    if len(found) <= most:
        return found
    cuts = [at * len(found) // most for at in range(most + 1)]
    return [(found[first][0], found[stop - 1][1]) for first, stop in itertools.pairwise(cuts)]


def _best(
    spans: Sequence[Span], units: Iterator[NDArray[np.float32] | None], query: NDArray[np.float32]
) -> Span:
    """The span whose vector is nearest, the first of equals; (0, 0) where there is none."""
    if len(spans) <= 1:
        return spans[0] if spans else (0, 0)
    found = [next(units) for _ in spans]
    scores = [-math.inf if unit is None else float(unit @ query) for unit in found]
    return spans[scores.index(max(scores))]
