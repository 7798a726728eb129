"""Client and AsyncClient: Bitsift for programs. Loads neither ray nor faiss nor torch.

    from bitsift import Client
    with Client("http://127.0.0.1:8000") as client:
        print(client.search("fear of spiders").hits[0].title)
        client.add([{"id": "a1", "title": "arachnid", "text": "an arthropod with eight legs"}])

429 and 503 are retried with growing waits; every other error is raised as its BitsiftError.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import httpx
from pydantic import TypeAdapter
from tenacity import (
    AsyncRetrying,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from router.answer import Answer
from router.sending import (
    BATCH_DOCUMENTS,
    WRITE_TIMEOUT_S,
    delete_bodies,
    deletes,
    document_path,
    sum_upserts,
    upsert_bodies,
    upserts,
)
from router.write_results import Deletes, StoredDocument, Upserts
from shard_worker import errors

ATTEMPTS = 4
WAIT_MAX_S = 4.0
_ANSWER = TypeAdapter(Answer)
_ANSWERS = TypeAdapter(list[Answer])
_STORED = TypeAdapter(StoredDocument)
_RETRY: dict[str, Any] = {
    "retry": retry_if_exception_type((errors.Overloaded, errors.Unavailable)),
    "stop": stop_after_attempt(ATTEMPTS),
    "wait": wait_random_exponential(0.1, WAIT_MAX_S),
    "reraise": True,
}


def _search_body(
    query: str | Sequence[str] | None, vector: Sequence[float] | None, options: dict[str, Any]
) -> dict[str, Any]:
    if isinstance(query, str):
        return {"query": query, **options}
    if query is not None:
        return {"queries": list(query), **options}
    if vector is None:
        raise errors.InvalidRequest("search for a query, for several, or for a vector")
    return {"vector": [float(value) for value in vector], **options}


def _checked(response: httpx.Response) -> Any:
    """The JSON of a good response; raises the BitsiftError that a problem document names."""
    if response.is_success:
        return response.json()
    try:
        body = response.json()
        kind, detail = str(body["type"]).removeprefix("bitsift:"), str(body["detail"])
    except (ValueError, KeyError, TypeError):
        kind, detail = "", f"HTTP {response.status_code}: {response.text[:200]}"
    found = getattr(errors, kind, None)
    if not (isinstance(found, type) and issubclass(found, errors.BitsiftError)):
        found = errors.InvalidRequest if response.is_client_error else errors.BitsiftError
    raise found(detail)


def _written(body: bytes) -> dict[str, Any]:
    """How a body is sent that writes."""
    headers = {"Content-Type": "application/json"}
    return {"content": body, "headers": headers, "timeout": WRITE_TIMEOUT_S}


def _settings(url: str, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    return {"base_url": url, "headers": headers, "timeout": timeout_s}


class Client:
    """A gateway at ``url``. ``timeout_s`` bounds one HTTP call. Safe to share between threads."""

    def __init__(self, url: str, api_key: str | None = None, *, timeout_s: float = 60.0) -> None:
        self._http = httpx.Client(**_settings(url, api_key, timeout_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def search(
        self, query: str | None = None, *, vector: Sequence[float] | None = None, **options: Any
    ) -> Answer:
        """Answer one text or vector. ``options`` as in POST /v1/search: top_k, candidates, …

        Raises the BitsiftError that the gateway names, or Unavailable when it cannot be reached.
        """
        body = _search_body(query, vector, options)
        return _ANSWER.validate_python(self._request("POST", "/v1/search", json=body))

    def search_many(self, queries: Sequence[str], **options: Any) -> list[Answer]:
        """Answer several texts in one request, in order."""
        body = _search_body(list(queries), None, options)
        return _ANSWERS.validate_python(self._request("POST", "/v1/search", json=body)["results"])

    def index(self) -> dict[str, Any]:
        """What is searched (GET /v1/index)."""
        return dict(self._request("GET", "/v1/index"))

    def cluster(self) -> dict[str, Any]:
        """The state of every shard (GET /v1/cluster)."""
        return dict(self._request("GET", "/v1/cluster"))

    def backup(self, dest: str) -> dict[str, Any]:
        """Copy the index to ``dest`` (POST /v1/admin/backup); takes as long as the copy does."""
        return dict(self._once("POST", "/v1/admin/backup", {"json": {"dest": dest}}))

    def compact(self) -> list[dict[str, Any]]:
        """Drop the dead rows of every shard (POST /v1/admin/compact); minutes for millions."""
        return list(self._once("POST", "/v1/admin/compact", {}))

    def add(
        self, documents: Iterable[Mapping[str, Any]], *, batch: int = BATCH_DOCUMENTS
    ) -> Upserts:
        """Add documents, or put them in the place of those with the same ids.

        Each is a mapping with id, text and what else it has: title, metadata, vector (numbers, a
        numpy array). One result each, in order, durable by then; look for ``rejected`` and
        ``failed``. Raises the BitsiftError that befell all documents of a call, of at most
        ``batch`` of them: what was sent before is stored, and sending all again is safe.
        """
        return sum_upserts(self.add_batches(documents, batch=batch))

    def add_batches(
        self, documents: Iterable[Mapping[str, Any]], *, batch: int = BATCH_DOCUMENTS
    ) -> Iterator[Upserts]:
        """The same, call by call, for any number of documents: the results so far, as they come."""
        for body in upsert_bodies(documents, batch):
            yield upserts([self._request("POST", "/v1/documents", **_written(body))])

    def delete(self, ids: str | Iterable[str]) -> Deletes:
        """Delete documents by their ids; one result each, in order, durable by then."""
        bodies = delete_bodies([ids] if isinstance(ids, str) else ids)
        path = "/v1/documents/delete"
        return deletes(self._request("POST", path, **_written(body)) for body in bodies)

    def get(self, document_id: str) -> StoredDocument:
        """One document as it is stored. Raises NotFound, ChecksumMismatch."""
        return _STORED.validate_python(self._request("GET", document_path(document_id)))

    def _request(self, method: str, path: str, **sent: Any) -> Any:
        return Retrying(**_RETRY)(self._once, method, path, sent)

    def _once(self, method: str, path: str, sent: dict[str, Any]) -> Any:
        try:
            return _checked(self._http.request(method, path, **sent))
        except httpx.TransportError as error:
            raise errors.Unavailable(f"{self._http.base_url} cannot be reached: {error}") from error


class AsyncClient:
    """The same for asyncio."""

    def __init__(self, url: str, api_key: str | None = None, *, timeout_s: float = 60.0) -> None:
        self._http = httpx.AsyncClient(**_settings(url, api_key, timeout_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def search(
        self, query: str | None = None, *, vector: Sequence[float] | None = None, **options: Any
    ) -> Answer:
        """As ``Client.search``."""
        body = _search_body(query, vector, options)
        return _ANSWER.validate_python(await self._request("POST", "/v1/search", json=body))

    async def search_many(self, queries: Sequence[str], **options: Any) -> list[Answer]:
        """As ``Client.search_many``."""
        body = _search_body(list(queries), None, options)
        found = await self._request("POST", "/v1/search", json=body)
        return _ANSWERS.validate_python(found["results"])

    async def add(
        self, documents: Iterable[Mapping[str, Any]], *, batch: int = BATCH_DOCUMENTS
    ) -> Upserts:
        """As ``Client.add``."""
        parts = [part async for part in self.add_batches(documents, batch=batch)]
        return sum_upserts(parts)

    async def add_batches(
        self, documents: Iterable[Mapping[str, Any]], *, batch: int = BATCH_DOCUMENTS
    ) -> AsyncIterator[Upserts]:
        """As ``Client.add_batches``."""
        for body in upsert_bodies(documents, batch):
            yield upserts([await self._request("POST", "/v1/documents", **_written(body))])

    async def delete(self, ids: str | Iterable[str]) -> Deletes:
        """As ``Client.delete``."""
        bodies = delete_bodies([ids] if isinstance(ids, str) else ids)
        path = "/v1/documents/delete"
        return deletes([await self._request("POST", path, **_written(body)) for body in bodies])

    async def get(self, document_id: str) -> StoredDocument:
        """As ``Client.get``."""
        return _STORED.validate_python(await self._request("GET", document_path(document_id)))

    async def _request(self, method: str, path: str, **sent: Any) -> Any:
        return await AsyncRetrying(**_RETRY)(self._once, method, path, sent)

    async def _once(self, method: str, path: str, sent: dict[str, Any]) -> Any:
        try:
            return _checked(await self._http.request(method, path, **sent))
        except httpx.TransportError as error:
            raise errors.Unavailable(f"{self._http.base_url} cannot be reached: {error}") from error
