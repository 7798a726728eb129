"""Long work looks at its deadline between steps, and stops for what nobody waits for."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsift.errors import DeadlineExceeded
from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.bits import hamming
from bitsift.shard_worker.bits.hamming import ListScanner, nearest
from bitsift.shard_worker.deadline import WAITED_MAX_S, Deadline, arrived, sent_now, still_open
from bitsift.shard_worker.search.exhaustive import _Best
from bitsift.shard_worker.search.funnel import QUERIES_PER_PASS
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.row_reader import RowReader
from bitsift.shard_worker.types import Candidates, Query, Read
from tests.shard_worker.small_shard import batch, new_shard, unit_vectors, vector_of

ROWS = 1_500
"""Fewer than fill a block of codes: each is read by itself."""


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shard]:
    made = new_shard(tmp_path_factory.mktemp("deadlines") / "shard")
    ids = [str(number) for number in range(ROWS)]
    made.write([batch(ids, [f"text {name}" for name in ids])])
    yield made
    made.close()


class StopsAfter:
    """A check that raises when it is asked for the ``left + 1``-th time."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self) -> None:
        if self.left == 0:
            raise DeadlineExceeded("the test's")
        self.left -= 1


class OpenFor(Deadline):
    """A deadline that is over when it is looked at for the ``looks + 1``-th time."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def is_open(self) -> bool:
        self.looks -= 1
        return self.looks >= 0


def some_bits(rows: int, row_bytes: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (rows, row_bytes), dtype=np.uint8)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 500),
    queries=st.integers(1, 9),
    count=st.sampled_from([1, 5, 63, 64, 100, 600]),
    step_bytes=st.integers(1, 4_000),
    seed=st.integers(0, 1_000),
    some_dead=st.booleans(),
)
def test_a_scan_in_steps_finds_what_one_step_finds(
    rows: int, queries: int, count: int, step_bytes: int, seed: int, some_dead: bool
) -> None:
    bits, asked = some_bits(rows, 8, seed), some_bits(queries, 8, seed + 1)
    alive = some_bits(1, -(-rows // 8), seed + 2)[0] if some_dead else None
    whole = nearest(bits, asked, count, alive)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hamming, "STEP_BYTES_MAX", step_bytes)
        deadlines = [OpenFor(1_000_000) for _ in asked]
        parts = nearest(bits, asked, count, alive, deadlines)
    np.testing.assert_array_equal(parts[1] < 0, whole[1] < 0)
    found = whole[1] >= 0
    np.testing.assert_array_equal(parts[0][found], whole[0][found])
    np.testing.assert_array_equal(parts[1], whole[1])
    steps = 1_000_000 - deadlines[0].looks
    assert steps >= rows * queries * 8 // max(step_bytes, 8 * 8 * queries) // queries


@settings(max_examples=40)
@given(
    st.integers(8, 300), st.integers(1, 6), st.integers(1, 8), st.integers(1, 999), st.integers(0)
)
def test_a_probe_in_steps_finds_what_one_step_finds(
    rows: int, queries: int, nprobe: int, step_bytes: int, seed: int
) -> None:
    bits, asked = some_bits(rows, 8, seed), some_bits(queries, 8, seed + 1)
    random = np.random.default_rng(seed)
    ends = np.sort(random.integers(0, rows, 7))
    scanner = ListScanner(bits, np.array([0, *ends, rows], dtype=np.int64))
    lists = np.stack([random.permutation(8)[:nprobe] for _ in range(queries)]).astype(np.int64)
    whole = scanner.nearest(asked, lists, rows)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hamming, "STEP_BYTES_MAX", step_bytes)
        parts = scanner.nearest(asked, lists, rows, deadlines=[Deadline() for _ in asked])
    for one, other in zip(parts[1], whole[1], strict=True):
        assert set(one.tolist()) == set(other.tolist())
    found = whole[1] >= 0
    np.testing.assert_array_equal(parts[0][found], whole[0][found])


def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What is compared from here on, call by call: rows, and queries that they share."""
    kernel, calls = hamming._all_at_once, []

    def watched(bits, queries, *arguments):  # type: ignore[no-untyped-def]
        calls.append((len(bits), len(queries)))
        return kernel(bits, queries, *arguments)

    monkeypatch.setattr(hamming, "_all_at_once", watched)
    return calls


