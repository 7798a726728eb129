"""An exhaustive search gives way to ordinary queries between its blocks."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bitsift.options import Mode, SearchOptions
from bitsift.shard_worker.search import precedence
from bitsift.shard_worker.search.precedence import Precedence
from bitsift.shard_worker.types import Query
from tests.shard_worker.small_shard import batch, new_shard, unit_vectors
from tests.threads import ended
from tests.writing import written


def test_slow_work_waits_while_any_query_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precedence, "GIVE_WAY_MAX_S", 60.0)
    both, passed = Precedence(), threading.Event()

    def slow() -> None:
        both.give_way()
        passed.set()

    thread = threading.Thread(target=slow)
    with both:
        with both:
            thread.start()
            assert not passed.wait(0.1)
        assert not passed.wait(0.1)
    assert passed.wait(10)
    ended(thread)
    both.give_way()  # at once: nobody is at work


def test_slow_work_goes_on_at_a_crawl_under_unending_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precedence, "GIVE_WAY_MAX_S", 0.01)
    both = Precedence()
    with both:
        both.give_way()


def test_an_exhaustive_search_gives_way_before_each_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = new_shard(tmp_path / "shard")
    written(shard, batch([str(n) for n in range(50)], [f"text {n}" for n in range(50)]))
    monkeypatch.setattr(shard._current.store.reader, "block_rows", 10)
    gave_way = []
    monkeypatch.setattr(shard._funnel._precedence, "give_way", lambda: gave_way.append(1))
    shard.search([Query(SearchOptions(vector=unit_vectors(1)[0], mode=Mode.EXHAUSTIVE))])
    assert len(gave_way) == 5
    shard.search([Query(SearchOptions(vector=unit_vectors(1)[0]))])
    assert len(gave_way) == 5
    shard.close()
