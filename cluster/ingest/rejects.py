"""Rejects: records that are no documents. A file lists all of them; people are told the first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from bitsift.cluster.sources.plan import SourcePlan
from bitsift.cluster.sources.readers import read_documents

_SHOWN = 3
_VARYING = re.compile(r"\d[\d,]*|'[^']*'")
"""What differs in reasons of one kind: numbers, and what is quoted."""
_REASON_CHARACTERS = 300


class FirstReasons:
    """The first three reasons of different kinds, each with the place of its record."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()
        self.said: list[str] = []

    @property
    def are_enough(self) -> bool:
        """Whether no more are taken."""
        return len(self.said) == _SHOWN

    def add(self, reject: dict[str, Any]) -> None:
        """``reject`` has file, line and reason, as a line of the file of rejects does."""
        kind = _VARYING.sub("#", reject["reason"])
        if not self.are_enough and kind not in self._kinds:
            self._kinds.add(kind)
            reason = reject["reason"][:_REASON_CHARACTERS]
            self.said.append(f"{reject['file']}, line {reject['line']}: {reason}")

    def add_lines(self, lines: bytes) -> None:
        """The same for lines of the file of rejects."""
        for line in lines.splitlines():
            if self.are_enough:
                return
            self.add(orjson.loads(line))

    def __str__(self) -> str:
        return "; ".join(self.said)


def rejected(records: pa.Table) -> list[dict[str, Any]]:
    """The rejects of a table of records, each with file, line and reason."""
    bad = records.filter(records["reject"].is_valid()).select(["file", "line", "reject"])
    return [
        {"file": row["file"], "line": row["line"], "reason": row["reject"]}
        for row in bad.to_pylist()
    ]


def packed_rejects(rejects: list[dict[str, Any]]) -> bytes:
    """Lines of the file of rejects."""
    return b"".join(orjson.dumps(reject) + b"\n" for reject in rejects)


def list_rejects(plan: SourcePlan, path: Path) -> FirstReasons:
    """Read the sources and write all their rejects to ``path``."""
    reasons = FirstReasons()
    with path.open("wb") as file:
        for rejects in _rejects(plan):
            file.write(packed_rejects(rejects))
            for reject in rejects:
                reasons.add(reject)
    return reasons


def _rejects(plan: SourcePlan) -> Iterator[list[dict[str, Any]]]:
    for source in plan.files:
        for table in read_documents(source):
            yield rejected(table)


def first_reasons(path: Path) -> list[str]:
    """The first reasons that a file of rejects says, with as much of it read as that takes."""
    reasons = FirstReasons()
    with path.open("rb") as lines:
        for line in lines:
            reasons.add_lines(line)
            if reasons.are_enough:
                break
    return reasons.said
