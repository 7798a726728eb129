"""JSON files: how their records are laid out, and which of a folder hold none.

An array of objects, one object, or several after another; one object a line is JSON lines, whatever
the file's ending. A folder often has JSON files that describe or configure something: one object
without a text, or none at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

import orjson

from bitsift.cluster.sources.encoding import utf8_blocks
from bitsift.cluster.sources.kinds import kind_of
from bitsift.cluster.sources.listing import Found
from bitsift.cluster.sources.plan import NAMES, Fields, Format, SourceFile
from bitsift.cluster.sources.records import read_records
from bitsift.cluster.sources.streams import DamagedStream, read_blocks
from bitsift.errors import InvalidRequest

_RECORDS_LOOKED_AT = 100
_NAMES_SHOWN = 5


def with_layout(file: SourceFile) -> SourceFile:
    """The same file; JSON becomes JSON lines where it is that, and JSON lines an array or objects
    of several lines each.
    """
    if not file.format.is_json:
        return file
    try:
        blocks = read_blocks(file.path, file.compression)
        head = next(utf8_blocks(blocks, file.encoding), b"")
    except DamagedStream:
        return file
    first, newline, _ = head.lstrip().partition(b"\n")
    if file.format is Format.JSON:
        is_lines = newline and isinstance(_value(first), dict)
        return replace(file, format=Format.JSON_LINES) if is_lines else file
    if first.strip() == b"{":  # an object that goes on in the next lines
        return replace(file, format=Format.JSON)
    value = _value(first)
    if first.startswith(b"[") and (value is None or _holds_objects(value)):
        return replace(file, format=Format.JSON)
    return file


def _value(line: bytes) -> object:
    """The JSON value of a line; None where it is no whole one."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


def _holds_objects(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def no_records(items: Iterable[Found], fields: Fields) -> dict[str, str]:
    """The JSON files of a folder that hold no records: path and reason."""
    reasons = {}
    for item in items:
        kind, compression = kind_of(item.path)
        if kind is Format.JSON:
            file = SourceFile(0, item.path, item.name, kind, compression, item.size_bytes)
            reason = _no_records(with_layout(file), fields)
            if reason is not None:
                reasons[item.path] = reason
    return reasons


def _no_records(file: SourceFile, fields: Fields) -> str | None:
    rows = []
    count = 0
    try:
        for record in islice(read_records(file), _RECORDS_LOOKED_AT):
            count += 1
            rows += [record.row] if record.row is not None else []
    except (DamagedStream, InvalidRequest):
        return None  # the plan will say why
    if not rows:
        return "no JSON object in it" if count else "an empty JSON file"
    if len(rows) == count == 1:
        names = (fields.text,) if fields.text is not None else NAMES["text"]
        lower = {name.lower() for name in rows[0]}
        if not lower & {name.lower() for name in names} and fields.vector not in rows[0]:
            shown = ", ".join(list(rows[0])[:_NAMES_SHOWN])
            return f"one JSON object without a text, so no record; its fields: {shown or 'none'}"
    return None
