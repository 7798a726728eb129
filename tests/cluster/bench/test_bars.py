from __future__ import annotations

from bitsift.cluster.bench.bars import BARS, large_figures, verdicts


def test_a_figure_at_its_bar_meets_it_and_one_beyond_does_not() -> None:
    met = verdicts({"shard_over_faiss": 1.3, "batch_gain": 3.0}, 1_024)
    missed = verdicts({"shard_over_faiss": 1.31, "batch_gain": 2.99}, 1_024)
    assert all(row["met"] for row in met.values())
    assert not any(row["met"] for row in missed.values())


def test_bars_of_a_row_grow_with_the_dimension() -> None:
    figures = {"ram_bytes_per_row": 129.0, "disk_bytes_per_row": 1_221.0}
    assert all(row["met"] for row in verdicts(figures, 1_024).values())
    assert not any(row["met"] for row in verdicts(figures, 384).values())


def test_what_was_not_measured_has_no_verdict() -> None:
    assert verdicts({"batch_gain": None, "queries_s_1_client": 5.0}, 1_024) == {}


def test_a_large_run_that_was_cut_off_has_the_figures_it_came_to() -> None:
    phases = {"train": {"seconds": 7.5}, "memory": {"peak": {"total": 2_500_000_000}}}
    found = verdicts(large_figures(phases, 10_000_000), 1_024)
    assert {key: row["value"] for key, row in found.items()} == {"train_s": 7.5, "memory_gb": 2.5}


def test_every_figure_of_a_large_run_has_a_bar() -> None:
    assert set(large_figures({}, 1)) <= set(BARS)


def test_training_more_rows_than_the_bar_is_meant_for_is_not_held_against_it() -> None:
    phases = {"train": {"seconds": 2_000.0}}
    assert verdicts(large_figures(phases, 40_000_000), 1_024) == {}
    assert not verdicts(large_figures(phases, 10_000_000), 1_024)["train_s"]["met"]
