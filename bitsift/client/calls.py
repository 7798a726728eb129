"""The requests that a client sends, and how each answer is read. Both clients send the same."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote, unquote

import httpx
from pydantic import TypeAdapter

from bitsift.checked import COUNT, DELETE, GET, LIST, UPDATE
from bitsift.client.received import Problem, server_name
from bitsift.client.sending import (
    WRITE_TIMEOUT_S,
    delete_bodies,
    document_path,
    json_body,
    upsert_bodies,
)
from bitsift.client.tables import Documents, table_rows
from bitsift.document_ids import Id, is_number
from bitsift.errors import InvalidRequest, reason
from bitsift.listing import Counted, Page, PassingOptions
from bitsift.options import SearchRequest
from bitsift.results import Answer
from bitsift.write_results import (
    DeletedPage,
    Deletes,
    StoredDocument,
    StoredDocuments,
    Updated,
    UpdatedPage,
    Upserts,
)

T = TypeVar("T")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
CHANGE_TIMEOUT_S = 600.0
"""As long as a server has for it."""
_INDEXES = "/v1/indexes"
_OF_INDEX = re.compile(rf"(.*){_INDEXES}/([^/?#]+)/?")
KEY_VARIABLE = "BITSIFT_API_KEY"
_TRUSTS_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For plain HTTP, which shakes hands with nobody: reading the authorities takes 20 ms a client."""


@dataclass(frozen=True, slots=True)
class Results:
    """The answer to several queries."""

    results: list[Answer]


@dataclass(frozen=True, slots=True)
class BatchResults:
    """The answer to a batch: what each search came to."""

    results: list[Answer | Problem]


_ANSWER = TypeAdapter(Answer)
_BATCH = TypeAdapter(BatchResults)
_RESULTS = TypeAdapter(Results)
_OBJECT = TypeAdapter(dict[str, Any])
_OBJECTS = TypeAdapter(list[dict[str, Any]])
_UPSERTS = TypeAdapter(Upserts)
_DELETES = TypeAdapter(Deletes)
_STORED = TypeAdapter(StoredDocument)
_DELETED_PAGE = TypeAdapter(DeletedPage)
_UPDATED = TypeAdapter(Updated)
_UPDATED_PAGE = TypeAdapter(UpdatedPage)
_COUNTED = TypeAdapter(Counted)
_PAGE = TypeAdapter(Page)
_SEVERAL = TypeAdapter(StoredDocuments)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request. ``writes``: sending it twice might undo a write that came in between."""

    method: str
    path: str
    answer: TypeAdapter[T]
    body: bytes | None = None
    writes: bool = False
    timeout_s: float | None = None
    """None: the client's."""
    of_server: bool = False
    """Asked of the server, and not of one of its indexes."""

    def request(
        self, http: httpx.Client | httpx.AsyncClient, index: str | None = None
    ) -> httpx.Request:
        """The request to ``http``'s gateway, for this index; None: the default one."""
        path = self.path
        if index is not None and not self.of_server:
            path = f"{_INDEXES}/{_quoted(index)}/{path.removeprefix('/v1/')}"
        headers = {} if self.body is None else {"Content-Type": "application/json"}
        timeout = http.timeout
        if self.timeout_s is not None:  # for the answer: a host that is away is noticed as soon
            timeout = httpx.Timeout(self.timeout_s, connect=timeout.connect, pool=timeout.pool)
        return http.build_request(
            self.method, path, content=self.body, headers=headers, timeout=timeout
        )


def addressed(url: str, index: str | None) -> tuple[str, str | None]:
    """The gateway and the index that are meant by ``url``, which may be that of an index. Raises
    InvalidRequest where ``index`` is another.
    """
    found = _OF_INDEX.fullmatch(str(url))  # what is no text is refused later
    if found is None:
        return url, index
    name = unquote(found[2])
    if index not in (None, name):
        raise InvalidRequest(f"the URL is that of the index {name!r}, and not of {index!r}")
    return found[1], name


