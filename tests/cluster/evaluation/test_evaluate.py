"""Evaluation over real shards: the stages are told apart, and an index is measured as it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from bitsift.cluster.evaluation.evaluate import (
    Embedded,
    Evaluation,
    check_index,
    evaluate,
    evaluate_index,
    meaning_of,
)
from bitsift.cluster.evaluation.judged import JudgedSet
from bitsift.cluster.evaluation.plot import check_plot_path, plot_stages
from bitsift.cluster.evaluation.scratch import temporary_shards
from bitsift.cluster.evaluation.stages import calibrate
from bitsift.cluster.manifest import Manifest
from bitsift.errors import InvalidRequest
from bitsift.options import SearchOptions
from bitsift.router.description import ModelSpec
from bitsift.router.service import SearchService
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.local import LocalLink
from bitsift.router.shards.placement import Placement
from bitsift.shard_worker.codes import Transform, normalize
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.operations import Insert
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import ShardIdentity
from tests.writing import written

DOCUMENTS, QUERIES, DIMENSION = 3_000, 40, 96
UUID = "00000000-0000-0000-0000-000000000001"


@pytest.fixture(scope="module")
def judged() -> JudgedSet:
    """Document i answers query i."""
    names = [f"d{number}" for number in range(DOCUMENTS)]
    asked = [f"q{number}" for number in range(QUERIES)]
    qrels = {query: {f"d{number}": 1} for number, query in enumerate(asked)}
    return JudgedSet("made up", names, names, asked, asked, qrels, rejects=0)


@pytest.fixture(scope="module")
def embedded() -> Embedded:
    """Two hundred clusters; each query lies near its document."""
    random = np.random.default_rng(5)
    centres = random.standard_normal((200, DIMENSION))
    spread = random.standard_normal((DOCUMENTS, DIMENSION))
    documents = centres[random.integers(0, 200, DOCUMENTS)] + 0.7 * spread
    queries = documents[:QUERIES] + 0.4 * random.standard_normal((QUERIES, DIMENSION))
    return Embedded(_units(documents), _units(queries))


@pytest.fixture(scope="module")
def whole(judged: JudgedSet, embedded: Embedded) -> Evaluation:
    return evaluate(judged, embedded, model="none", shards=1)


@pytest.fixture(scope="module")
def halved(judged: JudgedSet, embedded: Embedded) -> Evaluation:
    return evaluate(judged, embedded, model="none", shards=2)


def _units(vectors: np.ndarray) -> np.ndarray:
    return normalize(vectors.astype(np.float32), DIMENSION)


def test_each_stage_of_the_funnel_is_better_than_the_one_before(whole: Evaluation) -> None:
    recall = {name: stage["recall@10"] for name, stage in whole.stages.items() if name != "fp32"}
    assert recall["hamming"] < recall["asymmetric"] < recall["fixed_40"] <= recall["exhaustive"]
    assert recall["hamming"] < recall["hamming_int8"] < recall["fixed_40"]
    assert recall["fixed_40"] > 0.9
    assert recall["exhaustive"] > 0.98
    assert recall["final"] > 0.9
    assert (whole.documents, whole.queries, whole.shards) == (DOCUMENTS, QUERIES, 1)
    assert whole.to_json()["stages"]["fp32"].keys() == {"ndcg@10"}
    assert whole.stages["fixed_40"]["reads"] == 40
    assert all(meaning_of(name) for name in whole.stages)


def test_probing_lists_misses_some_of_what_a_scan_finds(whole: Evaluation) -> None:
    found = [stage["recall@10"] for name, stage in whole.stages.items() if "approximate" in name]
    assert found
    assert 0.5 < min(found) < whole.stages["final"]["recall@10"]


def test_fp32_is_measured_without_any_code_of_ours(embedded: Embedded, whole: Evaluation) -> None:
    best = np.argsort(-(embedded.queries @ embedded.documents.T), axis=1)[:, :10]
    gains = [
        1 / np.log2(2 + int(np.flatnonzero(rows == query)[0])) if query in rows else 0
        for query, rows in enumerate(best)
    ]
    assert whole.stages["fp32"]["ndcg@10"] == pytest.approx(np.mean(gains), abs=1e-4)


def test_a_collection_whose_queries_are_documents_is_measured_as_beir_does() -> None:
    """ArguAna's form: the query is a document itself, and its nearest other one is the answer."""
    random = np.random.default_rng(3)
    pairs = random.standard_normal((300, DIMENSION))
    documents = np.concatenate([pairs, pairs + 0.3 * random.standard_normal(pairs.shape)])
    names = [f"d{number}" for number in range(600)]
    asked = names[:300]
    qrels = {name: {f"d{number + 300}": 1} for number, name in enumerate(asked)}
    arguana = JudgedSet("arguana", names, names, asked, asked, qrels, rejects=0)
    vectors = Embedded(_units(documents), _units(documents[:300]))
    found = evaluate(arguana, vectors, model="none", keep_own=False)
    assert {stage["ndcg@10"] for stage in found.stages.values()} == {1.0}
    assert (found.left_out, found.left_out_relevant) == (300, 0)
    kept = evaluate(arguana, vectors, model="none")
    assert kept.stages["final"]["ndcg@10"] == pytest.approx(0.6309, abs=1e-3)
    assert kept.left_out == 0


