"""The command `bitsift search`: its options are the fields of SearchOptions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from bitsift.checked import checked_search
from bitsift.cluster.cli.console import (
    IndexFolder,
    Json,
    as_utf8,
    err,
    one_line,
    out,
    print_facets,
    print_json,
)
from bitsift.cluster.cli.options import with_options
from bitsift.cluster.cli.settings import configured, gateway
from bitsift.config.sources import Loaded
from bitsift.options import SearchOptions
from bitsift.results import Answer, Hit


@configured("client")
@with_options(SearchOptions, "query", "vector")  # the text is an argument; a vector is too long
def search(
    loaded: Loaded,
    text: Annotated[
        str | None, typer.Argument(parser=as_utf8, metavar="TEXT", help="The text to search for.")
    ] = None,
    index_folder: IndexFolder = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Search a running cluster (--url) or an index directory (--index, without Ray)."""
    url = gateway(loaded, index_folder, "--index FOLDER")
    answer = _search(text, index_folder, url, options)
    if json:
        print_json(answer)
    else:
        _print_answer(answer)


def _search(
    text: str | None, folder: Path | None, url: str | None, options: dict[str, Any]
) -> Answer:
    if url is not None:
        from bitsift.client import Client

        with Client(url) as client:
            return client.search(text, **options)
    from bitsift.cluster.serving.local import search_local

    assert folder is not None
    (asked,) = checked_search({"query": text, **options}).searches()
    return search_local(folder, asked)


def _print_answer(answer: Answer) -> None:
    for rank, hit in enumerate(answer.hits, start=1):
        _print_hit(rank, hit)
    for failure in answer.coverage.failures:
        err.print(f"[yellow]shard {failure.shard}: {escape(failure.message)}[/yellow]")
    for stage in answer.filter or ():
        out.print(f"shard {stage.shard}: {stage.matching:,} pass the filter ({stage.plan})")
    if (total := answer.total) is not None:
        least = "" if total.relation == "eq" else "at least "
        out.print(f"{least}{total.value:,} pass the filter")
    print_facets(answer.facets)
    t = answer.timings_ms
    out.print(
        f"{t.total:.1f} ms: encode {t.encode:.1f}, fan out {t.fan_out:.1f}, "
        f"rescore {t.rescore:.1f}, texts {t.texts:.1f}; "
        f"{answer.coverage.answered} of {answer.coverage.shards} shards answered"
    )


def _print_hit(rank: int, hit: Hit) -> None:
    title = f"[bold]{escape(one_line(hit.title))}[/bold]  " if hit.title else ""
    text = escape(one_line(hit.highlight.text if hit.highlight else hit.text or ""))
    out.print(f"{rank:>3}  {hit.score:.4f}  {title}{text}", soft_wrap=True)
    if hit.explain is None:
        return
    stages, hamming = hit.explain, ""
    if stages.hamming:
        hamming = f"Hamming #{stages.hamming.rank} ({stages.hamming.distance} bits) → "
    out.print(
        f"       {hamming}asymmetric #{stages.asymmetric.rank} → "
        f"int8 #{stages.int8.rank}   id {escape(hit.id)}, shard {hit.shard}"
    )
