"""The comparison with peers: what is asked, what is counted, and that each is pinned."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.peers import data as peers_data
from benchmarks.peers.__main__ import (
    ENGINES,
    REQUIREMENTS,
    Worker,
    compared,
    measured,
    pinned,
    run,
    workers,
)
from benchmarks.peers.data import QUERIES, Data, encode_wordnet
from benchmarks.peers.plot import best, plot
from bitsift.cluster.sources.synthetic import SyntheticSpec


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data.synthetic(tmp_path_factory.mktemp("data"), SyntheticSpec(2_000, 32))


def test_an_exact_engine_finds_all_in_every_case(data: Data, tmp_path: Path) -> None:
    with workers(["faiss_flat"], tmp_path, 1) as started:
        found = measured(data, started, 2)
    assert list(found["curves"]) == ["plain", "1% known", "1% new", "0.01% known", "0.01% new"]
    for case in found["curves"].values():
        (point,) = case["faiss_flat"]
        assert point["recall"] == 1
        assert point["p50_ms"] > 0
    said = found["engines"]["faiss_flat"]
    assert said["resident_bytes"] > said["anonymous_bytes"] > 0
    assert not said["durable"]
    assert said["disk_bytes"] == 0
    assert not (tmp_path / "faiss_flat").exists()


def test_a_row_that_does_not_pass_the_filter_ends_the_run(data: Data) -> None:
    (outside,) = (data.draws == 1_000).nonzero()[0].tolist()
    assert data.recall([0, 1_000, 1_001], [outside]) == 1
    with pytest.raises(AssertionError, match="do not pass"):
        data.recall([0, 0, 1_000], [outside])


def test_a_row_as_near_as_the_tenth_counts_and_one_that_is_found_twice_counts_once(
    data: Data,
) -> None:
    best = np.argsort(-data.scores[0])[:11].tolist()
    assert data.recall([0, None, None], best[:10]) == 1
    assert data.recall([0, None, None], [*best[:9], best[10]]) == 0.9
    assert data.recall([0, None, None], best[:1] * 10) == 0.1
    tied = replace(data, scores=data.scores.copy(), _tenth={})
    tied.scores[0, best[10]] = tied.scores[0, best[9]]
    assert tied.recall([0, None, None], [*best[:9], best[10]]) == 1


def test_a_new_filter_is_new_to_every_setting(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[tuple[int | None, ...]]] = {"known": [], "new": []}
    ask = Worker.ask

    def noted(worker: Worker, **request: Any) -> Any:
        if request["do"] == "search" and request["cases"][0][1] is not None:
            kind = "known" if request["cases"][0][1] == 0 else "new"
            asked[kind] += [tuple(case) for case in request["cases"]]
        return ask(worker, **request)

    monkeypatch.setattr(Worker, "ask", noted)
    with workers(["faiss_flat"], tmp_path, 1) as started:
        started[0].settings = [{}, {"second": True}]
        measured(data, started, 2)
    filters = [case[1:] for case in asked["new"]]
    assert len(asked["new"]) == 2 * 2 * (QUERIES + 5)
    assert len(set(filters)) > 0.9 * len(filters)  # by chance some are equal
    assert len({case[1:] for case in asked["known"]}) == 2


def test_engines_apart_are_each_built_alone_and_compared_together(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = []

    @contextlib.contextmanager
    def noted(names: Sequence[str], folder: Path, threads: int) -> Iterator[list[Worker]]:
        alone.append(list(names))
        with workers(names, folder, threads) as started:
            if names == ["bitsift_shard"]:
                started[0].filters = False  # as an engine without fields
            yield started

    monkeypatch.setattr(f"{run.__module__}.workers", noted)
    found = run(data, ["faiss_flat", "bitsift_shard"], 1, 1, apart=True)
    assert alone == [["faiss_flat"], ["bitsift_shard"]]
    assert set(found["curves"]["plain"]) == {"faiss_flat", "bitsift_shard"}
    assert set(found["curves"]["1% new"]) == {"faiss_flat"}
    assert found["compared"]["plain"]["cheapest"]["faiss_flat"]["recall"] == 1
    assert found["engines"]["bitsift_shard"]["durable"]
    assert found["engines"]["bitsift_shard"]["disk_bytes"] > 0


def test_an_engine_that_ends_leaves_the_results_of_those_apart_from_it(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def killed(names: Sequence[str], folder: Path, threads: int) -> Iterator[list[Worker]]:
        with workers(names, folder, threads) as started:
            if names[0] == "faiss_hnsw":
                started[0].kill()
            yield started

    monkeypatch.setattr(f"{run.__module__}.workers", killed)
    found = run(data, ["faiss_hnsw", "faiss_flat"], 1, 1, apart=True)
    assert found["engines"]["faiss_hnsw"] == {"failed": True}
    assert set(found["curves"]["plain"]) == {"faiss_flat"}
    with pytest.raises(SystemExit, match="faiss_hnsw ended"):
        run(data, ["faiss_hnsw", "faiss_flat"], 1, 1, apart=False)


def test_wordnet_is_encoded_once_for_each_number_of_glosses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[Sequence[str]] = []

    class Encoder:
        def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
            encoded.append(texts)
            return np.eye(8, dtype=np.float32)[[len(text) % 8 for text in texts]]

        encode_documents = encode_queries

    first = encode_wordnet(tmp_path, 150, Encoder())
    assert encode_wordnet(tmp_path, 150, Encoder()) == first
    documents, titles = encoded
    assert len(documents) == 150
    assert len(titles) == QUERIES
    assert all(text.startswith(title) for text, title in zip(documents, titles, strict=False))
    assert encode_wordnet(tmp_path, 120, Encoder()) != first
    monkeypatch.setattr(peers_data, "MODEL", "another")
    encode_wordnet(tmp_path, 150, Encoder())
    assert [len(texts) for texts in encoded] == [150, QUERIES, 120, QUERIES, 150, QUERIES]
    (tmp_path / "data").mkdir()
    data = Data.wordnet(tmp_path / "data", first)
    assert (data.rows, data.dim) == (150, 8)


def test_a_plot_has_every_engine_and_the_same_result_makes_the_same_file(tmp_path: Path) -> None:
    def point(p50_ms: float, recall: float) -> dict[str, float]:
        return {"p50_ms": p50_ms, "recall": recall}

    result = {
        "dataset": "wordnet", "rows": 5_000, "dim": 384, "threads": 2, "recall_min": 0.98,
        "measured": "2026-11-30T00:00:00+00:00",
        "machine": {"processor": "one", "load_average": 0.5},
        "engines": {"bitsift_shard": {}, "other_peer": {}, "lost_one": {"failed": True}},
        "curves": {
            "plain": {"bitsift_shard": [point(2, 0.99), point(1, 0)], "other_peer": [point(1, 1)]},
            "1% new": {"bitsift_shard": [point(2, 0.99)]},
        },
    }  # fmt: skip
    files = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for file in files:
        plot(result, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    text = files[0].read_text()
    for said in ("bitsift shard", "other peer", "1% new filter", "wordnet, 5,000 x 384, 2 threads"):
        assert said in text
    assert "lost" not in text


def test_a_line_goes_through_what_no_faster_setting_equals() -> None:
    points = [{"p50_ms": ms, "recall": recall} for ms, recall in ((3, 1), (1, 0.9), (2, 0.8))]
    assert [it["p50_ms"] for it in best([*points, {"p50_ms": 4, "recall": 1}])] == [1, 3]


def test_the_cheapest_point_with_enough_recall_is_compared() -> None:
    def point(p50_ms: float, recall: float) -> dict[str, float]:
        return {"p50_ms": p50_ms, "recall": recall}

    curves = {
        "plain": {
            "bitsift_shard": [point(1, 0.9), point(2, 0.98), point(3, 0.99)],
            "one": [point(0.5, 0.97), point(4, 1.0)],
            "two": [point(0.1, 0.5)],
            "faiss_flat": [point(0.1, 1.0)],
            "bitsift_lists": [point(0.1, 1.0)],
        },
        "filtered": {"bitsift_shard": [point(1, 0.5)], "one": [point(1, 1.0)]},
    }
    found = compared(curves)
    assert found["plain"]["bitsift_over_fastest_peer"] == 0.5
    assert found["plain"]["cheapest"]["two"] is None
    assert found["filtered"]["bitsift_over_fastest_peer"] is None


def test_each_environment_is_pinned() -> None:
    environments = {it for it in ENGINES.values() if it is not None}
    assert {it.stem for it in REQUIREMENTS.glob("*.txt")} == environments
    for environment in environments:
        lines = (REQUIREMENTS / f"{environment}.txt").read_text().splitlines()
        assert all(len(line.split("==")) == 2 for line in lines), environment
    assert pinned(["bitsift_shard", "lancedb_ivf"]).keys() == {"lancedb"}
