"""Replicas that missed writes become equal, and little is sent where little differs."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitsift.errors import FormatMismatch, NotFound, ShardUnavailable, StorageFull
from bitsift.router.shards import convergence
from bitsift.router.shards.convergence import Progress, _lacking, equalize, mended
from bitsift.router.shards.replica import Replica
from bitsift.shard_worker.inventory import Entries, Inventory, ReplicaFacts
from bitsift.shard_worker.operations import Delete, Operation, Outcome, Upsert
from bitsift.shard_worker.replica_state import ReplicaState
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store import difference
from bitsift.shard_worker.types import LIVE_POSITION, ShardSettings
from bitsift.write_token import NOTHING
from tests.replicas import FaultyLink, make_replicas

DIMENSION = 64
NO_VECTORS = np.empty((0, DIMENSION), dtype=np.float32)
VERSION = 1_700_000_000_000 << 16


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[list[Shard]]:
    with contextlib.ExitStack() as opened:
        yield make_replicas(opened, tmp_path, NO_VECTORS, DIMENSION, 1, 3)[0]


def upsert(key: str, text: str, version: int) -> Upsert:
    codes = np.full((1, DIMENSION), version % 100, dtype=np.int8)
    return Upsert([key], [""], [text], [""], [LIVE_POSITION], codes, version=VERSION + version)


def texts_of(shard: Shard, keys: str) -> list[str | None]:
    found: list[str | None] = []
    for key in keys:
        try:
            found.append(shard.document(key).text)
        except NotFound:
            found.append(None)
    return found


async def converge(replicas: Sequence[Replica], epoch: int) -> None:
    """They are equal, all of them. Raises what one of them raises."""
    for error in (await equalize(replicas, epoch)).values():
        raise error
    await mended(replicas, NOTHING)


def converged(shards: list[Shard]) -> list[FaultyLink]:
    links = [FaultyLink(shard) for shard in shards]
    replicas = [Replica(0, f"node-{at}", link) for at, link in enumerate(links)]
    asyncio.run(converge(replicas, 0))
    return links


DONE = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.sampled_from(["", "x", "y"]),
        st.sets(st.sampled_from([0, 1, 2]), min_size=1),
        st.sampled_from(["", "", "compact"]),
    ),
    max_size=14,
)


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(done=DONE)
def test_any_histories_end_as_if_every_replica_had_got_everything(
    shards: list[Shard], done: list[tuple[str, str, set[int], str]]
) -> None:
    """Each write reaches some of the replicas; an empty text deletes."""
    start = max(shard.newest_version for shard in shards) - VERSION + 1
    for shard in shards:
        shard.write([Delete(list("abcd"), VERSION + max(start, 1))])
    expected: dict[str, str | None] = dict.fromkeys("abcd")
    for number, (key, text, reached, then) in enumerate(done, start=max(start, 1) + 1):
        operation: Operation = (
            upsert(key, text, number) if text else Delete([key], VERSION + number)
        )
        expected[key] = text or None
        for at in reached:
            shards[at].write([operation])
            if then:
                shards[at].compact()
                with mock.patch("time.monotonic", return_value=math.inf):
                    shards[at]._generations.close_due()  # each maps as much as it may ever take
    converged(shards)
    assert (
        len({tuple(ReplicaState(shard).inventory().digests(4).tolist()) for shard in shards}) == 1
    )
    for shard in shards:
        assert texts_of(shard, "abcd") == list(expected.values())


def test_only_what_differs_is_sent(shards: list[Shard]) -> None:
    many = [f"d{number}" for number in range(2_000)]
    codes = np.ones((len(many), DIMENSION), dtype=np.int8)
    columns = many, [""] * len(many), many, [""] * len(many), [LIVE_POSITION] * len(many)
    for shard in shards:
        shard.write([Upsert(*columns, codes, version=VERSION)])
    assert not any(link.calls["changes"] for link in converged(shards))
    for shard in shards[:2]:
        shard.write([upsert("d7", "new", 1), Delete(["d9"], VERSION + 2)])
    links = converged(shards)
    assert [link.calls["changes"] for link in links] == [1, 0, 0]
    assert texts_of(shards[2], ["d7", "d9"]) == ["new", None]  # type: ignore[arg-type]


def test_many_documents_are_sent_in_parts(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convergence, "KEYS_MAX", 10)
    for number in range(25):
        shards[0].write([upsert(f"d{number}", "x", number)])
    assert converged(shards)[0].calls["changes"] == 6
    assert shards[2].document("d24").text == "x"


def test_while_it_is_mended_a_replica_claims_no_more_than_before(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the newest first, perhaps: whoever must see a write must not ask it until the end."""
    monkeypatch.setattr(convergence, "KEYS_MAX", 3)
    for shard in shards:
        shard.write([upsert("all", "x", 1)])
    for number in range(2, 30):
        shards[number % 2].write([upsert(f"d{number % 23}", f"{number}", number)])
    claimed = list[int]()

    class Noting(FaultyLink):
        async def mend(self, operations: Sequence[Operation], epoch: int) -> Sequence[Outcome]:
            outcomes = await super().mend(operations, epoch)
            claimed.append(self.shard.applied.reached.version)
            return outcomes

    links = [FaultyLink(shards[0]), FaultyLink(shards[1]), Noting(shards[2])]
    replicas = [Replica(0, f"node-{at}", link) for at, link in enumerate(links)]
    asyncio.run(converge(replicas, 0))
    assert claimed == [VERSION + 1] * len(claimed)
    assert len(claimed) > 5
    assert {shard.applied.reached.version for shard in shards} == {VERSION + 29}


