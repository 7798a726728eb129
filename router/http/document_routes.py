"""The routes that add, change, delete and show documents."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal, Protocol

import orjson
from fastapi import FastAPI, Header, Query, Request, Response
from starlette.convertors import StringConvertor, register_url_convertor

from bitsift.checked import DELETE
from bitsift.errors import NotFound
from bitsift.options import ReadYourWrites
from bitsift.router.admission import Admission
from bitsift.router.http.answer_json import as_json
from bitsift.router.http.bodies import RAM_PER_BYTE, whole_body
from bitsift.router.http.by_filter import counts_of, has_filter, selected, with_facts
from bitsift.router.http.document_stream import (
    STREAMS_MAX,
    STREAMS_RAM_BYTES_MAX,
    DocumentStream,
    LineWriter,
)
from bitsift.router.http.documents_schema import (
    NDJSON,
    UPSERT_BYTES_MAX,
    Deleted,
    Version,
    delete_body_schema,
    upsert_body_schema,
)
from bitsift.router.http.etags import condition_of, refuse_conflict, tagged
from bitsift.router.http.media_types import content_type
from bitsift.router.http.metadata_routes import add_metadata
from bitsift.router.http.parameters import refuse_unknown_parameters
from bitsift.router.http.schema import Problem
from bitsift.router.service import SearchService
from bitsift.write_results import DeletedPage, StoredDocument, Upserts

DOCUMENTS_PATH = "/v1/documents"
CALLS_MAX = 64
RAM_BYTES_MAX = 2 * RAM_PER_BYTE * UPSERT_BYTES_MAX
"""What bodies that are being read or written may take: two of the largest, 1 GiB."""
READ_TIMEOUT_S = 5.0
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (404, 408, 409, 412, 413, 415, 422, 429, 500, 503, 507)
}


class Writer(LineWriter, Protocol):
    """What writes: a WriteService, or one in another process. Bodies and answers are JSON."""

    async def upsert(self, body: bytes) -> bytes: ...

    async def delete(self, body: bytes) -> bytes: ...

    async def patch(self, body: bytes) -> bytes: ...


class _DocumentId(StringConvertor):
    """Any characters at all: slashes and newlines too."""

    regex = "(?s:.*)"


register_url_convertor("document_id", _DocumentId())


def add_documents(app: FastAPI, service: SearchService, writer: Writer) -> None:
    """Reads are asked of the service's shards, in this event loop; all else is done by
    ``writer``.
    """
    admission = Admission("writes", CALLS_MAX, RAM_BYTES_MAX)
    streams = Admission("streams", STREAMS_MAX, STREAMS_RAM_BYTES_MAX)
    one = DOCUMENTS_PATH + "/{document_id:document_id}"
    body = {"requestBody": upsert_body_schema()}

    @app.post(DOCUMENTS_PATH, response_model=Upserts, responses=_PROBLEMS, openapi_extra=body)
    async def upsert(http: Request, results: Literal["all", "errors"] = "all") -> Response:
        """Add documents, replacing those with the same ids.

        The answer comes when they are on the shards' disks, with a result for each; from then on
        every search finds them. A fault in one document does not affect the others. Sending the
        same content again changes nothing and is reported as `unchanged`. Of several documents with
        one id in a call, the last counts. `token` has a later read see all of it on any router:
        send it as `read_your_writes`.

        As `application/x-ndjson`, any number of documents, one per line: each is answered by a line
        as soon as it is durable, and the last line is `{"totals": {…}, "error": null, "token": …}`.
        Read while you send, or unread answers will block the sending. A client that cannot should
        ask for `results=errors`: then only rejected or failed documents get a line.
        """
        refuse_unknown_parameters(http, ("results",), "there is results")
        if content_type(http) == NDJSON:
            counted = functools.partial(service.metrics.written, "upsert")
            is_short = results == "errors"
            return DocumentStream(http.stream(), writer, streams, counted, only_errors=is_short)
        with admission.hold() as held:
            announced = http.headers.get("content-length", "")
            body = await whole_body(http.receive, announced, UPSERT_BYTES_MAX, held)
            with admission.call():
                answer = await writer.upsert(body)
                service.metrics.written("upsert", counts_of(answer))
                return _json(answer)

    @app.post(
        f"{DOCUMENTS_PATH}/delete",
        response_model=DeletedPage,
        responses=_PROBLEMS,
        openapi_extra={"requestBody": delete_body_schema()},
    )
    async def delete_many(http: Request) -> Response:
        """Delete documents by their `ids`, or those that pass a `filter`; the answer comes when
        that is on the shards' disks.

        By a filter, some are deleted in a call, and its `cursor`, sent again with the same filter,
        goes on behind them. Which documents pass is decided before they are deleted: one that is
        changed at the same moment may be deleted though it passes no more.
        """
        refuse_unknown_parameters(http)
        body = await http.body()
        with admission.hold(RAM_PER_BYTE * len(body)), admission.call():
            cursor = None
            if has_filter(body):
                page = await selected(service, DELETE.by_json(body))
                cursor = page.cursor
                body = orjson.dumps({"ids": [it.id for it in page.documents]})
            answer = await writer.delete(body)
            service.metrics.written("delete", counts_of(answer))
            return _json(with_facts(answer, cursor=cursor))

    @app.delete(one, response_model=Deleted, responses=_PROBLEMS)
    async def delete(
        http: Request,
        document_id: str,
        if_version: Annotated[Version | None, Query()] = None,
        if_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Delete one document; 404 if it does not exist.

        With `if_version`, or its ETag as `If-Match`, only in that version: else 409, or 412.
        """
        refuse_unknown_parameters(http, ("if_version",), "there is if_version")
        condition = {"if_version": condition_of(if_version, if_match)}
        with admission.call():
            answer = await writer.delete(orjson.dumps({"ids": [document_id], **condition}))
        answer = orjson.loads(answer)
        (result,) = answer["results"]
        service.metrics.written("delete", {result["status"]: 1})
        refuse_conflict(result, if_match)
        if result["status"] == "missing":
            raise NotFound(f"there is no document with id {document_id!r}")
        deleted = {"id": document_id, "status": "deleted", "token": answer["token"]}
        return _json(orjson.dumps(deleted))

    add_metadata(app, service, writer, admission, one)

    @app.get(one, response_model=StoredDocument, responses=_PROBLEMS)
    async def get(
        http: Request,
        document_id: str,
        read_your_writes: Annotated[ReadYourWrites, Query()] = None,
        include: Annotated[list[Literal["vector"]], Query(max_length=1)] = [],  # noqa: B006
    ) -> Response:
        """One document, as stored; with `include=vector` also its vector, decoded from the int8
        code. Its `ETag`, sent again as `If-None-Match`, gets a 304 as long as
        it is the same.
        """
        known = ("include", "read_your_writes")
        said = "there are include and read_your_writes"
        refuse_unknown_parameters(http, known, said, ("include",))
        stored = await service.document(document_id, READ_TIMEOUT_S, read_your_writes, include)
        return await tagged(http, as_json(stored), stored.version, include)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
