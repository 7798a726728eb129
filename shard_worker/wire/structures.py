"""The structures that messages are made of, and what they have in common.

A message is msgpack in a frame (frames.py). Its structures travel as arrays, in the order of their
fields: a field that is added goes to the end, with a default, and a test pins what there is
(tests/shard_worker/wire/test_wire.py). Of numpy arrays the bytes travel, and are copied once
where they arrive: inside of a message they would lie unaligned.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec
from numpy.typing import NDArray

from bitsift.errors import BitsiftError, RequestOutcome
from bitsift.shard_worker.types import Document
from bitsift.shard_worker.wire.frames import UNSTAMPED, Kind, Stamp, body_of, framed, head_of

T = TypeVar("T")
encode = msgspec.msgpack.Encoder().encode


def raw(array: NDArray[Any]) -> bytes:
    """The bytes of a contiguous array, to be written into a message without a copy before."""
    return cast(bytes, array.data)


class Part(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A structure of a message. Fields that numpy made are converted before: np.float64 is refused
    by msgspec.
    """


class ErrorPart(Part, frozen=True, array_like=True, gc=False, tag="error"):
    """A BitsiftError in the place of what failed."""

    name: str
    message: str
    outcome: str
    retry_after_s: float | None


def error_part(error: BitsiftError) -> ErrorPart:
    """``error`` to be sent."""
    name = type(error).__name__
    return ErrorPart(name, error.message, error.outcome.value, error.retry_after_s)


def error_of(part: ErrorPart) -> BitsiftError:
    """The error again; one of a class that is not known here is a BitsiftError that names it."""
    kind = _classes(BitsiftError).get(part.name)
    error = BitsiftError(f"{part.name}: {part.message}") if kind is None else kind(part.message)
    error.outcome, error.retry_after_s = RequestOutcome(part.outcome), part.retry_after_s
    return error


def _classes(kind: type[BitsiftError]) -> dict[str, type[BitsiftError]]:
    found = {kind.__name__: kind}
    for narrower in kind.__subclasses__():
        found |= _classes(narrower)
    return found


class DocumentPart(Part, frozen=True, array_like=True, gc=False, tag="document"):
    """A Document, field by field."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any]
    position: int
    size_bytes: int
    code: bytes = b""
    version: int = 0


def document_part(document: Document) -> DocumentPart:
    """``document`` to be sent."""
    d = document
    facts = d.id, d.title, d.text, d.metadata, d.position, d.size_bytes
    return DocumentPart(*facts, d.code, d.version)


def document_of(part: DocumentPart) -> Document:
    """The document again."""
    p = part
    facts = p.id, p.title, p.text, p.metadata, p.position, p.size_bytes
    return Document(*facts, p.code, p.version)


def pack_fact(fact: object, stamp: Stamp = UNSTAMPED) -> bytes:
    """One dataclass, by the names of its fields: what a shard says of itself."""
    return framed(Kind.FACTS, encode(fact), stamp=stamp)


def unpack_fact(data: bytes, kind: type[T]) -> T:
    """The dataclass that ``pack_fact`` was given; fields that ``kind`` lacks are left out."""
    head_of(data, Kind.FACTS)
    return body_of(data, msgspec.msgpack.Decoder(kind))
