"""The command `bitsift reshard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitsift.cluster.cli.console import Json, out, print_json
from bitsift.cluster.cli.maintenance import Index, items


def reshard(
    index_folder: Index,
    shards: Annotated[int, typer.Option(min=1, help="How many the new index has.")],
    out_folder: Annotated[Path, typer.Option("--out", help="The index directory to make.")],
    recalibrate: Annotated[
        bool,
        typer.Option(
            help="Fit the codes to the documents that are there: of an index that was created "
            "empty, at 1,000 documents and whenever it is ten times as large."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Make an index with another number of shards from the stored vectors: no model is needed.

    INDEX is left as it is. Killed and run again, it goes on where it was.
    """
    from bitsift.cluster.maintenance.reshard import reshard as run

    with items("resharding", json) as progress:
        report = run(
            index_folder.absolute(),
            out_folder.absolute(),
            shards,
            progress,
            recalibrate=recalibrate,
        )
    if json:
        print_json(report)
        return
    if report.already_complete:
        out.print(f"{out_folder} is finished already and was left untouched.")
    out.print(
        f"{out_folder} holds {report.documents:,} documents in {report.shards} shards, those of "
        f"{index_folder} in {report.shards_before}",
        markup=False,
        soft_wrap=True,
    )
