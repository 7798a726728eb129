"""The commands that make an index: `bitsift index` and `bitsift create`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitsift.cluster.cli.console import Json, err, out, print_json, until_stopped
from bitsift.cluster.cli.index_reports import print_preview, print_report, print_update
from bitsift.cluster.cli.options import DocumentPrompt, QueryPrompt, with_options
from bitsift.cluster.cli.progress import IndexProgress
from bitsift.cluster.cli.settings import configured, required_ray_address, say_sources
from bitsift.cluster.ingest.options import BuildOptions
from bitsift.cluster.interrupts import terminable
from bitsift.cluster.manifest import SHARDS_MAX, BuildReport
from bitsift.config.sources import Loaded
from bitsift.errors import InvalidRequest
from bitsift.router.model.prompts import said
from bitsift.shard_worker.layout import REJECTS_FILE

if TYPE_CHECKING:
    from bitsift.cluster.ingest.update import UpdateReport

SETTINGS = ("max_rejects", "encoders", "backend")
"""Options of a build that are settings too: their flags come from the tree of settings."""


@configured("index", "model", "ray")
@with_options(BuildOptions, "examples", *SETTINGS)
def index(
    source: Annotated[list[str], typer.Argument(help="Files, folders, URLs; - is standard input.")],
    loaded: Loaded,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Index directory to create.")
    ] = None,
    spec_file: Annotated[
        Path | None,
        typer.Option(
            "--spec",
            metavar="SPEC.toml",
            help="In place of --out: build on the nodes of a Ray cluster, into the data folders "
            "that this spec names. See docs/cluster.md.",
        ),
    ] = None,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Store what is new or changed in a finished index that is not served; only that "
            "is encoded.",
        ),
    ] = False,
    delete_missing: Annotated[
        bool,
        typer.Option(
            "--delete-missing", help="With --update: delete documents that no record has any more."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what would be read, how much of it is cut, and about what time and disk it "
            "takes; make nothing.",
        ),
    ] = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Build an index from JSON, CSV, Parquet, Arrow, SQLite, texts, BEIR folders or matrices.

    An interrupted build resumes when the same command is run again; a finished index is left
    untouched, but for --update.
    """
    if (out_folder is None) == (spec_file is None) and not dry_run:
        raise InvalidRequest("pass --out FOLDER or --spec SPEC.toml, one of the two")
    if delete_missing and not update:
        raise InvalidRequest("--delete-missing goes with --update")
    if update and out_folder is None:
        raise InvalidRequest("--update is for an index in a folder: --out INDEX")
    say_sources(loaded)
    settings = loaded.settings
    build_options = BuildOptions(
        **options,
        max_rejects=settings.index.max_rejects,
        encoders=settings.index.encoders,
        backend=settings.model.backend,
    )
    if dry_run:
        from bitsift.cluster.ingest.preview import preview

        with terminable():
            found = preview(source, build_options)
        print_json(found) if json else print_preview(found)
        return
    again = "stopped; run the same command again to resume"
    report: BuildReport | UpdateReport
    with until_stopped(again, status=1), IndexProgress(err, quiet=json) as progress:
        if spec_file is not None:
            from bitsift.cluster.fleet.spec import read_spec
            from bitsift.cluster.ingest.placed import build_placed, rejects_beside

            spec, address = read_spec(spec_file), required_ray_address(loaded)
            what, rejects = f"{spec.index.name}", rejects_beside(spec_file, spec)
            report = build_placed(source, spec, spec_file, build_options, address, progress)
        elif update:
            from bitsift.cluster.ingest.update import update_index

            assert out_folder is not None
            what, rejects = str(out_folder), out_folder / REJECTS_FILE
            report = update_index(
                source,
                out_folder,
                build_options,
                delete_missing=delete_missing,
                ray_address=settings.ray.address,
                on_progress=progress,
            )
        else:
            from bitsift.cluster.ingest.build import build_index  # Ray, and seconds

            assert out_folder is not None
            what, rejects = str(out_folder), out_folder / REJECTS_FILE
            report = build_index(
                source,
                out_folder,
                build_options,
                ray_address=settings.ray.address,
                on_progress=progress,
            )
    if json:
        print_json(report)
    elif update:
        print_update(what, rejects, dataclasses.asdict(report))
    else:
        is_chunked = build_options.chunk is not None
        print_report(what, rejects, dataclasses.asdict(report), is_chunked=is_chunked)


@configured("model")
def create(
    index_folder: Annotated[
        Path, typer.Argument(metavar="INDEX", help="Index directory to create.")
    ],
    loaded: Loaded,
    model: Annotated[
        str | None, typer.Option(help="Name or path of a sentence-transformers model.")
    ] = None,
    dimensions: Annotated[
        int | None,
        typer.Option(
            help="Of the vectors that you will add; with --model, which made them, texts too."
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(min=1, max=SHARDS_MAX, help="Number of shards. Default: one per core."),
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Option(
            help="Documents like those that will come, to calibrate the codes: texts for a model, "
            "a .npy matrix for --dimensions. Default: dictionary glosses; no sample."
        ),
    ] = None,
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    index_fields: Annotated[
        list[str] | None,
        typer.Option(help="Metadata fields that filters find by an index. Default: all."),
    ] = None,
    json: Json = False,
) -> None:
    """Make an empty index, to be served at once and filled while it answers."""
    from bitsift.cluster.ingest.create import create_index  # PyArrow

    with terminable():
        report = create_index(
            index_folder,
            model=model,
            dimensions=dimensions,
            shards=shards,
            sample=sample,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            index_fields=index_fields or (),
            backend=loaded.settings.model.backend,
        )
    if json:
        print_json(report)
        return
    kind = "of your vectors" if report.model is None else f"of the model {report.model}"
    made = f"calibrated with {report.sample:,} documents" if report.sample else "calibrated for any"
    out.print(
        f"{index_folder} is an empty index {kind}, {report.dimension} dimensions, in "
        f"{report.shards} shards, {made}: bitsift serve {index_folder}",
        markup=False,
        soft_wrap=True,
    )
    if report.query_prompt is not None and report.document_prompt is not None:
        said_of = said(report.query_prompt, report.document_prompt, {})
        out.print(said_of, markup=False, highlight=False, soft_wrap=True)
