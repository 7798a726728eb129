"""Several documents by their ids, within the bytes of one answer.

A first call to each shard brings what is small, and the sizes of the rest; what that takes is
counted before it is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from bitsift.errors import BitsiftError, NotFound
from bitsift.listing import GetOptions
from bitsift.results import Vector
from bitsift.router.answer_bytes import ANSWER_BYTES_MAX, AnswerBytes
from bitsift.router.hits import first_bytes, vectors_of
from bitsift.router.shards.fanout import FanOut
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.types import Document, Found, Unread, Wanted
from bitsift.write_results import StoredDocument, StoredDocuments
from bitsift.write_token import WriteToken

_LESS = "or ask for fewer ids"


def stored_document(document: Document, shard: int, vector: Vector | None = None) -> StoredDocument:
    """``document`` as it is answered."""
    d, version = document, str(document.version) if document.version else None
    return StoredDocument(d.id, d.title, d.text, d.metadata, shard, vector, version)


async def multi_get(
    shards: FanOut,
    written: WriteToken | None,
    options: GetOptions,
    calibration: Calibration,
    deadline_s: float,
    answer: AnswerBytes,
) -> StoredDocuments:
    """The documents that ``options`` name, counted in ``answer``.

    Raises InvalidRequest where they take more than an answer may, Overloaded, ChecksumMismatch (a
    damaged document), and what befell a shard unless every shard answers.
    """
    ids, fields = list(dict.fromkeys(options.ids)), frozenset(options.include)
    owners = shards.owners(ids)
    first = Wanted(fields, first_bytes(len(set(owners.values()))))
    found = await _read(shards, written, owners, first, deadline_s)
    answer.take(sum(map(_size, found.values())), _LESS)
    rest = {name: owners[name] for name, it in found.items() if isinstance(it, Unread)}
    if rest:
        wanted = Wanted(fields, ANSWER_BYTES_MAX)
        found |= await _read(shards, written, rest, wanted, deadline_s)
        grown = sum(map(_size, found.values())) - answer.used_bytes
        answer.take(max(0, grown), _LESS)  # they were written in between
    documents = [it for name in ids if isinstance(it := found[name], Document)]
    vectors = await vectors_of(documents, calibration)
    return StoredDocuments(
        tuple(
            stored_document(document, owners[document.id], vector)
            for document, vector in zip(documents, vectors, strict=True)
        ),
        tuple(name for name in ids if isinstance(found[name], NotFound)),
    )


def _size(found: Found) -> int:
    return 0 if isinstance(found, BitsiftError) else found.size_bytes


async def _read(
    shards: FanOut,
    written: WriteToken | None,
    owners: Mapping[str, int],
    wanted: Wanted,
    deadline_s: float,
) -> dict[str, Found]:
    """What is wanted of each document, whose shards are its ``owners``. Raises the error of a
    damaged one.
    """
    parts = defaultdict[int, list[str]](list)
    for name, shard in owners.items():
        parts[shard].append(name)
    of_each = await shards.stored(parts, wanted, deadline_s, written)
    found = dict[str, Found]()
    for shard, documents in of_each.items():
        found |= zip(parts[shard], documents, strict=True)
    for it in found.values():
        if isinstance(it, BitsiftError) and not isinstance(it, NotFound):
            raise it
    return found