def connect(kind: type[Http], url: str, api_key: str | None, timeout_s: float) -> Http:
    """An HTTP client for the gateway at ``url``, not connected yet. Raises InvalidRequest."""
    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidRequest(f"not a valid gateway URL: {reason(error)}") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise InvalidRequest("a gateway URL must start with http:// or https:// and a host")
    headers = _key_header(api_key if api_key is not None else os.environ.get(KEY_VARIABLE, ""))
    verify: ssl.SSLContext | bool = True if address.scheme == "https" else _TRUSTS_NOBODY
    try:
        return kind(base_url=address, headers=headers, timeout=timeout_s, verify=verify)
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        raise InvalidRequest(
            f"{server_name(address)} cannot be asked, as the environment names proxies and "
            f"certificates: {reason(error)}"
        ) from error


def _key_header(key: str) -> dict[str, str]:
    """The header with an API key; none for ``""``. No message ever contains the key."""
    key = key.strip()
    if not key:
        return {}
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise InvalidRequest("the API key contains spaces or non-ASCII characters")
    return {"Authorization": f"Bearer {key}"}


def search(request: SearchRequest) -> Call[Answer]:
    """One text or one vector."""
    return Call("POST", "/v1/search", _ANSWER, json_body(request.given(), "the search"))


def search_many(request: SearchRequest) -> Call[Results]:
    """Several texts."""
    return Call("POST", "/v1/search", _RESULTS, json_body(request.given(), "the search"))


def search_batch(requests: Sequence[SearchRequest]) -> Call[BatchResults]:
    """Several searches with options of their own."""
    body = json_body({"searches": [request.given() for request in requests]}, "the searches")
    return Call("POST", "/v1/search/batch", _BATCH, body)


def index() -> Call[dict[str, Any]]:
    """What is searched."""
    return Call("GET", "/v1/index", _OBJECT)


def indexes() -> Call[dict[str, Any]]:
    """All of the server."""
    return Call("GET", _INDEXES, _OBJECT, of_server=True)


def create_index(
    name: str, model: str | None, dimensions: int | None, shards: int | None
) -> Call[dict[str, Any]]:
    """An empty one."""
    given = {"name": name, "model": model, "dimensions": dimensions, "shards": shards}
    return _change("POST", _INDEXES, json_body(_given(given), "the index"))


def delete_index(name: str, *, with_aliases: bool) -> Call[dict[str, Any]]:
    """One with its files."""
    also = "?with_aliases=true" if with_aliases else ""
    return _change("DELETE", f"{_INDEXES}/{_quoted(name)}{also}")


def set_alias(alias: str, index: str) -> Call[dict[str, Any]]:
    """What it means."""
    return _change("PUT", _alias(alias), json_body({"index": index}, "index"))


def delete_alias(alias: str) -> Call[dict[str, Any]]:
    """It means nothing any more."""
    return _change("DELETE", _alias(alias))


def _alias(name: str) -> str:
    return f"/v1/aliases/{_quoted(name)}"


def _quoted(name: str) -> str:
    if name in ("", ".", "..") or "/" in name:
        raise InvalidRequest(f"{name!r} is no name of an index or alias")
    return quote(name, safe="")


def _change(method: str, path: str, body: bytes | None = None) -> Call[dict[str, Any]]:
    return Call(
        method, path, _OBJECT, body, writes=True, timeout_s=CHANGE_TIMEOUT_S, of_server=True
    )


def cluster() -> Call[dict[str, Any]]:
    """The state of every shard."""
    return Call("GET", "/v1/cluster", _OBJECT)


def backup(dest: str) -> Call[dict[str, Any]]:
    """Copy the index."""
    body = json_body({"dest": dest}, "dest")
    return Call("POST", "/v1/admin/backup", _OBJECT, body, writes=True)


def compact() -> Call[list[dict[str, Any]]]:
    """Drop deleted rows. Sends an empty object: browsers let no other site post JSON unasked."""
    return Call("POST", "/v1/admin/compact", _OBJECTS, b"{}", writes=True)


def examine(what: str) -> Call[dict[str, Any]]:
    """Check the replicas (``verify``), or mend them (``repair``): answered by lines of JSON."""
    return Call("POST", f"/v1/admin/{what}", _OBJECT, b"{}", writes=what == "repair")


