"""A shard with an approximate index: training under way, modes, growth, restart; real files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitsift.errors import StorageFull
from bitsift.options import RECALL_MAX, RECALL_MIN, Mode, SearchOptions
from bitsift.shard_worker.bits import tuning
from bitsift.shard_worker.bits.index import BinaryIndex
from bitsift.shard_worker.bits.lists import LISTS_FILE
from bitsift.shard_worker.search import probing
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import (
    CANDIDATES_FIXED,
    Query,
    ShardSettings,
)
from tests.shard_worker.clustered import Clustered
from tests.writing import written

CLUSTERED = Clustered(128)
vectors, documents = CLUSTERED.vectors, CLUSTERED.documents
CALIBRATION, IDENTITY = CLUSTERED.calibration, CLUSTERED.identity
ALWAYS_PROBE = ShardSettings(exact_budget_ms=0.0)


def filled(folder: Path, rows: int, settings: ShardSettings = ALWAYS_PROBE) -> Shard:
    Shard.create(folder, IDENTITY)
    shard = Shard(folder, CALIBRATION, IDENTITY, settings)
    written(shard, documents(vectors(rows)))
    return shard


def rows_found(shard: Shard, query: np.ndarray, **options) -> list[int]:  # type: ignore[no-untyped-def]
    (found,) = shard.search([Query(SearchOptions(vector=query, candidates=40, **options))])
    return sorted(found.rows.tolist())


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The nprobe of every pass over the bits that the test makes; None for an exact scan."""
    seen: list[int | None] = []
    plain = BinaryIndex.search

    def watched(self, queries, count, nprobe=None, *more, **named):  # type: ignore[no-untyped-def]
        seen.append(nprobe)
        return plain(self, queries, count, nprobe, *more, **named)

    monkeypatch.setattr(BinaryIndex, "search", watched)
    return seen


def test_each_mode_scans_or_probes_as_it_says(tmp_path: Path, passes: list[int | None]) -> None:
    shard = filled(tmp_path / "shard", 3_000)
    query = vectors(1, 5)[0]
    shard.search([Query(SearchOptions(vector=query, mode=Mode.APPROXIMATE))])
    assert passes == [None]  # there are no lists yet: exact is better than nothing
    shard.train()
    status = shard.status()
    assert status.lists == 16
    assert status.clustered_rows == 3_000
    passes.clear()
    shard.search([Query(SearchOptions(vector=query, mode=Mode.EXACT))])
    shard.search([Query(SearchOptions(vector=query, mode=Mode.AUTO))])
    shard.search([Query(SearchOptions(vector=query, mode=Mode.APPROXIMATE, nprobe=3))])
    assert passes == [None, status.nprobe, 3]
    shard.close()


def test_while_new_lists_are_measured_they_are_scanned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = filled(tmp_path / "s", 2_000)
    query, found = vectors(1, 5)[0], list[list[int]]()
    plain = tuning.measure_curve

    def choose(*arguments):  # type: ignore[no-untyped-def]
        found.append(rows_found(shard, query, mode=Mode.APPROXIMATE))
        return plain(*arguments)

    monkeypatch.setattr(probing, "measure_curve", choose)
    shard.train()
    assert found == [rows_found(shard, query, mode=Mode.EXACT)]
    shard.close()


def test_auto_scans_while_the_scan_is_affordable(tmp_path: Path, passes: list[int | None]) -> None:
    shard = filled(tmp_path / "shard", 3_000, ShardSettings(exact_budget_ms=50.0))
    shard.train()
    assert 0 < shard.exact_scan_ms < 50
    passes.clear()
    shard.search([Query(SearchOptions(vector=vectors(1, 5)[0]))])
    assert passes == [None]
    shard.close()


