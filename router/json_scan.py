"""Where the parts of a JSON text begin and end, found without building any of them.

A parser builds a whole body before anyone can look at it: 16 MiB of ``[],[],…`` become 470 MiB of
lists. Here a body is cut, or its parts are counted, and nothing is kept on the way.

What is cut out is not yet known to be JSON. Where a text is JSON, the cuts are right; where it is
not, the parser that gets the pieces says so.
"""

from __future__ import annotations

import re

DEPTH_MAX = 1_024
"""What the parsers bear, too."""

# No possessive groups: Python 3.11.2, which Debian 12 has, matches them wrongly. Bounded repeats
# pass over a hundred strings, or arrays and objects that hold no others, in one step, and keep
# little.
_STRING = rb'"[^"\\]*+"'  # without escapes
_PLAIN = rb'[^"\[\]{}]*+'
_FLAT = rb"(?:%b%b){0,20}%b" % (_PLAIN, _STRING, _PLAIN)
_SOME = rb"%b|\[%b\]|\{%b\}" % (_STRING, _FLAT, _FLAT)
_INSIDE = re.compile(rb"(?:%b(?:%b)){0,100}%b" % (_PLAIN, _SOME, _PLAIN))
_OUTSIDE = re.compile(rb'[^",\[\]{}]*+')
_PART = re.compile(rb'[,\[{]|%b|"' % _STRING)
_PIECE_BYTES = 16 << 10
_DEEP = f"nested over {DEPTH_MAX:,} deep"
_MANY = "a bracket too many"
_WRONG = {b"": "it ends too early", b"[": _DEEP, b"{": _DEEP, b"]": _MANY, b"}": _MANY}
_ESCAPES = re.compile(rb'(?:[^"\\]*+\\.){0,1000}[^"\\]*+', re.DOTALL)


class BrokenJson(Exception):
    """The text is no JSON; the message says why."""


class TooManyBrackets(Exception):
    """Cutting the text would take too long."""


class Cutter:
    """Cuts the elements of an array, in at most ``steps_max`` steps: about a second a million."""

    def __init__(self, text: bytes, steps_max: int) -> None:
        self._text = text
        self._steps_left = steps_max

    def element_end(self, begin: int) -> int:
        """Where the element that begins at ``begin`` ends: at its comma, or at the array's bracket.

        Raises BrokenJson where the text ends before, or is nested over ``DEPTH_MAX`` deep, and
        TooManyBrackets.
        """
        text, at, depth = self._text, begin, 0
        while True:
            self._steps_left -= 1
            if self._steps_left < 0:
                raise TooManyBrackets
            passed = (_INSIDE if depth else _OUTSIDE).match(text, at)
            assert passed is not None  # they match nothing at all as well
            at = passed.end()
            mark = text[at : at + 1]
            if depth == 0 and mark in (b",", b"]"):
                return at
            if mark == b'"':
                at = _string_end(text, at)
                continue
            if mark in (b"[", b"{") and depth < DEPTH_MAX:
                depth += 1
            elif mark in (b"]", b"}") and depth:
                depth -= 1
            else:
                raise BrokenJson(f"broken JSON: {_WRONG[mark]}")
            at += 1


def has_more_parts(text: bytes, limit: int) -> bool:
    """Whether ``text`` is made of more than ``limit`` strings, commas and opening brackets.

    What a parser builds of it takes at most about 100 bytes a part, besides the text itself.
    """
    if len(text) <= limit:
        return False
    if _parts_at_most(text) <= limit:
        return False
    at, found = 0, 0
    while part := _PART.search(text, at):
        found += 1
        if found > limit:
            return True
        at = part.end()
        if part.group() == b'"':
            try:
                at = _string_end(text, part.start())
            except BrokenJson:
                return False  # for the parser to say
    return False


def _parts_at_most(text: bytes) -> int:
    """The same and what looks like it in strings; fast."""
    found = text.count(b'"') // 2
    for start in range(0, len(text), _PIECE_BYTES):
        piece = text[start : start + _PIECE_BYTES]
        found += len(piece) - len(piece.translate(None, b",[{"))
    return found


def _string_end(text: bytes, begin: int) -> int:
    """Behind the string whose quote is at ``begin``. Raises BrokenJson where it has no end."""
    at = begin + 1
    while True:
        passed = _ESCAPES.match(text, at)
        assert passed is not None  # it matches nothing at all as well
        at = passed.end()
        if text[at : at + 1] == b'"':
            return at + 1
        if at + 1 >= len(text):
            raise BrokenJson("broken JSON: a string without an end")
