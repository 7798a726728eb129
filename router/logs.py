"""What a router writes to its log: as lines for people, or as JSON, one object a line.

Neither texts of queries, nor keys, nor ids of documents: an access line names the route, not the
path.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being answered; "" outside of one."""
access_log = logging.getLogger("bitsift.access")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The form of the log, and whether each request is noted in it."""

    form: Literal["text", "json"] = "text"
    access: bool = False

    def apply(self) -> None:
        """To the log of this process, which goes to standard error."""
        if self.form == "json":
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(JsonLines())
            logging.getLogger().handlers = [handler]
        elif self.access:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(AccessLines("%(asctime)s %(message)s"))
            access_log.handlers, access_log.propagate = [handler], False
        access_log.setLevel(logging.INFO if self.access else logging.WARNING)


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message; request_id, facts and error if there are."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = REQUEST_ID.get()
        if request_id:
            line["request_id"] = request_id
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(_utf8(line), default=str).decode()


class AccessLines(logging.Formatter):
    """The facts of a request behind its message, as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        facts: Mapping[str, Any] = getattr(record, "facts", {})
        said = " ".join(f"{name}={value}" for name, value in facts.items())
        return f"{super().format(record)} {said} request_id={REQUEST_ID.get()}"


def note_request(route: str, method: str, status: int, seconds: float, key: str | None) -> None:
    """Log that a request was answered. ``key`` is the id of its key, which is no secret."""
    facts = {
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1e3, 3),
        **({} if key is None else {"key": key}),
    }
    access_log.info("request", extra={"facts": facts})


def _utf8(line: dict[str, Any]) -> dict[str, Any]:
    """Without lone surrogates, which no JSON may hold."""
    return {
        name: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for name, value in line.items()
    }
