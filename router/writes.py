"""WriteService: documents and ids to delete, from the bytes of a request to what became of each.

It runs in a process of its own, beside the router's: reading 64 MB of JSON, and the model, would
stop answers there. Knows nothing of Ray or HTTP.

A call goes in slices: which documents are held already is asked of the shards; the rest is encoded,
quantized, and sent to its shards, which answer when it is on their disks. Two slices of a call are
under way at once: one is encoded while the other is written.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from router.description import IndexDescription
from router.document_rules import model_text
from router.document_vectors import DocumentEncoder, DocumentVectors
from router.fanout import ShardLink
from router.incoming import DocumentReader, Incoming, Item, read_ids
from router.shard_writes import ShardWrites
from router.write_results import (
    DELETE_STATUSES,
    UPSERT_STATUSES,
    WriteError,
    WriteResult,
    WriteStatus,
)
from shard_worker import types
from shard_worker.codes import shard_of
from shard_worker.errors import BitsiftError, InvalidRequest
from shard_worker.packing import content_digest
from shard_worker.types import GIVEN_VECTOR_POSITION, LIVE_POSITION, Outcome

SLICE_DOCUMENTS = 512
SLICE_BYTES = 4 << 20
"""What goes to the shards at once, and so into one transaction: it ends before either."""
SLICES_AT_ONCE = 2
_STATUS = {
    Outcome.STORED: WriteStatus.CREATED,
    Outcome.REPLACED: WriteStatus.UPDATED,
    Outcome.SAME: WriteStatus.UNCHANGED,
    Outcome.DELETED: WriteStatus.DELETED,
    Outcome.MISSING: WriteStatus.MISSING,
}
Fate = Outcome | BitsiftError
"""What became of one document: InvalidRequest where the caller must change it."""


class WriteService:
    """Writes to one index. Lives in one event loop; what takes long is done in threads."""

    def __init__(
        self,
        description: IndexDescription,
        links: Sequence[ShardLink],
        load_encoder: Callable[[], DocumentEncoder] | None,
    ) -> None:
        """``load_encoder`` is called when a text first needs it; None: ready-made vectors only."""
        self._calibration = description.calibration
        self._reader = DocumentReader(description.dimension, has_model=load_encoder is not None)
        self._vectors = None if load_encoder is None else DocumentVectors(load_encoder)
        self._shards = ShardWrites(links)

    async def upsert(self, body: bytes) -> bytes:
        """The JSON of ``Upserts`` for the JSON of ``UpsertBody``.

        Raises InvalidRequest or RequestTooLarge for what is no such body, and what befell the
        documents when it befell all of them: StorageFull, ShardUnavailable, WritesStopped, …
        """
        items = await asyncio.to_thread(self._reader.read_body, body)
        fates = await self._store(items)
        return _answer([item.id for item in items], fates, UPSERT_STATUSES)

    async def upsert_lines(
        self, block: bytes, first_line: int, only_errors: bool
    ) -> tuple[bytes, dict[str, int]]:
        """The same for whole lines of a stream: a line of JSON for each, and how many of each kind.

        ``only_errors`` leaves the lines of those out that are stored. What befell all of them is in
        their results too.
        """
        items = await asyncio.to_thread(self._reader.read_lines, block, first_line)
        fates = await self._store(items)
        results = [_result(item.id, fate) for item, fate in zip(items, fates, strict=True)]
        lines = [
            orjson.dumps(
                {
                    "line": item.line,
                    "id": result.id,
                    "status": result.status,
                    "error": result.error,
                },
                option=orjson.OPT_APPEND_NEWLINE,
            )
            for item, result in zip(items, results, strict=True)
            if not only_errors or result.error is not None
        ]
        return b"".join(lines), _counts(results, UPSERT_STATUSES)

    async def delete(self, body: bytes) -> bytes:
        """The JSON of ``Deletes`` for the JSON of ``DeleteBody``. Raises as ``upsert`` does."""
        ids = read_ids(body)
        owners = [shard_of(key, len(self._shards)) for key in ids]
        parts = _by_shard(range(len(ids)), owners)
        operations = {
            shard: types.Deletes([ids[place] for place in places])
            for shard, places in parts.items()
        }
        fates: dict[int, Fate] = {}
        for shard, found in (await self._shards.write(operations)).items():
            fates |= _spread(parts[shard], found)
        return _answer(ids, [fates[place] for place in range(len(ids))], DELETE_STATUSES)

    async def _store(self, items: Sequence[Item]) -> list[Fate]:
        """What became of each item, in order. The last good one of an id counts."""
        last = {item.id: place for place, item in enumerate(items) if item.document is not None}
        fates: dict[int, Fate] = {}
        slots = asyncio.Semaphore(SLICES_AT_ONCE)

        async def store(places: list[int], documents: list[Incoming]) -> None:
            async with slots:
                stored = await self._store_slice(documents)
            fates.update(zip(places, stored, strict=True))

        await asyncio.gather(*(store(*part) for part in _slices(items, sorted(last.values()))))
        return [_fate(item, place, last, fates) for place, item in enumerate(items)]

    async def _store_slice(self, documents: Sequence[Incoming]) -> list[Fate]:
        """Documents of distinct ids."""
        owners = [shard_of(document.id, len(self._shards)) for document in documents]
        fates = await self._held(documents, owners)
        new = [place for place in range(len(documents)) if place not in fates]
        codes, failed = await self._codes(documents, new)
        fates |= failed
        parts = _by_shard(codes, owners)
        operations = {
            shard: _documents(documents, places, codes) for shard, places in parts.items()
        }
        for shard, outcomes in (await self._shards.write(operations)).items():
            fates |= _spread(parts[shard], outcomes)
        return [fates[place] for place in range(len(documents))]

    async def _held(self, documents: Sequence[Incoming], owners: Sequence[int]) -> dict[int, Fate]:
        """SAME for those that need no model because their shard has them, or why it cannot say."""
        texts = [place for place, document in enumerate(documents) if document.vector is None]
        parts = _by_shard(texts, owners)
        asked = {
            shard: (
                [documents[place].id for place in places],
                [_digest(documents[place]) for place in places],
            )
            for shard, places in parts.items()
        }
        fates: dict[int, Fate] = {}
        for shard, found in (await self._shards.holds(asked)).items():
            if isinstance(found, BitsiftError):
                fates |= dict.fromkeys(parts[shard], found)
                continue
            held = (place for place, holds in zip(parts[shard], found, strict=True) if holds)
            fates |= dict.fromkeys(held, Outcome.SAME)
        return fates

    async def _codes(
        self, documents: Sequence[Incoming], places: Sequence[int]
    ) -> tuple[dict[int, NDArray[np.int8]], dict[int, Fate]]:
        """The int8 code (width,) of the documents at ``places``, and why others have none."""
        vectors = {p: vector for p in places if (vector := documents[p].vector) is not None}
        texts = [place for place in places if place not in vectors]
        failed: dict[int, Fate] = {}
        if texts:
            assert self._vectors is not None
            given = [model_text(documents[place].title, documents[place].text) for place in texts]
            try:
                vectors |= zip(texts, await self._vectors.of(given), strict=True)
            except BitsiftError as error:
                failed = dict.fromkeys(texts, error)
        if not vectors:
            return {}, failed
        codes = await asyncio.to_thread(self._quantize, list(vectors.values()))
        return dict(zip(vectors, codes, strict=True)), failed

    def _quantize(self, vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.int8]:
        """int8 codes (n, width) of vectors (dimension,)."""
        return self._calibration.quantize(self._calibration.units(np.stack(vectors)))[0]


def _slices(
    items: Sequence[Item], places: Sequence[int]
) -> Iterator[tuple[list[int], list[Incoming]]]:
    """The documents at ``places``, in order, cut into slices, each with its places."""
    taken, documents, size = list[int](), list[Incoming](), 0
    for place in places:
        document = items[place].document
        assert document is not None
        if documents and (
            len(documents) == SLICE_DOCUMENTS or size + document.size_bytes > SLICE_BYTES
        ):
            yield taken, documents
            taken, documents, size = [], [], 0
        taken.append(place)
        documents.append(document)
        size += document.size_bytes
    if documents:
        yield taken, documents


def _fate(
    item: Item, place: int, last: Mapping[str | None, int], fates: Mapping[int, Fate]
) -> Fate:
    """Of a document that gave way to a later one of its id: nothing changed, unless that failed."""
    if item.error is not None:
        return item.error
    fate = fates[last[item.id]]
    return Outcome.SAME if last[item.id] != place and isinstance(fate, Outcome) else fate


def _digest(document: Incoming) -> bytes:
    return content_digest(document.title, document.text, document.metadata)


def _documents(
    documents: Sequence[Incoming], places: Sequence[int], codes: Mapping[int, NDArray[np.int8]]
) -> types.Documents:
    part = [documents[place] for place in places]
    return types.Documents(
        ids=[document.id for document in part],
        titles=[document.title for document in part],
        texts=[document.text for document in part],
        metadata=[document.metadata for document in part],
        positions=[
            LIVE_POSITION if document.vector is None else GIVEN_VECTOR_POSITION for document in part
        ],
        codes=np.stack([codes[place] for place in places]),
        replace=True,
    )


def _by_shard(places: Iterable[int], owners: Sequence[int]) -> dict[int, list[int]]:
    """``places`` by the shard that owns them."""
    parts: dict[int, list[int]] = {}
    for place in places:
        parts.setdefault(owners[place], []).append(place)
    return parts


def _spread(places: Sequence[int], found: Sequence[Outcome] | BitsiftError) -> dict[int, Fate]:
    """A shard's outcomes by the places of what it was sent; an error is that of all of them."""
    if isinstance(found, BitsiftError):
        return dict.fromkeys(places, found)
    return dict(zip(places, found, strict=True))


def _result(key: str | None, fate: Fate) -> WriteResult:
    if isinstance(fate, Outcome):
        return WriteResult(key, _STATUS[fate])
    rejected = isinstance(fate, InvalidRequest)
    status = WriteStatus.REJECTED if rejected else WriteStatus.FAILED
    return WriteResult(key, status, WriteError(type(fate).__name__, fate.message))


def _counts(results: Sequence[WriteResult], statuses: Sequence[str]) -> dict[str, int]:
    counted = Counter(result.status.value for result in results)
    return {status: counted[status] for status in statuses}


def _answer(ids: Sequence[str | None], fates: Sequence[Fate], statuses: Sequence[str]) -> bytes:
    """The JSON of all results. Raises the error that befell every one of them, if it is one."""
    results = [_result(key, fate) for key, fate in zip(ids, fates, strict=True)]
    body: dict[str, Any] = {"results": results, **_counts(results, statuses)}
    if results and body["failed"] == len(results):
        (error, *others) = {type(f): f for f in fates if isinstance(f, BitsiftError)}.values()
        if not others:
            raise error
    return orjson.dumps(body)
