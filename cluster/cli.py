"""The command `bitsift`. Exit status: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cluster import cli_bench, cli_documents, cli_maintenance, cli_quality
from cluster.cli_console import Json, err, out, print_json, terminable
from cluster.cli_progress import IndexProgress
from cluster.quantities import parse_bytes
from router.answer import Answer
from router.query_vectors import QUERY_CACHE_DEFAULT
from shard_worker.codes import Transform
from shard_worker.errors import BitsiftError, InvalidRequest
from shard_worker.types import Mode, ShardSettings

if TYPE_CHECKING:
    from cluster.launch import Serving

app = typer.Typer(
    help="Search tens of millions of texts by meaning on plain CPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[
    int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")
]
Url = Annotated[str | None, typer.Option(help="A running gateway, such as http://127.0.0.1:8000.")]
IndexOption = Annotated[Path | None, typer.Option("--index", help="An index directory.")]
Backend = Annotated[str, typer.Option(help="How the model runs: auto, openvino or torch.")]
RayAddress = Annotated[
    str | None, typer.Option(help="A running Ray cluster; without it a local one is started.")
]


def main() -> None:
    """Run the command line; errors of ours are one line on stderr that says who must act."""
    try:
        app()
    except InvalidRequest as error:
        err.print(f"[red]error:[/red] {escape(error.message)}", soft_wrap=True)
        sys.exit(2)
    except BitsiftError as error:
        err.print(f"[red]error:[/red] {error.title}: {escape(error.message)}", soft_wrap=True)
        sys.exit(1)


@app.command()
def index(
    source: Annotated[list[str], typer.Argument(help="Files or folders to index.")],
    out_folder: Annotated[Path, typer.Option("--out", help="The index directory to make.")],
    model: Annotated[
        str, typer.Option(help="sentence-transformers model: name or path.")
    ] = "minilm",
    shards: Annotated[
        int | None, typer.Option(min=1, help="Partitions; default one a core.")
    ] = None,
    id_field: Annotated[str | None, typer.Option(help="Field with the id.")] = None,
    text_field: Annotated[str | None, typer.Option(help="Field with the text.")] = None,
    title_field: Annotated[str | None, typer.Option(help="Field with the title.")] = None,
    vector_field: Annotated[str | None, typer.Option(help="Field with ready-made vectors.")] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="A .npy file: row i belongs to record i of the source.")
    ] = None,
    transform: Annotated[
        Transform, typer.Option(help="What is done to vectors before their signs are taken.")
    ] = Transform.NONE,
    max_rejects: Annotated[int, typer.Option(min=0, help="Stop after more bad records.")] = 1_000,
    encoders: Annotated[int | None, typer.Option(min=1, help="Size of the encoder pool.")] = None,
    backend: Backend = "auto",
    ray_address: RayAddress = None,
    json: Json = False,
) -> None:
    """Build an index from JSON lines, CSV, Parquet, text folders, BEIR folders or .npy files.

    Killed and run again, it goes on where it was; a finished index is left untouched.
    """
    from cluster.ingest import build_index
    from cluster.source_plan import Fields

    fields = Fields(id=id_field, text=text_field, title=title_field, vector=vector_field)
    with terminable(), IndexProgress(err, quiet=json) as progress:
        report = build_index(
            source,
            out_folder,
            model=model,
            shards=shards,
            fields=fields,
            vectors=vectors,
            transform=transform,
            max_rejects=max_rejects,
            encoders=encoders,
            backend=backend,
            ray_address=ray_address,
            on_progress=progress,
        )
    if json:
        print_json(report)
    else:
        _print_report(out_folder, dataclasses.asdict(report))


def _print_report(folder: Path, report: dict[str, Any]) -> None:
    documents = max(1, report["documents"])
    if report["already_complete"]:
        out.print(f"{folder} is finished already and was left untouched.")
    rows = {
        "documents": f"{report['documents']:,}",
        "rejected records": f"{report['rejects']:,}",
        "seconds": f"{report['seconds']:,.1f}",
        "RAM of the bits": _bytes_each(report["bits_bytes"], documents),
        "disk, texts included": _bytes_each(report["disk_bytes"], documents),
        "fp32 vectors would take": _bytes_each(report["float32_bytes"], documents),
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)
    if report["rejects"]:
        out.print(f"The rejected records are listed in {folder / 'rejects.jsonl'}")


def _bytes_each(total: int, documents: int) -> str:
    return f"{total / 1e6:,.1f} MB ({total / documents:,.0f} bytes a document)"


@app.command()
def serve(
    index_folder: Annotated[Path, typer.Argument(metavar="INDEX", help="A finished index.")],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    backend: Backend = "auto",
    query_cache: Annotated[
        int, typer.Option(min=0, help="Vectors of queries remembered; 0 = off.")
    ] = QUERY_CACHE_DEFAULT,
    exact_budget_ms: Annotated[
        float,
        typer.Option(min=0, help="Scan all bits of a shard while that takes no longer."),
    ] = ShardSettings().exact_budget_ms,
    compact_share: Annotated[
        float,
        typer.Option(
            "--compact-above",
            min=0.01,
            max=1,
            help="Compact a shard by itself when "
            "more than this share of its rows is dead; 1 = never.",
        ),
    ] = ShardSettings().compact_share,
    store_bytes_max: Annotated[
        int,
        typer.Option(
            "--store-max",
            parser=parse_bytes,
            metavar="SIZE",
            help="The most that the data file of a shard may grow to: 500G.",
        ),
    ] = ShardSettings().store_bytes_max,
    ray_address: RayAddress = None,
    json: Json = False,
) -> None:
    """Serve an index over HTTP, with its page at /. Ctrl-C stops everything it started."""
    from cluster.launch import ray_cluster
    from cluster.manifest import open_manifest

    open_manifest(index_folder)  # a wrong folder is refused before a cluster is started
    settings = ShardSettings(
        exact_budget_ms, compact_share=compact_share, store_bytes_max=store_bytes_max
    )
    serving = _serving(
        index_folder, host, port, json, backend=backend, query_cache=query_cache, settings=settings
    )
    with terminable(), _quiet_interrupt(), ray_cluster(ray_address), serving:
        threading.Event().wait()


@app.command()
def demo(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    folder: Annotated[Path, typer.Option("--index", help="Where the demo index is kept.")] = Path(
        ".bitsift/wordnet_en"
    ),
    json: Json = False,
) -> None:
    """Describe a thing, get the word: the page answers from what is loaded, and goes on loading.

    Killed and run again, it goes on where it was; the second start of a loaded index takes seconds.
    """
    from cluster.demo import demo_build
    from cluster.launch import ray_cluster

    build = demo_build(folder)
    loading = build.finished() is None
    with terminable(), _quiet_interrupt(), ray_cluster(None):
        with IndexProgress(err, quiet=json) as progress:
            manifest = build.prepare(progress)
        with _serving(folder, host, port, json, loading=loading) as serving:
            if loading:
                with IndexProgress(err, quiet=json) as progress:
                    report = build.load(manifest, serving.shards, progress)
                serving.loaded()
                err.print(f"all {report.documents:,} words are in")
            threading.Event().wait()


@contextlib.contextmanager
def _quiet_interrupt() -> Iterator[None]:
    """Ctrl-C is how serving ends: no traceback."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("stopped")