def test_exact_answers_are_the_same_before_and_after_training(tmp_path: Path) -> None:
    shard = filled(tmp_path / "shard", 3_000)
    queries = vectors(20, 5)
    before = [rows_found(shard, query, mode=Mode.EXACT) for query in queries]
    shard.train()
    after = [rows_found(shard, query, mode=Mode.EXACT) for query in queries]
    shared = [len(set(a) & set(b)) / 40 for a, b in zip(before, after, strict=True)]
    assert np.mean(shared) > 0.99  # rows at the same distance as the last of the pool may change
    shard.close()


def test_the_default_nprobe_reaches_the_recall_it_was_chosen_for(tmp_path: Path) -> None:
    shard = filled(tmp_path / "shard", 6_000)
    shard.train()
    queries = vectors(100, 5)
    shared = [
        len(set(rows_found(shard, q, mode=Mode.EXACT)) & set(rows_found(shard, q))) / 40
        for q in queries
    ]
    assert np.mean(shared) > tuning.RECALL_TARGET - 0.02
    shard.close()


def test_a_search_may_ask_for_more_recall_and_visits_what_reached_it(
    tmp_path: Path, passes: list[int | None]
) -> None:
    shard = filled(tmp_path / "shard", 6_000)
    query = vectors(1, 5)[0]
    shard.train()
    kept = tuning.read_tuning(tmp_path / "shard", 6_000)
    assert kept is not None
    curve, _ = kept
    assert list(curve) == sorted(curve)
    assert max(curve.values()) >= RECALL_MAX
    passes.clear()
    for recall in (RECALL_MIN, 0.9, 0.985, RECALL_MAX):
        shard.search([Query(SearchOptions(vector=query, mode=Mode.APPROXIMATE, recall=recall))])
        visited = passes.pop()
        assert visited is not None
        assert visited == tuning.lists_for(curve, recall)
        assert visited <= min(lists for lists, found in curve.items() if found >= recall)
    shard.search([Query(SearchOptions(vector=query, mode=Mode.EXACT, recall=0.5))])
    assert passes.pop() is None
    shard.close()


def test_recall_that_no_measurement_reached_is_an_exact_scan(
    tmp_path: Path, passes: list[int | None]
) -> None:
    """As where an earlier release measured up to its target only."""
    shard = filled(tmp_path / "shard", 6_000)
    shard.train()
    shard.close()
    tuning.write_tuning(tmp_path / "shard", 6_000, {1: 0.7, 2: 0.986})
    shard = Shard(tmp_path / "shard", CALIBRATION, IDENTITY, ALWAYS_PROBE)
    assert shard.status().nprobe == 2
    query = vectors(1, 5)[0]
    passes.clear()
    for recall, visited in ((0.7, 1), (0.9, 2), (0.99, None)):
        shard.search([Query(SearchOptions(vector=query, mode=Mode.APPROXIMATE, recall=recall))])
        assert passes.pop() == visited
    shard.close()


def test_nprobe_and_recall_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="give one"):
        SearchOptions("a", nprobe=3, recall=0.9)


def test_rows_added_and_removed_after_training_are_seen_at_once(tmp_path: Path) -> None:
    shard = filled(tmp_path / "shard", 3_000)
    shard.train()
    new = vectors(10, 77)
    written(shard, documents(new, first=3_000))
    for place, vector in enumerate(new):
        assert 3_000 + place in rows_found(shard, vector, mode=Mode.APPROXIMATE, nprobe=1)
    written(shard, documents(new[:1], first=0))  # document 0 gets another vector
    assert 0 not in rows_found(shard, vectors(3_000)[0], mode=Mode.APPROXIMATE, nprobe=1)
    assert 0 not in rows_found(shard, vectors(3_000)[0], mode=Mode.EXACT)
    assert len(rows_found(shard, new[0], mode=Mode.APPROXIMATE, nprobe=1)) == 40
    shard.close()


