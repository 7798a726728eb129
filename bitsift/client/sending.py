"""What a client sends when it writes: bodies of requests, cut so that each is answered in time."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import orjson

from bitsift.document_ids import Id, given_id
from bitsift.errors import InvalidRequest, reason
from bitsift.plain import is_finite, one_vector, plain
from bitsift.write_results import Deletes, Updates, Upserts
from bitsift.write_token import check_token, joined_text

Written = TypeVar("Written", Upserts, Deletes, Updates)
BATCH_DOCUMENTS = 256
"""Default number of documents per call: a model of a hundred million parameters takes a minute."""
BATCH_BYTES = 8 << 20
IDS_BYTES = 1 << 20
IDS_MAX = 10_000
WRITE_TIMEOUT_S = 600.0
"""How long the answer to a write may take: its texts go through a model first."""


def upsert_bodies(
    documents: Iterable[Mapping[str, Any]], batch: int = BATCH_DOCUMENTS
) -> Iterator[bytes]:
    """Bodies of at most ``batch`` documents and about 8 MiB each.

    Raises InvalidRequest for a document that JSON cannot hold.
    """
    items = (document_json(document) for document in documents)
    return (_body("documents", part) for part in _batches(items, batch, BATCH_BYTES))


def delete_bodies(ids: Iterable[Id]) -> Iterator[bytes]:
    """Bodies of at most 10,000 ids and about 1 MiB each. Raises InvalidRequest."""
    items = (json_body(key, "id") for key in ids)
    return (_body("ids", part) for part in _batches(items, IDS_MAX, IDS_BYTES))


def document_path(
    document_id: Id, read_your_writes: str | None = None, include: Iterable[str] = ()
) -> str:
    """The path of a document, and its query. Dots are escaped too: clients resolve "..", and an id
    may be that.

    Raises InvalidRequest for an invalid id or token.
    """
    try:
        key = given_id(document_id)
        if not isinstance(key, str):
            raise TypeError(f"a {type(key).__name__} is neither a string nor a number")
        quoted = quote(key, safe="")
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{document_id!r} is not a valid id: {reason(error)}") from error
    path = f"/v1/documents/{quoted.replace('.', '%2E')}"
    query = [("include", name) for name in include]
    if read_your_writes is not None:
        query.append(("read_your_writes", _token(read_your_writes)))
    return f"{path}?{urlencode(query)}" if query else path


def _token(text: Any) -> str:
    try:
        return check_token(text)
    except (TypeError, AttributeError, ValueError) as error:
        raise InvalidRequest(f"read_your_writes: {reason(error)}") from error


def summed(kind: type[Written], parts: Iterable[Written]) -> Written:
    """The answers of several calls as one: results one behind the other, each count in all."""
    kept = list(parts)
    counts = {
        field.name: sum(getattr(part, field.name) for part in kept)
        for field in fields(kind)
        if field.name not in ("results", "token")
    }
    return kind(
        results=tuple(result for part in kept for result in part.results),
        token=joined_text(part.token for part in kept),
        **counts,
    )


def document_json(document: Any) -> bytes:
    """One document of a body. Raises InvalidRequest for what is none, or JSON cannot hold."""
    if not isinstance(document, Mapping):
        kind = type(document).__name__
        raise InvalidRequest(f"a document is a mapping with an id and a text, not a {kind}")
    vector = document.get("vector")
    if vector is not None and not isinstance(vector, str):
        document = {**document, "vector": _packed(vector)}
    return json_body(dict(document), f"document {document.get('id')!r}")


def _packed(vector: Any) -> Any:
    """Base64 of float32: a quarter of the bytes, and 4 times less work to read, than numbers.

    Anything that is not a sequence of numbers is passed through, for the gateway to reject.
    """
    vector = one_vector(vector.to_numpy() if hasattr(vector, "to_numpy") else vector)
    if getattr(vector, "ndim", 1) != 1:
        return vector.tolist()
    try:
        if hasattr(vector, "astype"):  # numpy, without loading it
            data = vector.astype("<f4").tobytes()
        else:
            numbers = array("f", vector)
            if sys.byteorder == "big":
                numbers.byteswap()
            data = numbers.tobytes()
    except (TypeError, ValueError, OverflowError):
        return vector
    return base64.b64encode(data).decode()


def json_body(value: Any, name: str) -> bytes:
    """``value`` as JSON, with numbers and arrays of numpy. Raises InvalidRequest, which calls it
    ``name``.
    """
    with contextlib.suppress(TypeError):
        body = orjson.dumps(value, plain, orjson.OPT_SERIALIZE_NUMPY)
        if b"null" not in body or is_finite(value):
            return body
    try:  # NaN, integers over 64 bits, lone surrogates: the gateway judges them
        return json.dumps(value, default=plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name} cannot be written as JSON: {reason(error)}") from error


def _batches(items: Iterable[bytes], count: int, size_bytes: int) -> Iterator[list[bytes]]:
    batch, size = list[bytes](), 0
    for item in items:
        if batch and (len(batch) >= count or size + len(item) > size_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item)
    if batch:
        yield batch


def _body(name: str, items: Sequence[bytes]) -> bytes:
    return b'{"%b":[%b]}' % (name.encode(), b",".join(items))
