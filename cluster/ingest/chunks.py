"""Passages: a long text is indexed in parts that the model reads whole, cut at sentence ends.

A passage is a document of its own: id ``<id>#<n>``, n from 1, the title of the whole, and in its
metadata, as ``chunk``, the id of the whole (``document``), ``number``, ``of`` how many, and where
in the text it lies (``start``, ``end``, code points). Tokens are those of the index's own model.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import orjson
import pyarrow as pa

from bitsift.cluster.ingest.chunking import CHUNK_TOKENS_MIN, Chunking
from bitsift.cluster.sources.documents import SCHEMA
from bitsift.router.model.tokens import Tokens
from bitsift.router.sentences import sentences

FIELD = "chunk"
Span = tuple[int, int]


def chunked(records: pa.Table, tokens: Tokens, chunking: Chunking) -> pa.Table:
    """A table of the same schema with a row for each passage; rejected records as they are."""
    rows: list[dict[str, Any]] = []
    for row in records.to_pylist():
        if row["reject"] is None:
            rows += _passages_of(row, tokens, chunking)
        else:
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _passages_of(row: dict[str, Any], tokens: Tokens, chunking: Chunking) -> list[dict[str, Any]]:
    metadata = row["metadata"]
    if metadata and FIELD in orjson.loads(metadata):
        return [row | {"reject": f"metadata has a field {FIELD!r}, which --chunk needs: rename it"}]
    text = row["text"]
    found = passages(text, tokens.offsets(text), chunking, _room(row["title"], tokens, chunking))
    rows = []
    for number, (start, end) in enumerate(found or [(0, len(text))], start=1):
        about = {"document": row["id"], "number": number, "of": len(found) or 1}
        about |= {"start": start, "end": end}
        added = orjson.dumps({FIELD: about}).decode()
        if metadata and metadata != "{}":  # as a text: a number in it keeps all of its digits
            added = f"{added[:-1]},{metadata[1:]}"
        own = {"id": f"{row['id']}#{number}", "text": text[start:end], "metadata": added}
        rows.append(row | own)
    return rows


def _room(title: str, tokens: Tokens, chunking: Chunking) -> int:
    """How many tokens a passage may have next to its title, which the model reads first."""
    if not title or tokens.limit is None:
        return chunking.tokens
    free = tokens.limit - int(tokens.counts([f"{title} "])[0])
    return max(CHUNK_TOKENS_MIN, min(chunking.tokens, free))


def passages(text: str, offsets: list[Span], chunking: Chunking, room: int) -> list[Span]:
    """Where each passage begins and ends: ``room`` tokens of ``offsets`` at most, whole sentences
    where they fit. All of the text but white space is in one; none for a text without tokens.
    """
    begins = [begin for begin, end in offsets if end > begin]
    units = [part for span in sentences(text) for part in _parts(text, span, begins, room)]
    sizes = [_count(begins, part) for part in units]
    found, first = list[Span](), 0
    while first < len(units):
        last, size = first, sizes[first]
        while last + 1 < len(units) and size + sizes[last + 1] <= room:
            last += 1
            size += sizes[last]
        found.append((units[first][0], units[last][1]))
        if last + 1 == len(units):
            break
        overlap = min(chunking.overlap, room - sizes[last + 1])  # something new is in each
        following, repeated = last + 1, 0
        while following - 1 > first and repeated + sizes[following - 1] <= overlap:
            following -= 1
            repeated += sizes[following]
        first = following
    return found


def _count(begins: list[int], span: Span) -> int:
    return bisect_left(begins, span[1]) - bisect_left(begins, span[0])


def _parts(text: str, span: Span, begins: list[int], room: int) -> list[Span]:
    """A sentence whole, or cut before tokens, at white space where there is some."""
    parts, (start, end) = list[Span](), span
    while _count(begins, (start, end)) > room:
        at = bisect_left(begins, start) + room
        cut = begins[at]
        for earlier in range(at, at - room // 2, -1):
            before = begins[earlier] - 1  # some tokenizers count the white space to the token
            if text[before].isspace() or text[before + 1].isspace():
                cut = begins[earlier]
                break
        parts.append((start, start + len(text[start:cut].rstrip())))
        start = cut
    return [*parts, (start, end)]
