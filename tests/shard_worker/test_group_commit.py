"""Group commit: together where it may be, in order, and one failure is nobody else's."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_worker import group_commit
from shard_worker.errors import StorageFull
from shard_worker.group_commit import GroupCommit
from shard_worker.types import Deletes, Operation, Outcome


class Ledger:
    """Records what is committed together; refuses operations that hold the id "bad"."""

    def __init__(self) -> None:
        self.commits: list[list[tuple[str, ...]]] = []
        self.held = threading.Event()
        self.held.set()

    def commit(self, operations: Sequence[Operation]) -> list[list[Outcome]]:
        self.held.wait()
        if any("bad" in operation.ids for operation in operations):
            raise StorageFull("no room for bad")
        self.commits.append([tuple(operation.ids) for operation in operations])
        return [[Outcome.DELETED] * len(operation) for operation in operations]


@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3), max_size=8))
def test_all_are_done_in_order_and_none_shares_an_id_with_its_group(lists: list[list[str]]) -> None:
    ledger = Ledger()
    outcomes = GroupCommit().write([Deletes(ids) for ids in lists], ledger.commit)
    assert [len(one) for one in outcomes] == [len(ids) for ids in lists]
    assert [ids for group in ledger.commits for ids in group] == [tuple(ids) for ids in lists]
    for group in ledger.commits:
        for place, ids in enumerate(group):
            assert all(set(ids).isdisjoint(other) for other in group[:place])


def test_those_who_wait_go_together_and_a_bad_one_fails_alone() -> None:
    ledger = Ledger()
    group = GroupCommit()
    results = dict[str, object]()

    def write(name: str) -> None:
        try:
            results[name] = group.write([Deletes([name])], ledger.commit)
        except StorageFull as error:
            results[name] = error

    ledger.held.clear()
    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "bad", "c", "d")]
    for count, thread in enumerate(threads):
        thread.start()
        while count and len(group._waiting) < count:
            pass
    ledger.held.set()
    for thread in threads:
        thread.join()
    assert isinstance(results.pop("bad"), StorageFull)
    assert results == {name: [[Outcome.DELETED]] for name in "acd"}
    assert ledger.commits[0] == [("a",)]


def test_a_group_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "DOCUMENTS_MAX", 4)
    ledger = Ledger()
    names = [[f"{place}a", f"{place}b"] for place in range(5)]
    GroupCommit().write([Deletes(ids) for ids in names], ledger.commit)
    assert [len(one) for one in ledger.commits] == [2, 2, 1]
    GroupCommit().write([Deletes([str(i) for i in range(9)])], ledger.commit)  # one may be larger
