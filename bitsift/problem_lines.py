"""Errors between processes of ours: a problem document (RFC 9457) on one line."""

from __future__ import annotations

import json
from typing import Any

from bitsift import errors
from bitsift.errors import BitsiftError, RequestOutcome


def problem_document(error: BitsiftError) -> dict[str, Any]:
    """What HTTP answers for ``error``, and a command prints with --json."""
    kind = type(error).__name__
    return document(error.status, kind, error.title, error.message, error.outcome)


def document(
    status: int, kind: str, title: str, detail: str, outcome: RequestOutcome
) -> dict[str, Any]:
    """The same of what need not be an error of ours; ``kind`` is the class of the error."""
    return {
        "type": f"bitsift:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "outcome": outcome,
    }


def error_named(problem: Any) -> BitsiftError:
    """The error that a problem document is of. Raises KeyError, TypeError or ValueError for what is
    none.
    """
    kind: Any = getattr(errors, str(problem["type"]).removeprefix("bitsift:"), None)
    is_ours = isinstance(kind, type) and issubclass(kind, BitsiftError)
    error: BitsiftError = (kind if is_ours else BitsiftError)(str(problem["detail"]))
    return error.with_outcome(RequestOutcome(problem["outcome"]))


def last_error(said: str, otherwise: str) -> BitsiftError:
    """The error that the last line of what a process ``said`` is a problem document of, else
    Unavailable: ``otherwise``, and that line.
    """
    last = "".join(said.splitlines()[-1:])
    try:
        return error_named(json.loads(last))
    except (ValueError, TypeError, KeyError):
        return errors.Unavailable(f"{otherwise}: {last}")
