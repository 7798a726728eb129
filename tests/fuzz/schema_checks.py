"""What schemathesis must never see; loaded by it through SCHEMATHESIS_HOOKS."""

from __future__ import annotations

from typing import Any

import schemathesis

from tests.fuzz.raw import MEANT


@schemathesis.serializer("application/x-ndjson")
def lines(ctx: Any, value: Any) -> bytes:
    """Of an example, which is a text; what is made up is any value."""
    return value.encode(errors="replace") if isinstance(value, str) else str(value).encode()


@schemathesis.check
def no_unmeant_server_error(ctx: Any, response: Any, case: Any) -> None:
    """``timeout_ms`` may be too short for any answer: that is a 504, and meant."""
    assert response.status_code < 500 or response.status_code in MEANT, response.status_code
    if response.status_code >= 400:
        kind = response.headers["content-type"][0]
        assert kind == "application/problem+json", kind
