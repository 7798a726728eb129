"""The commands that write to a running cluster: add, delete, get."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.progress import Progress, TextColumn

from bitsift.client.sending import BATCH_DOCUMENTS, IDS_MAX, summed
from bitsift.cluster.cli.console import Json, as_utf8, err, out, print_json
from bitsift.cluster.cli.options import NOT_OF_SOURCES, with_options
from bitsift.cluster.cli.settings import configured, required_gateway
from bitsift.cluster.ingest.options import BuildOptions, checked_build
from bitsift.cluster.interrupts import terminable
from bitsift.config.sources import Loaded
from bitsift.errors import BitsiftError, InvalidRequest, RequestOutcome
from bitsift.options import DOCUMENT_FIELDS
from bitsift.write_results import (
    UPSERT_STATUSES,
    Deletes,
    StoredDocument,
    Upserts,
    WriteError,
    WriteResult,
)
from bitsift.write_status import WriteStatus
from bitsift.write_token import joined_text

if TYPE_CHECKING:
    from bitsift.cluster.sources.live import Sourced

ERRORS_KEPT_MAX = 1_000
"""Errors that are shown one by one, and listed by --json; the rest is counted."""
_BAD = (WriteStatus.CONFLICT, WriteStatus.REJECTED, WriteStatus.FAILED)
_OUTCOMES = {
    RequestOutcome.NOT_DONE: "not done",
    RequestOutcome.UNKNOWN: "may or may not be done",
    RequestOutcome.DONE: "done nevertheless",
}


@dataclass(slots=True)
class _Report:
    """What became of the documents of all files, and why of those that are not stored."""

    quiet: bool
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(UPSERT_STATUSES, 0))
    errors: list[dict[str, Any]] = field(default_factory=list)
    token: str | None = None
    """What has a later read see all that is stored."""

    def add(self, part: Upserts, places: deque[tuple[str, int]]) -> None:
        """Take the results of one call, whose documents stood at the first of ``places``."""
        for status in UPSERT_STATUSES:
            self.counts[status] += getattr(part, status)
        self.token = joined_text([self.token, part.token])
        for result in part.results:
            place = places.popleft()
            if result.status in _BAD and result.error is not None:
                self._keep(place, result.id, result.status, result.error)

    def reject(self, place: tuple[str, int], reason: str) -> None:
        """Take a line that is no document."""
        self.counts[WriteStatus.REJECTED.value] += 1
        self._keep(place, None, WriteStatus.REJECTED, WriteError(InvalidRequest.__name__, reason))

    def break_off(self, place: tuple[str, int], error: BitsiftError) -> None:
        """Take an error that befell a whole call, whose first document stood at ``place``."""
        befell = _of_a_call(error, "documents", BATCH_DOCUMENTS)
        self._list(place, None, WriteStatus.FAILED, befell)

    def _keep(
        self, place: tuple[str, int], key: str | None, status: WriteStatus, error: WriteError
    ) -> None:
        if len(self.errors) < ERRORS_KEPT_MAX:
            self._list(place, key, status, error)

    def _list(
        self, place: tuple[str, int], key: str | None, status: WriteStatus, error: WriteError
    ) -> None:
        file, line = place
        self.errors.append(
            {"file": file, "line": line, "id": key, "status": status, "error": asdict(error)}
        )
        if not self.quiet:
            reason = escape(f"{file}:{line}: {_said(status, error)}")
            err.print(f"[yellow]{reason}[/yellow]", soft_wrap=True)

    @property
    def bad(self) -> int:
        return sum(self.counts[status.value] for status in _BAD)

    def facts(self) -> dict[str, Any]:
        return {**self.counts, "errors": self.errors, "token": self.token}

    def said(self) -> str:
        return ", ".join(f"{count:,} {status}" for status, count in self.counts.items() if count)


def _said(status: WriteStatus, error: WriteError) -> str:
    """Why a document is not stored, or may not be: the two are never mixed up."""
    if status is not WriteStatus.FAILED:
        return f"{status}: {error.detail}"
    return f"failed, {_OUTCOMES[error.outcome]}: {error.detail}"


def _of_a_call(error: BitsiftError, what: str, at_most: int) -> WriteError:
    """What befell the first of a call's documents, and with it the others."""
    said = WriteError.of(error)
    also = (
        f"the same holds for the {what} after it, in one call of at most "
        f"{at_most:,}; none after those was sent"
    )
    return replace(said, detail=f"{said.detail} ({also})")