def test_equal_scores_of_fp32_are_ordered_as_trec_eval_orders_them() -> None:
    documents = _units(np.ones((40, DIMENSION)))
    names = [f"d{number:02}" for number in range(40)]
    qrels = {"q": {"d39": 1, "d30": -1, "d00": 2}}
    tied = JudgedSet("tied", names, names, ["q"], ["q"], qrels, rejects=0)
    found = evaluate(tied, Embedded(documents, documents[:1]), model="none")
    run = {"q": dict.fromkeys(names, 1.0)}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
    assert found.stages["fp32"]["ndcg@10"] == pytest.approx(theirs["q"]["ndcg_cut_10"], abs=1e-4)


def test_splitting_raises_recall_and_leaves_exhaustive_as_it_is(
    whole: Evaluation, halved: Evaluation
) -> None:
    assert halved.stages["hamming_int8"]["recall@10"] > whole.stages["hamming_int8"]["recall@10"]
    assert halved.stages["fixed_40"]["recall@10"] >= whole.stages["fixed_40"]["recall@10"]
    for name in ("fp32", "hamming", "exhaustive"):
        assert halved.stages[name] == whole.stages[name]


def test_the_final_stage_is_what_the_router_answers(
    judged: JudgedSet, embedded: Embedded, halved: Evaluation
) -> None:
    calibration = calibrate(embedded.documents)
    codes, _ = calibration.quantize(calibration.units(embedded.documents))
    description = Manifest("", "", "", 2, calibration, None, {}, 0).describe()
    with temporary_shards(judged.ids, codes, calibration, 2) as shards:
        service = SearchService(description, FanOut([LocalLink(s) for s in shards]), None)

        async def ask() -> list[list[str]]:
            questions = [SearchOptions(vector=vector) for vector in embedded.queries]
            answers = [await service.search(question) for question in questions]
            return [[hit.id for hit in answer.hits] for answer in answers]

        found = asyncio.run(ask())
    exact = np.argsort(-(embedded.queries @ embedded.documents.T), axis=1)[:, :10]
    shared = [
        len({judged.ids[row] for row in rows} & set(ids)) / 10
        for rows, ids in zip(exact, found, strict=True)
    ]
    assert halved.stages["final"]["recall@10"] == pytest.approx(np.mean(shared), abs=1e-4)


def test_centring_mends_an_index_of_vectors_that_share_a_direction(
    judged: JudgedSet, embedded: Embedded
) -> None:
    common = np.random.default_rng(7).standard_normal(DIMENSION)
    common *= 3 / np.linalg.norm(common)
    ill = Embedded(_units(embedded.documents + common), _units(embedded.queries + common))
    recall = {
        transform: evaluate(judged, ill, model="none", transform=transform).stages
        for transform in (Transform.NONE, Transform.CENTER)
    }
    assert recall[Transform.NONE]["fixed_40"]["recall@10"] < 0.9
    assert recall[Transform.CENTER]["fixed_40"]["recall@10"] > 0.95