@contextlib.contextmanager
def _serving(folder: Path, host: str, port: int, json: bool, **options: Any) -> Iterator[Serving]:
    """A cluster that answers, and has said where; stopped at the end of the block."""
    from cluster.launch import serve as launch

    serving = launch(folder, host, port, **options)
    try:
        err.print("starting: opening the shards and loading the model")
        serving.wait_ready()
        if json:
            print_json({"url": serving.url, "index": str(folder)})
            sys.stdout.flush()
        else:
            out.print(f"Bitsift answers on [bold]{serving.url}[/bold]  (Ctrl-C stops it)")
        yield serving
    finally:
        serving.stop()


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    index_folder: IndexOption = None,
    url: Url = None,
    top_k: Annotated[int, typer.Option(min=1)] = 10,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="int8 rows read in each shard; default: as needed.")
    ] = None,
    mode: Mode = Mode.AUTO,
    nprobe: Annotated[
        int | None, typer.Option(min=1, help="Lists an approximate search visits.")
    ] = None,
    explain: Annotated[bool, typer.Option(help="Show each hit's way through the funnel.")] = False,
    json: Json = False,
) -> None:
    """Search a running cluster (--url) or an index directory (--index, without Ray)."""
    answer = _search(
        text, index_folder, url, top_k=top_k, candidates=candidates, mode=mode, nprobe=nprobe,
        explain=explain,
    )  # fmt: skip
    if json:
        print_json(answer)
        return
    _print_answer(answer, explain)


