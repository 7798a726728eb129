"""What a check of an index found: one finding for each kind of trouble in a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

EXAMPLES_MAX = 5


class Remedy(StrEnum):
    """What the operator must do about a finding."""

    RESTORE = "restore the index from a backup"
    ADD_AGAIN = "add these documents again, or restore the index from a backup"
    REPAIR = "run bitsift verify --repair"
    COMPACT = "nothing: only deleted data is damaged, and bitsift compact drops it"


@dataclass(frozen=True, slots=True)
class Example:
    """One place: a row of the shard, the id of its document, each where it is known."""

    row: int | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """``count`` places in ``file`` where ``problem`` holds; ``examples`` are the first of them.

    ``file`` is below the index directory. ``shard`` None: the trouble is not in one shard.
    """

    shard: int | None
    file: str
    problem: str
    remedy: Remedy
    count: int = 1
    examples: tuple[Example, ...] = ()


class Findings:
    """Findings of one shard as they come in."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._found: dict[tuple[str, str, Remedy], Finding] = {}

    def add(
        self, file: str, problem: str, remedy: Remedy, places: Iterable[Example] = (Example(),)
    ) -> None:
        """More of a kind is counted with what there is of it."""
        key = file, problem, remedy
        for place in places:
            known = self._found.get(key) or Finding(self._shard, file, problem, remedy, count=0)
            named = place != Example() and len(known.examples) < EXAMPLES_MAX
            examples = (*known.examples, place) if named else known.examples
            self._found[key] = replace(known, count=known.count + 1, examples=examples)

    def rows(self, file: str, problem: str, remedy: Remedy, rows: Iterable[int]) -> None:
        """The same of rows whose ids are not known."""
        self.add(file, problem, remedy, [Example(row=row) for row in rows])

    @property
    def found(self) -> tuple[Finding, ...]:
        return tuple(self._found.values())
