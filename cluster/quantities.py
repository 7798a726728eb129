"""Numbers as people write them."""

from __future__ import annotations

import re

from shard_worker.errors import InvalidRequest

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def parse_count(text: str | int) -> int:
    """A number of documents: ``40M``, ``1.5B``, ``300k``, ``1_000_000``. Raises InvalidRequest."""
    written = re.sub("[_,]", "", str(text).strip().lower())
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmb]?)", written)
    count = round(float(found[1]) * _UNITS[found[2]]) if found else 0
    if count < 1:
        raise InvalidRequest(f"{text!r} is not a number of documents; write 40M, 300k or 1000000")
    return count