def test_what_is_older_than_its_newest_leaves_what_a_replica_claims(shards: list[Shard]) -> None:
    for shard in shards[:2]:
        shard.write([upsert("a", "x", 1)])
    for shard in shards:
        shard.write([upsert("b", "x", 2)])
    links = [FaultyLink(shard) for shard in shards]
    asyncio.run(links[2].mend([upsert("a", "x", 1)], 0))
    assert shards[2].applied.reached.version == VERSION + 2


def test_a_deletion_that_is_too_old_to_be_compared_comes_to_whoever_holds_the_document(
    shards: list[Shard],
) -> None:
    """The holder has forgotten later deletions; the other has forgotten none."""
    for shard in shards[:2]:
        shard.write([upsert("a", "one", 1), upsert("b", "two", 1)])
    shards[0].write([Delete(["a"], VERSION + 2)])
    shards[1].write([Delete(["b"], VERSION + 3)])
    object.__setattr__(shards[1]._maintenance, "_settings", ShardSettings(tombstone_grace_s=-1.0))
    shards[1].compact()
    assert ReplicaState(shards[1]).facts().forgotten_version == VERSION + 3
    shards[0].write([Delete(["b"], VERSION + 4)])
    converged(shards[:2])
    assert [texts_of(shard, "ab") for shard in shards[:2]] == [[None, None]] * 2


def test_what_most_replicas_hold_was_deleted_by_no_majority(shards: list[Shard]) -> None:
    """One that has forgotten deletions lacks a document that both others hold: it is the one that
    must be copied; where one of three holds it, that one.
    """
    shards[2].write([Delete(["b"], VERSION + 9)])
    object.__setattr__(shards[2]._maintenance, "_settings", ShardSettings(tombstone_grace_s=-1.0))
    shards[2].write([upsert("c", "x", 10), Delete(["c"], VERSION + 11)])
    shards[2].compact()
    assert ReplicaState(shards[2]).facts().forgotten_version == VERSION + 11
    for shard in shards[:2]:
        shard.write([upsert("a", "one", 1)])
        replicas = [Replica(0, f"node-{at}", FaultyLink(it)) for at, it in enumerate(shards)]
        failed = asyncio.run(equalize(replicas, 0))
        assert list(failed) == [replicas[0] if shard is shards[0] else replicas[2]]
        assert isinstance(failed.popitem()[1], FormatMismatch)


