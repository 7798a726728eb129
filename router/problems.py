"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

import logging
from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from shard_worker.errors import BitsiftError, InvalidRequest, Overloaded, Unavailable

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1


def problem(status: int, kind: str, title: str, detail: str, retry: bool = False) -> Response:
    """A problem document; ``kind`` is the class of the error."""
    body = {"type": f"bitsift:{kind}", "title": title, "status": status, "detail": detail}
    headers = {"Retry-After": str(RETRY_AFTER_S)} if retry else None
    text = orjson.dumps(body)
    return Response(text, status, headers=headers, media_type="application/problem+json")


async def _on_bitsift_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, BitsiftError)
    retry = isinstance(error, (Overloaded, Unavailable))
    return problem(error.status, type(error).__name__, error.title, error.message, retry)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    """Says what is wrong where, without echoing the input (it may not be valid JSON)."""
    assert isinstance(error, RequestValidationError)
    reasons = [
        f"{'.'.join(str(part) for part in item['loc'][1:]) or 'body'}: {item['msg']}"
        for item in error.errors()[:5]
    ]
    detail = "; ".join(reasons).encode(errors="replace").decode()
    return problem(422, InvalidRequest.__name__, InvalidRequest.title, detail)


async def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.BAD_REQUEST:  # a body that is not JSON at all
        detail = f"{error.detail}: it is not valid JSON"
        return problem(422, InvalidRequest.__name__, InvalidRequest.title, detail)
    return problem(error.status_code, "HTTPError", "request refused", str(error.detail))


async def _on_any_error(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "InternalError", "internal error", "see the router's log")


def add_problem_handlers(app: FastAPI) -> None:
    """Every error that leaves ``app`` is a problem document."""
    app.add_exception_handler(BitsiftError, _on_bitsift_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_any_error)