def test_a_scan_ends_at_the_step_before_which_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hamming, "STEP_BYTES_MAX", 800)
    calls = compared(monkeypatch)
    nearest(some_bits(1_000, 8, 0), some_bits(1, 8, 1), 100, None, [OpenFor(4)])
    assert [rows for rows, _ in calls] == [96, 96, 96, 96]


def test_a_query_that_is_given_up_costs_the_shared_scan_no_further_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other queries of the pass find what they find alone."""
    monkeypatch.setattr(hamming, "STEP_BYTES_MAX", 8 * 8 * 200)
    bits, queries = some_bits(1_000, 8, 0), some_bits(8, 8, 1)
    alone = [nearest(bits, queries[place : place + 1], 100) for place in range(8)]
    calls = compared(monkeypatch)
    deadlines = [OpenFor(looks) for looks in (99, 1, 1, 99, 2, 0, 99, 1)]
    distances, positions = nearest(bits, queries, 100, None, deadlines)
    assert calls == [(200, 7), (200, 4), (200, 3), (200, 3), (200, 3)]
    for place in (0, 3, 6):
        np.testing.assert_array_equal(distances[place], alone[place][0][0])
        np.testing.assert_array_equal(positions[place], alone[place][1][0])


def test_a_query_that_is_given_up_is_left_out_of_the_lists_that_are_still_to_visit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bits, queries = some_bits(400, 8, 0), some_bits(3, 8, 1)
    scanner = ListScanner(bits, np.arange(0, 401, 50, dtype=np.int64))
    lists = np.tile(np.arange(8, dtype=np.int64), (3, 1))
    monkeypatch.setattr(hamming, "STEP_BYTES_MAX", 8 * 50 * 3)
    probed, plain = [], ListScanner._all_at_once

    def watched(self, asked, visited, *arguments):  # type: ignore[no-untyped-def]
        probed.append(visited.shape)
        return plain(self, asked, visited, *arguments)

    whole = scanner.nearest(queries, lists, 100)
    monkeypatch.setattr(ListScanner, "_all_at_once", watched)
    deadlines = [OpenFor(99), OpenFor(1), OpenFor(0)]
    distances, _ = scanner.nearest(queries, lists, 100, deadlines=deadlines)
    assert sum(queries * lists for queries, lists in probed) == 8 + 3
    np.testing.assert_array_equal(distances[0], whole[0][0])


def test_each_query_of_a_call_has_its_own_deadline(shard: Shard) -> None:
    late, left, patient = Deadline.after(-1.5), Deadline.after(60), Deadline.after(60)
    left.cancel()
    for mode in Mode:
        queries = [
            Query(SearchOptions(vector=vector_of(f"text {place}"), mode=mode), deadline=deadline)
            for place, deadline in enumerate((late, patient, left))
        ]
        first, good, last = shard.answers(queries)
        assert isinstance(first, DeadlineExceeded)
        late_s = re.search(r"stopped ([\d.]+) s after", first.message)
        assert late_s is not None
        assert float(late_s[1]) >= 1.5
        assert isinstance(last, DeadlineExceeded)
        assert "nobody is waiting" in last.message
        assert isinstance(good, Candidates)
        (alone,) = shard.search([Query(SearchOptions(vector=vector_of("text 1"), mode=mode))])
        np.testing.assert_array_equal(good.rows, alone.rows)
        with pytest.raises(DeadlineExceeded):
            shard.search(queries)


def test_what_is_given_up_while_others_are_searched_is_not_begun(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines = [Deadline.after(60) for _ in range(3 * QUERIES_PER_PASS)]
    passes = []
    index = shard._current.index
    plain = index.search

    def watched(bits, *arguments, **named):  # type: ignore[no-untyped-def]
        passes.append(len(bits))
        for deadline in deadlines[QUERIES_PER_PASS : 3 * QUERIES_PER_PASS - 1]:
            deadline.cancel()
        return plain(bits, *arguments, **named)

    monkeypatch.setattr(index, "search", watched)
    found = shard.answers(
        [Query(SearchOptions(vector=unit_vectors(1)[0]), deadline=d) for d in deadlines]
    )
    assert passes == [QUERIES_PER_PASS, 1]
    kinds = [isinstance(answer, Candidates) for answer in found]
    assert kinds == [True] * QUERIES_PER_PASS + [False] * (2 * QUERIES_PER_PASS - 1) + [True]


def test_an_exhaustive_search_stops_at_the_next_block_when_it_is_given_up(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another thread, as a shard's actor is told."""
    deadline, reached, blocks = Deadline.after(60), threading.Event(), []
    plain = RowReader.scan_codes

    def watched(self, first, rows):  # type: ignore[no-untyped-def]
        for block in plain(self, first, rows):
            blocks.append(block[0])
            if len(blocks) == 2:
                reached.set()
                assert left.wait(10)
            yield block

    left = threading.Event()

    def client() -> None:
        reached.wait(10)
        deadline.cancel()
        left.set()

    monkeypatch.setattr(RowReader, "scan_codes", watched)
    monkeypatch.setattr(shard._current.store.reader, "block_rows", 300)
    threading.Thread(target=client).start()
    query = Query(SearchOptions(vector=unit_vectors(1)[0], mode=Mode.EXHAUSTIVE), deadline=deadline)
    (answer,) = shard.answers([query])
    assert reached.is_set()
    assert isinstance(answer, DeadlineExceeded)
    assert len(blocks) == 2


