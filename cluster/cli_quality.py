"""The commands `bitsift eval` and `bitsift doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.markup import escape
from rich.table import Column, Table

from cluster.cli_console import Json, err, out, print_json, terminable
from shard_worker.codes import Transform
from shard_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from cluster.doctor import Diagnosis, Estimate
    from router.encoder import Encoder

_WIDE = 120
"""Columns of a terminal that has room to say what each stage is."""
Model = Annotated[str, typer.Option(help="sentence-transformers model: name or path.")]


def evaluate(
    dataset: Annotated[
        Path, typer.Argument(help="BEIR folder: corpus.jsonl, queries.jsonl, qrels.tsv.")
    ],
    model: Model = "minilm",
    shards: Annotated[int, typer.Option(min=1, help="Shards of the index that is tried.")] = 1,
    transform: Annotated[
        Transform, typer.Option(help="What is done to vectors before their signs are taken.")
    ] = Transform.NONE,
    index: Annotated[
        Path | None,
        typer.Option(help="Measure this index of the corpus, with its model, shards, transform."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the result: a .png or .svg.")] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write the JSON here.")] = None,
    json: Json = False,
) -> None:
    """nDCG@10 and recall@10 against exact fp32 search, for every stage of the funnel.

    The texts are encoded for it and all vectors held in RAM, also with --index: fp32 is the
    yardstick, and an index does not keep it.
    """
    from cluster.evaluate_plot import check_plot_path, plot_stages
    from cluster.judged import read_judged

    if plot is not None:
        check_plot_path(plot)
    judged = read_judged(dataset)
    with terminable():
        result = _evaluate(judged, model, shards, transform, index)
    if out_file is not None:
        out_file.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    if plot is not None:
        plot_stages(result, plot)
    if json:
        print_json(result)
    else:
        _print_evaluation(result)


def _evaluate(
    judged: Any, model: str, shards: int, transform: Transform, index: Path | None
) -> dict[str, Any]:
    from cluster import evaluate as evaluation
    from cluster.manifest import open_manifest
    from router.models import ModelSpec

    if index is None:
        embedded = evaluation.embed(judged, _load(model))
        found = evaluation.evaluate(
            judged, embedded, model=model, shards=shards, transform=transform
        )
        return found.to_json()
    manifest, _ = open_manifest(index)
    if manifest.model is None:
        raise InvalidRequest(f"{index} was built from ready-made vectors: no text can be asked")
    spec = ModelSpec.from_json(manifest.model)
    embedded = evaluation.embed(judged, _load(spec.name, expected=spec))
    return evaluation.evaluate_index(judged, embedded, index, manifest).to_json()


def _load(model: str, **options: Any) -> Encoder:
    from router.encoder import Encoder

    err.print("loading the model and encoding", style="dim")
    return Encoder.load(model, **options)


def _print_evaluation(result: dict[str, Any]) -> None:
    from cluster.evaluate import meaning_of

    out.print(
        f"{result['dataset']}: {result['documents']:,} documents, {result['queries']:,} judged "
        f"queries, model {result['model']}, shards {result['shards']}, "
        f"transform {result['transform']}",
        markup=False,
    )
    table = Table(Column("stage", no_wrap=True), "nDCG@10", "of fp32's", "recall@10", "reads")
    if out.width >= _WIDE:
        table.add_column("what it is", no_wrap=True)
    exact = result["stages"]["fp32"]["ndcg@10"]
    for name, stage in result["stages"].items():
        table.add_row(
            f"[bold]{name}[/bold]" if name == "final" else name,
            f"{stage['ndcg@10']:.4f}",
            f"{stage['ndcg@10'] / exact:.1%}" if exact else "",
            f"{stage['recall@10']:.4f}" if "recall@10" in stage else "",
            f"{stage['reads']:.1f}" if "reads" in stage else "",
            *([meaning_of(name)] if out.width >= _WIDE else []),
        )
    out.print(table)


def doctor(
    source: Annotated[list[str] | None, typer.Argument(help="Files or folders of texts.")] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="A .npy file of vectors, alone or of the source's records.")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(help="Real queries: one a line, records with texts, or a .npy of vectors."),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=1, help="Documents to look at, drawn at random.")
    ] = 5_000,
    model: Model = "minilm",
    target: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="The recall@10 to reach, against fp32.")
    ] = 0.98,
    text_field: Annotated[str | None, typer.Option(help="Field with the text.")] = None,
    title_field: Annotated[str | None, typer.Option(help="Field with the title.")] = None,
    vector_field: Annotated[str | None, typer.Option(help="Field with ready-made vectors.")] = None,
    json: Json = False,
) -> None:
    """Will this model binarize? Try all settings on a sample; recommend those that reach --target.

    Exit status 1 where no setting does. Without --queries a tenth of the sample is held out and
    asked for: documents are easier queries than real ones.
    """
    from cluster.doctor import diagnose
    from cluster.doctor_sample import take_sample
    from cluster.source_plan import Fields
    from cluster.sources import plan_sources

    if not source and vectors is None:
        raise InvalidRequest("say what to look at: SOURCE with texts, or --vectors FILE.npy")
    fields = Fields(text=text_field, title=title_field, vector=vector_field)
    alone = not source
    plan = plan_sources(
        [str(vectors)] if alone else source or [], fields, None if alone else vectors
    )
    with terminable():
        taken = take_sample(plan, sample, queries, lambda: _load(model))
        found = diagnose(
            taken.documents, taken.queries, queries_are_documents=taken.held_out, target=target
        )
    if json:
        named = model if plan.expected_width is None else None
        print_json({"model": named, **found.to_json()})
    else:
        _print_diagnosis(found)
    if found.recommended is None:
        raise typer.Exit(1)


def _print_diagnosis(found: Diagnosis) -> None:
    from cluster.doctor import CANDIDATES

    easier = " held out: documents are easier queries than real ones" * found.queries_are_documents
    out.print(
        f"{found.documents:,} documents of {found.dimension} dimensions, one shard; "
        f"{found.queries:,} queries{easier}"
    )
    reports = found.transforms.values()
    table = Table("", *(Column(name.value, no_wrap=True) for name in found.transforms))
    table.add_row("dead bits", *(str(report.bits.dead) for report in reports))
    table.add_row("biased bits", *(str(report.bits.biased) for report in reports))
    table.add_row("effective bits", *(f"{report.bits.effective:.0f}" for report in reports))
    for count in CANDIDATES:
        recalls = (_interval(report.recall[count]) for report in reports)
        table.add_row(f"recall at {count}", *recalls)
    gains = ("" if r.gain_at_40 is None else _interval(r.gain_at_40) for r in reports)
    table.add_row("gain at 40", *gains)
    table.add_row("recall as needed", *(_interval(report.adaptive) for report in reports))
    table.add_row("reads as needed", *(f"{report.adaptive_reads:.0f}" for report in reports))
    out.print(table)
    verdict = "[green]yes[/green]" if found.recommended else "[red]no[/red]"
    out.print(f"{verdict}: {escape(found.reason)}", soft_wrap=True)
    if found.recommended is not None:
        chosen = found.recommended
        if chosen.transform is not Transform.NONE:
            out.print(f"build with: bitsift index … --transform {chosen.transform.value}")
        adaptive = found.transforms[chosen.transform].adaptive.mean >= found.target
        without = " (or without: each query as it needs)" * adaptive
        out.print(f"ask with: --candidates {chosen.candidates}{without}")


def _interval(value: Estimate) -> str:
    interval = f" ({value.low:.3f}…{value.high:.3f})" if out.width >= _WIDE else ""
    return f"{value.mean:.3f}{interval}"
