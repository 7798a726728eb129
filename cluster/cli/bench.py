"""The commands `bitsift bench` and `bitsift plan`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bitsift.cluster.bench.plan import Measured, Plan, make_plan
from bitsift.cluster.bench.run import (
    DIMENSION_DEFAULT,
    GROUPS,
    ROWS_DEFAULT,
    BenchRequest,
    groups_of,
    run_bench,
)
from bitsift.cluster.bench.spread import Node, Spread, spread_over
from bitsift.cluster.cli.console import Json, err, out, print_json
from bitsift.cluster.interrupts import terminable
from bitsift.quantities import parse_bytes, parse_count

RESULTS = Path("benchmarks/results")
Count = Annotated[
    int,
    typer.Option(
        "--rows",
        parser=parse_count,
        metavar="N",
        help="Number of rows to measure with, such as 1M.",
    ),
]
Dimension = Annotated[int, typer.Option("--dim", min=32, max=4_096, help="Dimensions of a vector.")]
Model = Annotated[str, typer.Option(help="Name or path of a sentence-transformers model.")]


def bench(
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Only these keys or groups ({', '.join(GROUPS)}); may be repeated."),
    ] = None,
    rows: Count = ROWS_DEFAULT,
    dim: Dimension = DIMENSION_DEFAULT,
    synthetic: Annotated[
        int | None,
        typer.Option(
            parser=parse_count, metavar="N", help="Build, train, serve and measure N rows instead."
        ),
    ] = None,
    shards: Annotated[int, typer.Option(min=1, help="Shards of --synthetic.")] = 2,
    folder: Annotated[
        Path, typer.Option(help="Folder for the index of --synthetic; a finished one is reused.")
    ] = Path(".bitsift/bench"),
    keep: Annotated[bool, typer.Option(help="Keep the index of --synthetic.")] = False,
    model: Model = "minilm",
    dataset: Annotated[
        Path | None, typer.Option(help="A BEIR folder whose texts are encoded, such as cisi.")
    ] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = RESULTS,
    json: Json = False,
) -> None:
    """Measure this machine against raw FAISS and the raw encoder; write JSON and a plot."""
    from bitsift.cluster.bench.large import LargeRun, measure_large
    from bitsift.cluster.bench.machine import require_replaceable, write_result
    from bitsift.cluster.bench.plots import plot_bars, plot_large
    from bitsift.cluster.sources.synthetic import SyntheticSpec

    with terminable():
        if synthetic is None:
            groups = groups_of(only or ())
            name = "_".join(("bench", *(groups if groups != tuple(GROUPS) else ())))
            path = out_folder / f"{name}.json"  # a part does not replace the whole
            require_replaceable(path)
            request = BenchRequest(groups, rows, dim, model, dataset)
            result = write_result(path, run_bench(request, _log))
            plot_bars(result, path.with_suffix(".svg"))
        else:
            path = out_folder / f"synthetic_{synthetic}x{dim}.json"
            require_replaceable(path)
            run = LargeRun(SyntheticSpec(synthetic, dim), shards, folder.absolute(), keep=keep)
            result = measure_large(run, _log, path)
            plot_large(result, path.with_suffix(".svg"))
    if json:
        print_json(result)
    else:
        _print_bars(result, path)


_STARTED = time.monotonic()


def _log(line: str) -> None:
    err.print(f"{time.monotonic() - _STARTED:8.1f} s  {line}", markup=False, soft_wrap=True)


def _print_bars(result: dict[str, Any], path: Path) -> None:
    table = Table("key", "measured", "bar", "", "what")
    for key, row in result["bars"].items():
        met = "[green]met[/green]" if row["met"] else "[red]missed[/red]"
        table.add_row(key, f"{row['value']:,.6g}", row["bar"], met, escape(row["what"]))
    out.print(table)
    for note in result.get("notes", ()):
        err.print(f"[yellow]{escape(note)}[/yellow]")
    out.print(f"All figures and the machine: {path}")


def plan(
    documents: Annotated[
        int, typer.Option(parser=parse_count, metavar="N", help="How many documents: 40M.")
    ],
    dim: Annotated[
        int | None,
        typer.Option(
            "--dim", min=32, max=4_096, help="Dimensions of a vector. Default: the model's."
        ),
    ] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Number of shards. Default: one per core.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model whose queries are encoded.")] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A result of `bitsift bench --synthetic`. Default: one that is shipped."
        ),
    ] = None,
    node_ram: Annotated[
        int | None,
        typer.Option(parser=parse_bytes, metavar="SIZE", help="Plan nodes with so much RAM: 1T."),
    ] = None,
    node_disk: Annotated[
        int, typer.Option(parser=parse_bytes, metavar="SIZE", help="Disk of a node.")
    ] = parse_bytes("29T"),
    node_cores: Annotated[int, typer.Option(min=1, help="Cores of a node, as Linux counts.")] = 128,
    node_reads: Annotated[
        int,
        typer.Option(
            parser=parse_count, metavar="N", help="Random 4-KiB reads/s of a node's disk: 900k."
        ),
    ] = 900_000,
    replicas: Annotated[int, typer.Option(min=1, help="Copies of each shard on the nodes.")] = 1,
    queries_s: Annotated[
        float, typer.Option("--queries-s", min=0, help="Approximate queries/s for the nodes.")
    ] = 10,
    json: Json = False,
) -> None:
    """RAM, disk, latency and rate for a number of documents, from what bench measured.

    For one machine; with --node-ram, for as many nodes as it takes.
    """
    measured = Measured.read(source)
    planned: Plan | Spread = make_plan(documents, dim, shards, model, measured)
    if node_ram is not None:
        node = Node(node_ram, node_disk, node_cores, node_reads)
        width = planned.dimension
        planned = spread_over(node, documents, width, shards, replicas, queries_s, measured)
    if json:
        print_json(planned)
        return
    table = Table(show_header=False, box=None)
    for name, value in planned.rows():
        table.add_row(name, escape(value))
    out.print(table)
