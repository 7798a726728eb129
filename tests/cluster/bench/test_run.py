"""The benchmarks at a size where they measure nothing but themselves: real shards, Ray and HTTP."""

from __future__ import annotations

import json
import xml.etree.ElementTree
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitsift.cluster.bench.bars import BARS
from bitsift.cluster.bench.candidates import WAYS
from bitsift.cluster.bench.disk import disk_use
from bitsift.cluster.bench.index import abstracts, glosses, raw_bits, write_index
from bitsift.cluster.bench.large import LargeRun, check_space, measure_large
from bitsift.cluster.bench.machine import write_result
from bitsift.cluster.bench.plots import plot_bars, plot_large
from bitsift.cluster.bench.run import GROUPS, BenchRequest, groups_of, run_bench
from bitsift.cluster.cli.main import app
from bitsift.cluster.manifest import open_manifest
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.errors import InvalidRequest, StorageFull
from bitsift.options import Mode, SearchOptions

CRANFIELD_LIKE = "a word " * 60


def test_keys_and_groups_name_what_is_measured() -> None:
    assert groups_of([]) == tuple(GROUPS)
    assert groups_of(["encode_gain", "shard"]) == ("shard", "encode")
    assert groups_of(["text,batch_gain"]) == ("cluster", "text")
    with pytest.raises(InvalidRequest, match="there is no 'speed'"):
        groups_of(["speed"])


def test_every_key_of_a_group_has_a_bar() -> None:
    assert {key for keys in GROUPS.values() for key in keys} <= set(BARS)


def test_texts_have_the_length_that_is_promised(tmp_path: Path) -> None:
    assert all(120 <= len(text.split()) <= 250 for text in abstracts(50))
    lines = [json.dumps({"_id": "1", "text": "too short"}), json.dumps({"text": CRANFIELD_LIKE})]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    assert abstracts(3, tmp_path) == [CRANFIELD_LIKE] * 3
    assert len(set(glosses(1_000))) > 900


def test_raw_faiss_is_given_the_bits_that_the_shard_has(tmp_path: Path) -> None:
    from bitsift.cluster.bench.candidates import open_shard
    from bitsift.cluster.bench.shard import raw_index
    from bitsift.cluster.sources.synthetic import synthetic_queries
    from bitsift.shard_worker.types import Query

    spec = SyntheticSpec(5_000, 64)
    manifest = write_index(tmp_path / "index", spec)
    flat = raw_index(raw_bits(manifest, spec, spec.rows))
    assert flat.ntotal == spec.rows
    units = manifest.calibration.units(synthetic_queries(spec, 3))
    nearest, _ = flat.search(manifest.calibration.query_bits(units), 1)
    shard = open_shard(tmp_path / "index", manifest, 0)
    found = shard.search(
        [Query(SearchOptions(vector=unit, candidates=400, mode=Mode.EXACT)) for unit in units]
    )
    shard.close()
    assert [int(f.distances[f.hamming_ranks == 1][0]) for f in found] == nearest[:, 0].tolist()


def test_the_shard_beside_faiss_and_the_bytes_of_a_row(tmp_path: Path) -> None:
    request = BenchRequest(("shard", "approximate"), rows=3_000, dimension=64)
    lines: list[str] = []
    result = write_result(tmp_path / "bench.json", run_bench(request, lines.append))
    assert set(result["bars"]) == {*GROUPS["shard"], *GROUPS["approximate"]}
    # Of 3,000 rows a third wait in the tail, one by one, each with its version.
    assert result["figures"]["disk_bytes_per_row"] < 1.25 * (64 + 64 / 8) + 8
    assert result["figures"]["recall_candidates"] > 0.9
    plot_bars(result, tmp_path / "bench.svg")
    xml.etree.ElementTree.parse(tmp_path / "bench.svg")
    assert any(line.startswith("approximate: recall_candidates") for line in lines)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[LargeRun, Path, list[str]]:
    """One whole run of 20,000 rows, whose index is kept."""
    folder = tmp_path_factory.mktemp("large")
    run = LargeRun(SyntheticSpec(20_000, 64), 2, folder, queries=8, keep=True)
    lines: list[str] = []
    measure_large(run, lines.append, folder / "results" / "large.json")
    return run, folder / "results" / "large.json", lines


def test_a_large_index_is_measured_through_all_its_phases(
    large: tuple[LargeRun, Path, list[str]], tmp_path: Path
) -> None:
    run, path, _ = large
    result = json.loads(path.read_text())
    assert result["complete"] is True
    assert result["build"]["documents"] == 20_000
    assert min(result["train"]["lists"]) > 1
    served = result["serve"]
    assert served["lost"] == 0, served["failure"]
    assert served["asked"] == len(WAYS) * (2 + 3 * 8)
    assert served["recall_at_10_by_way"].keys() == WAYS.keys()
    assert served["recall_at_10_by_way"]["exact"] == 1.0
    assert result["candidates"]["recall_by_way"]["exact"] == 1.0
    assert served["exact_warm_16_clients"]["queries_s"] > 0
    assert {"build", "train", "candidates", "serve"} <= result["memory"]["by_phase"].keys()
    assert result["disk"]["total"] == disk_use(run.index)["total"]
    plot_large(result, tmp_path / "large.svg")
    xml.etree.ElementTree.parse(tmp_path / "large.svg")


def test_the_figures_of_a_large_run_are_ground_for_a_plan(
    large: tuple[LargeRun, Path, list[str]],
) -> None:
    _, path, _ = large
    done = CliRunner().invoke(
        app, ["plan", "--documents", "20k", "--dim", "64", "--from", str(path), "--json"]
    )
    assert done.exit_code == 0, done.output
    planned, result = json.loads(done.stdout), json.loads(path.read_text())
    assert planned["exact_ms"] == pytest.approx(result["serve"]["exact_warm"]["p50_ms"], rel=0.25)
    assert planned["disk_bytes"] == pytest.approx(result["disk"]["without_texts"], rel=0.25)


def test_a_plan_can_be_made_before_anything_is_measured() -> None:
    done = CliRunner().invoke(app, ["plan", "--documents", "40M", "--dim", "1024"])
    assert done.exit_code == 0, done.output
    assert "40,000,000 x 1024" in done.stdout
    assert "measured on" in done.stdout


def test_a_finished_build_is_used_again_and_keeps_its_figures(
    large: tuple[LargeRun, Path, list[str]],
) -> None:
    run, path, _ = large
    before = json.loads(path.read_text())
    uuid = open_manifest(run.index)[0].uuid
    lines: list[str] = []
    none_later = LargeRun(run.corpus, run.shards, run.folder, 8, time_limit_s=0, keep=True)
    result = measure_large(none_later, lines.append, path)
    assert result["complete"] is False
    assert any("the time limit has passed" in line for line in lines)
    assert result["build"] == before["build"]
    assert open_manifest(run.index)[0].uuid == uuid


def test_a_disk_that_is_too_small_is_told_before_anything_is_built(tmp_path: Path) -> None:
    run = LargeRun(SyntheticSpec(10**12), 2, tmp_path / "large")
    with pytest.raises(StorageFull, match=r"1,000,000,000,000 rows .* need .* GiB more"):
        check_space(run)
    assert not run.index.exists()
