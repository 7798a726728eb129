"""From the bytes of a request to documents that may be stored, or why one may not. Pure functions.

A fault of the whole request raises InvalidRequest; a fault of one document is an InvalidRequest in
its place, and the next document is read.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import contextlib
import re
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from bitsift.checked import reasons
from bitsift.errors import InvalidRequest
from bitsift.nearest import nearest
from bitsift.router.http.documents_schema import (
    BODY_STEPS_MAX,
    DOCUMENT_BYTES_MAX,
    DOCUMENT_PARTS_MAX,
    DOCUMENTS_MAX,
    ID_BYTES_MAX,
    LINE_BYTES_MAX,
    DeleteBody,
    DocumentBody,
    RequestTooLarge,
)
from bitsift.router.json_scan import BrokenJson, Cutter, TooManyBrackets, has_more_parts
from bitsift.router.write.conditions import expected, read_version
from bitsift.router.write.document_rules import (
    RefusedDocument,
    checked_id,
    checked_text,
    checked_title,
    metadata_text,
    parse_json,
    parse_vector,
    without_surrogates,
)
from bitsift.shard_worker.codes import bad_rows
from bitsift.shard_worker.operations import Condition

_FIELDS = frozenset(DocumentBody.model_fields)
_DELETIONS = ("ids", "filter", "if_version")
"""What says which documents are deleted; by a filter they are found before the writer is asked."""
_NOTHING = ", no title and no vector"
"""What else a document without text lacks."""
_NAME_CHARACTERS = 40
"""Of an unknown name that an error shows, and compares."""
_DOCUMENTS = re.compile(rb'\s*\{\s*"documents"\s*:\s*\[')
_IDS = re.compile(rb'\s*\{\s*"ids"\s*:\s*\[\s*["0-9-]')
_END = re.compile(rb"\]\s*\}\s*")
_SMALL_BYTES_MAX = 64 << 10
ENVELOPE_BYTES_MAX = 64 << 10
"""A malformed body up to this size is parsed to say what is wrong with it."""
IDS_PARTS_MAX = 2 * DOCUMENTS_MAX + 100
"""A string and a comma for each id, and what stands around them."""


@dataclass(frozen=True, slots=True, eq=False)
class Incoming:
    """A document to store. ``metadata`` is the text of a JSON object, "" for none.

    ``vector`` float32 (dimension,) is what the caller gave; None leaves it to the model.
    ``expected`` must be there for it to be stored.
    """

    id: str
    title: str
    text: str
    metadata: str
    vector: NDArray[np.float32] | None
    expected: Condition = None

    @property
    def size_bytes(self) -> int:
        """About what it takes in RAM and on the wire."""
        vector = 0 if self.vector is None else self.vector.nbytes
        return len(self.id) + len(self.title) + len(self.text) + len(self.metadata) + vector


@dataclass(frozen=True, slots=True)
class Item:
    """One document of a request: ``document``, or ``error`` in its place; ``id`` if it has one."""

    id: str | None
    document: Incoming | None = None
    error: InvalidRequest | None = None
    line: int = 0


class DocumentReader:
    """Reads documents for an index of ``dimension``, with a model or for precomputed embeddings."""

    def __init__(self, dimension: int, *, has_model: bool) -> None:
        self._dimension = dimension
        self._has_model = has_model
        self._parsing = threading.Lock()  # what is built of a large document is there once

    def read_body(self, body: bytes) -> list[Item]:
        """The documents of ``{"documents": […]}``. Raises InvalidRequest, RequestTooLarge."""
        start = _DOCUMENTS.match(body)
        if start is None:
            raise _wrong_envelope(body)
        items, begin = list[Item](), start.end()
        cutter = Cutter(body, BODY_STEPS_MAX)
        while True:
            try:
                end = cutter.element_end(begin)
            except BrokenJson as error:
                raise InvalidRequest(f"documents.{len(items)}: {error}") from error
            except TooManyBrackets as error:
                raise RequestTooLarge(
                    "documents: too many brackets in brackets for one call; send several, or a "
                    "stream of lines"
                ) from error
            element, is_last = body[begin:end], body[end : end + 1] == b"]"
            if is_last and not items and not element.strip():
                break
            if len(items) == DOCUMENTS_MAX:
                raise RequestTooLarge(
                    f"documents: at least {DOCUMENTS_MAX + 1:,} of them, a call takes at most "
                    f"{DOCUMENTS_MAX:,}; send several calls, or a stream of lines"
                )
            try:
                items.append(self._read(element, 0))
            except RefusedDocument as error:
                raise InvalidRequest(f"documents.{len(items)}: {error}") from error
            if is_last:
                break
            begin = end + 1
        if _END.fullmatch(body, end) is None:
            raise _wrong_envelope(body[: start.end()] + body[end:])
        return items

    def read_lines(self, block: bytes, first_line: int) -> list[Item]:
        """The documents of whole lines, counted from ``first_line``; a blank line is none."""
        items = []
        for number, line in enumerate(block.split(b"\n"), start=first_line):
            line = line.removeprefix(codecs.BOM_UTF8)  # `cat` leaves one before each file
            if not line.strip():
                continue
            try:
                items.append(self._read(line, number))
            except RefusedDocument as error:
                items.append(Item(None, error=InvalidRequest(str(error)), line=number))
        return items

    def _read(self, text: bytes, line: int) -> Item:
        """One document from its JSON. Raises RefusedDocument where it is not JSON."""
        if len(text) > LINE_BYTES_MAX:
            why = f"the document has {len(text):,} bytes of JSON, at most {LINE_BYTES_MAX:,}"
            return Item(None, error=InvalidRequest(why), line=line)
        if has_more_parts(text, DOCUMENT_PARTS_MAX):
            why = f"over {DOCUMENT_PARTS_MAX:,} strings, commas and brackets in one document"
            return Item(None, error=InvalidRequest(why), line=line)
        with self._parsing if len(text) > _SMALL_BYTES_MAX else contextlib.nullcontext():
            value, is_suspect = parse_json(text)
            return self._item(value, is_suspect, line)

    def _item(self, value: object, is_suspect: bool, line: int) -> Item:
        key = None
        try:
            if not isinstance(value, dict):
                raise RefusedDocument(f"a JSON {type(value).__name__}, not a JSON object")
            key = _id(value)
            return Item(key, self._document(key, value, is_suspect), line=line)
        except RefusedDocument as error:
            return Item(key, error=InvalidRequest(str(error)), line=line)
        except RecursionError:
            return Item(key, error=InvalidRequest("document is nested too deeply"), line=line)

    def _document(self, key: str, value: dict[str, Any], is_suspect: bool) -> Incoming:
        unknown = sorted(value.keys() - _FIELDS)
        if unknown:
            raise RefusedDocument(
                f"unknown field {_shown(unknown[0])}: {_meant(unknown[0])}what is not one of "
                f"{', '.join(sorted(_FIELDS))} belongs in metadata"
            )
        if is_suspect:
            value = without_surrogates(value)
        vector = self._vector(value.get("vector"))
        title = checked_title(value.get("title"))
        text = checked_text(value.get("text"), title, None if vector is not None else _NOTHING)
        metadata = value.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise RefusedDocument(f"metadata is a {type(metadata).__name__}, not an object")
        packed = metadata_text(metadata or {})
        size = sum(len(part.encode()) for part in (title, text, packed))
        if size > DOCUMENT_BYTES_MAX:
            raise RefusedDocument(
                f"title, text and metadata take {size:,} bytes, at most {DOCUMENT_BYTES_MAX:,} "
                "are allowed: split the document"
            )
        return Incoming(key, title, text, packed, vector, expected(value))

    def _vector(self, value: object) -> NDArray[np.float32] | None:
        if value is None:
            if self._has_model:
                return None
            raise RefusedDocument(
                f"no vector: this index needs precomputed embeddings of {self._dimension} numbers"
            )
        is_list = isinstance(value, list)
        found = parse_vector(value, self._dimension) if is_list else self._decoded(value)
        if isinstance(found, str):
            raise RefusedDocument(found)
        with np.errstate(over="ignore", invalid="ignore"):  # judged below, not in the log
            square = float(found @ found)
        if not 0 < square < np.inf and bad_rows(found[None, :])[0]:
            finite = bool(np.isfinite(found).all())
            raise RefusedDocument(
                "vector is all zeros" if finite else "vector contains NaN or infinity"
            )
        return found

    def _decoded(self, value: object) -> NDArray[np.float32] | str:
        """A vector from base64 of little-endian float32, or the reason why there is none."""
        if not isinstance(value, str):
            return f"vector is a {type(value).__name__}, not a list of numbers or base64"
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return "vector is a string, but not base64"
        if len(data) != 4 * self._dimension:
            return f"vector has {len(data)} bytes, expected {self._dimension} float32 of 4 bytes"
        return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)


def _wrong_envelope(body: bytes) -> InvalidRequest:
    """Why ``body``, from which the documents themselves may be omitted, is not valid."""
    wanted = InvalidRequest('body: not a JSON object {"documents": […]} and nothing else')
    if len(body) > ENVELOPE_BYTES_MAX:
        return wanted
    try:
        whole, _ = parse_json(body)
    except RefusedDocument as error:
        return InvalidRequest(f"body: {error}")
    if not isinstance(whole, dict):
        return wanted
    unknown = sorted(whole.keys() - {"documents"})
    if unknown:
        meant = _meant(unknown[0], ("documents",)) or "there is documents"
        return InvalidRequest(f"body: unknown field {_shown(unknown[0])}: {meant.strip()}")
    if not isinstance(whole.get("documents"), list):
        return InvalidRequest("documents: a list of documents is required")
    return wanted


def read_deletion(body: bytes) -> tuple[list[str], list[Condition]]:
    """The ids of ``{"ids": […]}``, and the condition of each, where they have some. Raises
    InvalidRequest, RequestTooLarge.
    """
    if has_more_parts(body, IDS_PARTS_MAX):
        if _IDS.match(body) is None:
            raise InvalidRequest("ids: a list of ids is required")
        raise RequestTooLarge(f"ids: a call takes at most {DOCUMENTS_MAX:,}")
    try:
        asked = DeleteBody.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        if any(one["type"] == "too_long" for one in errors):
            raise RequestTooLarge(f"ids: a call takes at most {DOCUMENTS_MAX:,}") from error
        whole = [one | {"loc": one["loc"] or ("body",)} for one in errors]
        raise InvalidRequest(reasons(whole, _DELETIONS)) from error
    if asked.if_version is None:
        return asked.ids, []
    if len(asked.ids) != 1:
        raise InvalidRequest(f"if_version: is of one document, and there are {len(asked.ids)} ids")
    try:
        return asked.ids, [read_version(asked.if_version)]
    except RefusedDocument as error:
        raise InvalidRequest(str(error)) from error


def _id(value: dict[str, Any]) -> str:
    key = value.get("id")
    if key is None:
        raise RefusedDocument("no id: a document added over the API needs one")
    key = checked_id(key)
    size = len(key.encode())
    if size > ID_BYTES_MAX:
        raise RefusedDocument(f"the id has {size:,} bytes, at most {ID_BYTES_MAX:,}")
    return key


def _meant(name: str, known: Collection[str] = _FIELDS) -> str:
    """Which field a name may mean, if one is near."""
    near = nearest(name[:_NAME_CHARACTERS], known)
    return f"did you mean {near}? " if near else ""


def _shown(name: str) -> str:
    """A field's name for a message: short, and valid Unicode."""
    return repr(without_surrogates(name)[:_NAME_CHARACTERS])
