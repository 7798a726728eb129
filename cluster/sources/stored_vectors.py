"""How the vectors of a source are stored: as floats, or quantized by whoever made them.

* int8, uint8: one byte a number. With ranges, `low` and `step` of each dimension, a byte stands for
  low + step * (byte + 128), or low + step * byte where it is unsigned; so do sentence-transformers
  and Bitsift's own calibration. Without ranges an int8 is taken as a number: right where all
  dimensions share one scale that is symmetric about 0, as in USearch's i8 and Bitsift's exports.
* binary, ubinary: packed bits, 8 to a byte, the first one highest; binary is ubinary less 128.
  A bit stands for 1 or -1.

Bytes look like numbers, and as numbers they find the wrong neighbours, so nothing is guessed: small
whole numbers are refused until the caller says what they are.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.router.write.document_rules import numbers_of

_BYTES = {"i": (-128, 127), "u": (0, 255)}
_SUSPECT_WIDTH = 16
"""Whole numbers in shorter vectors are numbers: packed bits would be of under 128 dimensions."""
_BASE64_WIDTH = 16
"""Shorter texts may be words."""


class VectorType(StrEnum):
    """What the numbers of a vector are."""

    FLOAT = "float"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"

    @property
    def is_packed(self) -> bool:
        return self in (VectorType.BINARY, VectorType.UBINARY)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one stored number, little-endian."""
        signed = {VectorType.FLOAT: "<f4", VectorType.INT8: "i1", VectorType.BINARY: "i1"}
        return np.dtype(signed.get(self, "u1"))


@dataclass(frozen=True)
class Ranges:
    """What the bytes of each dimension stand for: `low` is the lowest, `step` that of one."""

    low: tuple[float, ...]
    step: tuple[float, ...]


@dataclass(frozen=True)
class Stored:
    """How vectors are stored; `type` None: as floats, and what looks like bytes is refused."""

    type: VectorType | None = None
    ranges: Ranges | None = None

    def width(self, stored: int) -> int:
        """The dimensions of a vector of so many stored numbers."""
        return 8 * stored if self.type is not None and self.type.is_packed else stored

    def stored_width(self, width: int) -> int:
        """How many numbers a vector of so many dimensions is stored in."""
        return width // 8 if self.type is not None and self.type.is_packed else width

    def numbers(self, value: object) -> NDArray[Any] | str:
        """The stored numbers of one vector: a list, a text or bytes; or why there are none."""
        if isinstance(value, str) and (data := self._unpacked(value)) is not None:
            return data
        if not isinstance(value, bytes):
            return numbers_of(value)
        if self.type is None:
            return "vector is bytes: --vector-type says what they are (float, int8, ubinary, …)"
        if not value or len(value) % self.type.dtype.itemsize:
            return f"vector is {len(value)} bytes, which are no {self.type} numbers"
        return np.frombuffer(value, dtype=self.type.dtype)

    def _unpacked(self, text: str) -> NDArray[Any] | None:
        """The numbers of a text in base64, as live documents may have them; None for another."""
        dtype = (self.type or VectorType.FLOAT).dtype
        if 3 * len(text) < 4 * dtype.itemsize * _BASE64_WIDTH or not text[-1:].strip():
            return None
        try:
            data = base64.b64decode(text, validate=True)
        except ValueError:
            return None
        if len(data) % dtype.itemsize:
            return None
        numbers = np.frombuffer(data, dtype)
        return numbers if self.type is not None or _are_floats(numbers) else None

    def parsed(self, value: object, width: int | None) -> NDArray[np.float32] | str:
        """The same as float32 of shape (stored_width,), if that is the `width` of the plan."""
        numbers = self.numbers(value)
        if isinstance(numbers, str):
            return numbers
        if width is not None and self.width(len(numbers)) != width:
            return wrong_width(self.width(len(numbers)), width)
        with np.errstate(over="ignore"):
            return numbers.astype(np.float32)

    def decoded_list(self, value: object) -> list[float] | str:
        """The vector that one value stands for; or why there is none."""
        numbers = self.numbers(value)
        if isinstance(numbers, str):
            return numbers
        if self.ranges is not None and len(numbers) != len(self.ranges.low):
            return wrong_width(len(numbers), len(self.ranges.low))
        matrix, bad = self.decoded(numbers[None, :])
        return bad[0] if bad else [float(number) for number in matrix[0]]

    def decoded(self, matrix: NDArray[Any]) -> tuple[NDArray[np.float32], dict[int, str]]:
        """What stored numbers (n, stored_width) stand for, float32 (n, width), and bad rows."""
        if self.type is None or self.type is VectorType.FLOAT:
            with np.errstate(over="ignore"):
                return np.ascontiguousarray(matrix, dtype=np.float32), {}
        lowest, highest = _BYTES[self.type.dtype.kind]
        with np.errstate(invalid="ignore"):
            fits = (matrix >= lowest) & (matrix <= highest) & (matrix == np.rint(matrix))
        good = fits.all(axis=1)
        why = f"vector holds numbers that are no {self.type}: {lowest} to {highest}"
        bad = {int(row): why for row in np.flatnonzero(~good)}
        unsigned = np.where(good[:, None], matrix, lowest).astype(np.int16) - lowest
        if self.type.is_packed:
            bits = np.unpackbits(unsigned.astype(np.uint8), axis=1)
            return bits.astype(np.float32) * 2 - 1, bad
        if self.ranges is None:
            return (unsigned + lowest).astype(np.float32), bad
        low, step = np.array(self.ranges.low), np.array(self.ranges.step)
        return (low + step * unsigned).astype(np.float32), bad


