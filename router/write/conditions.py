"""What must be there for a document to be written, as a request says it. Pure functions."""

from __future__ import annotations

from typing import Any

from bitsift.errors import Conflict
from bitsift.router.http.documents_schema import VERSION_DIGITS_MAX
from bitsift.router.write.document_rules import RefusedDocument
from bitsift.shard_worker.operations import ABSENT, Condition


def expected(document: dict[str, Any]) -> Condition:
    """What ``if_absent`` and ``if_version`` of a document say. Raises RefusedDocument."""
    if_absent, if_version = document.get("if_absent"), document.get("if_version")
    if if_absent is not None and not isinstance(if_absent, bool):
        raise RefusedDocument(f"if_absent is a {type(if_absent).__name__}, not true or false")
    if if_version is None:
        return ABSENT if if_absent else None
    if if_absent:
        raise RefusedDocument("if_absent and if_version exclude each other")
    return read_version(if_version)


def read_version(text: object) -> int:
    """The version that an answer has said. Raises RefusedDocument."""
    if (
        isinstance(text, str)
        and text.isascii()
        and text.isdigit()
        and len(text) <= VERSION_DIGITS_MAX
    ):
        found = int(text)
        if 0 < found < 1 << 64:
            return found
    raise RefusedDocument("if_version is no version: send that of the document as it is, a string")


def conflict_with(held: int) -> Conflict:
    """The error of a write whose condition is not met by the version that is ``held``."""
    if held <= ABSENT:
        return Conflict("the condition does not hold: there is no such document")
    return Conflict(f"the condition does not hold: the document has version {held}")
