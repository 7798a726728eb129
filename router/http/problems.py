"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from bitsift import problem_lines
from bitsift.checked import reasons
from bitsift.errors import BitsiftError, InvalidRequest, RequestOutcome
from bitsift.router.http.routes import is_read, methods_of

log = logging.getLogger(__name__)
Document = dict[str, Any]


def problem(
    status: int,
    kind: str,
    title: str,
    detail: str,
    outcome: RequestOutcome | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An answer that is a problem document."""
    return _said(document(status, kind, title, detail, outcome), headers)


def _said(said: Document, headers: Mapping[str, str] | None = None) -> Response:
    kind = "application/problem+json"
    return Response(orjson.dumps(said), said["status"], headers=headers, media_type=kind)


def document(
    status: int, kind: str, title: str, detail: str, outcome: RequestOutcome | None = None
) -> Document:
    """A problem document; ``kind`` is the class of the error.

    ``outcome`` None: what the status says. A request that was refused (4xx) was not done.
    """
    if outcome is None:
        refused = status < HTTPStatus.INTERNAL_SERVER_ERROR
        outcome = RequestOutcome.NOT_DONE if refused else RequestOutcome.UNKNOWN
    return problem_lines.document(status, kind, title, detail, outcome)


def internal_error(outcome: RequestOutcome | None) -> Document:
    """Of an error that nobody foresaw."""
    return document(500, "InternalError", "internal error", "see the router's log", outcome)


def problem_of(error: BitsiftError) -> Response:
    """The answer that says ``error``."""
    wait_s = error.retry_after_s
    headers = None if wait_s is None else {"Retry-After": str(math.ceil(wait_s))}
    kind = type(error).__name__
    return problem(error.status, kind, error.title, error.message, error.outcome, headers)


async def _on_bitsift_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BitsiftError)
    if is_read(request.method, request.url.path):
        error = error.with_outcome(RequestOutcome.NOT_DONE)
    return problem_of(error)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    """Says what is wrong where, without echoing the input (it may not be valid JSON)."""
    assert isinstance(error, RequestValidationError)
    detail = reasons([{**item, "loc": item["loc"][1:]} for item in error.errors()])
    return problem(422, InvalidRequest.__name__, InvalidRequest.title, detail)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.BAD_REQUEST:  # a body that is not JSON at all
        detail = f"{error.detail}: it is not valid JSON"
        return problem(422, InvalidRequest.__name__, InvalidRequest.title, detail)
    headers = dict(error.headers or {})  # WWW-Authenticate
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(methods_of(request.url.path)))
    detail = str(error.detail)
    return problem(error.status_code, "HTTPError", "request refused", detail, headers=headers)


async def _on_any_error(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    outcome = RequestOutcome.NOT_DONE if is_read(request.method, request.url.path) else None
    return _said(internal_error(outcome))


def add_problem_handlers(app: FastAPI) -> None:
    """Every error that leaves ``app`` is a problem document."""
    app.add_exception_handler(BitsiftError, _on_bitsift_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_any_error)
