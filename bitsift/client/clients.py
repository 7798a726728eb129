"""Client and AsyncClient: Bitsift for programs. Loads neither ray nor faiss nor torch.

    from bitsift import Client
    with Client("http://127.0.0.1:8000") as client:
        print(client.search("fear of spiders").hits[0].title)
        client.add([{"id": "a1", "title": "arachnid", "text": "an arthropod with eight legs"}])

Failures raise a BitsiftError, whose ``outcome`` says what became of the request. Temporary ones are
retried, up to four attempts in all, with growing waits or as long as the gateway asks
(``Retry-After``): reads on 429, 502, 503, 504 and lost connections; writes only if nothing was
done. A write of unknown outcome is never sent again (retries.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Literal, Self, TypeVar

import httpx
from tenacity import AsyncRetrying, Retrying

from bitsift.client import calls
from bitsift.client.arguments import takes_options, takes_queries_and_options
from bitsift.client.batch import Batch
from bitsift.client.calls import Call
from bitsift.client.connected import Connected
from bitsift.client.indexes import AsyncIndexes, Indexes
from bitsift.client.jobs import OnProgress, followed, followed_async, unheard
from bitsift.client.listings import AsyncListings, Listings
from bitsift.client.received import answer_of, error_of_transport
from bitsift.client.retries import retrying
from bitsift.client.sending import BATCH_DOCUMENTS, summed
from bitsift.client.tables import Documents
from bitsift.document_ids import Id
from bitsift.errors import BitsiftError
from bitsift.options import SearchOptions, SearchRequest
from bitsift.results import Answer
from bitsift.write_results import Deletes, StoredDocument, Upserts

T = TypeVar("T")


class Client(Connected[httpx.Client], Indexes, Listings):
    """A gateway at ``url``. ``timeout_s`` bounds one HTTP call. Safe to share between threads.

    ``index`` is the name or an alias of one of several indexes that it has, or ``url`` ends with
    ``/v1/indexes/NAME``; else the default one is asked.

    ``api_key`` None takes ``BITSIFT_API_KEY`` from the environment, if set. With
    ``read_your_writes`` each search and ``get`` sees all that this client has written before, on
    whichever router and replica; one that gives a token of its own sees that write. Raises
    InvalidRequest for a malformed URL or key.
    """

    _kind = httpx.Client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @takes_options(SearchOptions)
    def search(self, request: SearchRequest) -> Answer:
        """Answer one text, or one ``vector``. The arguments are the fields of SearchOptions.

        Raises InvalidRequest for invalid values, the BitsiftError that the gateway names, or
        Unavailable when it cannot be reached.
        """
        return self._send(calls.search(self._session.asked(request)))

    @takes_queries_and_options(SearchOptions)
    def search_many(self, request: SearchRequest) -> list[Answer]:
        """Answer several texts in one request, in order."""
        return self._send(calls.search_many(self._session.asked(request))).results

    def search_batch(self, searches: Iterable[Mapping[str, Any]]) -> list[Answer | BitsiftError]:
        """Answer up to 100 different searches in one request: each a mapping of the arguments of
        ``search``. In the place of one that fails is its BitsiftError, which is not raised.
        """
        batch = Batch.of(searches)
        requests = [self._session.asked(request) for request in batch.requests]
        return batch.answers(self._send(calls.search_batch(requests)).results if requests else [])

    def index(self) -> dict[str, Any]:
        """Describe the index (GET /v1/index)."""
        return self._send(calls.index())

    def cluster(self) -> dict[str, Any]:
        """The state of every shard (GET /v1/cluster)."""
        return self._send(calls.cluster())

    def backup(self, dest: str) -> dict[str, Any]:
        """Copy the index to ``dest`` (POST /v1/admin/backup); takes as long as the copy does."""
        return self._send(calls.backup(dest))

    def compact(self) -> list[dict[str, Any]]:
        """Drop the deleted rows of every shard (POST /v1/admin/compact); takes minutes for
        millions.
        """
        return self._send(calls.compact())

    def verify(self, on_progress: OnProgress = unheard) -> dict[str, Any]:
        """Check every row of every replica, and compare the replicas (POST /v1/admin/verify);
        takes minutes for millions of rows. ``on_progress`` is told the rows so far, and in all.
        """
        return self._followed(calls.examine("verify"), on_progress)

    def repair(self, on_progress: OnProgress = unheard) -> dict[str, Any]:
        """Mend each replica from its peers (POST /v1/admin/repair); what is left is in the report.
        Run it again after a failure.
        """
        return self._followed(calls.examine("repair"), on_progress)

    def add(
        self,
        documents: Documents,
        *,
        batch: int = BATCH_DOCUMENTS,
    ) -> Upserts:
        """Add documents, replacing those with the same ids.

        Each is a mapping with id, text and optionally title, metadata, vector (numbers or a numpy
        array), and a condition: ``if_absent`` true, or ``if_version``. All may be one table of
        pandas, polars or pyarrow, whose further columns are metadata. Returns one result per
        document, in order; all are durable by then. Change a ``rejected`` document, read one with a
        ``conflict``; one that ``failed`` with ``error.outcome`` ``not_done`` was not written and
        may be added again. With ``unknown`` it may have been written: adding it again is safe
        unless others write the same id.

        Documents are sent in calls of at most ``batch``. If all documents of a call fail alike,
        that BitsiftError is raised, with their ``outcome``. Earlier calls are stored
        (``add_batches`` yields their results as they arrive); later ones were not sent.
        """
        return summed(Upserts, self.add_batches(documents, batch=batch))

    def add_batches(
        self,
        documents: Documents,
        *,
        batch: int = BATCH_DOCUMENTS,
    ) -> Iterator[Upserts]:
        """The same, call by call, for any number of documents: yields results as they arrive."""
        for call in calls.upserts(documents, batch):
            yield self._send(call)

    def delete(self, ids: Id | Iterable[Id], *, if_version: str | None = None) -> Deletes:
        """Delete documents by their ids; one result each, in order, all durable.

        Fails as ``add`` does; a call takes at most 10,000 ids. With ``if_version`` one document is
        deleted, if it is still in that version; else its status is ``conflict``.
        """
        if if_version is not None:
            return self._send(calls.delete_if(ids, if_version))
        return summed(Deletes, self.delete_batches(ids))

    def delete_batches(self, ids: Id | Iterable[Id]) -> Iterator[Deletes]:
        """The same, call by call, for any number of ids."""
        for call in calls.deletes(ids):
            yield self._send(call)

    def get(
        self,
        document_id: Id,
        *,
        read_your_writes: str | None = None,
        include: Iterable[Literal["vector"]] = (),
    ) -> StoredDocument:
        """One document as it is stored, after the write that ``read_your_writes`` is the token of;
        with its vector where ``include`` has "vector". Raises NotFound, ChecksumMismatch.
        """
        return self._send(calls.get(document_id, self._session.least(read_your_writes), include))

    def _send(self, call: Call[T]) -> T:
        answer: T = retrying(Retrying, writes=call.writes)(self._once, call)
        self._session.note(answer)
        return answer

    def _followed(self, call: Call[dict[str, Any]], on_progress: OnProgress) -> dict[str, Any]:
        report: dict[str, Any] = retrying(Retrying, writes=call.writes)(
            self._follow, call, on_progress
        )
        return report

    def _follow(self, call: Call[dict[str, Any]], on_progress: OnProgress) -> dict[str, Any]:
        try:
            answer = self._http.send(call.request(self._http, self._index), stream=True)
            with contextlib.closing(answer):
                if answer.is_success:
                    return followed(answer.iter_lines(), on_progress, self._server)
                answer.read()
        except httpx.RequestError as error:
            raise error_of_transport(error, self._server, writes=call.writes) from error
        return answer_of(answer, call.answer, self._server)

    def _once(self, call: Call[T]) -> T:
        try:
            answer = self._http.send(call.request(self._http, self._index))
        except httpx.RequestError as error:
            raise error_of_transport(error, self._server, writes=call.writes) from error
        return answer_of(answer, call.answer, self._server)


class AsyncClient(Connected[httpx.AsyncClient], AsyncIndexes, AsyncListings):
    """The same for asyncio."""

    _kind = httpx.AsyncClient

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @takes_options(SearchOptions)
    async def search(self, request: SearchRequest) -> Answer:
        """As ``Client.search``."""
        return await self._send(calls.search(self._session.asked(request)))

    @takes_queries_and_options(SearchOptions)
    async def search_many(self, request: SearchRequest) -> list[Answer]:
        """As ``Client.search_many``."""
        return (await self._send(calls.search_many(self._session.asked(request)))).results

    async def search_batch(
        self, searches: Iterable[Mapping[str, Any]]
    ) -> list[Answer | BitsiftError]:
        """As ``Client.search_batch``."""
        batch = Batch.of(searches)
        requests = [self._session.asked(request) for request in batch.requests]
        sent = (await self._send(calls.search_batch(requests))).results if requests else []
        return batch.answers(sent)

    async def index(self) -> dict[str, Any]:
        """As ``Client.index``."""
        return await self._send(calls.index())

    async def cluster(self) -> dict[str, Any]:
        """As ``Client.cluster``."""
        return await self._send(calls.cluster())

    async def backup(self, dest: str) -> dict[str, Any]:
        """As ``Client.backup``."""
        return await self._send(calls.backup(dest))

    async def compact(self) -> list[dict[str, Any]]:
        """As ``Client.compact``."""
        return await self._send(calls.compact())

    async def verify(self, on_progress: OnProgress = unheard) -> dict[str, Any]:
        """As ``Client.verify``."""
        return await self._followed(calls.examine("verify"), on_progress)

    async def repair(self, on_progress: OnProgress = unheard) -> dict[str, Any]:
        """As ``Client.repair``."""
        return await self._followed(calls.examine("repair"), on_progress)

    async def add(
        self,
        documents: Documents,
        *,
        batch: int = BATCH_DOCUMENTS,
    ) -> Upserts:
        """As ``Client.add``."""
        return summed(Upserts, [part async for part in self.add_batches(documents, batch=batch)])

    async def add_batches(
        self,
        documents: Documents,
        *,
        batch: int = BATCH_DOCUMENTS,
    ) -> AsyncIterator[Upserts]:
        """As ``Client.add_batches``."""
        for call in calls.upserts(documents, batch):
            yield await self._send(call)

    async def delete(self, ids: Id | Iterable[Id], *, if_version: str | None = None) -> Deletes:
        """As ``Client.delete``."""
        if if_version is not None:
            return await self._send(calls.delete_if(ids, if_version))
        return summed(Deletes, [part async for part in self.delete_batches(ids)])

    async def delete_batches(self, ids: Id | Iterable[Id]) -> AsyncIterator[Deletes]:
        """As ``Client.delete_batches``."""
        for call in calls.deletes(ids):
            yield await self._send(call)

    async def get(
        self,
        document_id: Id,
        *,
        read_your_writes: str | None = None,
        include: Iterable[Literal["vector"]] = (),
    ) -> StoredDocument:
        """As ``Client.get``."""
        return await self._send(
            calls.get(document_id, self._session.least(read_your_writes), include)
        )

    async def _send(self, call: Call[T]) -> T:
        answer: T = await retrying(AsyncRetrying, writes=call.writes)(self._once, call)
        self._session.note(answer)
        return answer

    async def _followed(
        self, call: Call[dict[str, Any]], on_progress: OnProgress
    ) -> dict[str, Any]:
        report: dict[str, Any] = await retrying(AsyncRetrying, writes=call.writes)(
            self._follow, call, on_progress
        )
        return report

    async def _follow(self, call: Call[dict[str, Any]], on_progress: OnProgress) -> dict[str, Any]:
        try:
            answer = await self._http.send(call.request(self._http, self._index), stream=True)
            async with contextlib.aclosing(answer):
                if answer.is_success:
                    return await followed_async(answer.aiter_lines(), on_progress, self._server)
                await answer.aread()
        except httpx.RequestError as error:
            raise error_of_transport(error, self._server, writes=call.writes) from error
        return answer_of(answer, call.answer, self._server)

    async def _once(self, call: Call[T]) -> T:
        try:
            answer = await self._http.send(call.request(self._http, self._index))
        except httpx.RequestError as error:
            raise error_of_transport(error, self._server, writes=call.writes) from error
        return answer_of(answer, call.answer, self._server)
