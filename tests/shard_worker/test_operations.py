"""The operations of a shard's one door: what each decides, and that a hint never does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitsift.errors import BitsiftError, RequestOutcome, StorageFull, Unavailable
from bitsift.shard_worker.clock import version_at
from bitsift.shard_worker.operations import (
    Confirm,
    Delete,
    Insert,
    Operation,
    Resume,
    Upsert,
    statuses,
)
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.packing import content_digest
from bitsift.shard_worker.types import LIVE_POSITION
from bitsift.shard_worker.wire.write import (
    pack_outcomes,
    pack_writes,
    unpack_outcomes,
    unpack_writes,
)
from bitsift.write_status import WriteStatus
from tests.shard_worker.small_shard import batch, contents, new_shard, open_shard
from tests.writing import as_insert

NAMES = st.sampled_from("abcd")
TEXTS = st.sampled_from(["x", "y"])
POSITIONS = st.integers(0, 3)


def digest(text: str) -> bytes:
    return content_digest("", text, "")


class Model:
    """What a shard must say: a dictionary of documents and of the records that a load brought, and
    the ids that were deleted.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.positions: dict[str, int] = {}
        self.deleted: set[str] = set()

    def upsert(self, name: str, text: str) -> str:
        if self.texts.get(name) == text and self.positions[name] != -2:
            return "unchanged"
        status = "updated" if name in self.texts else "created"
        self.texts[name], self.positions[name] = text, LIVE_POSITION
        self.deleted.discard(name)
        return status

    def insert(self, name: str, text: str, position: int) -> str:
        status = self.resume(name, position)
        if status != "missing":
            return status
        status = "updated" if name in self.texts else "created"
        self.texts[name], self.positions[name] = text, position
        return status

    def resume(self, name: str, position: int) -> str:
        if name in self.deleted:
            return "unchanged"
        if name not in self.texts:
            return "missing"
        held = self.positions[name]
        if held == position:
            return "unchanged"
        return "missing" if 0 <= held < position else "rejected"

    def confirm(self, name: str, text: str) -> str:
        if name not in self.texts:
            return "missing"
        return "unchanged" if self.texts[name] == text else "rejected"

    def delete(self, name: str) -> str:
        if self.texts.pop(name, None) is None:
            return "missing"
        self.deleted.add(name)
        return "deleted"


CALLS = st.one_of(
    st.tuples(st.just("upsert"), NAMES, TEXTS),
    st.tuples(st.just("insert"), NAMES, TEXTS, POSITIONS),
    st.tuples(st.just("resume"), NAMES, POSITIONS),
    st.tuples(st.just("confirm"), NAMES, TEXTS),
    st.tuples(st.just("delete"), NAMES),
    st.sampled_from([("compact",), ("restart",)]),
)


def operation_of(call: tuple[Any, ...]) -> Operation:
    kind, name, *rest = call
    match kind:
        case "upsert":
            return batch([name], rest, position=LIVE_POSITION)
        case "insert":
            return as_insert(batch([name], rest[:1], position=rest[1]))
        case "resume":
            return Resume([name], rest)
        case "confirm":
            return Confirm([name], [digest(rest[0])])
        case _:
            return Delete([name])


def kept_up(shard: Shard, how: str) -> Shard:
    """The same shard after upkeep, which must change nothing of what it says."""
    if how == "compact":
        shard.compact()
        return shard
    shard.close()
    return open_shard(shard.folder)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CALLS, max_size=25))
def test_every_operation_decides_as_a_dictionary_would_and_the_hint_says_the_same(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[Any, ...]]
) -> None:
    shard, model = new_shard(tmp_path_factory.mktemp("model") / "s"), Model()
    for call in calls:
        kind, *arguments = call
        if not arguments:
            shard = kept_up(shard, kind)
            continue
        rows = shard.status().rows
        (operation,) = unpack_writes(pack_writes([operation_of(call)]))
        (foreseen,) = shard.foresee([operation])
        assert shard.status().rows == rows
        (found,) = statuses(shard.write([operation]))
        assert found == foreseen == [getattr(model, kind)(*arguments)], call
        assert contents(shard) == model.texts
    shard.close()