def upserts(documents: Documents, batch: int) -> Iterator[Call[Upserts]]:
    """The calls that write ``documents``, one or many. Raises InvalidRequest."""
    for body in upsert_bodies(_each(documents), batch):
        yield _write("/v1/documents", _UPSERTS, body)


def deletes(ids: Id | Iterable[Id]) -> Iterator[Call[Deletes]]:
    """The calls that delete ``ids``, one or many. Raises InvalidRequest."""
    for body in delete_bodies(_ids(ids)):
        yield _write("/v1/documents/delete", _DELETES, body)


def delete_if(ids: Id | Iterable[Id], if_version: str) -> Call[Deletes]:
    """Delete one document in a version. Raises InvalidRequest."""
    body = json_body({"ids": list(_ids(ids)), "if_version": if_version}, "ids")
    return _write("/v1/documents/delete", _DELETES, body)


def patch(document_id: Id, metadata: Mapping[str, Any], if_version: str | None) -> Call[Updated]:
    """Change the metadata of one document. Raises InvalidRequest."""
    body = json_body(_given({"metadata": dict(metadata), "if_version": if_version}), "metadata")
    path = document_path(document_id)
    return Call("PATCH", path, _UPDATED, body, writes=True, timeout_s=WRITE_TIMEOUT_S)


def update_some(options: Mapping[str, object]) -> Call[UpdatedPage]:
    """Change the metadata of some of the documents that pass a filter. Raises InvalidRequest."""
    asked = UPDATE.by_values(_given(options))
    return _write("/v1/documents/update", _UPDATED_PAGE, json_body(_sent(asked), "the update"))


def _write(path: str, answer: TypeAdapter[T], body: bytes) -> Call[T]:
    return Call("POST", path, answer, body, writes=True, timeout_s=WRITE_TIMEOUT_S)


def get(
    document_id: Id, read_your_writes: str | None, include: Iterable[str]
) -> Call[StoredDocument]:
    """One document. Raises InvalidRequest."""
    return Call("GET", document_path(document_id, read_your_writes, include), _STORED)


def get_many(options: Mapping[str, object]) -> Call[StoredDocuments]:
    """Several documents by their ids. Raises InvalidRequest."""
    asked = GET.by_values(_given(options))
    return Call("POST", "/v1/documents/get", _SEVERAL, json_body(_given(asked.__dict__), "ids"))


def count(options: Mapping[str, object]) -> Call[Counted]:
    """How many documents pass. Raises InvalidRequest."""
    asked = COUNT.by_values(_given(options))
    return Call("POST", "/v1/documents/count", _COUNTED, json_body(_sent(asked), "the filter"))


def page(options: Mapping[str, object]) -> Call[Page]:
    """Some of the documents that pass. Raises InvalidRequest."""
    asked = LIST.by_values(_given(options))
    return Call("POST", "/v1/documents/list", _PAGE, json_body(_sent(asked), "the filter"))


def delete_some(options: Mapping[str, object]) -> Call[DeletedPage]:
    """Some of the documents that pass a filter. Raises InvalidRequest."""
    asked = DELETE.by_values(_given(options))
    return _write("/v1/documents/delete", _DELETED_PAGE, json_body(_sent(asked), "the filter"))


def _given(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _sent(asked: PassingOptions) -> dict[str, object]:
    return _given(asked.__dict__)


def _each(documents: Documents) -> Iterable[Mapping[str, Any]]:
    if isinstance(documents, Mapping):
        return [documents]
    rows = table_rows(documents)
    return _several(documents, "documents") if rows is None else rows


def _ids(ids: Id | Iterable[Id]) -> Iterable[Id]:
    if isinstance(ids, str) or is_number(ids):
        return [cast("Id", ids)]
    return _several(cast("Iterable[Id]", ids), "ids")


def _several(values: Iterable[T], name: str) -> Iterable[T]:
    if not isinstance(values, Iterable):
        raise InvalidRequest(f"{name}: a {type(values).__name__} is not a list of them")
    return values