FLOATS = Stored()
EXPORTED = Stored(VectorType.INT8)
"""Of our own exports: the scale of each vector changes no direction."""
ASSUMED = (
    "int8 vectors without --ranges: it is assumed that all dimensions share one scale that is "
    "symmetric about 0; if each has a range of its own, as from sentence-transformers, pass them"
)


def _are_floats(numbers: NDArray[np.float32]) -> bool:
    """Whether bytes are floats: other bytes, read as such, are huge or tiny sooner or later."""
    largest = float(np.abs(numbers).max())
    return bool(np.isfinite(numbers).all()) and 1e-6 < largest < 1e6


def wrong_width(found: int, expected: int) -> str:
    """Why a vector of `found` dimensions is rejected."""
    return f"vector has {found} numbers, expected {expected}"


def suspicion(vectors: Sequence[NDArray[Any]]) -> str | None:
    """Why numbers like these are not taken for floats until the caller says so; None if they are.

    `vectors` are some of a source, as they are stored.
    """
    if not vectors or any(vector.dtype.kind not in "iu" for vector in vectors):
        return None
    is_byte = all(vector.dtype.itemsize == 1 for vector in vectors)
    if not is_byte and any(len(vector) < _SUSPECT_WIDTH for vector in vectors):
        return None
    lowest = min(int(vector.min()) for vector in vectors)
    highest = max(int(vector.max()) for vector in vectors)
    if not is_byte and (lowest < -128 or highest > 255 or (lowest >= -1 and highest <= 1)):
        return None
    if lowest < -128 or (lowest < 0 and highest > 127):
        return None
    signed = "binary (packed bits) or int8 (one number a byte, --ranges if they have them)"
    unsigned = "ubinary (packed bits) or uint8 with --ranges"
    unsigned_dtype = is_byte and all(vector.dtype.kind == "u" for vector in vectors)
    signed_dtype = is_byte and not unsigned_dtype
    if lowest < 0 or signed_dtype:
        kinds, said = "signed", signed
    elif highest > 127 or unsigned_dtype:
        kinds, said = "unsigned", unsigned
    else:
        kinds, said = "small", f"{unsigned}, {signed}"
    return (
        f"the vectors are {kinds} bytes, {lowest} to {highest}, quantized by whoever made them; as "
        f"plain numbers they find wrong neighbours. Say what they are with --vector-type: {said}; "
        "float if they are numbers after all"
    )