def test_of_exhaustive_queries_that_share_a_pass_one_that_is_given_up_is_scored_no_further(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines = [Deadline.after(60) for _ in range(8)]
    scored, plain = [], _Best.add

    def watched(self, scores, rows):  # type: ignore[no-untyped-def]
        scored.append(deadlines.index(self.query.deadline))
        if len(scored) == 8:  # the end of the first block
            for deadline in deadlines[2:]:
                deadline.cancel()
        plain(self, scores, rows)

    monkeypatch.setattr(_Best, "add", watched)
    monkeypatch.setattr(shard._current.store.reader, "block_rows", 300)
    options = SearchOptions(vector=unit_vectors(1)[0], mode=Mode.EXHAUSTIVE)
    queries = [Query(options, deadline=deadline) for deadline in deadlines]
    answers = shard.answers(queries)
    assert scored == [*range(8), *[0, 1] * (ROWS // 300 - 1)]
    assert [isinstance(answer, Candidates) for answer in answers] == [True] * 2 + [False] * 6


def test_reading_documents_stops_at_the_deadline(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadline, read = Deadline.after(60), []
    plain = RowReader._body

    def watched(self, txn, row):  # type: ignore[no-untyped-def]
        read.append(row)
        if len(read) == 5:
            deadline.cancel()
        return plain(self, txn, row)

    monkeypatch.setattr(RowReader, "_body", watched)
    origin = shard.origin
    first, second = shard.read_each(
        [Read(origin, range(100), deadline=deadline), Read(origin, [7])]
    )
    assert isinstance(first, DeadlineExceeded)
    assert len(read) == 6
    assert isinstance(second, list)


def test_reading_codes_from_a_slow_disk_stops_at_the_deadline(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitsift.shard_worker.store import block_reader as blocks

    monkeypatch.setattr(blocks, "SLOW_READ_S", -1.0)  # every read counts as slow
    rows = np.arange(ROWS, dtype=np.int64)
    held = shard._current.store.reader
    with pytest.raises(DeadlineExceeded):
        held.read_codes(rows, StopsAfter(2))
    codes, intact = held.read_codes(rows, StopsAfter(1_000))
    assert intact.all()
    assert len(codes) == ROWS


def test_one_of_several_attempts_is_given_up_alone_and_all_with_their_question() -> None:
    question = Deadline.after(60.0)
    first, second = question.branch(), question.branch()
    assert first.at_s == question.at_s
    first.cancel()
    assert [it.is_open() for it in (question, first, second)] == [True, False, True]
    question.cancel()
    assert not second.is_open()
    assert not question.branch().is_open()


def test_a_deadline_tells_its_listeners_once() -> None:
    told: list[str] = []
    deadline = Deadline.after(60)
    deadline.on_cancel(lambda: told.append("first"))
    forgotten = lambda: told.append("forgotten")  # noqa: E731
    deadline.on_cancel(forgotten)
    deadline.forget(forgotten)
    deadline.cancel()
    deadline.cancel()
    deadline.on_cancel(lambda: told.append("late"))
    assert told == ["first", "late"]
    several = [deadline, Deadline(), Deadline.after(-1), Deadline.after(60)]
    assert still_open(several).tolist() == [1, 3]


def test_a_message_that_seems_to_have_waited_for_longer_than_any_is_as_if_it_came_at_once() -> None:
    boot, now_s = sent_now()
    for waited_s, left_s in ((WAITED_MAX_S - 1, 1_000 - WAITED_MAX_S), (WAITED_MAX_S + 1, 1_000)):
        found = arrived(1_000.0, (boot, now_s - waited_s)).remaining_s()
        assert left_s - 60 < found < left_s + 2
