"""The version of the format that files are in: MAJOR.MINOR.

A program reads the majors that it knows, and of those every minor: what a newer minor adds it
leaves as it is. store/format.py says what the versions hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bitsift.errors import FormatMismatch


@dataclass(frozen=True, slots=True, order=True)
class Format:
    """A version of the format."""

    major: int
    minor: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


FORMAT_1 = Format(1)
CURRENT = Format(2, 1)
"""What new files are written in."""
_READ = range(FORMAT_1.major, CURRENT.major + 1)
_SAID = re.compile(r"(\d{1,4})\.(\d{1,4})")


def format_in(path: Path, said: object) -> Format:
    """The version that the file ``path`` says it is in: 1, or "MAJOR.MINOR" from 2 on.

    Raises FormatMismatch where this program cannot read it.
    """
    found = _SAID.fullmatch(said) if isinstance(said, str) else None
    if found:
        version = Format(*map(int, found.groups()))
    elif isinstance(said, int):
        version = Format(said)
    else:
        raise FormatMismatch(
            f"{path} has no format version; it was not written by bitsift: move it away, or "
            "restore it from a backup"
        )
    if version.major not in _READ:
        raise FormatMismatch(
            f"{path} has format version {version}, this program reads {_READ[0]} to {_READ[-1]} "
            f"(it writes {CURRENT}); the operator must install a bitsift that reads it"
        )
    return version
