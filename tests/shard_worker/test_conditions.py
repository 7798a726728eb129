"""A write with a condition is done if what it expects is there, decided in the shard's own
transaction.
"""

from __future__ import annotations

import random
import threading
from pathlib import Path

import numpy as np
import pytest

from bitsift.shard_worker.operations import (
    ABSENT,
    Condition,
    Delete,
    Operation,
    Outcome,
    Statuses,
    Upsert,
    versions_of,
)
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.wire.write import (
    pack_outcomes,
    pack_writes,
    unpack_outcomes,
    unpack_writes,
)
from bitsift.write_status import WriteStatus
from tests.fakes import make_shards
from tests.threads import ended

WIDTH = 64
CONFLICT, CREATED = WriteStatus.CONFLICT, WriteStatus.CREATED


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    (made,), _ = make_shards(tmp_path, np.empty((0, WIDTH), dtype=np.float32), WIDTH, 1)
    return made


def upsert(texts: dict[str, str], expected: list[Condition] | None = None) -> Upsert:
    blank, positions = [""] * len(texts), [-1] * len(texts)
    codes = np.ones((len(texts), WIDTH), dtype=np.int8)
    columns = [*texts], blank, [*texts.values()], blank, positions, codes
    return Upsert(*columns, expected=expected or ())


def done(shard: Shard, operation: Operation) -> Statuses:
    found: Outcome
    (found,) = shard.write([operation])
    assert isinstance(found, Statuses), found
    return found


def version(shard: Shard, key: str) -> int:
    return shard.document(key).version


def test_absent_is_met_by_what_was_never_there_and_by_what_was_deleted(shard: Shard) -> None:
    first = done(shard, upsert({"a": "one"}, [ABSENT]))
    assert (first, first.versions) == ([CREATED], [version(shard, "a")])
    again = done(shard, upsert({"a": "two", "b": "x"}, [ABSENT, ABSENT]))
    assert again == [CONFLICT, CREATED], "in a batch it fails alone"
    assert again.versions == [first.versions[0], version(shard, "b")]
    assert shard.document("a").text == "one"
    shard.write([Delete(["a"])])
    assert done(shard, upsert({"a": "three"}, [ABSENT])) == [CREATED]


def test_a_version_is_met_by_that_document_alone(shard: Shard) -> None:
    (first,) = done(shard, upsert({"a": "one"})).versions
    assert done(shard, upsert({"a": "two"}, [first - 1])) == [CONFLICT]
    second = done(shard, upsert({"a": "two"}, [first]))
    assert (second, second.versions) == ([WriteStatus.UPDATED], [version(shard, "a")])
    late = done(shard, upsert({"a": "three"}, [first]))
    assert (late, late.versions) == ([CONFLICT], second.versions)
    same = done(shard, upsert({"a": "two"}, [second.versions[0]]))
    assert (same, same.versions) == ([WriteStatus.UNCHANGED], second.versions)
    deleted = version(shard, "a")
    shard.write([Delete(["a"])])
    missed = done(shard, upsert({"a": "four"}, [deleted]))
    assert (missed, missed.versions) == ([CONFLICT], [0])
    assert done(shard, upsert({"never": "x"}, [7])) == [CONFLICT]


def test_a_deletion_has_conditions_too(shard: Shard) -> None:
    versions = done(shard, upsert({"a": "one", "b": "two"})).versions
    found = done(shard, Delete(["a", "b", "c"], expected=[versions[0], versions[0] + 1, None]))
    assert found == [WriteStatus.DELETED, CONFLICT, WriteStatus.MISSING]
    assert found.versions == [0, versions[1], 0]
    assert done(shard, Delete(["a"], expected=[versions[0]])) == [CONFLICT]


def test_of_many_threads_that_count_up_by_version_each_counts_once(shard: Shard) -> None:
    """They are committed together, and each is decided after those before it."""
    shard.write([upsert({"n": "0"})])
    counted = []

    def count() -> None:
        for _ in range(15):
            while True:
                held = shard.document("n")
                more = upsert({"n": str(int(held.text) + 1)}, [held.version])
                if done(shard, more) == [WriteStatus.UPDATED]:
                    counted.append(1)
                    break

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        ended(thread)
    assert shard.document("n").text == str(len(counted)) == "60"


def test_conditions_and_versions_cross_the_wire_and_are_never_passed_over() -> None:
    operations: list[Operation] = [
        upsert({"a": "x", "b": "y"}, [ABSENT, None]),
        Delete(["c", "d"], 7, [9, None]),
        Delete(["e"]),
    ]
    packed = pack_writes(operations)
    assert b"upsert if" in packed, "a shard of an earlier release does not know this"
    assert b"delete if" in packed
    first, second, third = unpack_writes(packed)
    assert isinstance(first, Upsert)
    assert [*first.expected] == [ABSENT, None]
    assert isinstance(second, Delete)
    assert ([*second.expected], second.version) == ([9, None], 7)
    assert isinstance(third, Delete)
    assert not third.expected
    (said,) = unpack_outcomes(pack_outcomes([Statuses([CONFLICT, CREATED], [5, 6])]))
    assert isinstance(said, list)
    assert (said, versions_of(said)) == ([CONFLICT, CREATED], [5, 6])


def test_random_conditional_writes_are_those_of_a_dictionary(shard: Shard) -> None:
    chance, held = random.Random(11), dict[str, tuple[str, int]]()
    for number in range(150):
        key = chance.choice("abcde")
        now = held.get(key, ("", 0))[1]
        condition = chance.choice([None, ABSENT, now, max(1, now - 1)])
        is_met = condition is None or condition == now
        if chance.random() < 0.3:
            found = done(shard, Delete([key], expected=[condition]))
            assert (found == [CONFLICT]) == (not is_met)
            if is_met:
                held.pop(key, None)
        else:
            text = f"text {number}"
            found = done(shard, upsert({key: text}, [condition]))
            assert (found == [CONFLICT]) == (not is_met)
            if is_met:
                held[key] = (text, found.versions[0])
        if not is_met:
            assert found.versions == [now]
        if number % 40 == 39:
            shard.compact()
        for name, (text, at) in held.items():
            document = shard.document(name)
            assert (document.text, document.version) == (text, at)
