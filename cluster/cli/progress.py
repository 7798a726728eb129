"""Progress of a build: a bar on a terminal, a line every some seconds in a log."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from bitsift.cluster.ingest.progress import IndexStage

LOG_INTERVAL_S = 5.0
_STAGES = {
    "survey": "reading the sources once",
    "calibrate": "calibrating on a sample",
    "index": "indexing",
}


class IndexProgress:
    """Call it with an IndexStage; use it as a context."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None, rate="")
        self._started: float | None = None
        self._first = 0
        self._logged = 0.0
        self._stage = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, stage: IndexStage) -> None:
        now = time.monotonic()
        if stage.note and not self._quiet:
            self._console.print(stage.note, markup=False, highlight=False, soft_wrap=True)
        if stage.stage == "index" and self._started is None:
            self._started, self._first = now, stage.documents
        seconds = now - self._started if self._started is not None else 0.0
        rate = (stage.documents - self._first) / seconds if seconds > 0 else 0.0
        name = _STAGES[stage.stage]
        self._bar.update(
            self._task,
            description=name,
            completed=stage.documents,
            total=stage.total,
            rate=f"{rate:,.0f} documents/s" if rate else "",
        )
        due = stage.stage != self._stage or now - self._logged >= LOG_INTERVAL_S
        if due and not self._quiet and not self._console.is_terminal:
            self._log(name, stage, rate)
            self._stage, self._logged = stage.stage, now

    def _log(self, name: str, stage: IndexStage, rate: float) -> None:
        line = name
        if stage.stage == "index":
            total = f" of {stage.total:,}" if stage.total else ""
            left = ""
            if stage.total and rate:
                left = f", {max(0, stage.total - stage.documents) / rate:,.0f} s left"
            line += f": {stage.documents:,}{total}, {stage.rejects:,} rejected"
            line += f", {rate:,.0f} documents/s{left}"
        self._console.print(line, soft_wrap=True)