def _search(text: str, folder: Path | None, url: str | None, **options: Any) -> Answer:
    if (folder is None) == (url is None):
        raise InvalidRequest("say where to search: --index FOLDER or --url URL, one of them")
    if url is not None:
        from router.client import Client

        with Client(url) as client:
            return client.search(text, **options)
    from cluster.local import search_local
    from router.service import Question

    assert folder is not None
    return search_local(folder, Question(text=text, **options))


def _print_answer(answer: Answer, explain: bool) -> None:
    for rank, hit in enumerate(answer.hits, start=1):
        title = f"[bold]{escape(hit.title)}[/bold]  " if hit.title else ""
        text = " ".join((hit.text or "").split())
        text = text if len(text) <= 200 else text[:199] + "…"
        out.print(f"{rank:>3}  {hit.score:.4f}  {title}{escape(text)}", soft_wrap=True)
        if explain and hit.explain is not None:
            stages = hit.explain
            hamming = (
                f"Hamming #{stages.hamming.rank} ({stages.hamming.distance} bits) → "
                if stages.hamming
                else ""
            )
            out.print(
                f"       {hamming}asymmetric #{stages.asymmetric.rank} → "
                f"int8 #{stages.int8.rank}   id {escape(hit.id)}, shard {hit.shard}"
            )
    for failure in answer.coverage.failures:
        err.print(f"[yellow]shard {failure.shard}: {escape(failure.message)}[/yellow]")
    t = answer.timings_ms
    out.print(
        f"{t.total:.1f} ms: encode {t.encode:.1f}, fan out {t.fan_out:.1f}, "
        f"rescore {t.rescore:.1f}, texts {t.texts:.1f}; "
        f"{answer.coverage.answered} of {answer.coverage.shards} shards answered"
    )


@app.command()
def status(index_folder: IndexOption = None, url: Url = None, json: Json = False) -> None:
    """What an index holds (--index) or how a running cluster is (--url)."""
    if (index_folder is None) == (url is None):
        raise InvalidRequest("say of what: --index FOLDER or --url URL, one of them")
    if url is not None:
        from router.client import Client

        with Client(url) as client:
            facts = {"index": client.index(), "cluster": client.cluster()}
    else:
        from cluster.manifest import open_manifest

        assert index_folder is not None
        manifest, report = open_manifest(index_folder)
        description = manifest.describe().to_json() | {"documents": report.documents}
        facts = {"index": description, "build": dataclasses.asdict(report)}
    if json:
        print_json(facts)
    else:
        _print_status(facts)


def _print_status(facts: dict[str, Any]) -> None:
    index_facts = facts["index"]
    model = (index_facts["model"] or {}).get("name", "none: ready-made vectors")
    out.print(
        f"{index_facts['name']}: {index_facts['documents']:,} documents, "
        f"{index_facts['dimension']} dimensions, {index_facts['shards']} shards, model {model}"
    )
    if "build" in facts:
        _print_report(Path(index_facts["name"]), facts["build"])
        return
    table = Table("shard", "state", "documents", "RAM of bits", "process RAM", "disk", "reason")
    for shard in facts["cluster"]["shards"]:
        sizes = [shard["bits_bytes"], shard["resident_bytes"], shard["disk_bytes"]]
        table.add_row(
            str(shard["shard"]),
            shard["state"],
            f"{shard['documents']:,}",
            *(f"{size / 1e6:,.1f} MB" for size in sizes),
            escape(shard["reason"] or shard["writes_stopped"] or ""),
        )
    out.print(table)
    out.print(f"encoder: {facts['cluster']['encoder']}", markup=False)


app.command()(cli_bench.bench)
app.command()(cli_bench.plan)
app.command("eval")(cli_quality.evaluate)
app.command()(cli_documents.add)
app.command()(cli_documents.delete)
app.command()(cli_documents.get)
app.command()(cli_maintenance.verify)
app.command()(cli_maintenance.backup)
app.command()(cli_maintenance.restore)
app.command()(cli_maintenance.export)
app.command()(cli_maintenance.compact)
app.command()(cli_quality.doctor)

if __name__ == "__main__":
    main()
