"""What one client asked for and what was acknowledged, on the disk before the next step is taken.

One JSON array a line: ["intend", number, {id: text or null}], ["acknowledged", number], and after a
restart ["was done", number] or ["was not done", number] of what was under way.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

Change = dict[str, str | None]
"""Text by id; None where the document is deleted."""


@dataclass
class Expected:
    """What a ledger says: the acknowledged state, and the change that was under way."""

    texts: dict[str, str] = field(default_factory=dict)
    under_way: Change | None = None
    number: int = 0

    def after(self, change: Change) -> dict[str, str]:
        together: Change = {**self.texts, **change}
        return {name: text for name, text in together.items() if text is not None}


class Ledger:
    """The ledger of one client."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a")

    def close(self) -> None:
        self._file.close()

    def write(self, what: str, number: int, change: Change | None = None) -> None:
        entry = [what, number] if change is None else [what, number, change]
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def read_ledger(path: Path) -> Expected:
    """What must be there by the ledger alone."""
    expected = Expected()
    for line in path.read_text().splitlines():
        what, number, *change = json.loads(line)
        if what == "intend":
            assert expected.under_way is None
            expected.under_way, expected.number = change[0], number
            continue
        assert number == expected.number
        assert expected.under_way is not None
        if what in ("acknowledged", "was done"):
            expected.texts = expected.after(expected.under_way)
        expected.under_way = None
    return expected
