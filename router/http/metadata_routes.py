"""The routes that change the metadata of documents: nothing is encoded again."""

from __future__ import annotations

import json
from typing import Annotated, Any, Protocol

import orjson
from fastapi import FastAPI, Header, Request, Response
from pydantic import ValidationError

from bitsift.checked import UPDATE, reasons
from bitsift.errors import InvalidRequest, NotFound
from bitsift.router.admission import Admission
from bitsift.router.http.bodies import RAM_PER_BYTE
from bitsift.router.http.by_filter import counts_of, has_filter, selected, with_facts
from bitsift.router.http.documents_schema import MetadataBody, update_body_schema
from bitsift.router.http.etags import condition_of, refuse_conflict
from bitsift.router.http.parameters import refuse_unknown_parameters
from bitsift.router.http.schema import Problem
from bitsift.router.service import SearchService
from bitsift.write_results import Updated, UpdatedPage

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem}
    for code in (404, 408, 409, 412, 413, 415, 422, 429, 500, 503, 504, 507)
}


class Writer(Protocol):
    """What writes: see ``WriteService.patch``."""

    async def patch(self, body: bytes) -> bytes: ...


def add_metadata(
    app: FastAPI, service: SearchService, writer: Writer, admission: Admission, one: str
) -> None:
    """``admission`` is that of all writes, ``one`` the path of one document."""

    async def written(body: bytes) -> bytes:
        answer = await writer.patch(body)
        service.metrics.written("update", counts_of(answer))
        return answer

    @app.post(
        "/v1/documents/update",
        response_model=UpdatedPage,
        responses=_PROBLEMS,
        openapi_extra={"requestBody": update_body_schema()},
    )
    async def update(http: Request) -> Response:
        """Change the `metadata` of documents by their `ids`, or of those that pass a `filter`;
        the answer comes when that is on the shards' disks. Text and vector stay as they are, and
        nothing is encoded again.

        By a filter, some are changed in a call, and its `cursor`, sent again with the same filter
        and change, goes on behind them; `count` is how many pass in all. Which documents pass is
        decided before they are changed. Of two changes of one document at once none is lost.
        """
        refuse_unknown_parameters(http)
        body = await http.body()
        with admission.hold(RAM_PER_BYTE * len(body)), admission.call():
            if not has_filter(body):
                return _json(with_facts(await written(body), cursor=None, count=None))
            options = UPDATE.by_json(body)
            page = await selected(service, options)
            ids = [document.id for document in page.documents]
            asked = _packed({"ids": ids, "metadata": options.metadata})
            facts = {"cursor": page.cursor, "count": page.count}
            return _json(with_facts(await written(asked), **facts))

    @app.patch(
        one,
        response_model=Updated,
        responses=_PROBLEMS,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": MetadataBody.model_json_schema()}},
            }
        },
    )
    async def patch(
        http: Request, document_id: str, if_match: Annotated[str | None, Header()] = None
    ) -> Response:
        """Change the `metadata` of one document; 404 if it does not exist.

        With `if_version`, or its ETag as `If-Match`, only in that version: else 409, or 412. Title,
        text and vector cannot be changed so: add the document again.
        """
        refuse_unknown_parameters(http)
        body = await http.body()
        with admission.hold(RAM_PER_BYTE * len(body)), admission.call():
            asked = _change(body)
            version = condition_of(asked.if_version, if_match)
            whole = {"ids": [document_id], "metadata": asked.metadata, "if_version": version}
            answer = orjson.loads(await written(_packed(whole)))
        (result,) = answer["results"]
        refuse_conflict(result, if_match)
        if result["status"] == "missing":
            raise NotFound(f"there is no document with id {document_id!r}")
        if result["error"] is not None:
            raise InvalidRequest(result["error"]["detail"])
        facts = {name: result[name] for name in ("id", "status", "version")}
        return _json(orjson.dumps({**facts, "token": answer["token"]}))


def _packed(asked: dict[str, Any]) -> bytes:
    """For the writer; orjson refuses integers over 64 bits, which metadata may hold."""
    return json.dumps(asked).encode()


def _change(body: bytes) -> MetadataBody:
    """Raises InvalidRequest."""
    try:
        return MetadataBody.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        whole = [one | {"loc": one["loc"] or ("body",)} for one in errors]
        raise InvalidRequest(reasons(whole, tuple(MetadataBody.model_fields))) from error


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