def test_of_several_documents_of_one_id_an_upsert_keeps_the_last_an_insert_the_last_record(
    tmp_path: Path,
) -> None:
    shard = new_shard(tmp_path / "s")
    (found,) = statuses(shard.write([batch(["a", "b", "a"], ["1", "2", "3"])]))
    assert found == ["unchanged", "created", "created"]
    load = as_insert(batch(["c", "c"], ["1", "2"]), positions=[6, 5])
    assert statuses(shard.write([load])) == [["created", "rejected"]]
    assert contents(shard) == {"a": "3", "b": "2", "c": "1"}
    load = as_insert(batch(["c", "c"], ["3", "4"]), positions=[7, 8])
    assert statuses(shard.write([load])) == [["rejected", "updated"]]
    assert contents(shard) == {"a": "3", "b": "2", "c": "4"}
    shard.close()


def test_what_confirms_and_resumes_costs_no_commit(tmp_path: Path) -> None:
    shard = new_shard(tmp_path / "s")
    shard.write([batch(["a"], ["x"], position=LIVE_POSITION)])
    before = shard._current.store.counters
    same, other = Confirm(["a"], [digest("x")]), Resume(["a", "b"], [0, 1])
    assert statuses(shard.write([same, other])) == [["unchanged"], ["rejected", "missing"]]
    assert shard._current.store.counters == before
    shard.close()


@pytest.mark.parametrize(
    "operation",
    [
        Upsert(["é"], ["t"], ["x"], ['{"a":1}'], [-1], np.ones((1, 8), np.int8), 7),
        Insert(["a"] * 2, ["t"] * 2, ["x"] * 2, [""] * 2, [1, 2], np.ones((2, 8), np.int8)),
        Delete(["a", "b"], 1 << 62),
        Confirm(["a"], [bytes(16)], 3),
        Resume(["a"], [1 << 40]),
    ],
    ids=lambda operation: type(operation).__name__,
)
def test_an_operation_crosses_as_it_is(operation: Operation) -> None:
    (found,) = unpack_writes(pack_writes([operation]))
    assert type(found) is type(operation)
    for field in dataclasses.fields(operation):
        mine, its = getattr(operation, field.name), getattr(found, field.name)
        assert np.array_equal(mine, its) if isinstance(mine, np.ndarray) else mine == its


def test_outcomes_cross_in_their_places_errors_too() -> None:
    full = StorageFull("no room").with_outcome(RequestOutcome.UNKNOWN)
    found = unpack_outcomes(pack_outcomes([list(WriteStatus), full, []]))
    assert (found[0], found[2]) == (list(WriteStatus), [])
    assert isinstance(found[1], StorageFull)
    assert (found[1].message, found[1].outcome) == ("no room", RequestOutcome.UNKNOWN)
    with pytest.raises(BitsiftError, match="no room"):
        statuses(found)


# --- versions --------------------------------------------------------------------------------


def versioned(version: int, name: str, text: str | None) -> Operation:
    """An upsert, or without a text a deletion, as another copy of the shard did it."""
    if text is None:
        return Delete([name], version_at(version))
    upsert = batch([name], [text], position=LIVE_POSITION)
    return dataclasses.replace(upsert, version=version_at(version))


@st.composite
def twice_shuffled(draw: st.DrawFn) -> tuple[list[Operation], list[Operation]]:
    """The same operations, each of another version, in two orders; some come twice."""
    changes = draw(st.lists(st.tuples(NAMES, st.sampled_from(["x", "y", None])), max_size=12))
    made = [versioned(1 + at, *change) for at, change in enumerate(changes)]
    return draw(st.permutations(made)), draw(st.permutations(made + made[:4]))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(twice_shuffled())
def test_copies_that_get_the_same_operations_in_any_order_end_up_alike(
    tmp_path_factory: pytest.TempPathFactory, orders: tuple[list[Operation], list[Operation]]
) -> None:
    """What each holds, and of which version, deleted ids too; the newest of each id has won."""
    ends = []
    for order in orders:
        shard = new_shard(tmp_path_factory.mktemp("copy") / "s")
        for operation in order:
            statuses(shard.write([operation]))
        ends.append((contents(shard), shard._current.store.versions_of(list("abcd"))))
        shard.close()
    assert ends[0] == ends[1]
    newest = {op.ids[0]: op for op in sorted(orders[0], key=lambda op: op.version)}
    assert ends[0][0] == {
        name: op.texts[0] for name, op in newest.items() if isinstance(op, Upsert)
    }
    assert ends[0][1] == [newest[n].version if n in newest else None for n in "abcd"]


KINDS = st.sampled_from(["upsert", "insert", "resume", "delete", "compact"])
SOME_NAMES = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True)


