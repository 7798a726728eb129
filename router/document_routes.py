"""The routes that add, change, delete and show documents."""

from __future__ import annotations

import asyncio
from typing import Any, Literal, Protocol

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException

from router.admission import Admission
from router.document_stream import DocumentStream, LineWriter
from router.documents_schema import (
    NDJSON,
    UPSERT_BYTES_MAX,
    Deleted,
    RequestTooLarge,
    delete_body_schema,
    upsert_body_schema,
)
from router.fanout import FanOut
from router.schema import Problem
from router.write_results import Deletes, StoredDocument, Upserts
from shard_worker.errors import NotFound

DOCUMENTS_PATH = "/v1/documents"
CALLS_MAX = 64
HELD_BYTES_MAX = 2 * UPSERT_BYTES_MAX
"""Bodies that are being read or written: two of the largest."""
BODY_TIMEOUT_S = 60.0
READ_TIMEOUT_S = 5.0
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (404, 413, 422, 429, 500, 503, 507)
}


class Writer(LineWriter, Protocol):
    """What writes: a WriteService, or one in another process. Bodies and answers are JSON."""

    async def upsert(self, body: bytes) -> bytes: ...

    async def delete(self, body: bytes) -> bytes: ...


class _DocumentId(StringConvertor):
    """Any characters at all: slashes and newlines too."""

    regex = "(?s:.*)"


register_url_convertor("document_id", _DocumentId())


def add_documents(app: FastAPI, shards: FanOut, writer: Writer) -> None:
    """Reads are asked of ``shards``, in this event loop; all else is done by ``writer``."""
    admission = Admission(CALLS_MAX, HELD_BYTES_MAX)
    one = DOCUMENTS_PATH + "/{document_id:document_id}"
    body = {"requestBody": upsert_body_schema()}

    @app.post(DOCUMENTS_PATH, response_model=Upserts, responses=_PROBLEMS, openapi_extra=body)
    async def upsert(http: Request, results: Literal["all", "errors"] = "all") -> Response:
        """Add documents, or put them in the place of those with the same ids.

        Answered when they are on the shards' disks, with a result for each; from then on every
        search finds them. What is wrong with one document does not stop the others. The same
        content again changes nothing and says so. Of several with one id in a call the last counts.

        As `application/x-ndjson`, any number of documents, one a line: each is answered by a line
        as soon as it is durable, and the last line is `{"totals": {…}, "error": null}`. Read while
        you send, or the answers that nobody reads stop the sending; a client that cannot asks for
        `results=errors`: only what is rejected or failed has a line then.
        """
        kind = _content_type(http)
        if kind == NDJSON:
            return DocumentStream(http, writer, admission, only_errors=results == "errors")
        _require_json(kind, f"application/json or {NDJSON}")
        length = http.headers.get("content-length", "")
        announced = int(length) if length.isdigit() else 0
        _check_size(announced)
        with admission.call(announced) as held:
            chunks, size = list[bytes](), 0
            try:
                async with asyncio.timeout(BODY_TIMEOUT_S):
                    async for chunk in http.stream():
                        size += len(chunk)
                        _check_size(size)
                        held.at_least(size)
                        chunks.append(chunk)
            except TimeoutError as error:
                raise HTTPException(408, f"the body took over {BODY_TIMEOUT_S:.0f} s") from error
            whole = chunks[0] if len(chunks) == 1 else await asyncio.to_thread(b"".join, chunks)
            del chunks
            return _json(await writer.upsert(whole))

    @app.post(
        f"{DOCUMENTS_PATH}/delete",
        response_model=Deletes,
        responses=_PROBLEMS,
        openapi_extra={"requestBody": delete_body_schema()},
    )
    async def delete_many(http: Request) -> Response:
        """Delete documents by their ids; answered when that is on the shards' disks."""
        _require_json(_content_type(http), "application/json")
        body = await http.body()
        with admission.call(len(body)):
            return _json(await writer.delete(body))

    @app.delete(one, response_model=Deleted, responses=_PROBLEMS)
    async def delete(document_id: str) -> Response:
        """Delete one document: 404 where there is none."""
        with admission.call(len(document_id)):
            answer = await writer.delete(orjson.dumps({"ids": [document_id]}))
        (result,) = orjson.loads(answer)["results"]
        if result["status"] == "missing":
            raise NotFound(f"there is no document with id {document_id!r}")
        return _json(orjson.dumps({"id": document_id, "status": "deleted"}))

    @app.get(one, response_model=StoredDocument, responses=_PROBLEMS)
    async def get(document_id: str) -> Response:
        """One document as it is stored."""
        shard, found = await shards.document(document_id, READ_TIMEOUT_S)
        stored = StoredDocument(found.id, found.title, found.text, found.metadata, shard)
        return _json(orjson.dumps(stored))


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _content_type(http: Request) -> str:
    return http.headers.get("content-type", "").partition(";")[0].strip().lower()


def _require_json(kind: str, wanted: str) -> None:
    """A page of another site may send text/plain unasked, but not this."""
    if kind != "application/json":
        reason = {"loc": ("body",), "msg": f"the content type must be {wanted}"}
        raise RequestValidationError([reason])


def _check_size(size_bytes: int) -> None:
    if size_bytes > UPSERT_BYTES_MAX:
        raise RequestTooLarge(
            f"the body is larger than {UPSERT_BYTES_MAX:,} bytes; send several, or a stream"
        )
