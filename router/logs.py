"""What a router writes to its log: an access line names the route, not the path."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitsift.shard_worker.logs import REQUEST_ID, Form, write_logs

access_log = logging.getLogger("bitsift.access")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The form of the log, and whether each request is noted in it."""

    form: Form = "text"
    access: bool = False

    def apply(self) -> None:
        """To the log of this process, which goes to standard error."""
        write_logs(self.form)
        if self.access and self.form == "text":
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(AccessLines("%(asctime)s %(message)s"))
            access_log.handlers, access_log.propagate = [handler], False
        access_log.setLevel(logging.INFO if self.access else logging.WARNING)


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
