"""JSON that is not one value per line: where each record of it begins and ends.

An array of records, one record, or several after another, printed in any way. The bytes are cut
without being parsed, so that no more than one record is in RAM, and so that a broken one costs
itself: a bracket too few is closed by the next one that fits; a string that is never closed ends
with its line, for JSON has no line break in a string, and the next record is looked for at the
start of a line, indented no deeper than the records before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from bitsift.cluster.sources.streams import LINE_BYTES_MAX, TOO_LONG, DamagedStream

_BETWEEN = re.compile(rb"[ \t\r\n,]*+")
_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\\n]++|\\.)*+")*+', re.DOTALL)
_IN_STRING = re.compile(rb'(?:[^"\\\n]++|\\.)*+', re.DOTALL)
_SCALAR = re.compile(rb'(?:[^",\n\[\]{}]++|"(?:[^"\\\n]++|\\[^\n])*+"?)*+')
_CLOSED_BY = {ord("{"): ord("}"), ord("["): ord("]")}
_LINE_START = re.compile(rb"\n([ \t]*)\{")


class Value(NamedTuple):
    """The bytes of one value and the line where it begins; or why there are none."""

    line: int
    data: bytes | None
    reason: str | None = None


def cut_values(blocks: Iterator[bytes]) -> Iterator[Value]:
    """The values of a stream of JSON in order; those within an outermost array are each one.

    Commas may be missing or too many. DamagedStream passes through with the line it came to.
    """
    yield from _Cutter(blocks).values()


class _Cutter:
    """`_start` is where the value in progress begins in `_buffer`, `_line` the number of its line.

    Places are counted from `_start`.
    """

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._buffer = b""
        self._start = 0
        self._line = 1
        self._indent = 0
        self._in_array = False

    def values(self) -> Iterator[Value]:
        try:
            while self._to_next():
                opening = self._byte(0)
                if opening == b"[" and not self._in_array:
                    self._in_array = True
                    self._drop(1)
                elif opening == b"]" and self._in_array:
                    self._in_array = False
                    self._drop(1)
                elif opening in (b"{", b"["):
                    yield from self._bracketed()
                else:
                    yield self._scalar()
            if self._in_array:
                yield Value(self._line, None, "broken JSON: the file ends within its array")
        except DamagedStream as damage:
            damage.line = self._line
            raise

    def _held(self) -> int:
        return len(self._buffer) - self._start

    def _byte(self, place: int) -> bytes:
        at = self._start + place
        return self._buffer[at : at + 1]

    def _matched(self, pattern: re.Pattern[bytes], place: int) -> int:
        """Where the match that begins at `place` ends; all patterns match the empty string."""
        found = pattern.match(self._buffer, self._start + place)
        assert found is not None
        return found.end() - self._start

    def _more(self) -> bool:
        block = next(self._blocks, b"")
        self._buffer = self._buffer[self._start :] + block
        self._start = 0
        return bool(block)

    def _drop(self, count: int) -> bytes:
        dropped = self._buffer[self._start : self._start + count]
        self._start += len(dropped)
        self._line += dropped.count(b"\n")
        return dropped

    def _to_next(self) -> bool:
        """Moves to the first byte of the next value; False at the end of the stream."""
        begins_line = False
        while True:
            gap = self._drop(self._matched(_BETWEEN, 0))
            if (last := gap.rfind(b"\n")) >= 0:
                begins_line, self._indent = True, len(gap) - last - 1
            elif begins_line:
                self._indent += len(gap)
            if self._held():
                return True
            if not self._more():
                return False

    def _scalar(self) -> Value:
        line = self._line
        while (end := self._matched(_SCALAR, 0)) == self._held():
            if end > LINE_BYTES_MAX or not self._more():
                break
        data = self._drop(max(1, end))
        return Value(line, None, TOO_LONG) if len(data) > LINE_BYTES_MAX else Value(line, data)

    def _bracketed(self) -> Iterator[Value]:
        """The object or array that begins here."""
        line = self._line
        closing = bytearray()  # the brackets that are waited for
        at = passed = 0  # bytes looked at, and those of a value that is too long to be kept
        in_string = False
        while True:
            if passed + at > LINE_BYTES_MAX:
                if not passed and self._next_line(at) is not None:
                    yield self._broken(line, passed, "a bracket is never closed", at)
                    return
                passed += len(self._drop(at))
                at = 0
            at = self._matched(_IN_STRING if in_string else _TO_BRACKET, at)
            found = self._byte(at)
            if not found or (in_string and found == b"\\"):
                if not self._more():
                    break
            elif in_string and found == b"\n":
                yield self._broken(line, passed, "a string does not end in its line")
                return
            elif found == b'"':
                in_string = not in_string
                at += 1
            elif not self._closes(closing, found[0]):
                at += 1
            elif closing:  # the end of the array around it
                yield self._broken(line, passed, "a bracket is never closed", at)
                return
            else:
                data = self._drop(at + 1)
                too_long = passed + len(data) > LINE_BYTES_MAX
                yield Value(line, None, TOO_LONG) if too_long else Value(line, data)
                return
        yield self._broken(line, passed, "the file ends within this record", self._held())

    def _closes(self, closing: bytearray, bracket: int) -> bool:
        """Takes note of a bracket; True where it ends the value, or the array that it is in."""
        if bracket in _CLOSED_BY:
            closing.append(_CLOSED_BY[bracket])
            return False
        if bracket not in closing:
            return self._in_array and bracket == ord("]")
        del closing[closing.rindex(bracket) :]
        return not closing

    def _broken(self, line: int, passed: int, why: str, end: int | None = None) -> Value:
        """Passes over a broken value: to the next that begins a line, else to `end`."""
        while (found := self._next_line(end)) is None and end is None:
            passed += len(self._drop(max(0, self._held() - self._indent - 2)))
            if not self._more():
                end = self._held()
        stop = end if found is None else found
        assert stop is not None
        passed += len(self._drop(stop))
        return Value(line, None, f"broken JSON: {why}; {passed:,} bytes are passed over")

    def _next_line(self, end: int | None) -> int | None:
        """The place of the first record that begins a line, before `end`."""
        stop = len(self._buffer) if end is None else self._start + end
        for found in _LINE_START.finditer(self._buffer, self._start, stop):
            if len(found[1]) <= self._indent:
                return found.start() + 1 - self._start
        return None