@pytest.mark.parametrize("transform", [Transform.NONE, Transform.CENTER_ROTATE])
def test_an_index_is_measured_as_it_is(
    judged: JudgedSet, embedded: Embedded, tmp_path: Path, transform: Transform
) -> None:
    manifest = build(tmp_path, judged, embedded, transform)
    before = files(tmp_path)
    result = evaluate_index(judged, embedded, tmp_path, manifest)
    assert files(tmp_path) == before
    built = evaluate(judged, embedded, model="none", shards=2, transform=transform)
    assert result.transform == built.transform == transform.value
    # Where rows lie in lists, equal distances are cut in another order.
    same = [name for name in result.stages if name != "final"]
    assert {name: result.stages[name] for name in same} == {n: built.stages[n] for n in same}
    assert result.stages["final"] == pytest.approx(built.stages["final"], rel=0.01)


def test_an_index_of_another_corpus_is_refused(
    judged: JudgedSet, embedded: Embedded, tmp_path: Path
) -> None:
    manifest = build(tmp_path, judged, embedded, Transform.NONE)
    others = JudgedSet(
        "others", ["e0", *judged.ids[1:]], judged.texts, judged.query_ids, judged.queries,
        judged.qrels, 0,
    )  # fmt: skip
    said = "has 3000 documents, 2999 of them among the 3000"
    with pytest.raises(InvalidRequest, match=said):
        evaluate_index(others, embedded, tmp_path, manifest)
    with pytest.raises(InvalidRequest, match=said):
        check_index(others, tmp_path, manifest)  # before anything is encoded
    check_index(judged, tmp_path, manifest)


def files(folder: Path) -> dict[str, bytes]:
    """What is in the shards' files, locks left out."""
    kept = [path for path in folder.rglob("*") if path.is_file() and "lock" not in path.name]
    return {str(path): path.read_bytes() for path in kept}


def build(
    folder: Path, judged: JudgedSet, embedded: Embedded, transform: Transform, shards: int = 2
) -> Manifest:
    calibration = calibrate(embedded.documents, transform)
    codes, _ = calibration.quantize(calibration.units(embedded.documents))
    parts = Placement(shards).by_owner(judged.ids)
    for number in range(shards):
        identity = ShardIdentity(UUID, number, shards, DIMENSION, DIMENSION)
        Shard.create(shard_folder(folder, number), identity)
        shard = Shard(shard_folder(folder, number), calibration, identity)
        mine = parts[number].tolist()
        names, blank = [judged.ids[place] for place in mine], [""] * len(mine)
        written(shard, Insert(names, blank, blank, blank, mine, codes[mine]))
        shard.close()
    model = ModelSpec("none", "0", DIMENSION, "", "", None)
    return Manifest(UUID, "test", "", shards, calibration, model, {}, len(judged.ids))


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_an_evaluation_is_drawn(tmp_path: Path, name: str, start: bytes) -> None:
    stages = {"fp32": {"ndcg@10": 0.5}, "final": {"ndcg@10": 0.49, "recall@10": 0.98}}
    result = {"dataset": "d", "documents": 3, "queries": 1, "model": "m", "shards": 1}
    plot_stages({**result, "stages": stages}, tmp_path / name)
    drawn = (tmp_path / name).read_bytes()
    assert drawn.startswith(start)
    plot_stages({**result, "stages": stages}, tmp_path / f"again-{name}")
    assert (tmp_path / f"again-{name}").read_bytes() == drawn


@pytest.mark.parametrize(
    ("name", "reason"), [("a.pdf", "ends in none"), ("none/a.png", "not a fold")]
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_measured(
    tmp_path: Path, name: str, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        check_plot_path(tmp_path / name)
