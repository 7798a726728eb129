"""Pages of a search behind a cursor: it says which hits there were, six bytes of each id's digest.

So whatever is found is a hit once, in which order the next search ranks it: a search that goes
deeper reads more codes, and may find what belongs before the pages that there were. That comes next
then. Where the cursor had a place in the ranking, it would be left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import orjson

from bitsift.options import DEPTH_MAX, SearchOptions
from bitsift.results import Hit
from bitsift.router.cursors import CursorKind, cursor, reached

_ID_DIGEST_BYTES = 6
"""Of an id: that one of 1,000 others has the same has a chance of 1 in 280 billion."""
_SAME = (
    "query", "vector", "like", "unlike", "keep_liked", "filter", "min_score", "exclude",
    "candidates", "mode", "nprobe", "recall",
)  # fmt: skip
"""What must be asked for again: which hits there are, in which order."""


def digest(document_id: str) -> bytes:
    """What is kept of a hit."""
    return hashlib.blake2b(document_id.encode(), digest_size=_ID_DIGEST_BYTES).digest()


def seen_by(options: SearchOptions) -> frozenset[bytes]:
    """The hits of the pages before. Raises InvalidRequest where the cursor is none of this."""
    if options.cursor is None:
        return frozenset()
    data = reached(CursorKind.SEARCH, options.cursor, _asked(options), "search")
    pieces = (data[at : at + _ID_DIGEST_BYTES] for at in range(0, len(data), _ID_DIGEST_BYTES))
    return frozenset(pieces)


def behind(options: SearchOptions, seen: Collection[bytes]) -> SearchOptions:
    """``options`` as a search that goes as deep as the pages before and this one together."""
    left = DEPTH_MAX - len(seen)
    return replace(options, cursor=None, offset=len(seen), top_k=max(1, min(options.top_k, left)))


def next_cursor(
    options: SearchOptions,
    seen: frozenset[bytes],
    skipped: Iterable[str],
    hits: Collection[Hit],
    *,
    partial: bool,
) -> str | None:
    """The cursor for the page behind ``hits``, of ``options`` as they were asked for; None where
    there is none. ``skipped`` are the ids of better hits, beside those ``seen``.
    """
    if options.group_by is not None or not hits or (len(hits) < options.top_k and not partial):
        return None
    known = seen.union(map(digest, skipped), (digest(hit.id) for hit in hits))
    if len(known) >= DEPTH_MAX:
        return None
    return cursor(CursorKind.SEARCH, b"".join(sorted(known)), _asked(options))


def _asked(options: SearchOptions) -> bytes:
    asked = {name: getattr(options, name) for name in _SAME}
    return orjson.dumps(asked, _as_json, orjson.OPT_SERIALIZE_NUMPY)


def _as_json(value: Any) -> Any:
    return list(value)
