"""The commands that look after an index: verify, repair, backup, restore, export, compact and
upgrade.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from bitsift.cluster.cli.console import Json, err, out, print_json
from bitsift.cluster.cli.settings import configured, gateway, required_gateway
from bitsift.cluster.interrupts import terminable
from bitsift.config.sources import Loaded
from bitsift.errors import InvalidRequest

if TYPE_CHECKING:
    from bitsift.client import Client
    from bitsift.cluster.maintenance.verify import VerifyReport

ADMIN_TIMEOUT_S = 7 * 86_400.0
"""One HTTP call lasts as long as the copy; the shards stop on their own errors."""

Index = Annotated[Path, typer.Argument(metavar="INDEX", help="Index that is not being served.")]
OnProgress = Callable[[int, int], None]


@contextlib.contextmanager
def _progress(what: str, quiet: bool, amount: type[ProgressColumn]) -> Iterator[OnProgress]:
    """A bar on a terminal; call it with what is done and what there is to do."""
    columns = TextColumn("{task.description}"), BarColumn(), amount(), TimeRemainingColumn()
    bar = Progress(*columns, console=err, disable=quiet or not err.is_terminal)
    task = bar.add_task(what, total=None)
    with terminable(), bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)


_bytes = functools.partial(_progress, amount=DownloadColumn)
items = functools.partial(_progress, amount=MofNCompleteColumn)


@configured("client")
def backup(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="[INDEX] DEST", help="The index (not with --url), then a folder or a URL."
        ),
    ],
    loaded: Loaded,
    json: Json = False,
) -> None:
    """Copy an index to DEST: a folder, or object storage such as s3://bucket/name.

    With --url the running shards copy themselves while searches and writes go on; all their
    machines must be able to write to DEST: object storage, or a shared folder under the same path.
    Only blocks that DEST lacks are sent. If the backup is interrupted, the earlier one in DEST
    stays valid. Run one backup at a time into one DEST.
    """
    if len(places) > 2:
        raise InvalidRequest("pass INDEX and DEST, or --url URL and DEST")
    url = gateway(loaded, places[0] if len(places) == 2 else None, "INDEX")
    dest = places[-1] if "://" in places[-1] else str(Path(places[-1]).absolute())
    if url is not None:
        with _asking(url) as client:
            report = client.backup(dest)
    else:
        from bitsift.cluster.maintenance.backup import back_up

        with _bytes("copying", json) as progress:
            report = dataclasses.asdict(back_up(Path(places[0]), dest, progress))
    if json:
        print_json(report)
        return
    _print_facts(
        {
            "index": report["index_uuid"],
            "files": f"{report['files']:,}",
            "size": _size(report["bytes"]),
            "sent": f"{report['blocks_new']:,} of {report['blocks']:,} blocks, "
            f"{_size(report['bytes_stored'])} compressed",
            "removed": f"{report['blocks_removed']:,} blocks of the earlier backup",
        }
    )


@configured("client")
def verify(
    loaded: Loaded,
    index_folder: Annotated[
        Path | None, typer.Argument(metavar="INDEX", help="Index that is not being served.")
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(help="Of INDEX: rebuild derived data: bits, lists, hints, the id map."),
    ] = False,
    json: Json = False,
) -> None:
    """Check every byte of an index that is not being served; exit status 1 if anything is wrong.

    Reports what is wrong, where, and what to do. --repair never touches codes or documents. With
    --url the running cluster checks every row of every replica, and compares the replicas, while it
    keeps answering: bitsift repair --url mends what is wrong.
    """
    from bitsift.cluster.maintenance.verify import verify as run

    url = gateway(loaded, index_folder, "INDEX")
    if url is not None:
        if repair:
            raise InvalidRequest("--repair is of an INDEX; a running cluster: bitsift repair --url")
        with _asking(url) as client, items("checking", json) as progress:
            _show_replicas(client.verify(progress), json)
        return
    assert index_folder is not None

    with items("checking", json) as progress:
        report = run(index_folder.absolute(), repair=repair, on_rows=progress)
    if json:
        print_json({"sound": report.is_sound, **dataclasses.asdict(report)})
    else:
        _print_findings(report)
    if not report.is_sound:
        raise typer.Exit(1)


@configured("client")
def repair(loaded: Loaded, json: Json = False) -> None:
    """Mend the replicas of a running cluster from each other; exit status 1 if anything is left.

    Documents that a replica lacks, and damaged rows of which another replica has the document
    sound, are written again, each in its version, while the cluster keeps answering.
    """
    with (
        _asking(required_gateway(loaded)) as client,
        items("checking and mending", json) as progress,
    ):
        _show_replicas(client.repair(progress), json)


def _show_replicas(report: dict[str, Any], json: bool) -> None:
    if json:
        print_json(report)
    else:
        for replica in report["replicas"]:
            _print_replica(replica)
        if report["is_sound"]:
            out.print(
                f"{report['rows']:,} rows in {len(report['replicas'])} replicas of "
                f"{report['shards']} shards are sound, and the replicas are equal"
            )
    if not report["is_sound"]:
        raise typer.Exit(1)


def _print_replica(replica: dict[str, Any]) -> None:
    """What is wrong with it, and what was mended; nothing of one that is sound."""
    where = f"shard {replica['shard']}"
    where += f" on {replica['node']}" if replica["node"] else ""
    if replica["mended"]:
        out.print(f"{where}: mended {replica['mended']:,} documents", markup=False, soft_wrap=True)
    said = []
    if replica["damaged"]:
        said.append(f"{replica['damaged']:,} rows are damaged")
    if replica["lacking"]:
        said.append(f"it lacks {replica['lacking']:,} documents that another replica has")
    if replica["reason"]:
        said.append(replica["reason"])
    if said:
        out.print(f"[red]{escape(where)}[/red]: {escape('; '.join(said))}", soft_wrap=True)
        for name in replica["examples"]:
            out.print(f"    id {name!r}", markup=False)


def _print_findings(report: VerifyReport) -> None:
    for line in report.repaired:
        out.print(line, markup=False, soft_wrap=True)
    for finding in report.findings:
        times = f" ({finding.count:,} times)" if finding.count > 1 else ""
        out.print(f"[red]{escape(finding.file)}[/red]: {escape(finding.problem)}{times}")
        for place in finding.examples:
            row = "" if place.row is None else f"row {place.row}"
            document = "" if place.id is None else f"id {place.id!r}"
            out.print(f"    {', '.join(filter(None, (row, document)))}", markup=False)
        out.print(f"    → {finding.remedy}", markup=False)
    if report.is_sound:
        out.print(f"{report.rows:,} rows in {report.shards} shards are sound")


def restore(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="The backup: DEST of `bitsift backup`.")
    ],
    index_folder: Annotated[
        Path, typer.Argument(metavar="INDEX", help="Index directory to create.")
    ],
    json: Json = False,
) -> None:
    """Restore an index from a backup. Every block is checked; INDEX appears whole or not at all."""
    from bitsift.cluster.maintenance.restore import restore as run

    source = source if "://" in source else str(Path(source).absolute())
    with _bytes("restoring", json) as progress:
        report = run(source, index_folder.absolute(), progress)
    if json:
        print_json(report)
        return
    out.print(
        f"{index_folder} has {report.documents:,} documents in {report.shards} shards, "
        f"as they were at {report.created}",
        markup=False,
        soft_wrap=True,
    )


def export(
    index_folder: Index,
    dest: Annotated[
        Path,
        typer.Argument(
            metavar="DEST",
            help="FILE.parquet, FILE.jsonl, or a folder of Parquet for one file per shard.",
        ),
    ],
    json: Json = False,
) -> None:
    """Write all documents and vectors as Parquet or JSON lines, for `bitsift index` or others.

    In Parquet a document's vector is int8 · scale.
    """
    from bitsift.cluster.maintenance.export import export as run

    with items("exporting", json) as progress:
        report = run(index_folder, dest.absolute(), progress)
    if json:
        print_json(report)
        return
    out.print(
        f"{report.documents:,} documents in {report.files} files, {_size(report.bytes)}: {dest}",
        markup=False,
        soft_wrap=True,
    )


@configured("client")
def compact(
    loaded: Loaded,
    index_folder: Annotated[
        Path | None, typer.Argument(metavar="INDEX", help="Index that is not being served.")
    ] = None,
    json: Json = False,
) -> None:
    """Drop the rows of deleted and replaced documents to free their disk space.

    With --url the running cluster does it while it keeps answering.
    """
    url = gateway(loaded, index_folder, "INDEX")
    if url is not None:
        with _asking(url) as client:
            shards = client.compact()
    else:
        from bitsift.cluster.maintenance.compact import compact as run

        assert index_folder is not None
        with items("compacting", json) as progress:
            shards = [dataclasses.asdict(shard) for shard in run(index_folder, progress)]
    total = {name: sum(shard[name] for shard in shards) for name in ("rows_dropped", "bytes_freed")}
    if json:
        print_json({"shards": shards, **total})
        return
    out.print(f"{total['rows_dropped']:,} rows dropped, {_size(total['bytes_freed'])} freed")


def upgrade(index_folder: Index, json: Json = False) -> None:
    """Upgrade an index to the current file format, after showing how much disk that takes.

    Answers stay the same. If it is interrupted, run it again. An older bitsift can no longer open
    the upgraded index.
    """
    from bitsift.cluster.maintenance.upgrade import plan_upgrade
    from bitsift.cluster.maintenance.upgrade import upgrade as run

    plan = plan_upgrade(index_folder.absolute())
    if plan.shards:
        err.print(
            f"{len(plan.shards)} of {plan.shards_in_all} shards are in an earlier format: "
            f"{plan.rows:,} rows to copy; that takes {_size(plan.bytes_needed)} of disk for a "
            f"while, {_size(plan.bytes_free)} are free",
            markup=False,
            soft_wrap=True,
        )
    with items("upgrading", json) as progress:
        report = run(plan, progress)
    if json:
        print_json(report)
        return
    out.print(
        f"{index_folder} is in format {report.format}: {report.shards_upgraded} of "
        f"{report.shards} shards were brought there",
        markup=False,
        soft_wrap=True,
    )


@contextlib.contextmanager
def _asking(url: str) -> Iterator[Client]:
    """The running cluster, which answers after minutes or hours."""
    from bitsift.client import Client

    with Client(url, timeout_s=ADMIN_TIMEOUT_S) as client, terminable():
        yield client


def _print_facts(facts: dict[str, str]) -> None:
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(name, escape(value))
    out.print(table)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
