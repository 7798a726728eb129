"""What both clients do with several documents: get them by ids; count, list, delete and change what
passes a filter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from bitsift.client import calls
from bitsift.client.calls import Call
from bitsift.client.sending import summed
from bitsift.client.session import Session
from bitsift.document_ids import Id
from bitsift.listing import LIMIT_MAX, Page
from bitsift.options import DOCUMENT_FIELDS, DocumentField, FilterForm, Included
from bitsift.results import Facets
from bitsift.write_results import (
    DeletedPage,
    Deletes,
    StoredDocument,
    StoredDocuments,
    Updated,
    UpdatedPage,
    Updates,
)

T = TypeVar("T")


class Listings(Protocol):
    """Of a client that sends calls and waits for their answers."""

    _session: Session

    def _send(self, call: Call[T]) -> T: ...

    def get_many(
        self,
        ids: Iterable[Id],
        *,
        include: Sequence[Included] = DOCUMENT_FIELDS,
        read_your_writes: str | None = None,
    ) -> StoredDocuments:
        """Several documents by their ids, at most 1,000, in that order, and which are missing.

        Raises InvalidRequest where there are too many ids, or the documents take over 16 MiB.
        """
        token = self._session.least(read_your_writes)
        asked = {"ids": list(ids), "include": list(include), "read_your_writes": token}
        return self._send(calls.get_many(asked))

    def count(
        self, filter: FilterForm | None = None, *, read_your_writes: str | None = None
    ) -> int:
        """How many documents there are, or how many pass ``filter``. Raises InvalidRequest."""
        token = self._session.least(read_your_writes)
        asked = {"filter": filter, "read_your_writes": token}
        return self._send(calls.count(asked)).count

    def facets(
        self,
        fields: Sequence[str],
        filter: FilterForm | None = None,
        *,
        limit: int = 10,
        read_your_writes: str | None = None,
    ) -> Facets:
        """How many documents, or how many that pass ``filter``, have each value of ``fields``: of
        each field the ``limit`` most frequent values. Raises InvalidRequest.
        """
        token = self._session.least(read_your_writes)
        asked = {"filter": filter, "facets": list(fields), "facet_limit": limit}
        return self._send(calls.count({**asked, "read_your_writes": token})).facets or {}

    def page(
        self,
        filter: FilterForm | None = None,
        *,
        limit: int = LIMIT_MAX,
        cursor: str | None = None,
        sort: Sequence[str] = (),
        include: Sequence[DocumentField] = DOCUMENT_FIELDS,
        read_your_writes: str | None = None,
    ) -> Page:
        """Some of the documents, or of those that pass ``filter``, at most ``limit``.

        ``sort`` puts them in order, ``["year:desc"]``. ``cursor``, given with the same filter and
        sort, leads to the next page. Raises InvalidRequest.
        """
        token = self._session.least(read_your_writes)
        asked: dict[str, object] = {"filter": filter, "limit": limit, "cursor": cursor}
        asked |= {"sort": list(sort), "include": list(include)}
        return self._send(calls.page({**asked, "read_your_writes": token}))

    def documents(
        self, filter: FilterForm | None = None, **options: Any
    ) -> Iterator[StoredDocument]:
        """All documents, or all that pass ``filter``, page by page; ``options`` are those of
        ``page``.

        One that is there all the time is yielded once, whatever is written meanwhile.
        """
        cursor: str | None = options.pop("cursor", None)
        while True:
            page = self.page(filter, cursor=cursor, **options)
            yield from page.documents
            if (cursor := page.cursor) is None:
                return

    def delete_matching(self, filter: FilterForm) -> Deletes:
        """Delete the documents that pass ``filter``, some in each call; one result each.

        Which pass is decided call by call: one that is changed meanwhile may be deleted though it
        passes no more. Raises InvalidRequest for a filter without a condition on a field.
        """
        return summed(Deletes, self.delete_matching_batches(filter))

    def delete_matching_batches(self, filter: FilterForm) -> Iterator[DeletedPage]:
        """The same, call by call, for any number of documents."""
        cursor: str | None = None
        while True:
            asked = {"filter": filter, "cursor": cursor}
            token = self._session.least(None)
            part = self._send(calls.delete_some({**asked, "read_your_writes": token}))
            yield part
            if (cursor := part.cursor) is None:
                return

    def patch(
        self, document_id: Id, metadata: Mapping[str, Any], *, if_version: str | None = None
    ) -> Updated:
        """Change the metadata of one document by a merge patch (RFC 7386): None takes a field
        away. Its text is not encoded again.

        Raises NotFound, and Conflict where it is not in the version that ``if_version`` names.
        """
        return self._send(calls.patch(document_id, metadata, if_version))

    def update_matching(self, filter: FilterForm, metadata: Mapping[str, Any]) -> Updates:
        """Change the metadata of the documents that pass ``filter``, some in each call; one result
        each. See ``patch`` and ``delete_matching``.
        """
        return summed(Updates, self.update_matching_batches(filter, metadata))

    def update_matching_batches(
        self, filter: FilterForm, metadata: Mapping[str, Any]
    ) -> Iterator[UpdatedPage]:
        """The same, call by call, for any number of documents."""
        cursor: str | None = None
        while True:
            asked = {"filter": filter, "metadata": dict(metadata), "cursor": cursor}
            token = self._session.least(None)
            part = self._send(calls.update_some({**asked, "read_your_writes": token}))
            yield part
            if (cursor := part.cursor) is None:
                return


class AsyncListings(Protocol):
    """Of a client of asyncio."""

    _session: Session

    async def _send(self, call: Call[T]) -> T: ...

    async def get_many(
        self,
        ids: Iterable[Id],
        *,
        include: Sequence[Included] = DOCUMENT_FIELDS,
        read_your_writes: str | None = None,
    ) -> StoredDocuments:
        """As ``Client.get_many``."""
        token = self._session.least(read_your_writes)
        asked = {"ids": list(ids), "include": list(include), "read_your_writes": token}
        return await self._send(calls.get_many(asked))

    async def count(
        self, filter: FilterForm | None = None, *, read_your_writes: str | None = None
    ) -> int:
        """As ``Client.count``."""
        token = self._session.least(read_your_writes)
        asked = {"filter": filter, "read_your_writes": token}
        return (await self._send(calls.count(asked))).count

    async def facets(
        self,
        fields: Sequence[str],
        filter: FilterForm | None = None,
        *,
        limit: int = 10,
        read_your_writes: str | None = None,
    ) -> Facets:
        """As ``Client.facets``."""
        token = self._session.least(read_your_writes)
        asked = {"filter": filter, "facets": list(fields), "facet_limit": limit}
        sent = calls.count({**asked, "read_your_writes": token})
        return (await self._send(sent)).facets or {}

    async def page(
        self,
        filter: FilterForm | None = None,
        *,
        limit: int = LIMIT_MAX,
        cursor: str | None = None,
        sort: Sequence[str] = (),
        include: Sequence[DocumentField] = DOCUMENT_FIELDS,
        read_your_writes: str | None = None,
    ) -> Page:
        """As ``Client.page``."""
        token = self._session.least(read_your_writes)
        asked: dict[str, object] = {"filter": filter, "limit": limit, "cursor": cursor}
        asked |= {"sort": list(sort), "include": list(include)}
        return await self._send(calls.page({**asked, "read_your_writes": token}))

    async def documents(
        self, filter: FilterForm | None = None, **options: Any
    ) -> AsyncIterator[StoredDocument]:
        """As ``Client.documents``."""
        cursor: str | None = options.pop("cursor", None)
        while True:
            page = await self.page(filter, cursor=cursor, **options)
            for document in page.documents:
                yield document
            if (cursor := page.cursor) is None:
                return

    async def delete_matching(self, filter: FilterForm) -> Deletes:
        """As ``Client.delete_matching``."""
        return summed(Deletes, [part async for part in self.delete_matching_batches(filter)])

    async def delete_matching_batches(self, filter: FilterForm) -> AsyncIterator[DeletedPage]:
        """As ``Client.delete_matching_batches``."""
        cursor: str | None = None
        while True:
            asked = {"filter": filter, "cursor": cursor}
            token = self._session.least(None)
            part = await self._send(calls.delete_some({**asked, "read_your_writes": token}))
            yield part
            if (cursor := part.cursor) is None:
                return

    async def patch(
        self, document_id: Id, metadata: Mapping[str, Any], *, if_version: str | None = None
    ) -> Updated:
        """As ``Client.patch``."""
        return await self._send(calls.patch(document_id, metadata, if_version))

    async def update_matching(self, filter: FilterForm, metadata: Mapping[str, Any]) -> Updates:
        """As ``Client.update_matching``."""
        return summed(Updates, [it async for it in self.update_matching_batches(filter, metadata)])

    async def update_matching_batches(
        self, filter: FilterForm, metadata: Mapping[str, Any]
    ) -> AsyncIterator[UpdatedPage]:
        """As ``Client.update_matching_batches``."""
        cursor: str | None = None
        while True:
            asked = {"filter": filter, "metadata": dict(metadata), "cursor": cursor}
            token = self._session.least(None)
            part = await self._send(calls.update_some({**asked, "read_your_writes": token}))
            yield part
            if (cursor := part.cursor) is None:
                return
