"""What `bitsift index` prints: of a build, an update, and a look at the sources alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from rich.table import Table

from bitsift.cluster.cli.console import out

if TYPE_CHECKING:
    from bitsift.cluster.ingest.preview import Preview

_FILES_SHOWN = 10
_CHUNK = "--chunk indexes their ends, too"
_SHORTER = "shorter titles leave room for the passages"


def print_report(
    what: str, rejects: Path, report: dict[str, Any], *, is_chunked: bool = False
) -> None:
    """What a build made, for people; ``rejects`` is the list of bad records. In one that
    `is_chunked`, texts that are too long have titles that are.
    """
    documents = max(1, report["documents"])
    if report["already_complete"]:
        out.print(f"{what} is already finished and was left untouched.")
    rows = {
        "documents": f"{report['documents']:,}",
        "rejected records": f"{report['rejects']:,}",
        **_doubles(report),
        "seconds": f"{report['seconds']:,.1f}",
        "RAM of the bits": _bytes_each(report["bits_bytes"], documents),
        "disk, with texts": _bytes_each(report["disk_bytes"], documents),
        "fp32 vectors would take": _bytes_each(report["float32_bytes"], documents),
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)
    if report["rejects"]:
        from bitsift.cluster.ingest.rejects import first_reasons  # PyArrow

        out.print(f"The rejected records are listed in {rejects}")
        for reason in first_reasons(rejects):
            out.print(f"  {reason}", markup=False, highlight=False, soft_wrap=True)
    if report["cut"]:
        out.print(
            f"{report['cut']:,} of {report['encoded']:,} encoded texts are longer than the "
            f"{report['max_tokens']:,} tokens that the model reads: what comes after is not found. "
            + (f"{_SHORTER.capitalize()}." if is_chunked else "--chunk indexes it, too."),
            soft_wrap=True,
        )


def print_update(what: str, rejects: Path, report: dict[str, Any]) -> None:
    """What an update did, for people."""
    counts = ("created", "updated", "unchanged", "deleted")
    said = ", ".join(f"{report[name]:,} {name}" for name in counts)
    out.print(
        f"{what}: {report['documents']:,} documents; {said}; {report['seconds']:,.1f} s",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for name, count in _doubles(report).items():
        out.print(f"{name}: {count}", highlight=False)
    if report["kept_for_rejects"]:
        out.print(
            "Nothing was deleted: bad records may be of documents that would have been. Fix the "
            "sources, or leave them out, and run the same command again."
        )
    if report["rejects"]:
        out.print(f"{report['rejects']:,} rejected records are listed in {rejects}")


def _doubles(report: dict[str, Any]) -> dict[str, str]:
    """Rows for records that share an id, where there are any."""
    rows = {
        "equal records without id, merged": report["merged"],
        "replaced by a later record of their id": report["replaced"],
    }
    return {name: f"{count:,}" for name, count in rows.items() if count}


def _bytes_each(total: int, documents: int) -> str:
    return f"{total / 1e6:,.1f} MB ({total / documents:,.0f} bytes per document)"


def print_preview(found: Preview) -> None:
    """What would be read and made."""
    for line in _preview_lines(found):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _preview_lines(found: Preview) -> Iterator[str]:
    about = "about " if found.records_estimated else ""
    yield f"{found.files:,} files, {about}{found.records:,} records; nothing is made or written"
    for file in found.listed[:_FILES_SHOWN]:
        packed = f", {file['compression']}" if file["compression"] else ""
        roles = ", ".join(f"{role}: {name}" for role, name in file["fields"].items())
        yield f"  {file['path']} ({file['format']}{packed}, {file['size_bytes']:,} bytes) {roles}"
    if found.files > _FILES_SHOWN:
        yield f"  and {found.files - _FILES_SHOWN:,} others"
    if found.passed_over:
        yield f"passed over: {len(found.passed_over):,}"
        for item in found.passed_over[:_FILES_SHOWN]:
            yield f"  {item['path']}: {item['reason']}"
    yield from found.notes
    yield f"of a sample of {found.sample:,} records {len(found.rejects):,} are bad"
    for reject in found.rejects[:_FILES_SHOWN]:
        yield f"  {reject['file']}, line {reject['line']}: {reject['reason']}"
    for field in found.fields:
        yield f"metadata {field.name}: {' or '.join(field.types)}, in {field.share:.0%} of records"
    for number, document in enumerate(found.documents, start=1):
        yield f"document {number}: {orjson.dumps(document).decode()}"
    if found.vectors:
        yield f"vectors of {found.dimension} dimensions come with the records"
    if found.model is not None:
        yield f"model {found.model}, {found.dimension} dimensions: {found.prompts}"
    if found.passages != 1:
        yield f"{found.passages:,} passages a document"
    if (tokens := found.tokens) is not None:
        limit = "any number" if tokens.limit is None else f"{tokens.limit:,}"
        yield (
            f"tokens of a text: {tokens.mean:,} on average, median {tokens.median:,}, 95 % have at "
            f"most {tokens.p95:,}, the longest {tokens.longest:,}; the model reads {limit}: "
            f"{tokens.cut:,} of {tokens.of:,} are cut"
            + (f"; {_SHORTER if found.passages != 1 else _CHUNK}" if tokens.cut else "")
        )
    rate = f" at {found.documents_s:,} texts/s" if found.documents_s else ""
    yield (
        f"estimate: {_duration(found.seconds)}{rate} on this machine, "
        f"{found.disk_bytes / 1e6:,.1f} MB on the disk, {found.bits_bytes / 1e6:,.1f} MB of RAM "
        f"for the bits, {found.shards} shards"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} minutes" if seconds < 7_200 else f"{seconds / 3600:,.1f} hours"
