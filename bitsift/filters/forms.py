"""A filter as it is sent and kept: one text, which is equal where filters are, and its tree."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import orjson

from bitsift.errors import InvalidRequest
from bitsift.filters.operands import FilterError
from bitsift.filters.parse import as_json, parse_json
from bitsift.filters.text import parse_text
from bitsift.filters.tree import Node

CHARACTERS_MAX = 1 << 16
"""Of a filter, in any form."""
PASSES_ALL = "{}"
"""The canonical text of the filter that every document passes."""
TREES_MAX = 64
"""Trees that are kept by their text: 0.4 MB each at most."""


def canonical(written: Mapping[str, Any] | str) -> str:
    """The JSON text of a filter: an object, the text of one, or the line that text.py reads.

    Raises FilterError.
    """
    if isinstance(written, str):
        _check_length(written)
        written = written.strip()
    text = orjson.dumps(as_json(_parsed(written))).decode()
    _check_length(text)
    return text


def _parsed(written: Any) -> Node:
    if not isinstance(written, str):
        return parse_json(written)
    if not written.startswith("{"):
        return parse_text(written)
    try:
        return parse_json(orjson.loads(written))
    except orjson.JSONDecodeError as error:
        raise FilterError(f"broken JSON: {error.msg} at character {error.pos + 1}") from error


@functools.lru_cache(TREES_MAX)
def tree_of(text: str) -> Node:
    """The tree of a filter in its canonical text. Raises InvalidRequest where it is of a release
    that knows more.
    """
    try:
        return parse_json(orjson.loads(text))
    except ValueError as error:
        raise InvalidRequest(f"filter: {error}") from error


def _check_length(text: str) -> None:
    if len(text) > CHARACTERS_MAX:
        raise FilterError(f"{len(text):,} characters, at most {CHARACTERS_MAX:,}")
