"""The commands `bitsift eval` and `bitsift doctor`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.markup import escape
from rich.table import Column, Table

from bitsift.cluster.cli.console import Json, err, out, print_json
from bitsift.cluster.cli.options import (
    NOT_OF_SOURCES,
    DocumentPrompt,
    QueryPrompt,
    with_options,
)
from bitsift.cluster.ingest.options import BuildOptions, checked_build
from bitsift.cluster.interrupts import terminable
from bitsift.errors import InvalidRequest
from bitsift.router.model.prompts import Prompts
from bitsift.router.model.spec import EncoderSpec
from bitsift.shard_worker.codes import Transform

if TYPE_CHECKING:
    from bitsift.cluster.evaluation.doctor import Diagnosis, Estimate
    from bitsift.cluster.evaluation.prompts import PromptsReport
    from bitsift.router.model.encoder import Encoder

_WIDE = 120
"""Columns of a terminal that has room to say what each stage is."""
Model = Annotated[str, typer.Option(help="Name or path of a sentence-transformers model.")]


def evaluate(
    dataset: Annotated[
        Path, typer.Argument(help="BEIR folder: corpus.jsonl, queries.jsonl, qrels.tsv.")
    ],
    model: Model = "minilm",
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    shards: Annotated[int, typer.Option(min=1, help="Number of shards of the index to try.")] = 1,
    transform: Annotated[
        Transform,
        typer.Option(help="Transform applied to vectors before their signs become the bits."),
    ] = Transform.NONE,
    index: Annotated[
        Path | None,
        typer.Option(
            help="Measure this existing index of the corpus, with its own "
            "model, shards and transform."
        ),
    ] = None,
    keep_identical_ids: Annotated[
        bool,
        typer.Option(
            "--keep-identical-ids",
            help="Count the document that has the id of the query. Default: it is left out of the "
            "answers, as BEIR does.",
        ),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Plot the result to a new .png or .svg file.")
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the JSON to this new file.")
    ] = None,
    json: Json = False,
) -> None:
    """nDCG@10 and recall@10 against exact fp32 search, for every stage of the funnel.

    The texts are encoded and all vectors kept in RAM, even with --index: fp32 is the reference, and
    an index does not store it.
    """
    from bitsift.cluster.evaluation.judged import read_judged
    from bitsift.cluster.evaluation.plot import check_plot_path, plot_stages
    from bitsift.cluster.maintenance.aside import require_new

    if plot is not None:
        check_plot_path(plot)
    if out_file is not None:
        require_new(out_file)
    judged = read_judged(dataset)
    with terminable():
        encoder = EncoderSpec(model, prompts=Prompts(query_prompt, document_prompt))
        result = _evaluate(judged, encoder, shards, transform, index, keep_identical_ids)
    if out_file is not None:
        with out_file.open("xb") as file:
            file.write(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    if plot is not None:
        plot_stages(result, plot)
    if json:
        print_json(result)
    else:
        _print_evaluation(result)


def _evaluate(
    judged: Any,
    model: EncoderSpec,
    shards: int,
    transform: Transform,
    index: Path | None,
    keep_own: bool,
) -> dict[str, Any]:
    from bitsift.cluster.evaluation import evaluate as evaluation
    from bitsift.cluster.manifest import open_manifest

    if index is None:
        judged, embedded = evaluation.embed(judged, _load(model))
        found = evaluation.evaluate(
            judged,
            embedded,
            model=model.name,
            shards=shards,
            transform=transform,
            keep_own=keep_own,
        )
        return found.to_json()
    manifest, _ = open_manifest(index)
    encoder = manifest.encoder()
    if encoder is None:
        raise InvalidRequest(
            f"{index} was built from precomputed embeddings: it cannot be queried with text"
        )
    evaluation.check_index(judged, index, manifest)
    judged, embedded = evaluation.embed(judged, _load(encoder))
    found = evaluation.evaluate_index(judged, embedded, index, manifest, keep_own=keep_own)
    return found.to_json()


def _load(encoder: EncoderSpec) -> Encoder:
    err.print("loading the model and encoding", style="dim")
    loaded = encoder.load()
    err.print(loaded.prompts_said, style="dim", markup=False, highlight=False, soft_wrap=True)
    return loaded


def _print_evaluation(result: dict[str, Any]) -> None:
    from bitsift.cluster.evaluation.evaluate import meaning_of

    out.print(
        f"{result['dataset']}: {result['documents']:,} documents, {result['queries']:,} judged "
        f"queries, model {result['model']}, shards {result['shards']}, "
        f"transform {result['transform']}",
        markup=False,
    )
    for line in _told_of(result):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
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


def _told_of(result: dict[str, Any]) -> Iterator[str]:
    """What else the figures depend on."""
    if result["left_out"]:
        relevant = result["left_out_relevant"]
        yield (
            f"for {result['left_out']:,} queries the document that has the query's id is left out, "
            f"as BEIR does; {relevant:,} of these are judged relevant; --keep-identical-ids counts "
            "them, which is right where queries and documents are numbered apart"
        )
    if result["unanswerable"]:
        yield f"{result['unanswerable']:,} queries have no positive judgement and count 0"
    if result["without_text"]:
        yield f"{result['without_text']:,} judged queries are not in queries.jsonl: left out"


@with_options(BuildOptions, *NOT_OF_SOURCES)
def doctor(
    source: Annotated[list[str] | None, typer.Argument(help="Files or folders of texts.")] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(help="A .npy file of vectors, on its own or for the records of SOURCE."),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            help="Real queries: one per line, records with texts, or a .npy file of vectors."
        ),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=1, help="Number of documents to sample at random.")
    ] = 5_000,
    model: Model = "minilm",
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    target: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Target recall@10 against fp32.")
    ] = 0.98,
    json: Json = False,
    **options: Any,
) -> None:
    """Will this model binarize? Try all settings on a sample; recommend those that reach --target.

    Exit status 1 if no setting does. Without --queries a tenth of the sample is held out to serve
    as queries: documents are easier queries than real ones.
    """
    from bitsift.cluster.evaluation.doctor import diagnose
    from bitsift.cluster.evaluation.doctor_sample import take_sample
    from bitsift.cluster.sources.files import plan_sources

    if not source and vectors is None:
        raise InvalidRequest("pass SOURCE with texts, or --vectors FILE.npy")
    said = checked_build(BuildOptions(**options))
    paths, matrix = (source, vectors) if source else ([str(vectors)], None)
    plan = plan_sources(paths, said.fields, matrix, said.stored, said.format, said.layout)
    with terminable():
        encoder = EncoderSpec(model, prompts=Prompts(query_prompt, document_prompt))
        load = functools.cache(lambda: _load(encoder))
        taken = take_sample(plan, sample, queries, load)
        prompts = _compared(taken.texts, load) if taken.texts else None
        found = diagnose(
            taken.documents, taken.queries, queries_are_documents=taken.held_out, target=target
        )
    if json:
        named = model if plan.expected_width is None else None
        compared = None if prompts is None else prompts.to_json()
        print_json({"model": named, "prompts": compared, **found.to_json()})
    else:
        if prompts is not None:
            _print_prompts(prompts)
        _print_diagnosis(found)
    if found.recommended is None:
        raise typer.Exit(1)


def _compared(
    texts: Sequence[tuple[str, str]], load: Callable[[], Encoder]
) -> PromptsReport | None:
    from bitsift.cluster.evaluation.prompts import compare_prompts

    loaded = load()
    bare = EncoderSpec(loaded.spec.name, prompts=Prompts("", ""))
    prompts = loaded.spec.query_prompt, loaded.spec.document_prompt
    return compare_prompts(texts, prompts, loaded, lambda: _load(bare))


def _print_prompts(found: PromptsReport) -> None:
    gain = found.gain
    verdict = "no difference beyond noise"
    if gain.low > 0:
        verdict = "they help"
    elif gain.high < 0:
        verdict = 'better without: --query-prompt "" --document-prompt ""'
    out.print(
        f"prompts {found.query_prompt!r} and {found.document_prompt!r}: of {found.pairs} documents "
        f"asked for by title or first sentence {found.with_prompts.mean:.3f} are found first, "
        f"without prompts {found.without.mean:.3f} (gain {gain.low:+.3f} to {gain.high:+.3f}): "
        f"{verdict}",
        markup=False,
        soft_wrap=True,
    )


def _print_diagnosis(found: Diagnosis) -> None:
    from bitsift.cluster.evaluation.doctor import CANDIDATES

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
    table.add_row("adaptive recall", *(_interval(report.adaptive) for report in reports))
    table.add_row("adaptive reads", *(f"{report.adaptive_reads:.0f}" for report in reports))
    out.print(table)
    verdict = "[green]yes[/green]" if found.recommended else "[red]no[/red]"
    out.print(f"{verdict}: {escape(found.reason)}", soft_wrap=True)
    if found.recommended is not None:
        chosen = found.recommended
        if chosen.transform is not Transform.NONE:
            out.print(f"build with: bitsift index … --transform {chosen.transform.value}")
        adaptive = found.transforms[chosen.transform].adaptive.mean >= found.target
        without = " (or without it: adaptive)" * adaptive
        out.print(f"search with: --candidates {chosen.candidates}{without}")


def _interval(value: Estimate) -> str:
    interval = f" ({value.low:.3f}…{value.high:.3f})" if out.width >= _WIDE else ""
    return f"{value.mean:.3f}{interval}"
