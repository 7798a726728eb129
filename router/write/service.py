"""WriteService: documents and ids to delete, from the bytes of a request to what became of each.

It runs in a process of its own, next to the router's: parsing 64 MB of JSON, or the model, would
block answers there. Independent of Ray and HTTP.

A call is processed in slices: the shards are asked which documents they have already; the rest is
encoded, quantized, and sent to its shards, which answer when it is on their disks. Two slices of a
call are under way at once: one is encoded while the other is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress

import numpy as np
import orjson
from numpy.typing import NDArray

from bitsift.errors import BitsiftError, Fenced, InvalidRequest, RequestOutcome, reason
from bitsift.router.description import IndexDescription
from bitsift.router.model.blank import NO_VECTOR
from bitsift.router.shards.link import ShardLink
from bitsift.router.write.call_token import CallToken
from bitsift.router.write.document_rules import model_text
from bitsift.router.write.document_vectors import DocumentEncoder, DocumentVectors
from bitsift.router.write.incoming import DocumentReader, Incoming, Item, read_deletion
from bitsift.router.write.patches import Patching, read_patch
from bitsift.router.write.shard_writes import ShardWrites
from bitsift.router.write.verdicts import Said, Verdict, answer, counts, result, spread
from bitsift.router.write_gate import WriteGate
from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.codes import bad_rows
from bitsift.shard_worker.operations import (
    Confirm,
    Delete,
    Operation,
    Outcome,
    Upsert,
    is_met,
)
from bitsift.shard_worker.store.packing import content_digest
from bitsift.shard_worker.types import GIVEN_VECTOR_POSITION, LIVE_POSITION
from bitsift.write_results import (
    DELETE_STATUSES,
    UPDATE_STATUSES,
    UPSERT_STATUSES,
)
from bitsift.write_status import WriteStatus

log = logging.getLogger(__name__)

SLICE_DOCUMENTS = 512
SLICE_BYTES = 4 << 20
"""What goes to the shards at once, and so into one transaction: it ends before either."""
SLICES_AT_ONCE = 2
FENCED_S = 15.0
"""How long a write that was refused under an old table of the replicas waits for the newer one: a
controller that ended between the two is there again by then.
"""
_PAUSE_S = 0.1


class WriteService:
    """Writes to one index. Lives in one event loop; what takes long is done in threads."""

    def __init__(
        self,
        description: IndexDescription,
        links: Sequence[ShardLink],
        load_encoder: Callable[[], DocumentEncoder] | None,
    ) -> None:
        """``load_encoder`` is called when a text first needs it; None: precomputed embeddings
        only.
        """
        self._calibration = description.calibration
        self._index = description.uuid
        self._reader = DocumentReader(description.dimension, has_model=load_encoder is not None)
        self._vectors = None if load_encoder is None else DocumentVectors(load_encoder)
        self.shards = ShardWrites(links)
        self.gate = WriteGate()

    def switch(self, links: Sequence[ShardLink], index: str) -> None:
        """Write to these shards from now on: the same documents, spread anew, in the index of uuid
        ``index``. Writes that wait while they are held are spread over these; those under way end
        where they began.
        """
        self.shards, self._index = ShardWrites(links), index

    async def upsert(self, body: bytes) -> bytes:
        """The JSON of ``Upserts`` for the JSON of ``UpsertBody``.

        Raises InvalidRequest or RequestTooLarge for what is no such body, and what befell the
        documents when it befell all of them: StorageFull, ShardUnavailable, WritesStopped, …
        """
        items = await asyncio.to_thread(self._reader.read_body, body)
        token = CallToken()
        verdicts = await self._store(items, token)
        return answer([item.id for item in items], verdicts, UPSERT_STATUSES, token)

    async def upsert_lines(
        self, block: bytes, first_line: int, only_errors: bool
    ) -> tuple[bytes, dict[str, int], str | None]:
        """The same for whole lines of a stream: a line of JSON for each, how many of each kind, and
        the token.

        ``only_errors`` leaves the lines of those out that are stored. What befell all of them is in
        their results too.
        """
        items = await asyncio.to_thread(self._reader.read_lines, block, first_line)
        token = CallToken()
        verdicts = await self._store(items, token)
        results = [result(item.id, verdict) for item, verdict in zip(items, verdicts, strict=True)]
        lines = [
            orjson.dumps(
                {
                    "line": item.line,
                    "id": result.id,
                    "status": result.status,
                    "error": result.error,
                    "version": result.version,
                },
                option=orjson.OPT_APPEND_NEWLINE,
            )
            for item, result in zip(items, results, strict=True)
            if not only_errors or result.error is not None
        ]
        return b"".join(lines), counts(results, UPSERT_STATUSES), token.text

    async def delete(self, body: bytes) -> bytes:
        """The JSON of ``Deletes`` for the JSON of ``DeleteBody``. Raises as ``upsert`` does."""
        ids, conditions = read_deletion(body)

        def delete(places: Sequence[int]) -> Delete:
            expected = [conditions[place] for place in places] if conditions else ()
            return Delete([ids[place] for place in places], expected=expected)

        verdicts, token = dict[int, Verdict](), CallToken()
        for places, outcome in await self.write(ids, range(len(ids)), delete, token):
            verdicts |= spread(places, outcome)
        said = [verdicts[place] for place in range(len(ids))]
        return answer(ids, said, DELETE_STATUSES, token)

    async def patch(self, body: bytes) -> bytes:
        """The JSON of ``Updates`` for the JSON of ``PatchBody`` (patches.py). Raises as ``upsert``
        does.
        """
        asked, token = read_patch(body), CallToken()
        verdicts = await Patching(self, asked, token).done()
        return answer(asked.ids, verdicts, UPDATE_STATUSES, token)

    async def write(
        self,
        ids: Sequence[str],
        places: Sequence[int],
        operation: Callable[[Sequence[int]], Operation],
        token: CallToken,
    ) -> list[tuple[list[int], Outcome]]:
        """The places of each shard, and what became of the ``operation`` that was made of them.

        What shards refuse, because a newer table is in force, is tried again for ``FENCED_S``:
        nothing of it was done, and this process is about to be given that table.
        """
        found, left = list[tuple[list[int], Outcome]](), places
        until_s = asyncio.get_running_loop().time() + FENCED_S
        while True:
            said = await self._write(ids, left, operation, token)
            refused = [place for mine, outcome in said if _is_refused(outcome) for place in mine]
            if not refused or asyncio.get_running_loop().time() > until_s:
                return found + said
            found += [one for one in said if not _is_refused(one[1])]
            left = refused
            await asyncio.sleep(_PAUSE_S)

    async def _write(
        self,
        ids: Sequence[str],
        places: Sequence[int],
        operation: Callable[[Sequence[int]], Operation],
        token: CallToken,
    ) -> list[tuple[list[int], Outcome]]:
        """Which shard has what is decided when no hold is on: after one there may be other shards,
        or another table.
        """
        async with self.gate.turn():
            shards, index = self.shards, self._index
            parts = shards.by_owner(ids, places)
            found = await shards.write({shard: operation(mine) for shard, mine in parts.items()})
            token.add(shards.token(index, found))
        return [(parts[shard], outcome) for shard, outcome in found.items()]

    async def _store(self, items: Sequence[Item], token: CallToken) -> list[Verdict]:
        """What became of each item, in order. The last good one of an id counts."""
        last = {item.id: place for place, item in enumerate(items) if item.document is not None}
        verdicts: dict[int, Verdict] = {}
        slots = asyncio.Semaphore(SLICES_AT_ONCE)

        async def store(places: list[int], documents: list[Incoming]) -> None:
            async with slots:
                stored = await self._store_slice(documents, token)
            verdicts.update(zip(places, stored, strict=True))

        await asyncio.gather(*(store(*part) for part in _slices(items, sorted(last.values()))))
        return [_verdict_on(item, place, last, verdicts) for place, item in enumerate(items)]

    async def _store_slice(self, documents: Sequence[Incoming], token: CallToken) -> list[Verdict]:
        """Documents of distinct ids. What nobody foresaw fails those of this slice of which nothing
        is known: other slices, and other documents of this one, may be on the disk.
        """
        verdicts: dict[int, Verdict] = {}
        try:
            await self._store_documents(documents, verdicts, token)
        except Exception as error:
            log.exception("documents could not be written")
            failed = BitsiftError(f"the writer failed ({reason(error)})")
            return [verdicts.get(place, failed) for place in range(len(documents))]
        return [verdicts[place] for place in range(len(documents))]

    async def _store_documents(
        self, documents: Sequence[Incoming], verdicts: dict[int, Verdict], token: CallToken
    ) -> None:
        """Puts what became of each document into ``verdicts``, as soon as it is known."""
        ids = [document.id for document in documents]
        await self._confirm(documents, ids, verdicts, token)
        await self._refuse(documents, ids, verdicts)
        new = [place for place in range(len(documents)) if place not in verdicts]
        codes, failed = await self._codes(documents, new)
        verdicts |= failed

        def upsert(places: Sequence[int]) -> Upsert:
            return _upsert(documents, places, codes)

        for places, outcome in await self.write(ids, list(codes), upsert, token):
            verdicts |= spread(places, outcome)

    async def _confirm(
        self,
        documents: Sequence[Incoming],
        ids: Sequence[str],
        verdicts: dict[int, Verdict],
        token: CallToken,
    ) -> None:
        """Have the shards confirm what needs no model because they have it already.

        They are asked first, which waits for no write: most documents are new. What they say then
        is a hint; UNCHANGED is what the write itself says.
        """
        texts = [
            place
            for place, document in enumerate(documents)
            if document.vector is None and document.expected is None
        ]

        def confirm(places: Sequence[int]) -> Confirm:
            return _confirm([documents[place] for place in places])

        shards = self.shards
        parts = shards.by_owner(ids, texts)
        asked = {shard: confirm(places) for shard, places in parts.items()}
        likely: list[int] = []
        for shard, outcome in (await shards.foresee(asked)).items():
            if isinstance(outcome, BitsiftError):
                verdicts |= spread(parts[shard], outcome)
            else:
                likely += _unchanged(parts[shard], outcome)
        if not likely:
            return
        for places, outcome in await self.write(ids, likely, confirm, token):
            if isinstance(outcome, BitsiftError):  # it would have changed nothing
                verdicts |= spread(places, outcome.with_outcome(RequestOutcome.NOT_DONE))
            else:
                same = _unchanged(places, outcome)
                verdicts |= dict.fromkeys(same, Said(WriteStatus.UNCHANGED))

    async def _refuse(
        self, documents: Sequence[Incoming], ids: Sequence[str], verdicts: dict[int, Verdict]
    ) -> None:
        """Encode nothing whose condition does not hold; the write itself decides on the rest."""
        texts = [
            place
            for place, document in enumerate(documents)
            if document.vector is None and document.expected is not None
        ]
        shards = self.shards
        parts = shards.by_owner(ids, texts)
        asked = {shard: [ids[place] for place in places] for shard, places in parts.items()}
        for shard, held in (await shards.held(asked)).items():
            if isinstance(held, Fenced):
                continue  # the write itself waits for the newer table
            if isinstance(held, BitsiftError):
                verdicts |= spread(parts[shard], held.with_outcome(RequestOutcome.NOT_DONE))
                continue
            for place, version in zip(parts[shard], held, strict=True):
                if not is_met(documents[place].expected, version):
                    verdicts[place] = Said(WriteStatus.CONFLICT, max(version, NO_VERSION))

    async def _codes(
        self, documents: Sequence[Incoming], places: Sequence[int]
    ) -> tuple[dict[int, NDArray[np.int8]], dict[int, Verdict]]:
        """The int8 code (width,) of the documents at ``places``, and why others have none."""
        vectors = {p: vector for p in places if (vector := documents[p].vector) is not None}
        texts = [place for place in places if place not in vectors]
        failed: dict[int, Verdict] = {}
        if texts:
            assert self._vectors is not None
            given = [model_text(documents[place].title, documents[place].text) for place in texts]
            try:
                found = await self._vectors.of(given)
                bad = bad_rows(found)
                failed = {place: InvalidRequest(NO_VECTOR) for place in compress(texts, bad)}
                vectors |= zip(compress(texts, ~bad), found[~bad], strict=True)
            except BitsiftError as error:
                failed = dict.fromkeys(texts, error.with_outcome(RequestOutcome.NOT_DONE))
        if not vectors:
            return {}, failed
        codes = await asyncio.to_thread(self._quantize, list(vectors.values()))
        return dict(zip(vectors, codes, strict=True)), failed

    def _quantize(self, vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.int8]:
        """int8 codes (n, width) of vectors (dimension,)."""
        return self._calibration.codes(np.stack(vectors))[0]


def _is_refused(outcome: Outcome) -> bool:
    """Whether nothing was done, because the shard has a newer table."""
    return isinstance(outcome, Fenced) and outcome.outcome is RequestOutcome.NOT_DONE


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


def _verdict_on(
    item: Item, place: int, last: Mapping[str | None, int], verdicts: Mapping[int, Verdict]
) -> Verdict:
    """Of a document that gave way to a later one of its id: nothing changed, unless that failed."""
    if item.error is not None:
        return item.error
    verdict = verdicts[last[item.id]]
    superseded = last[item.id] != place and isinstance(verdict, Said)
    return Said(WriteStatus.UNCHANGED) if superseded else verdict


def _confirm(documents: Sequence[Incoming]) -> Confirm:
    digests = [content_digest(it.title, it.text, it.metadata) for it in documents]
    return Confirm([it.id for it in documents], digests)


def _upsert(
    documents: Sequence[Incoming], places: Sequence[int], codes: Mapping[int, NDArray[np.int8]]
) -> Upsert:
    part = [documents[place] for place in places]
    return Upsert(
        ids=[document.id for document in part],
        titles=[document.title for document in part],
        texts=[document.text for document in part],
        metadata=[document.metadata for document in part],
        positions=[
            LIVE_POSITION if document.vector is None else GIVEN_VECTOR_POSITION for document in part
        ],
        codes=np.stack([codes[place] for place in places]),
        expected=[document.expected for document in part],
    )


def _unchanged(places: Sequence[int], statuses: Sequence[WriteStatus]) -> list[int]:
    """Those of ``places`` whose status is UNCHANGED."""
    together = zip(places, statuses, strict=True)
    return [place for place, status in together if status is WriteStatus.UNCHANGED]
