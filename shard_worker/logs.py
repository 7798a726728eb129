"""What the processes of an index write to their logs: as lines for people, or as JSON, one object a
line.

Neither texts of queries, nor keys, nor ids of documents.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

Form = Literal["text", "json"]
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being answered, or of several, a space between them; "" outside of one."""
REQUESTS_NAMED_MAX = 3
"""Requests that a call to a shard names, of those whose queries it carries."""


def write_logs(form: Form) -> None:
    """The log of this process, which goes to standard error, in this form from now on."""
    if form == "json":
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        logging.getLogger().handlers = [handler]


def name_for(call: str, requests: Iterable[str]) -> str:
    """The name of a call, which has no space in it, with those of the ``requests`` it is for."""
    named = [it for it in dict.fromkeys(requests) if it]
    return " ".join([call, *named[:REQUESTS_NAMED_MAX]])


@contextlib.contextmanager
def working_for(name: str) -> Iterator[None]:
    """What is logged within is for the requests that the ``name`` of a call has."""
    token = REQUEST_ID.set(name.partition(" ")[2])
    try:
        yield
    finally:
        REQUEST_ID.reset(token)


def works_for(request_id: str) -> None:
    """What is logged in this context is for the request from now on.

    A function, because Ray sends an actor's class by value: a ContextVar that its methods name
    cannot be sent.
    """
    REQUEST_ID.set(request_id)


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message; request_id (of work for several
    requests request_ids), facts and error if there are.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        requests = REQUEST_ID.get().split()
        if len(requests) == 1:
            line["request_id"] = requests[0]
        elif requests:
            line["request_ids"] = requests
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(_utf8(line), default=str).decode()


def _utf8(line: dict[str, Any]) -> dict[str, Any]:
    """Without lone surrogates, which no JSON may hold."""
    return {
        name: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for name, value in line.items()
    }
