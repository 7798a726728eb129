"""Client and AsyncClient: Bitsift for programs. Loads neither ray nor faiss nor torch.

    from bitsift import Client
    with Client("http://127.0.0.1:8000") as client:
        print(client.search("fear of spiders").hits[0].title)

429 and 503 are retried with growing waits; every other error is raised as its BitsiftError.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from shard_worker import errors

ATTEMPTS = 4
WAIT_MAX_S = 4.0
_ANSWER = TypeAdapter(Answer)
_ANSWERS = TypeAdapter(list[Answer])
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
        return _ANSWER.validate_python(self._request("POST", "/v1/search", body))

    def search_many(self, queries: Sequence[str], **options: Any) -> list[Answer]:
        """Answer several texts in one request, in order."""
        body = _search_body(list(queries), None, options)
        return _ANSWERS.validate_python(self._request("POST", "/v1/search", body)["results"])

    def index(self) -> dict[str, Any]:
        """What is searched (GET /v1/index)."""
        return dict(self._request("GET", "/v1/index"))

    def cluster(self) -> dict[str, Any]:
        """The state of every shard (GET /v1/cluster)."""
        return dict(self._request("GET", "/v1/cluster"))

    def backup(self, dest: str) -> dict[str, Any]:
        """Copy the index to ``dest`` (POST /v1/admin/backup); takes as long as the copy does."""
        return dict(self._once("POST", "/v1/admin/backup", {"dest": dest}))

    def compact(self) -> list[dict[str, Any]]:
        """Drop the dead rows of every shard (POST /v1/admin/compact); minutes for millions."""
        return list(self._once("POST", "/v1/admin/compact", None))

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return Retrying(**_RETRY)(self._once, method, path, body)

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            return _checked(self._http.request(method, path, json=body))
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
        return _ANSWER.validate_python(await self._request("POST", "/v1/search", body))

    async def search_many(self, queries: Sequence[str], **options: Any) -> list[Answer]:
        """As ``Client.search_many``."""
        body = _search_body(list(queries), None, options)
        found = await self._request("POST", "/v1/search", body)
        return _ANSWERS.validate_python(found["results"])

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return await AsyncRetrying(**_RETRY)(self._once, method, path, body)

    async def _once(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            return _checked(await self._http.request(method, path, json=body))
        except httpx.TransportError as error:
            raise errors.Unavailable(f"{self._http.base_url} cannot be reached: {error}") from error