@configured("client")
@with_options(BuildOptions, *NOT_OF_SOURCES)
def add(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="Files, folders, URLs, as for index; - is standard input: JSON lines, or another "
            "--format.",
        ),
    ],
    loaded: Loaded,
    json: Json = False,
    **options: Any,
) -> None:
    """Add documents to a running cluster, replacing those with the same ids.

    Sources are read as `bitsift index` reads them. A record of JSON may have a "vector" and a
    condition ("if_absent": true, or "if_version") as well. Documents that
    are already stored are left alone, so after a failure the same command can be run again, unless
    others write the same ids. Exit status 1 if any document was not, or may not have been, stored.
    """
    from bitsift.client import Client
    from bitsift.cluster.sources.live import live_documents

    url = required_gateway(loaded)
    said = checked_build(BuildOptions(**options))
    documents, notes = live_documents(files, said.fields, said.layout, said.stored, said.format)
    for note in notes:
        err.print(escape(note), soft_wrap=True)
    report, places = _Report(json), deque[tuple[str, int]]()
    shown = Progress(TextColumn("{task.description}"), console=err, transient=True,
                     disable=json or not err.is_terminal)  # fmt: skip
    try:
        with terminable(), shown, Client(url) as client:
            task = shown.add_task("sending")
            for part in client.add_batches(_documents(documents, report, places)):
                report.add(part, places)
                shown.update(task, description=report.said())
    except BaseException as error:
        if isinstance(error, BitsiftError) and places:
            report.break_off(places[0], error)
        if json:
            print_json(report.facts())
        elif report.said():
            err.print(f"until then: {report.said()}")
        raise
    if json:
        print_json(report.facts())
    else:
        out.print(report.said() or "no documents")
        if report.bad > len(report.errors):
            err.print(f"only the first {len(report.errors):,} errors are shown")
    if report.bad:
        raise typer.Exit(1)


def _documents(
    sources: Iterable[Sourced], report: _Report, places: deque[tuple[str, int]]
) -> Iterator[dict[str, Any]]:
    """The documents of all sources; where each stood goes to ``places``, what is none to
    ``report``.
    """
    for file, line, document, reason in sources:
        if document is None:
            report.reject((file, line), reason or "no document")
        else:
            places.append((file, line))
            yield document


