"""The commands that write to a running cluster: add, delete, get."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress, TextColumn

from cluster.cli_console import Json, err, out, print_json, terminable
from router.write_results import UPSERT_STATUSES, Upserts, WriteError, WriteStatus
from shard_worker.errors import InvalidRequest

STDIN = "-"
ERRORS_KEPT_MAX = 1_000
"""Errors that are shown one by one, and listed by --json; the rest is counted."""
_BAD = (WriteStatus.REJECTED, WriteStatus.FAILED)

Url = Annotated[str, typer.Option(help="A running gateway, such as http://127.0.0.1:8000.")]


@dataclass(slots=True)
class _Report:
    """What became of the documents of all files, and why of those that are not stored."""

    quiet: bool
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(UPSERT_STATUSES, 0))
    errors: list[dict[str, Any]] = field(default_factory=list)

    def add(self, part: Upserts, places: deque[tuple[str, int]]) -> None:
        """Take the results of one call, whose documents stood at the first of ``places``."""
        for status in UPSERT_STATUSES:
            self.counts[status] += getattr(part, status)
        for result in part.results:
            place = places.popleft()
            if result.status in _BAD and result.error is not None:
                self._keep(place, result.id, result.status, result.error)

    def reject(self, place: tuple[str, int], reason: str) -> None:
        """Take a line that is no document."""
        self.counts[WriteStatus.REJECTED.value] += 1
        self._keep(place, None, WriteStatus.REJECTED, WriteError(InvalidRequest.__name__, reason))

    def _keep(
        self, place: tuple[str, int], key: str | None, status: WriteStatus, error: WriteError
    ) -> None:
        if len(self.errors) == ERRORS_KEPT_MAX:
            return
        file, line = place
        self.errors.append(
            {"file": file, "line": line, "id": key, "status": status, "error": asdict(error)}
        )
        if not self.quiet:
            reason = escape(f"{file}:{line}: {status.value}: {error.detail}")
            err.print(f"[yellow]{reason}[/yellow]", soft_wrap=True)

    @property
    def bad(self) -> int:
        return sum(self.counts[status.value] for status in _BAD)

    def said(self) -> str:
        return ", ".join(f"{count:,} {status}" for status, count in self.counts.items() if count)


def add(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="JSON lines, packed or not; - for stdin.")
    ],
    url: Url,
    json: Json = False,
) -> None:
    """Add documents to a running cluster, or put them in the place of those with the same ids.

    A line is {"id": …, "text": …, "title"?: …, "metadata"?: {…}, "vector"?: […]}. What is stored
    already is left alone, so after a failure the same command can be run again. Exit status 1 if
    any document was not stored.
    """
    from router.client import Client

    report, places = _Report(json), deque[tuple[str, int]]()
    shown = Progress(TextColumn("{task.description}"), console=err, transient=True,
                     disable=json or not err.is_terminal)  # fmt: skip
    try:
        with terminable(), shown, Client(url) as client:
            task = shown.add_task("sending")
            for part in client.add_batches(_documents(files, report, places)):
                report.add(part, places)
                shown.update(task, description=report.said())
    except BaseException:
        if report.said() and not json:
            err.print(f"until then: {report.said()}")
        raise
    if json:
        print_json({**report.counts, "errors": report.errors})
    else:
        out.print(report.said() or "no documents")
        if report.bad > len(report.errors):
            err.print(f"only the first {len(report.errors):,} errors are shown")
    if report.bad:
        raise typer.Exit(1)


def _documents(
    files: Sequence[str], report: _Report, places: deque[tuple[str, int]]
) -> Iterator[dict[str, Any]]:
    """The documents of all files; where each stood goes to ``places``, what is none to ``report``.

    Raises InvalidRequest for a file that cannot be read.
    """
    from cluster.records import read_records
    from cluster.source_plan import Compression, Format, SourceFile
    from cluster.streams import DamagedStream

    endings = {compression.value: compression for compression in Compression}
    for name in files:
        path = "/dev/stdin" if name == STDIN else name
        packed = endings.get(Path(name).suffix.lower(), Compression.NONE)
        source = SourceFile(0, path, name, Format.JSON_LINES, packed, size_bytes=0)
        try:
            for record in read_records(source):
                if record.row is None:
                    report.reject((name, record.line), record.reason or "no document")
                else:
                    places.append((name, record.line))
                    yield record.row
        except DamagedStream as damage:
            report.reject((name, damage.line), f"the rest of the file cannot be read: {damage}")


def delete(
    url: Url,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID…", help="Ids to delete.")] = None,
    ids_from: Annotated[
        str | None, typer.Option(help="A file with one id a line; - for stdin.")
    ] = None,
    json: Json = False,
) -> None:
    """Delete documents from a running cluster. An id that is not there is no failure."""
    from router.client import Client

    if not ids and ids_from is None:
        raise InvalidRequest("say what to delete: ids, or --ids-from a file of them")
    wanted = [*(ids or ()), *(_lines(ids_from) if ids_from is not None else ())]
    with terminable(), Client(url) as client:
        answer = client.delete(wanted)
    if json:
        print_json(answer)
    else:
        counts = {"deleted": answer.deleted, "not there": answer.missing, "failed": answer.failed}
        out.print(", ".join(f"{count:,} {name}" for name, count in counts.items() if count))
        for result in answer.results:
            if result.error is not None:
                reason = escape(f"{result.id}: {result.error.detail}")
                err.print(f"[yellow]{reason}[/yellow]", soft_wrap=True)
    if answer.failed:
        raise typer.Exit(1)


def _lines(name: str) -> list[str]:
    """The lines of a file that are not blank. Raises InvalidRequest."""
    try:
        data = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
        lines = data.decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{name} cannot be read: {error}") from error
    return [line.removesuffix("\r") for line in lines if line.strip()]


def get(
    document_id: Annotated[str, typer.Argument(metavar="ID", help="The document's id.")],
    url: Url,
    json: Json = False,
) -> None:
    """Show one document of a running cluster as it is stored."""
    from router.client import Client

    with Client(url) as client:
        document = client.get(document_id)
    if json:
        print_json(document)
        return
    out.print(f"[bold]{escape(document.title or document.id)}[/bold]", soft_wrap=True)
    out.print(escape(document.text), soft_wrap=True)
    for name, value in document.metadata.items():
        out.print(escape(f"{name}: {value}"), soft_wrap=True)
    out.print(escape(f"id {document.id}, shard {document.shard}"), soft_wrap=True)
