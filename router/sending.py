"""What a client sends when it writes: bodies of requests, cut so that each is answered in time."""

from __future__ import annotations

import base64
import json
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson
from pydantic import TypeAdapter

from router.write_results import Deletes, Upserts
from shard_worker.errors import InvalidRequest

BATCH_DOCUMENTS = 256
"""Documents in one call unless told: a model of a hundred million parameters takes a minute."""
BATCH_BYTES = 8 << 20
IDS_BYTES = 1 << 20
IDS_MAX = 10_000
WRITE_TIMEOUT_S = 600.0
"""How long the answer to a write may take: its texts go through a model first."""
_UPSERTS = TypeAdapter(Upserts)
_DELETES = TypeAdapter(Deletes)


def upsert_bodies(
    documents: Iterable[Mapping[str, Any]], batch: int = BATCH_DOCUMENTS
) -> Iterator[bytes]:
    """Bodies of at most ``batch`` documents and about 8 MiB each.

    Raises InvalidRequest for a document that JSON cannot hold.
    """
    items = (_document_json(document) for document in documents)
    return (_body("documents", part) for part in _batches(items, batch, BATCH_BYTES))


def delete_bodies(ids: Iterable[str]) -> Iterator[bytes]:
    """Bodies of at most 10,000 ids and about 1 MiB each. Raises InvalidRequest."""
    items = (_json(key, "id") for key in ids)
    return (_body("ids", part) for part in _batches(items, IDS_MAX, IDS_BYTES))


def document_path(document_id: str) -> str:
    """The path of a document. Dots are escaped too: clients resolve "..", and an id may be that."""
    return f"/v1/documents/{quote(document_id, safe='').replace('.', '%2E')}"


def upserts(answers: Iterable[Any]) -> Upserts:
    """The JSON answers to several bodies, as if they had been one."""
    return sum_upserts(_UPSERTS.validate_python(answer) for answer in answers)


def sum_upserts(parts: Iterable[Upserts]) -> Upserts:
    """Several results, one behind the other."""
    kept = list(parts)
    return Upserts(
        results=tuple(result for part in kept for result in part.results),
        created=sum(part.created for part in kept),
        updated=sum(part.updated for part in kept),
        unchanged=sum(part.unchanged for part in kept),
        rejected=sum(part.rejected for part in kept),
        failed=sum(part.failed for part in kept),
    )


def deletes(answers: Iterable[Any]) -> Deletes:
    """The JSON answers to several bodies, as if they had been one."""
    kept = [_DELETES.validate_python(answer) for answer in answers]
    return Deletes(
        results=tuple(result for part in kept for result in part.results),
        deleted=sum(part.deleted for part in kept),
        missing=sum(part.missing for part in kept),
        failed=sum(part.failed for part in kept),
    )


def _document_json(document: Mapping[str, Any]) -> bytes:
    vector = document.get("vector")
    if vector is not None and not isinstance(vector, str):
        document = {**document, "vector": _packed(vector)}
    return _json(dict(document), f"document {document.get('id')!r}")


def _packed(vector: Any) -> Any:
    """Base64 of float32: a quarter of the bytes, and 4 times less work to read, than numbers.

    What is no row of numbers stays as it is, for the gateway to say so.
    """
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


def _json(value: Any, name: str) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # integers over 64 bits, lone surrogates: the gateway judges them
        try:
            return json.dumps(value).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"{name} cannot be written as JSON: {error}") from error


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
