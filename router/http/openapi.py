"""/openapi.json, completed: examples, keys, and what FastAPI does not know of its answers."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from bitsift.errors import (
    BitsiftError,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    NotFound,
    Overloaded,
    RequestOutcome,
    RequestTooLarge,
    StorageFull,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from bitsift.router.http.examples import EXAMPLES
from bitsift.router.http.routes import needed_scope

PROBLEM = "application/problem+json"
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key: bitsift keys new"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_ERRORS: tuple[type[BitsiftError], ...] = (
    Unauthorized, Forbidden, NotFound, RequestTooLarge, UnsupportedMediaType, InvalidRequest,
    Overloaded, Unavailable, DeadlineExceeded, StorageFull,
)  # fmt: skip
_BY_STATUS = {str(error.status): error for error in _ERRORS}
_TAGS = {
    "search": "Find documents by meaning.",
    "documents": "Add, change, delete and show documents.",
    "indexes": "List, create and delete indexes, and switch aliases.",
    "status": "How the index and the server are.",
    "admin": "Backups, compaction, checks and repairs.",
}
_IF_NONE_MATCH = {
    "name": "If-None-Match", "in": "header", "schema": {"type": "string"},
    "description": "The ETag of what the caller has.",
}  # fmt: skip
_TAGGED = "/v1/documents/{document_id}"


def complete(app: FastAPI, *, keys: bool) -> None:
    """Have ``app`` describe itself fully; ``keys``: it asks for them."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(described(), keys=keys)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(schema: dict[str, Any], *, keys: bool) -> dict[str, Any]:
    schema["tags"] = [{"name": name, "description": said} for name, said in _TAGS.items()]
    if keys:
        schema.setdefault("components", {})["securitySchemes"] = _KEYS
    for method, path, operation in _operations(schema):
        operation["tags"] = [_tag(path)]
        if keys:
            needs_none = needed_scope(method, path) is None
            operation["security"] = [] if needs_none else [{name: []} for name in _KEYS]
        for status, answer in operation["responses"].items():
            if status >= "400":
                answer["content"] = {PROBLEM: answer["content"].pop("application/json")}
                answer["content"][PROBLEM]["example"] = _problem(status)
        if (method, path) == ("GET", _TAGGED):
            operation["responses"]["304"] = {"description": "The caller has it already"}
            operation["parameters"].append(_IF_NONE_MATCH)
        _show_examples(operation, f"{method} {path}")
    return schema


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _tag(path: str) -> str:
    parts = path.strip("/").split("/")
    named = parts[1] if parts[0] == "v1" else ""
    named = "indexes" if named == "aliases" else named
    return named if named in _TAGS else "status"


def _problem(status: str) -> dict[str, Any]:
    """An error of that status; its detail says who must do what."""
    error = _BY_STATUS.get(status)
    if error is None:
        outcome = RequestOutcome.NOT_DONE if status < "500" else RequestOutcome.UNKNOWN
        kind, title, detail = "HTTPError", "request refused", HTTPStatus(int(status)).phrase
    else:
        outcome, kind, title = error.outcome, error.__name__, error.title
        detail = str(error.__doc__).splitlines()[0]
    return {"type": f"bitsift:{kind}", "title": title, "status": int(status), "detail": detail,
            "outcome": outcome.value}  # fmt: skip


def _show_examples(operation: dict[str, Any], route: str) -> None:
    example = EXAMPLES.get(route)
    if example is None:
        return  # a test asks for one
    content = operation["responses"]["200"].setdefault("content", {})
    content.setdefault(example.kind, {})["example"] = example.answer
    for kind, bodies in example.bodies.items():
        shown = {name: {"summary": name, "value": body} for name, body in bodies.items()}
        operation["requestBody"]["content"].setdefault(kind, {})["examples"] = shown
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in example.parameters:
            parameter["example"] = example.parameters[parameter["name"]]