def test_large_documents_are_sent_a_few_at_a_time(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(difference, "CHANGES_BYTES", 500)
    monkeypatch.setattr(difference, "_SPAN_ROWS", 2)
    for number in range(10):
        shards[0].write([upsert(f"d{number}", "x" * 400, number)])
    shards[0].write([Delete(["d3"], VERSION + 99)])
    links = converged(shards[:2])
    assert links[0].calls["changes"] > 3
    assert texts_of(shards[1], ["d2", "d3", "d9"]) == ["x" * 400, None, "x" * 400]  # type: ignore[arg-type]


def test_one_that_fails_is_left_out_and_the_others_are_equal(shards: list[Shard]) -> None:
    shards[0].write([upsert("a", "new", 1)])
    links = [FaultyLink(shard) for shard in shards]
    replicas = [Replica(0, f"node-{at}", link) for at, link in enumerate(links)]
    links[1].write_error = StorageFull("it is full")
    failed = asyncio.run(equalize(replicas, 0))
    assert failed == {replicas[1]: links[1].write_error}
    assert [texts_of(shard, "a") for shard in shards] == [["new"], [None], ["new"]]


def test_one_that_does_not_answer_is_left_out(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convergence, "ASK_S", 0.5)
    shards[0].write([upsert("a", "new", 1)])

    async def scenario() -> None:
        links = [FaultyLink(shard) for shard in shards]
        replicas = [Replica(0, f"node-{at}", link) for at, link in enumerate(links)]
        links[1].running.clear()
        (failed,) = (await equalize(replicas, 0)).items()
        assert failed[0] is replicas[1]
        assert failed[1].message == "shard 0 on node-1 did not answer in 0 s"
        links[1].running.set()

    asyncio.run(scenario())
    assert texts_of(shards[2], "a") == ["new"]


def test_it_ends_as_soon_as_little_enough_is_lacking(shards: list[Shard]) -> None:
    progress = Progress()
    for number in range(25):
        shards[0].write([upsert(f"d{number}", "x", number)])
    replicas = [Replica(0, f"node-{at}", FaultyLink(it)) for at, it in enumerate(shards[:2])]
    shards[1].write([upsert("only there", "x", 99)])
    newcomers = [replicas[1]]
    both = {"newcomers": newcomers, "targets": newcomers}
    asyncio.run(equalize(replicas, 0, **both, enough=25, progress=progress))
    assert (progress.missed, progress.sent, progress.last) == (25, 25, 25)
    assert texts_of(shards[0], ["only there"]) == [None]  # type: ignore[arg-type]
    shards[1].write([Delete(["only there"], VERSION + 100)])
    shards[0].write([Delete(["only there"], VERSION + 100)])
    asyncio.run(equalize(replicas, 0, progress=progress))
    assert (progress.missed, progress.sent, progress.last) == (25, 25, 0)


def test_two_ids_of_one_hash_are_both_sent() -> None:
    """Of which the first replica has one only, the second the other one."""
    one, other = (
        Inventory.of(np.array([7], np.uint64), np.array([version], np.uint64), np.array([False]))
        for version in (5, 3)
    )
    both = Inventory.of(
        np.array([7, 7], np.uint64), np.array([5, 3], np.uint64), np.array([False, False])
    )
    a, b = (Replica(0, node, FaultyLink(None)) for node in "ab")  # type: ignore[arg-type]
    assert _lacking({a: one, b: other}) == {a: {}, b: {a: [7]}}  # as of one id, in two versions
    assert _lacking({a: one, b: both}) == {a: {b: [7]}, b: {}}


ENTRIES = st.sets(st.tuples(st.integers(1, 4), st.integers(1, 4), st.booleans()))


@given(first=ENTRIES, second=ENTRIES, third=ENTRIES)
def test_each_lacks_what_another_has_but_for_what_is_superseded(
    first: set[tuple[int, int, bool]],
    second: set[tuple[int, int, bool]],
    third: set[tuple[int, int, bool]],
) -> None:
    every = first, second, third
    held, names = dict[Replica, Inventory](), dict[Replica, int]()
    for at, entries in enumerate(every):
        replica = Replica(0, f"node-{at}", FaultyLink(None))  # type: ignore[arg-type]
        keys, versions, deleted = zip(*sorted(entries), strict=True) if entries else ((),) * 3
        columns = np.array(keys, np.uint64), np.array(versions, np.uint64)
        held[replica], names[replica] = Inventory.of(*columns, np.array(deleted, np.bool_)), at

    def only(entries: set[tuple[int, int, bool]], key: int) -> int:
        versions = [version for it, version, _ in entries if it == key]
        return versions[0] if len(versions) == 1 else 0

    found = {names[it]: sources for it, sources in _lacking(held).items()}
    for at, own in enumerate(every):
        expected = dict[int, list[int]]()
        for entry in sorted(set().union(*every) - own):
            key, version, _ = entry
            source = next(number for number, it in enumerate(every) if entry in it)
            if not (only(every[source], key) and only(own, key) > version):
                expected.setdefault(source, []).append(key)
        assert {names[it]: keys for it, keys in found[at].items()} == expected


def test_a_great_difference_is_compared_in_parts(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convergence, "ENTRIES_AT_ONCE", 100)
    names = [f"d{number}" for number in range(1_000)]
    codes = np.ones((len(names), DIMENSION), dtype=np.int8)
    blank, positions = [""] * len(names), [LIVE_POSITION] * len(names)
    shards[0].write([Upsert(names, blank, names, blank, positions, codes, version=VERSION)])
    asked = list[int]()

    class Asked(FaultyLink):
        async def entries(self, bits: int, since: int, ranges: bytes) -> Entries:
            found = await super().entries(bits, since, ranges)
            asked.append(len(found.inventory()))
            return found

    replicas = [Replica(0, f"node-{at}", Asked(it)) for at, it in enumerate(shards[:2])]
    asyncio.run(converge(replicas, 0))
    assert sum(asked) == 1_000
    assert max(asked) < 300
    assert ReplicaState(shards[0]).digests(4, 0) == ReplicaState(shards[1]).digests(4, 0)


def test_replicas_that_change_all_the_time_are_given_up(shards: list[Shard]) -> None:
    class Busy(FaultyLink):
        async def facts(self) -> ReplicaFacts:
            number = sum(self.calls.values())
            self.calls["facts"] += 1
            self.shard.write([upsert("a", f"{number}", number + 1)])
            return await super().facts()

    links = [Busy(shards[0]), FaultyLink(shards[1])]
    replicas = [Replica(0, f"node-{at}", link) for at, link in enumerate(links)]
    with pytest.raises(ShardUnavailable, match="still differ after 4 comparisons"):
        asyncio.run(converge(replicas, 0))
    assert links[0].calls["facts"] == convergence.ROUNDS_MAX


def test_a_replica_that_missed_deletions_which_are_forgotten_is_copied_whole(
    tmp_path: Path,
) -> None:
    """Where it is to join others, or most others know better: else what it holds alone dies."""
    with contextlib.ExitStack() as opened:
        first, second, deleted = make_replicas(opened, tmp_path, NO_VECTORS, DIMENSION, 1, 3)[0]
        for shard in (first, second):
            shard.write([upsert("a", "one", 1), upsert("b", "two", 1)])
        deleted.write([Delete(["a"], VERSION + 2), Delete(["b"], VERSION + 3)])
        first.write([Delete(["a"], VERSION + 2)])
        object.__setattr__(first, "_settings", ShardSettings(tombstone_grace_s=0.0))
        first._maintenance._settings = first._settings
        first.compact()  # a tombstone
        first.write([Delete(["b"], VERSION + 3)])
        first.compact()  # which forgets the first
        assert ReplicaState(first).facts().forgotten_version >= VERSION + 2
        links = FaultyLink(first), FaultyLink(second)
        replicas = [Replica(0, node, link) for node, link in zip("ab", links, strict=True)]
        failed = asyncio.run(equalize(replicas, 0, newcomers=replicas[1:]))
        assert list(failed) == [replicas[1]]
        assert "copied whole" in failed[replicas[1]].message
        assert texts_of(second, "ab") == ["one", "two"]
        third = Replica(0, "c", FaultyLink(deleted))
        failed = asyncio.run(equalize([*replicas, third], 0))
        assert list(failed) == [replicas[1]]
        assert isinstance(failed[replicas[1]], FormatMismatch)
        assert texts_of(second, "ab") == ["one", "two"]
        converged([first, second])
        assert [texts_of(shard, "ab") for shard in (first, second)] == [[None, None]] * 2


def test_what_others_hold_is_the_truth_for_a_newcomer(tmp_path: Path) -> None:
    with contextlib.ExitStack() as opened:
        first, second, _ = make_replicas(opened, tmp_path, NO_VECTORS, DIMENSION, 1, 3)[0]
        for shard in (first, second):
            shard.write([upsert("a", "one", 1)])
        first._maintenance._settings = ShardSettings(tombstone_grace_s=-1.0)
        first.write([Delete(["a"], VERSION + 2)])
        first.compact()
        replicas = [
            Replica(0, node, FaultyLink(it)) for node, it in zip("ab", (first, second), strict=True)
        ]
        assert asyncio.run(equalize(replicas, 0, newcomers=replicas[:1])) == {}
        assert texts_of(first, "a") == ["one"]


def test_a_deletion_wins_though_another_replica_has_forgotten_later_ones(tmp_path: Path) -> None:
    """Found by the simulation: nobody compares it, and the old document was sent in vain."""
    with contextlib.ExitStack() as opened:
        behind, *others = make_replicas(opened, tmp_path, NO_VECTORS, DIMENSION, 1, 3)[0]
        for shard in (behind, *others):
            shard.write([upsert("a", "one", 1), upsert("b", "two", 1)])
        for shard in others:
            shard.write([Delete(["a"], VERSION + 2)])
        for shard in (behind, *others):
            shard.write([Delete(["b"], VERSION + 3)])
        behind._maintenance._settings = ShardSettings(tombstone_grace_s=0.0)
        for key in "cd":  # the second compaction forgets what the first has made a tombstone of
            behind.compact()
            behind.write([upsert(key, "x", 4), Delete([key], VERSION + 5)])
        assert ReplicaState(behind).facts().forgotten_version >= VERSION + 2
        converged([behind, *others])
        assert [texts_of(shard, "ab") for shard in (behind, *others)] == [[None, None]] * 3


def test_a_document_that_was_written_again_does_not_speak_for_the_one_that_was_deleted(
    tmp_path: Path,
) -> None:
    """Seed 973: two of three held something of that name, so the third was taken to be outdated,
    and the first was: nobody could lead.
    """
    with contextlib.ExitStack() as opened:
        away, again, deleted = make_replicas(opened, tmp_path, NO_VECTORS, DIMENSION, 1, 3)[0]
        away.write([upsert("a", "old", 1)])
        for shard in (again, deleted):
            shard._maintenance._settings = ShardSettings(tombstone_grace_s=-1.0)
            shard.write([upsert("a", "old", 1), Delete(["a"], VERSION + 2)])
            shard.compact()
            assert ReplicaState(shard).facts().forgotten_version >= VERSION + 2
        again.write([upsert("a", "new", 9)])
        replicas = [
            Replica(0, node, FaultyLink(it))
            for node, it in zip("abc", (away, again, deleted), strict=True)
        ]
        assert list(asyncio.run(equalize(replicas, 0))) == replicas[:1]
        assert texts_of(again, "a") == texts_of(deleted, "a") == ["new"]