@configured("client")
def delete(
    loaded: Loaded,
    ids: Annotated[
        list[str] | None, typer.Argument(parser=as_utf8, metavar="ID…", help="Ids to delete.")
    ] = None,
    ids_from: Annotated[
        str | None,
        typer.Option(
            help="A file with one id per line, or JSON, CSV or Parquet with a field of ids; - for "
            "lines from stdin."
        ),
    ] = None,
    id_field: Annotated[
        str | None, typer.Option(help="Field that holds the ids in that file.")
    ] = None,
    filter: Annotated[
        str | None, typer.Option(help="Delete what passes: `lang = de and year >= 2020`, or JSON.")
    ] = None,
    if_version: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            help="Delete the one document only if it is still in this version; else exit status 1.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Delete documents from a running cluster. A missing id is not an error."""
    from bitsift.client import Client
    from bitsift.cluster.sources.id_lists import read_ids

    url = required_gateway(loaded)
    if if_version is not None:
        if filter is not None or ids_from is not None or not ids or len(ids) > 1:
            raise InvalidRequest("--if-version is of one document: pass its id")
        with Client(url) as client:
            _end(client.delete(ids[0], if_version=if_version), json)
        return
    if filter is not None:
        if ids or ids_from is not None:
            raise InvalidRequest("pass ids to delete or a --filter, not both")
        _delete_matching(url, filter, json)
        return
    if not ids and ids_from is None:
        raise InvalidRequest("pass ids to delete, a file of them with --ids-from, or a --filter")
    wanted = [*(ids or ()), *(read_ids(ids_from, id_field) if ids_from is not None else ())]
    parts = list[Deletes]()
    try:
        with terminable(), Client(url) as client:
            for part in client.delete_batches(wanted):
                parts.append(part)
    except BitsiftError as error:
        first = wanted[sum(len(part.results) for part in parts)]
        befell = _of_a_call(error, "ids", IDS_MAX)
        parts.append(Deletes((WriteResult(first, WriteStatus.FAILED, befell),)))
        _show(summed(Deletes, parts), json)
        raise
    _end(summed(Deletes, parts), json)


def _end(answer: Deletes, json: bool) -> None:
    _show(answer, json)
    if answer.failed or answer.conflict:
        raise typer.Exit(1)


def _delete_matching(url: str, filter: str, json: bool) -> None:
    from bitsift.client import Client

    parts = list[Deletes]()
    try:
        with terminable(), Client(url) as client:
            for part in client.delete_matching_batches(filter):
                parts.append(part)
    finally:  # what was deleted is said, whatever ends it
        answer = summed(Deletes, parts)
        _show(answer, json)
    if answer.failed:
        raise typer.Exit(1)


def _show(answer: Deletes, json: bool) -> None:
    """What became of each id of the calls that were answered."""
    if json:
        print_json(answer)
        return
    counts = {
        "deleted": answer.deleted,
        "not there": answer.missing,
        "in another version": answer.conflict,
        "failed": answer.failed,
    }
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    out.print(said or "0 deleted")
    for result in answer.results:
        if result.error is not None:
            reason = escape(f"{result.id}: {_said(result.status, result.error)}")
            err.print(f"[yellow]{reason}[/yellow]", soft_wrap=True)


@configured("client")
def get(
    ids: Annotated[
        list[str], typer.Argument(parser=as_utf8, metavar="ID…", help="The documents' ids.")
    ],
    loaded: Loaded,
    read_your_writes: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="The token of a write that the answer must show."),
    ] = None,
    vector: Annotated[
        bool, typer.Option(help="With its vector, decoded from the int8 code; use --json.")
    ] = False,
    json: Json = False,
) -> None:
    """Show documents of a running cluster, as stored. Exit status 1 where one is not there."""
    from bitsift.client import Client

    with Client(required_gateway(loaded)) as client:
        include: list[Literal["vector"]] = ["vector"] if vector else []
        if len(ids) == 1:
            document = client.get(ids[0], read_your_writes=read_your_writes, include=include)
            print_json(document) if json else _print_document(document)
            return
        found = client.get_many(
            ids, include=[*DOCUMENT_FIELDS, *include], read_your_writes=read_your_writes
        )
    if json:
        print_json(found)
    else:
        for document in found.documents:
            _print_document(document)
            out.print()
        for missing in found.missing:
            err.print(escape(f"{missing}: not there"), soft_wrap=True)
    if found.missing:
        raise typer.Exit(1)


def _print_document(document: StoredDocument) -> None:
    out.print(f"[bold]{escape(document.title or document.id)}[/bold]", soft_wrap=True)
    out.print(escape(document.text), soft_wrap=True)
    for name, value in document.metadata.items():
        out.print(escape(f"{name}: {value}"), soft_wrap=True)
    out.print(escape(f"id {document.id}, shard {document.shard}"), soft_wrap=True)
