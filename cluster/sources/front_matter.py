"""Front matter: fields that a text file begins with, between lines of `---` (YAML) or `+++` (TOML).

Of YAML only what such headers are made of: `key: value`, with numbers, true, false, null, strings
with quotes and without, and lists, as `[a, b]` or as lines `- a`. A header of which a line
was not understood stays in the text, so nothing is lost.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

_KEY = re.compile(r"([A-Za-z_][\w .-]*):(?:[ \t]+(.*))?$")
_ITEM = re.compile(r"[ \t]*-[ \t]+(.*)$")
_WHOLE = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})")
_FRACTION = re.compile(r"[+-]?[0-9]{1,17}\.[0-9]{1,17}")
_COMMENT = re.compile(r"[ \t]#.*$")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_OPENS_BLOCK = ("|", ">", "{", "&", "*", "!")
_UNKNOWN = object()


def split_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """The fields of a text's header, and the text without it, if every line was understood."""
    mark = text[:3]
    if mark not in ("---", "+++"):
        return {}, text
    lines = text.splitlines(keepends=True)
    ends = ("---", "...") if mark == "---" else ("+++",)
    if not lines or lines[0].rstrip() != mark:
        return {}, text
    stop = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() in ends), None)
    if stop is None:
        return {}, text
    header = lines[1:stop]
    fields, is_whole = _toml(header) if mark == "+++" else _yaml(header)
    return fields, "".join(lines[stop + 1 :]).lstrip("\n") if is_whole and fields else text


def _toml(lines: list[str]) -> tuple[dict[str, Any], bool]:
    try:
        return tomllib.loads("".join(lines)), True
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}, False


def _yaml(lines: list[str]) -> tuple[dict[str, Any], bool]:
    """The fields of these lines, and whether each line was understood."""
    fields: dict[str, Any] = {}
    is_whole = True
    key: str | None = None  # whose value may be a list on the lines that follow
    for line in lines:
        line = line.rstrip()
        if not line or line.lstrip().startswith("#"):
            continue
        if found := _KEY.match(line):
            value = _value(found[2] or "")
            key = found[1] if not found[2] else None
            if value is _UNKNOWN:
                is_whole = False
            else:
                fields[found[1]] = value
        elif key is not None and (item := _ITEM.match(line)):
            value = _value(item[1])
            if value is _UNKNOWN or isinstance(value, list) or _KEY.match(item[1]):
                is_whole = False
                fields.pop(key)
                key = None
            else:
                fields[key] = [*(fields[key] or []), value]
        else:
            is_whole = False
            fields.pop(key or "", None)  # a value that is nested
            key = None
    return fields, is_whole


def _value(text: str) -> Any:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        inner = text[1:-1]
        return inner.replace("''", "'") if text[0] == "'" else inner.replace('\\"', '"')
    text = _COMMENT.sub("", text).rstrip()
    if text.startswith("[") and text.endswith("]"):
        items = [_value(item) for item in text[1:-1].split(",")] if text[1:-1].strip() else []
        is_flat = not any(item is _UNKNOWN or isinstance(item, list) for item in items)
        return items if is_flat else _UNKNOWN
    if text.startswith((*_OPENS_BLOCK, "[", "'", '"')):
        return _UNKNOWN
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _FRACTION.fullmatch(text) else text