def many(kind: str, names: list[str], version: int) -> Operation:
    """One operation on all ``names``; without a version where that is 0."""
    given_ = version_at(version) if version else 0
    positions = [ord(name) for name in names]
    match kind:
        case "insert":
            return as_insert(batch(names, names), positions=positions, version=given_)
        case "resume":
            return Resume(names, positions, given_)
        case "delete":
            return Delete(names, given_)
        case _:
            texts = [f"{name} of {version}" for name in names]
            return dataclasses.replace(batch(names, texts), version=given_)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(KINDS, SOME_NAMES, st.integers(0, 9)), max_size=16))
def test_a_compaction_changes_nothing_of_what_later_operations_decide(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[str, list[str], int]]
) -> None:
    """Where a deletion is remembered, with its dead row or in a tombstone, nobody can tell. (Those
    without a version have another one in each shard, and so are compared by their order only.)
    """
    folder, ids = tmp_path_factory.mktemp("kept"), list("abcdef")
    plain, compacted = new_shard(folder / "plain"), new_shard(folder / "compacted")
    for kind, names, version in calls:
        if kind == "compact":
            compacted.compact()
            continue
        found = [statuses(it.write([many(kind, names, version)])) for it in (plain, compacted)]
        assert found[0] == found[1], (kind, names, version)
        assert contents(plain) == contents(compacted)
        of_each = [it._current.store.versions_of(ids) for it in (plain, compacted)]
        own = version_at(10)  # and above: what their own clocks gave
        assert len({tuple(min(it or 0, own) for it in versions) for versions in of_each}) == 1
    for shard in (plain, compacted):
        shard.close()


@pytest.mark.parametrize("compacted", [False, True])
def test_a_load_that_goes_on_brings_no_deleted_document_back(
    tmp_path: Path, compacted: bool
) -> None:
    shard = new_shard(tmp_path / "s")
    records = as_insert(batch(["a", "b"], ["x", "y"]), positions=[0, 1])
    assert statuses(shard.write([records, Delete(["a"])])) == [["created"] * 2, ["deleted"]]
    assert shard.compact() == compacted if compacted else True
    assert statuses(shard.write([Resume(["a", "b", "c"], [0, 1, 2])])) == [
        ["unchanged", "unchanged", "missing"]
    ]
    assert statuses(shard.write([records])) == [["unchanged", "unchanged"]]
    (deleted,) = shard._current.store.versions_of(["a"])
    assert deleted is not None
    for version, became in ((deleted, "unchanged"), (deleted + 1, "created")):
        again = as_insert(batch(["a"], ["x"]), positions=[0], version=version)
        assert statuses(shard.write([again])) == [[became]]
    assert contents(shard) == {"a": "x", "b": "y"}
    assert shard._current.store.deleted() == []
    shard.close()


def test_what_comes_late_changes_nothing_and_what_the_shard_writes_itself_is_newest(
    tmp_path: Path,
) -> None:
    shard = new_shard(tmp_path / "s")
    store = shard._current.store
    assert statuses(shard.write([versioned(5, "a", "five")])) == [["created"]]
    rows = store.rows
    assert statuses(shard.write([versioned(5, "a", "five")])) == [["unchanged"]]
    assert statuses(shard.write([versioned(4, "a", "four")])) == [["superseded"]]
    assert statuses(shard.write([versioned(4, "a", None)])) == [["superseded"]]
    assert (store.rows, contents(shard)) == (rows, {"a": "five"})
    assert statuses(shard.write([versioned(6, "a", "five")])) == [["unchanged"]]
    assert store.versions_of(["a"]) == [version_at(6)]  # what comes with 5.5 loses here as well
    assert statuses(shard.write([versioned(7, "b", None)])) == [["missing"]]
    assert statuses(shard.write([versioned(6, "b", "late")])) == [["superseded"]]
    assert statuses(shard.write([Delete(["a"])])) == [["deleted"]]
    (own,) = store.versions_of(["a"])
    assert own is not None and own > version_at(7)
    assert statuses(shard.write([versioned(8, "a", "late")])) == [["superseded"]]
    assert contents(shard) == {}
    shard.close()


def test_a_version_of_the_far_future_is_refused_and_the_operation_beside_it_is_done(
    tmp_path: Path,
) -> None:
    shard = new_shard(tmp_path / "s")
    future = dataclasses.replace(batch(["a"], ["x"]), version=version_at(1 << 46))
    refused, done = shard.write([future, batch(["b"], ["y"])])
    assert isinstance(refused, Unavailable)
    assert (refused.outcome, done) == (RequestOutcome.NOT_DONE, ["created"])
    assert contents(shard) == {"b": "y"}
    shard.close()
