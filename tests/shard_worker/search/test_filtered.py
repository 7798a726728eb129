"""Filtered searches against brute force: the right rows, and as many as are due."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bitsift.errors import DeadlineExceeded
from bitsift.filters.forms import canonical
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.bits.index import BinaryIndex
from bitsift.shard_worker.codes import normalize
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.fields.bounds import Bounds
from bitsift.shard_worker.fields.kept import Known
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.search import filtered
from bitsift.shard_worker.search.adaptive import READS_MAX
from bitsift.shard_worker.search.filtered import (
    GATHERED_BYTES_MAX,
    Wants,
    _limited,
    _plan,
    passing,
)
from bitsift.shard_worker.search.reading import WIDER
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import Document, Plan, Query, ShardSettings
from tests.shard_worker.fields.labelled import found_by, labelled, node
from tests.shard_worker.small_shard import CALIBRATION, DIMENSION, new_shard, unit_vectors
from tests.threads import ended
from tests.writing import written

ROWS, TOP_K = 12_000, 10
UNITS = unit_vectors(ROWS, 1)
QUERIES = unit_vectors(6, 2)
FAR = np.argsort(UNITS @ QUERIES[0])
"""Rows by how far they are from the first query, the farthest first."""
SHARES = [1.0, 0.5, 0.1, 0.01, 0.001, 0.0001]
PROBING = ShardSettings(exact_budget_ms=0.0)


def said(row: int, rank: int) -> dict[str, object]:
    """``draw`` is even and independent of the vector, ``near`` the rank from the first query."""
    draw = (row * 7_919 + 13) % ROWS
    return {"draw": draw, "near": rank, "text": f"{draw} " + "x" * 130, "first": row < ROWS // 2}


DOCUMENTS = {
    str(row): said(row, rank) for rank, row in sorted(enumerate(FAR.tolist()), key=lambda it: it[1])
}
DEAD = set(map(str, range(0, ROWS, 7)))


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shard]:
    yield from filled(tmp_path_factory.mktemp("flat") / "shard", trained=False)


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shard]:
    yield from filled(tmp_path_factory.mktemp("listed") / "shard", trained=True)


def filled(folder: Path, *, trained: bool) -> Iterator[Shard]:
    """Most rows in segments of the field index, some in none, a seventh of all deleted."""
    shard = new_shard(folder, PROBING if trained else None)
    names = list(DOCUMENTS)
    for first in range(0, ROWS, 3_001):  # lists and segments that begin within a byte
        part = {name: DOCUMENTS[name] for name in names[first : first + 3_001]}
        written(shard, labelled(part, UNITS[first : first + 3_001]))
        if first == 3_001:
            shard.save_bits()
            if trained:
                shard.train()
    written(shard, Delete(sorted(DEAD)))
    yield shard
    shard.close()


@pytest.fixture(params=["flat", "listed"])
def shard(request: pytest.FixtureRequest) -> Shard:
    found: Shard = request.getfixturevalue(request.param)
    return found


def living(row: int) -> bool:
    return str(row) not in DEAD


def brute_force(query: np.ndarray, rows: list[int], count: int) -> list[int]:
    """The best of ``rows`` by their decoded int8 codes."""
    codes = CALIBRATION.quantize(UNITS[rows])[0]
    scores = CALIBRATION.scores(query, codes)
    return [rows[place] for place in np.lexsort((np.array(rows), -scores))[:count].tolist()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[list[int]], Shard]]:
    """Makes a shard of some rows alone, in the same order."""
    made: dict[tuple[int, ...], Shard] = {}

    def shard_of(rows: list[int]) -> Shard:
        key = tuple(rows)
        if key not in made:
            made[key] = new_shard(tmp_path_factory.mktemp("alone") / "shard")
            if rows:
                part = {str(row): DOCUMENTS[str(row)] for row in rows}
                written(made[key], labelled(part, UNITS[rows]))
        return made[key]

    yield shard_of
    for shard in made.values():
        shard.close()


def names_and_scores(shard: Shard, query: np.ndarray, **options: object) -> dict[str, float]:
    found, ids = found_by(shard, query, "id exists", mode=Mode.EXACT, **options)
    return dict(zip(ids, found.scores.tolist(), strict=True))


def check(shard: Shard, filter_: str, alone: Shard, rows: list[int], mode: Mode) -> set[Plan]:
    """Each query finds only rows that pass, all that are due, and what is found in a shard of
    only those, or more.
    """
    shares, plans = [], set()
    for query in QUERIES:
        found, ids = found_by(shard, query, filter_, top_k=TOP_K, mode=mode)
        got = dict(zip(ids, found.scores.tolist(), strict=True))
        assert {int(name) for name in ids} <= set(rows)
        assert len(got) == len(ids) >= min(TOP_K, len(rows))
        assert found.plan is not None
        assert found.plan.matching == len(rows)
        plans.add(found.plan.kind)
        if mode is Mode.EXHAUSTIVE:
            due = brute_force(query, rows, len(ids))
            assert [int(name) for name in ids] == due
            continue
        expected = names_and_scores(alone, query, top_k=TOP_K)
        if shard._current.index.listed is None:  # there, ties at the end of a pool go by position
            assert got.items() >= expected.items()
        best = sorted(expected, key=lambda name: -expected[name])[:TOP_K]
        shares.append(len(set(best) & set(got)) / max(1, len(best)))
    assert not shares or not rows or np.mean(shares) >= 0.9, shares
    return plans


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("mode", list(Mode))
def test_every_selectivity_has_its_full_answer(
    shard: Shard, alone: Callable[[list[int]], Shard], share: float, mode: Mode
) -> None:
    below = max(1, round(share * ROWS))
    rows = [r for r in range(ROWS) if living(r) and (r * 7_919 + 13) % ROWS < below]
    plans = check(shard, f"draw < {below}", alone(rows), rows, mode)
    if mode is Mode.EXHAUSTIVE:
        assert plans == {Plan.EXHAUSTIVE}
    elif len(rows) <= 160:
        assert plans == {Plan.DIRECT if rows else Plan.NONE}


@pytest.mark.parametrize("share", SHARES[1:])
@pytest.mark.parametrize("mode", list(Mode))
def test_matches_that_are_all_far_from_the_query_are_found(
    shard: Shard, alone: Callable[[list[int]], Shard], share: float, mode: Mode
) -> None:
    below = max(1, round(share * ROWS))
    rows = sorted(row for row in FAR[:below].tolist() if living(row))
    check(shard, f"near < {below}", alone(rows), rows, mode)


@pytest.mark.parametrize("mode", list(Mode))
def test_matches_that_are_one_half_of_the_rows_are_found(
    shard: Shard, alone: Callable[[list[int]], Shard], mode: Mode
) -> None:
    """Half of the segments have no row that passes."""
    rows = [row for row in range(ROWS // 2) if living(row)]
    check(shard, "first = true", alone(rows), rows, mode)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("digit", ["1", "11", "1111"])
def test_a_field_that_is_not_indexed_is_read_in_the_documents(
    shard: Shard, mode: Mode, digit: str
) -> None:
    rows = [r for r in range(ROWS) if living(r) and str((r * 7_919 + 13) % ROWS).startswith(digit)]
    for query in QUERIES[:2]:
        found, ids = found_by(shard, query, f"text prefix {digit!r}", mode=mode, top_k=TOP_K)
        assert len(ids) >= min(TOP_K, len(rows))
        assert {int(name) for name in ids} <= set(rows)
        assert found.plan is not None
        assert found.plan.matching >= len(rows)


def test_queries_of_one_call_have_a_filter_each(shard: Shard) -> None:
    filters = ["draw < 500", "draw >= 500", None, "draw < 500"]
    queries = [
        Query(SearchOptions(vector=QUERIES[0], filter=None if it is None else canonical(it)))
        for it in filters
    ]
    together = shard.search(queries)
    for query, found in zip(queries, together, strict=True):
        (alone,) = shard.search([query])
        assert found.rows.tolist() == alone.rows.tolist()
        assert found.plan == alone.plan
    assert together[2].plan is None


def test_fixed_candidates_are_as_many_as_are_asked_for(shard: Shard) -> None:
    found, _ = found_by(shard, QUERIES[0], "draw < 3000", candidates=40)
    assert len(found) == 40
    found, _ = found_by(shard, QUERIES[0], "draw < 40", candidates=400)
    assert len(found) == len([r for r in range(ROWS) if living(r) and (r * 7_919 + 13) % ROWS < 40])


def test_a_filtered_search_ends_at_its_deadline(shard: Shard) -> None:
    options = SearchOptions(vector=QUERIES[0], filter=canonical("text prefix zz"))
    (found,) = shard.answers([Query(options, deadline=Deadline.after(0.02))])
    assert isinstance(found, DeadlineExceeded)


def test_what_passes_can_be_counted(shard: Shard) -> None:
    with shard._current.reading() as generation:
        parts, bits = passing(generation, node("draw < 700"), lambda: None)
    rows = [r for r in range(ROWS) if living(r) and (r * 7_919 + 13) % ROWS < 700]
    assert parts.only(bits).living == len(rows)


def test_each_plan_is_chosen_where_it_is_cheapest(listed: Shard) -> None:
    parts = listed._current.index.moment()
    assert parts.listed is not None
    exact, near = Wants(800, 6_400, None, 160), Wants(800, 6_400, 1, 160)

    def plan(passing: int, wants: Wants = exact, row_bytes: int = 4) -> Plan:
        return _plan(parts, passing, row_bytes, wants)[0]

    assert plan(0) is Plan.NONE
    assert plan(160) is Plan.DIRECT
    assert plan(161) is Plan.GATHER
    assert plan(ROWS // 16) is Plan.GATHER
    assert plan(ROWS // 16, row_bytes=GATHERED_BYTES_MAX // (ROWS // 16)) is Plan.GATHER
    assert plan(ROWS // 16, row_bytes=GATHERED_BYTES_MAX // (ROWS // 16) + 1) is Plan.SCAN
    assert plan(ROWS // 16 + 1) is Plan.SCAN
    assert plan(ROWS * 9 // 10, near) is Plan.PROBE
    assert plan(ROWS // 50, near) is Plan.GATHER


@pytest.mark.parametrize("plan", [Plan.GATHER, Plan.SCAN])
def test_all_ways_find_the_same(flat: Shard, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [found_by(flat, query, "draw < 4000")[0] for query in QUERIES]
    monkeypatch.setattr(filtered, "_plan", lambda *_: (plan, 0))
    for query, expected in zip(QUERIES, before, strict=True):
        found, _ = found_by(flat, query, "draw < 4000")
        assert found.plan is not None
        assert found.plan.kind is plan
        assert found.rows.tolist() == expected.rows.tolist()
        assert found.hamming_ranks.tolist() == expected.hamming_ranks.tolist()


@pytest.mark.parametrize(("share", "least"), [(0.5, 0.6), (0.1, 0.99)])
def test_of_matches_that_are_all_far_from_the_query_more_codes_are_read(
    flat: Shard, share: float, least: float
) -> None:
    """Their scores lie close together: what suffices for the nearest of all finds fewer of them."""
    below, shares, reads = round(share * ROWS), [], []
    rows = sorted(row for row in FAR[:below].tolist() if living(row))
    noise = np.random.default_rng(3).standard_normal((6, DIMENSION)).astype(np.float32)
    for query in normalize(QUERIES[:1] + 0.05 * noise, DIMENSION):
        found, ids = found_by(flat, query, f"near < {below}", top_k=TOP_K)
        scores = CALIBRATION.scores(query, found.codes)
        assert found.scores.tolist() == scores.tolist()
        order = np.lexsort((found.rows, -found.estimates))
        assert order.tolist() == list(range(len(found))), "best estimate first"
        due = brute_force(query, rows, TOP_K)
        shares.append(len(set(map(str, due)) & set(ids)) / TOP_K)
        reads.append(len(found))
    assert READS_MAX < np.mean(reads) <= max(reads) <= WIDER * READS_MAX
    assert np.mean(shares) >= least, shares


def test_bits_of_a_search_are_and_ed_with_who_is_alive() -> None:
    index = BinaryIndex(4, "00000000-0000-0000-0000-000000000001")
    bits = np.random.default_rng(0).integers(0, 256, (100, 4), dtype=np.uint8)
    index.add(bits)
    index.mark_dead(np.arange(0, 100, 3))
    only = np.packbits(np.arange(100) % 2 == 0, bitorder="little")
    limited = index.moment().only(only)
    expected = [row for row in range(100) if row % 2 == 0 and row % 3]
    assert limited.living == len(expected)
    assert limited.living_slots().tolist() == expected
    (pool,) = index.search(bits[:1], 100, parts=limited)
    assert sorted(pool.rows.tolist()) == expected
    (gathered,) = index.search_gathered(bits[:1], 100, limited)
    assert gathered.rows.tolist() == pool.rows.tolist()
    assert index.moment().living == 66


def test_a_search_sees_filter_and_vector_of_one_version(tmp_path: Path) -> None:
    """A document changes both at once; whoever finds it by its new label finds its new vector."""
    shard = new_shard(tmp_path / "shard")
    sides = {"left": unit_vectors(1, 11)[0], "right": unit_vectors(1, 12)[0]}
    others = {f"o{n}": {"side": "none"} for n in range(200)}
    written(shard, labelled(others, unit_vectors(200, 13)))
    stop, seen, turns = threading.Event(), [], 0

    def write() -> None:
        while not stop.is_set():
            for side, vector in sides.items():
                written(shard, labelled({"x": {"side": side}}, vector[None]))

    written(shard, labelled({"x": {"side": "left"}}, sides["left"][None]))
    thread = threading.Thread(target=write)
    thread.start()
    try:
        for turns in range(300):
            if turns % 50 == 0:
                shard.save_bits()
            for side, vector in sides.items():
                found, _ = found_by(shard, vector, f"side = {side}")
                assert len(found) <= 1
                if len(found):
                    seen.append(float(found.scores[0]))
                    (document,) = shard.documents(found.origin, found.rows.tolist())
                    assert isinstance(document, Document)
                    assert document.metadata == {"side": side}
            both, _ = found_by(shard, sides["left"], "side in [left, right]")
            assert len(both) == 1, "one version, never none or both"
    finally:
        stop.set()
        ended(thread)
        shard.close()
    assert min(seen) > 0.95
    assert len(seen) > 100


def test_what_was_kept_of_a_filter_is_not_of_an_earlier_moment(tmp_path: Path) -> None:
    """Rows die, come, and are grouped into lists between searches with one filter."""
    shard = new_shard(tmp_path / "shard", PROBING)
    names = list(map(str, range(3_000)))

    def write(some: list[str]) -> None:
        rows = list(map(int, some))
        written(shard, labelled({name: {"n": int(name) % 3} for name in some}, UNITS[rows]))

    def check(living: set[str]) -> None:
        wanted = {name for name in living if int(name) % 3}
        for _ in range(2):
            _, ids = found_by(shard, QUERIES[0], "n > 0", mode=Mode.EXHAUSTIVE, top_k=1_000)
            _, exact = found_by(shard, QUERIES[0], "n > 0", mode=Mode.EXACT, candidates=1_000)
            assert set(ids) <= wanted
            assert set(exact) <= wanted
            assert len(exact) == min(1_000, len(wanted))

    write(names[:1_000])
    check(set(names[:1_000]))
    written(shard, Delete(names[:900]))
    check(set(names[900:1_000]))
    write(names[1_000:2_000])
    check(set(names[900:2_000]))
    shard.save_bits()
    shard.train()
    check(set(names[900:2_000]))
    written(shard, Delete(names[900:1_900]))
    check(set(names[1_900:2_000]))
    write(names[2_000:])
    check(set(names[1_900:]))
    shard.close()


def test_what_was_kept_of_a_filter_is_not_of_other_lists(tmp_path: Path) -> None:
    """All rows live before and after: that they lie in another order is all that changes."""
    index = BinaryIndex(8, "00000000-0000-0000-0000-000000000001")
    bits = np.random.default_rng(0).integers(0, 256, (600, 8), dtype=np.uint8)
    index.add(bits)
    even = np.packbits(np.arange(600) % 2 == 0, bitorder="little")
    known = Known(Bounds.exactly(even, 600))
    for lists in (4, 9):
        folder = tmp_path / str(lists)
        folder.mkdir()
        index.adopt(index.write_lists(folder, lists), np.empty(0, dtype=np.int64))
        for _ in range(2):
            limited = _limited(index.moment(), known)
            (pool,) = index.search(bits[:1], 600, parts=limited)
            assert sorted(pool.rows.tolist()) == list(range(0, 600, 2))
