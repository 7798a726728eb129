"""What a body is said to be. Anything else than what a route reads is a 415."""

from __future__ import annotations

from starlette.requests import Request

JSON = "application/json"
NDJSON = "application/x-ndjson"
OCTETS = "application/octet-stream"
_LINES = ("ndjson", "jsonl", "x-jsonl", "jsonlines", "x-jsonlines")
_SAME = dict.fromkeys((f"application/{name}" for name in _LINES), NDJSON)
"""Lines of JSON have no registered type, and several that are in use."""


def media_type(value: str) -> str:
    """The type that a Content-Type header says, in lower case and without parameters."""
    said = value.partition(";")[0].strip().lower()
    return _SAME.get(said, said)


def content_type(http: Request) -> str:
    """The media type of a request's body; "" where none is said."""
    return media_type(http.headers.get("content-type", ""))
