"""What a body is said to be. Anything else than what a route reads is a 415."""

from __future__ import annotations

from starlette.requests import Request

JSON = "application/json"


def media_type(value: str) -> str:
    """The type that a Content-Type header says, in lower case and without parameters."""
    return value.partition(";")[0].strip().lower()


def content_type(http: Request) -> str:
    """The media type of a request's body; "" where none is said."""
    return media_type(http.headers.get("content-type", ""))