def test_a_restarted_shard_has_its_lists_and_does_not_measure_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = filled(tmp_path / "shard", 3_000)
    shard.train()
    before, query = shard.status(), vectors(1, 5)[0]
    expected = rows_found(shard, query)
    shard.close()
    monkeypatch.setattr("bitsift.shard_worker.search.probing.measure_curve", None)
    shard = Shard(tmp_path / "shard", CALIBRATION, IDENTITY, ALWAYS_PROBE)
    assert shard.status().nprobe == before.nprobe
    assert shard.status().lists == before.lists
    assert rows_found(shard, query) == expected
    shard.close()


@pytest.mark.parametrize("damage", ["lists", "tuning"])
def test_damaged_lists_or_tuning_cost_no_answer(tmp_path: Path, damage: str) -> None:
    shard = filled(tmp_path / "shard", 3_000)
    query = vectors(1, 5)[0]
    expected = rows_found(shard, query, mode=Mode.EXACT)
    shard.train()
    shard.close()
    path = tmp_path / "shard" / {"lists": LISTS_FILE, "tuning": tuning.TUNING_FILE}[damage]
    path.write_bytes(path.read_bytes()[:-7])
    shard = Shard(tmp_path / "shard", CALIBRATION, IDENTITY, ALWAYS_PROBE)
    assert (shard.status().lists == 0) == (damage == "lists")
    assert len(set(expected) & set(rows_found(shard, query, mode=Mode.EXACT))) >= 39
    shard.close()


def test_a_shard_wants_training_when_it_is_large_and_again_when_it_has_grown(
    tmp_path: Path,
) -> None:
    shard = filled(tmp_path / "shard", 900, ShardSettings(train_rows_min=1_000))
    assert not shard.wants_training()
    written(shard, documents(vectors(200, 3), first=900))
    assert shard.wants_training()
    shard.train()
    assert not shard.wants_training()
    written(shard, documents(vectors(200, 4), first=1_100))
    assert shard.wants_training()
    shard.close()


def test_searches_and_writes_go_on_while_lists_are_made(tmp_path: Path) -> None:
    shard = filled(tmp_path / "shard", 3_000)
    reached, go_on = threading.Event(), threading.Event()
    plain: Callable[..., object] = shard._current.index.write_lists

    def blocked(*arguments: object) -> object:
        listed = plain(*arguments)
        reached.set()
        assert go_on.wait(30)
        return listed

    shard._current.index.write_lists = blocked  # type: ignore[method-assign,assignment]
    training = threading.Thread(target=shard.train)
    training.start()
    assert reached.wait(30)
    assert shard.status().training
    assert not shard.wants_training()
    new = vectors(5, 77)
    written(shard, documents(new, first=3_000))
    written(shard, documents(new[:1], first=7))
    assert 3_000 in rows_found(shard, new[0])
    go_on.set()
    training.join(30)
    assert shard.status().clustered_rows == 3_000
    assert 3_001 in rows_found(shard, new[1], nprobe=1)
    assert 7 not in rows_found(shard, vectors(3_000)[7], mode=Mode.EXACT)
    shard.close()


def test_a_full_disk_leaves_the_shard_answering_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = filled(tmp_path / "shard", 3_000)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bitsift.shard_worker.layout.os.fsync", full)
    with pytest.raises(StorageFull, match="approximate index was not built"):
        shard.train()
    assert shard.status().lists == 0
    assert len(rows_found(shard, vectors(1, 5)[0])) == 40
    shard.close()


def test_adaptive_reads_depend_on_the_query_and_fixed_ones_do_not(tmp_path: Path) -> None:
    shard = filled(tmp_path / "shard", 6_000)
    queries = vectors(30, 5)
    adaptive = [
        len(found)
        for found in shard.search([Query(SearchOptions(vector=query)) for query in queries])
    ]
    assert len(set(adaptive)) > 5
    assert min(adaptive) >= 20
    assert max(adaptive) <= 160
    fixed = shard.search(
        [Query(SearchOptions(vector=query, candidates=CANDIDATES_FIXED)) for query in queries]
    )
    assert {len(found) for found in fixed} == {CANDIDATES_FIXED}
    shard.close()
