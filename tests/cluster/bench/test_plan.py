"""Plans scaled from a run that is made up here: 10 million rows on 2 cores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bitsift.cluster.bench.plan import Measured, Plan, make_plan
from bitsift.errors import Corrupt, InvalidRequest, NotFound
from bitsift.shard_worker.bits.clustering import lists_for

ROWS, DIMENSION = 10_000_000, 1_024
RAM_PER_ROW = DIMENSION / 8 + 4 + 2 * lists_for(ROWS // 2) * DIMENSION / 8 / ROWS
RUN: dict[str, Any] = {
    "machine": {"cores": 2, "processor": "made up", "memory_gib": 24.0},
    "rows": ROWS,
    "dimension": DIMENSION,
    "shards": 2,
    "disk": {"codes": 1_032 * ROWS, "ids": 30 * ROWS, "free": 10 * ROWS},
    "build": {"documents_s": 40_000},
    "train": {"seconds": 300.0, "nprobe": [64, 32]},
    "candidates": {"shard_exact_p50_ms": 24.0, "shard_approximate_p50_ms": 1.5},
    "memory": {"by_phase": {"serve": {"total": round(1.0e9 + RAM_PER_ROW * ROWS)}}},
    "serve": {
        "exact_warm": {"p50_ms": 36.0},
        "approximate_warm": {"p50_ms": 6.0},
        "exact_warm_16_clients": {"queries_s": 50.0},
        "approximate_warm_16_clients": {"queries_s": 400.0},
        "recall_at_10": 0.99,
    },
}


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(RUN))
    return Measured.read(path)


def plan_of(measured: Measured, documents: int, shards: int | None = None) -> Plan:
    return make_plan(documents, DIMENSION, shards, None, measured)


def test_the_run_itself_is_planned_as_it_was_measured(measured: Measured) -> None:
    plan = plan_of(measured, ROWS)
    assert plan.shards == 2
    assert plan.exact_ms == pytest.approx(36.0)
    assert plan.approximate_ms == pytest.approx(6.0)
    assert plan.exact_queries_s == pytest.approx(50.0, rel=0.01)
    assert plan.approximate_queries_s == pytest.approx(400.0, rel=0.01)
    assert plan.build_s == 250.0
    assert plan.train_s == 300.0
    assert plan.ram_bytes_per_document == pytest.approx(RAM_PER_ROW, abs=0.01)


def test_exact_scans_grow_with_the_rows_and_the_overhead_does_not(measured: Measured) -> None:
    overhead = 6.0 - 1.5
    plan = plan_of(measured, 4 * ROWS)
    assert plan.exact_ms == pytest.approx(overhead + 4 * (36.0 - overhead))
    assert plan.approximate_ms < 2 * 6.0


def test_ram_is_that_of_the_processes_the_encoder_and_the_rows(measured: Measured) -> None:
    small, large = plan_of(measured, 1_000), plan_of(measured, 4 * ROWS)
    assert 1.2e9 < small.ram_bytes < 1.7e9
    rows = large.ram_bytes_per_document * 4 * ROWS
    assert large.ram_bytes - rows == pytest.approx(small.ram_bytes, rel=0.01)
    assert DIMENSION / 8 < large.ram_bytes_per_document < DIMENSION / 8 + 9


def test_disk_holds_codes_bits_lists_and_ids(measured: Measured) -> None:
    plan = plan_of(measured, 4 * ROWS)
    per_row = 1_032 + DIMENSION / 8 + 4 + 30 + 10
    assert per_row < plan.disk_bytes / (4 * ROWS) < per_row + 5


def test_shards_that_share_a_core_are_scanned_in_turns(measured: Measured) -> None:
    two, four = plan_of(measured, ROWS, 2), plan_of(measured, ROWS, 4)
    assert four.exact_ms == pytest.approx(two.exact_ms)
    assert any("4 shards share 2 cores" in note for note in four.notes)
    one = plan_of(measured, ROWS, 1)
    assert one.exact_ms > 1.8 * two.exact_ms


def test_an_index_larger_than_the_machine_is_told(measured: Measured) -> None:
    plan = plan_of(measured, 1_000_000_000)
    assert any("do not fit" in note for note in plan.notes)
    assert not any("do not fit" in note for note in plan_of(measured, 4 * ROWS).notes)


def test_a_model_here_says_how_wide_its_vectors_are(measured: Measured) -> None:
    assert make_plan(ROWS, None, None, None, measured).dimension == 384
    with pytest.raises(InvalidRequest, match="--dim"):
        make_plan(ROWS, None, None, "somebody/some-model", measured)


def test_a_run_that_was_cut_off_is_no_ground_for_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text(json.dumps({key: RUN[key] for key in RUN if key != "serve"}))
    with pytest.raises(Corrupt, match="not the result of a whole"):
        Measured.read(path)
    with pytest.raises(NotFound):
        Measured.read(tmp_path / "none.json")
