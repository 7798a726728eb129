"""The comparison with peers: what is asked, what is counted, and that each is pinned."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers.__main__ import ENGINES, REQUIREMENTS, Data, compared, measured, workers
from bitsift.cluster.sources.synthetic import SyntheticSpec


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data.made(tmp_path_factory.mktemp("data"), SyntheticSpec(2_000, 32))


def test_an_exact_engine_finds_all_in_every_case(data: Data, tmp_path: Path) -> None:
    with workers(["faiss_flat"], tmp_path, 1) as started:
        found = measured(data, started, 2)
    assert list(found["curves"]) == ["plain", "1% known", "1% new", "0.01% known", "0.01% new"]
    for case in found["curves"].values():
        (point,) = case["faiss_flat"]
        assert point["recall"] == 1
        assert point["p50_ms"] > 0
    assert found["engines"]["faiss_flat"]["resident_bytes"] > 0


def test_a_row_that_does_not_pass_the_filter_ends_the_run(data: Data) -> None:
    (outside,) = (data.draws == 1_000).nonzero()[0].tolist()
    assert data.recall([0, 1_000, 1_001], [outside]) == 1
    with pytest.raises(AssertionError, match="do not pass"):
        data.recall([0, 0, 1_000], [outside])


def test_the_cheapest_point_with_enough_recall_is_compared() -> None:
    def point(p50_ms: float, recall: float) -> dict[str, float]:
        return {"p50_ms": p50_ms, "recall": recall}

    curves = {
        "plain": {
            "bitsift_shard": [point(1, 0.9), point(2, 0.98), point(3, 0.99)],
            "one": [point(0.5, 0.97), point(4, 1.0)],
            "two": [point(0.1, 0.5)],
            "faiss_flat": [point(0.1, 1.0)],
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
