"""More like this: a query that is moved towards some documents and away from others.

Rocchio's formula (1971) with its usual weights, q + 0.75 · mean(like) - 0.15 · mean(unlike), each
of them a unit vector (Manning, Raghavan and Schütze, Introduction to Information Retrieval, 2008,
section 9.1.1). The vectors are decoded from int8 codes: no text is encoded again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import InvalidRequest, NotFound
from bitsift.options import VECTOR, SearchOptions
from bitsift.router.shards.fanout import FanOut
from bitsift.shard_worker.codes import Calibration
from bitsift.write_token import WriteToken

LIKE_WEIGHT, UNLIKE_WEIGHT = 0.75, 0.15
LENGTH_MIN = 0.02
"""Of what is left of the vectors: a shorter one is what their codes are off by."""
_SHOWN_MAX = 5
"""Missing ids that an error names."""
_CODE_ONLY = frozenset([VECTOR])


def unlisted(options: SearchOptions) -> SearchOptions:
    """``options`` for shards, which know of no like: its documents are no hits unless kept."""
    liked = () if options.keep_liked else (*options.like, *options.unlike)
    exclude = tuple(dict.fromkeys([*options.exclude, *liked])) if liked else options.exclude
    return replace(options, like=(), unlike=(), keep_liked=False, exclude=exclude)


class Liked:
    """The documents of like and unlike, read once for all queries of a request."""

    def __init__(self) -> None:
        self._means: asyncio.Future[list[NDArray[np.float64]]] | None = None

    async def means(
        self,
        options: SearchOptions,
        calibration: Calibration,
        asked: tuple[FanOut, WriteToken | None],
        deadline_s: float,
    ) -> list[NDArray[np.float64]]:
        """By how much they move a query: float64 (width,) each. Raises as ``moved``."""
        if self._means is None:
            self._means = asyncio.ensure_future(_means(options, calibration, asked, deadline_s))
        return await self._means


async def _means(
    options: SearchOptions,
    calibration: Calibration,
    asked: tuple[FanOut, WriteToken | None],
    deadline_s: float,
) -> list[NDArray[np.float64]]:
    ids = list(dict.fromkeys([*options.like, *options.unlike]))
    units = dict(zip(ids, await _units(ids, calibration, asked, deadline_s), strict=True))
    return [
        weight * np.mean([units[name] for name in names], axis=0)
        for weight, names in ((LIKE_WEIGHT, options.like), (-UNLIKE_WEIGHT, options.unlike))
        if names
    ]


async def moved(
    query: NDArray[np.float32] | None,
    options: SearchOptions,
    calibration: Calibration,
    asked: tuple[FanOut, WriteToken | None],
    deadline_s: float,
    liked: Liked,
) -> NDArray[np.float32]:
    """The unit vector ``query`` (width,), None for none, as like and unlike of ``options`` move it.

    Raises NotFound, which names ids that there are not, InvalidRequest where nothing is left of the
    vectors, and if too few replicas answer, the error that they had.
    """
    found = np.zeros(calibration.width) if query is None else query.astype(np.float64)
    for mean in await liked.means(options, calibration, asked, deadline_s):
        found = found + mean
    length = float(np.linalg.norm(found))
    if length < LENGTH_MIN:
        raise InvalidRequest("query, like and unlike cancel each other out: no direction is left")
    return np.asarray(found / length, dtype=np.float32)


async def _units(
    ids: Sequence[str],
    calibration: Calibration,
    asked: tuple[FanOut, WriteToken | None],
    deadline_s: float,
) -> NDArray[np.float64]:
    """The unit vector of each document, float64 (n, width)."""
    shards, written = asked
    left_s = max(0.0, deadline_s - time.monotonic())
    reads = (shards.document(name, left_s, written, _CODE_ONLY) for name in ids)
    found = await asyncio.gather(*reads, return_exceptions=True)
    missing = [name for name, it in zip(ids, found, strict=True) if isinstance(it, NotFound)]
    if missing:
        more = f" and {len(missing) - _SHOWN_MAX} more" if len(missing) > _SHOWN_MAX else ""
        named = ", ".join(map(repr, missing[:_SHOWN_MAX]))
        raise NotFound(f"like and unlike name documents that there are not: {named}{more}")
    codes = []
    for item in found:
        if isinstance(item, BaseException):
            raise item
        codes.append(np.frombuffer(item[1].code, np.int8))
    decoded = calibration.decode(np.stack(codes)).astype(np.float64)
    return np.asarray(decoded / np.linalg.norm(decoded, axis=1, keepdims=True))
