"""Group commit: together where it may be, in order, and one failure is nobody else's."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.errors import RequestOutcome, ShardUnavailable, StorageFull, WritesStopped
from bitsift.shard_worker import group_commit
from bitsift.shard_worker.group_commit import GroupCommit
from bitsift.shard_worker.operations import Delete, Operation
from bitsift.write_status import WriteStatus
from tests.threads import ended


class Ledger:
    """Records what is committed together; refuses operations that hold the id "bad"."""

    def __init__(self) -> None:
        self.commits: list[list[tuple[str, ...]]] = []
        self.held = threading.Event()
        self.held.set()

    def commit(self, operations: Sequence[Operation]) -> list[list[WriteStatus]]:
        assert self.held.wait(60)
        if any("bad" in operation.ids for operation in operations):
            raise StorageFull("no room for bad")
        self.commits.append([tuple(operation.ids) for operation in operations])
        return [[WriteStatus.DELETED] * len(operation) for operation in operations]


@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3), max_size=8))
def test_all_are_done_in_order_and_none_shares_an_id_with_its_group(lists: list[list[str]]) -> None:
    ledger = Ledger()
    outcomes = GroupCommit().write([Delete(ids) for ids in lists], ledger.commit)
    assert outcomes == [[WriteStatus.DELETED] * len(ids) for ids in lists]
    assert [ids for group in ledger.commits for ids in group] == [tuple(ids) for ids in lists]
    for group in ledger.commits:
        for place, ids in enumerate(group):
            assert all(set(ids).isdisjoint(other) for other in group[:place])


def test_those_who_wait_go_together_and_a_bad_one_fails_alone() -> None:
    ledger = Ledger()
    group = GroupCommit()
    results = dict[str, object]()

    def write(name: str) -> None:
        (results[name],) = group.write([Delete([name])], ledger.commit)

    ledger.held.clear()
    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "bad", "c", "d")]
    for count, thread in enumerate(threads):
        thread.start()
        while count and len(group._waiting) < count:
            pass
    ledger.held.set()
    for thread in threads:
        ended(thread)
    assert isinstance(results.pop("bad"), StorageFull)
    assert results == {name: [WriteStatus.DELETED] for name in "acd"}
    assert ledger.commits[0] == [("a",)]


def test_each_operation_of_a_call_has_its_own_result_or_error() -> None:
    ledger = Ledger()
    names = ("a", "bad", "c", "a", "bad")
    found = GroupCommit().write([Delete([name]) for name in names], ledger.commit)
    assert [isinstance(one, StorageFull) for one in found] == [name == "bad" for name in names]
    assert [one for one in found if one == [WriteStatus.DELETED]] == [[WriteStatus.DELETED]] * 3
    assert [ids for group in ledger.commits for ids in group] == [("a",), ("c",), ("a",)]


@pytest.mark.parametrize("at_once", [group_commit.DOCUMENTS_MAX, 1])
def test_after_one_that_failed_no_later_version_of_the_same_call_is_done(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the newest version that is there would not stand for all before it."""
    monkeypatch.setattr(group_commit, "DOCUMENTS_MAX", at_once)
    ledger, group = Ledger(), GroupCommit()
    names = ["a", "bad", "c", "d"]
    operations = [Delete([name], version) for version, name in enumerate(names, start=1)]
    done, failed, *skipped = group.write(operations, ledger.commit)
    assert done == [WriteStatus.DELETED]
    assert isinstance(failed, StorageFull)
    for error in skipped:
        assert isinstance(error, ShardUnavailable)
        assert error.outcome is RequestOutcome.NOT_DONE
    assert [ids for one in ledger.commits for ids in one] == [("a",)]
    assert group.write([Delete(["c"], 3)], ledger.commit) == [[WriteStatus.DELETED]]


def test_a_group_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "DOCUMENTS_MAX", 4)
    ledger = Ledger()
    names = [[f"{place}a", f"{place}b"] for place in range(5)]
    GroupCommit().write([Delete(ids) for ids in names], ledger.commit)
    assert [len(one) for one in ledger.commits] == [2, 2, 1]
    GroupCommit().write([Delete([str(i) for i in range(9)])], ledger.commit)  # one may be larger


class Stop(BaseException):
    """As compiled libraries raise: no Exception."""


def answers_of(
    group: GroupCommit, commit: group_commit.Commit, held: threading.Event, names: Sequence[str]
) -> dict[str, object]:
    """What each of several callers gets that wait while ``held`` is not set."""
    results = dict[str, object]()

    def write(name: str) -> None:
        try:
            (results[name],) = group.write([Delete([name])], commit)
        except BaseException as error:
            results[name] = error

    threads = [threading.Thread(target=write, args=(name,), daemon=True) for name in names]
    with group.lock:
        for count, thread in enumerate(threads, 1):
            thread.start()
            while len(group._waiting) < count:
                pass
    held.set()
    for thread in threads:
        thread.join(20)
    assert set(results) == set(names), f"{set(names) - set(results)} were never answered"
    return results


@pytest.mark.parametrize("error", [Stop("panicked"), KeyboardInterrupt(), SystemExit(1)])
def test_every_waiter_is_answered_whatever_is_raised_and_nothing_is_tried_again(
    error: BaseException,
) -> None:
    group, held, commits = GroupCommit(), threading.Event(), list[int]()

    def commit(operations: Sequence[Operation]) -> list[list[WriteStatus]]:
        assert held.wait(60)
        commits.append(len(operations))
        raise error

    results = answers_of(group, commit, held, "abcd")
    assert commits == [4], "what may have been done was done again"
    raised = list(results.values())
    assert raised.count(error) == 1, "the thread that wrote has it as it is"
    others = [it for it in raised if it is not error]
    unavailable = [it for it in others if isinstance(it, ShardUnavailable)]
    assert len(unavailable) == len(others)
    assert all("whether it was done is unknown" in str(it) for it in others)
    assert {it.outcome for it in unavailable} == {RequestOutcome.UNKNOWN}
    assert not group._waiting
    assert group.write([Delete(["e"])], Ledger().commit) == [[WriteStatus.DELETED]]


def test_a_commit_that_answers_too_few_leaves_nobody_waiting() -> None:
    group, held, commits = GroupCommit(), threading.Event(), list[int]()

    def commit(operations: Sequence[Operation]) -> list[list[WriteStatus]]:
        assert held.wait(60)
        commits.append(len(operations))
        return [[WriteStatus.DELETED]] * (len(operations) - 1)

    results = answers_of(group, commit, held, "abc")
    assert commits == [3]
    assert sum(isinstance(it, Exception) for it in results.values()) >= 1
    assert not group._waiting


def test_a_write_of_unknown_outcome_is_not_tried_again() -> None:
    group, held, commits = GroupCommit(), threading.Event(), list[int]()

    def commit(operations: Sequence[Operation]) -> list[list[WriteStatus]]:
        assert held.wait(60)
        commits.append(len(operations))
        raise WritesStopped("the disk failed")

    results = answers_of(group, commit, held, "abc")
    assert commits == [3]
    errors = list(results.values())
    assert all(isinstance(error, WritesStopped) for error in errors)
    assert len({id(error) for error in errors}) == 3, "one error raised in three threads"


def test_an_operation_that_cannot_be_queued_harms_its_caller_only() -> None:
    group = GroupCommit()
    with pytest.raises(TypeError):
        group.write([Delete(None)], Ledger().commit)  # type: ignore[arg-type]
    assert not group._waiting
    assert group.write([Delete(["a"])], Ledger().commit) == [[WriteStatus.DELETED]]
