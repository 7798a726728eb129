"""Numbers as people write them."""

from __future__ import annotations

import re

from bitsift.errors import InvalidRequest

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def parse_count(text: str | int) -> int:
    """A number of documents: ``40M``, ``1.5B``, ``300k``, ``1_000_000``. Raises InvalidRequest."""
    written = re.sub("[_,]", "", str(text).strip().lower())
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmb]?)", written)
    count = round(float(found[1]) * _UNITS[found[2]]) if found else 0
    if count < 1:
        raise InvalidRequest(f"{text!r} is not a number of documents; write 40M, 300k or 1000000")
    return count


_BYTE_UNITS = {unit: 1 << 10 * power for power, unit in enumerate(("", "k", "m", "g", "t"))}


def parse_bytes(text: str | int) -> int:
    """A size: ``500G``, ``1.5 TiB``, ``1048576``; K, M, G and T are powers of 1,024.

    Raises InvalidRequest.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(text).strip().lower())
    size = round(float(found[1]) * _BYTE_UNITS[found[2]]) if found else 0
    if size < 1:
        raise InvalidRequest(f"{text!r} is not a size in bytes; write 500G, 1.5T or 1048576")
    return size
