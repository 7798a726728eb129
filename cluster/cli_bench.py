"""The commands `bitsift bench` and `bitsift plan`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cluster.bench import (
    DIMENSION_DEFAULT,
    GROUPS,
    ROWS_DEFAULT,
    BenchRequest,
    groups_of,
    run_bench,
)
from cluster.cli_console import Json, err, out, print_json, terminable
from cluster.plan import Measured, make_plan
from cluster.quantities import parse_count

RESULTS = Path("benchmarks/results")
Count = Annotated[
    int, typer.Option("--rows", parser=parse_count, metavar="N", help="Rows to measure with: 1M.")
]
Dimension = Annotated[int, typer.Option("--dim", min=32, max=4_096, help="Dimensions of a vector.")]
Model = Annotated[str, typer.Option(help="sentence-transformers model: name or path.")]


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
        Path, typer.Option(help="Where --synthetic keeps its index; a finished one is used again.")
    ] = Path(".bitsift/bench"),
    keep: Annotated[bool, typer.Option(help="Keep the index of --synthetic.")] = False,
    model: Model = "minilm",
    dataset: Annotated[
        Path | None, typer.Option(help="A BEIR folder whose texts are encoded, such as cisi.")
    ] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Where results go.")] = RESULTS,
    json: Json = False,
) -> None:
    """Measure this machine beside raw FAISS and the raw encoder; write JSON and a plot."""
    from cluster.bench_large import LargeRun, measure_large
    from cluster.bench_plots import plot_bars, plot_large
    from cluster.machine import write_result
    from cluster.synthetic import SyntheticSpec

    with terminable():
        if synthetic is None:
            groups = groups_of(only or ())
            name = "_".join(("bench", *(groups if groups != tuple(GROUPS) else ())))
            path = out_folder / f"{name}.json"  # a part does not replace the whole
            request = BenchRequest(groups, rows, dim, model, dataset)
            result = write_result(path, run_bench(request, _log))
            plot_bars(result, path.with_suffix(".svg"))
        else:
            path = out_folder / f"synthetic_{synthetic}x{dim}.json"
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
        int | None, typer.Option("--dim", min=32, max=4_096, help="Dimensions; else the model's.")
    ] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Partitions; default one a core.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model whose queries are encoded.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A result of `bitsift bench --synthetic`; else a shipped one."),
    ] = None,
    json: Json = False,
) -> None:
    """RAM, disk, latency and rate for a number of documents, from what bench measured."""
    planned = make_plan(documents, dim, shards, model, Measured.read(source))
    if json:
        print_json(planned)
        return
    table = Table(show_header=False, box=None)
    for name, value in planned.rows():
        table.add_row(name, escape(value))
    out.print(table)
