"""Old shards are followed into new ones, while they are written to, compacted and opened again."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitsift.cluster.fleet.following import Follower
from bitsift.cluster.fleet.hydration import Pace
from bitsift.errors import ShardUnavailable, Unavailable
from bitsift.router.shards.placement import Placement
from bitsift.shard_worker import written_since as module
from bitsift.shard_worker.operations import Delete, statuses
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import ShardIdentity
from bitsift.shard_worker.wire.write import unpack_writes
from tests.commands import wait_until
from tests.in_ram import ram
from tests.shard_worker.small_shard import CALIBRATION, DIMENSION, batch
from tests.writing import written

OLD, NEW = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
Contents = dict[str, tuple[object, ...]]


class ShardSink:
    """An open shard, in the place of its actor."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.error: Exception | None = None

    def write(self, operations: bytes) -> Callable[[], object]:
        def done() -> object:
            if self.error is not None:
                raise self.error
            return statuses(self.shard.write(unpack_writes(operations)))

        return done


class OldShard:
    """An open shard that may be opened again between two calls."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard

    def written_since(self, since: int, mark: module.Mark | None) -> module.Changes:
        return self.shard.written_since(since, mark)


def identity(uuid: str, number: int, shards: int) -> ShardIdentity:
    return ShardIdentity(uuid, number, shards, DIMENSION, DIMENSION)


def opened(folder: Path, uuid: str, number: int, shards: int) -> Shard:
    return Shard(folder / f"shard-{number:05d}", CALIBRATION, identity(uuid, number, shards))


def made(stack: contextlib.ExitStack, folder: Path, uuid: str, shards: int) -> list[Shard]:
    found = []
    for number in range(shards):
        Shard.create(folder / f"shard-{number:05d}", identity(uuid, number, shards))
        found.append(opened(folder, uuid, number, shards))
        stack.callback(found[-1].close)
    return found


def contents(shards: Sequence[Shard]) -> Contents:
    """By id all that is kept of a document, and the newest deletion of each id."""
    found: Contents = {}
    for number, shard in enumerate(shards):
        with shard._current.reading() as generation:
            store = generation.store
            rows = np.setdiff1d(np.arange(store.rows), store.dead())
            codes, intact = store.reader.read_codes(rows)
            assert intact.all()
            with store.parts.env.begin() as txn:
                said = [store.reader.content(txn, row) for row in rows.tolist()]
            for content, code in zip(said, codes, strict=True):
                name = content[0]
                assert Placement(len(shards)).owners(name) == (number,)
                assert name not in found, "one id twice"
                (version,) = store.versions_of([name])
                found[name] = (*content, code.tobytes(), version)
            found |= {f"deleted {stone.id}": (stone.version,) for stone in store.deleted()}
    return found


def change(shards: Sequence[Shard], how: str, names: Sequence[str], text: str) -> None:
    for number, places in Placement(len(shards)).by_owner(names).items():
        mine = [names[place] for place in places.tolist()]
        operation = Delete(mine) if how == "delete" else batch(mine, [text] * len(mine))
        written(shards[number], operation)


ids = st.sampled_from([f"id {n}" for n in range(10)])
turns = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(ids, min_size=1, max_size=4, unique=True)),
        st.tuples(st.just("delete"), st.lists(ids, min_size=1, max_size=3, unique=True)),
        st.tuples(st.just("compact"), st.just([])),
        st.tuples(st.just("open again"), st.just([])),
        st.tuples(st.just("pass"), st.just([])),
        st.tuples(st.just("begin"), st.just([])),
        st.tuples(st.just("kill"), st.just([])),
    ),
    max_size=16,
)


def passed(follower: Follower, source: OldShard, sinks: dict[int, list[ShardSink]]) -> Follower:
    """After a whole pass; another one where the shard was opened again, as a controller does."""
    try:
        assert follower._pass()
        return follower
    except Unavailable:
        other = Follower(source, sinks, Pace(1 << 40), follower.progress.since)
        assert other._pass()
        return other


@settings(max_examples=12)
@given(turns, st.integers(1, 3), st.integers(1, 4))
def test_whatever_befalls_the_old_shards_the_new_ones_hold_the_same_in_the_end(
    history: list[tuple[str, list[str]]], before: int, after: int
) -> None:
    """Ids, contents, codes, versions and deletions. ``begin`` leaves a pass in its midst, and
    ``kill`` forgets all of a follower but the version that it has reached.
    """
    with (
        tempfile.TemporaryDirectory(prefix="following-", dir=ram()) as folder,
        contextlib.ExitStack() as stack,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(module, "BATCH_ROWS_MAX", 2)
        old = made(stack, Path(folder, "old"), OLD, before)
        new = made(stack, Path(folder, "new"), NEW, after)
        sinks = {number: [ShardSink(shard)] for number, shard in enumerate(new)}
        sources = [OldShard(shard) for shard in old]
        followers = [Follower(source, sinks, Pace(1 << 40), 0) for source in sources]
        for turn, (how, names) in enumerate(history):
            if how in ("put", "delete"):
                change(old, how, names, f"text {turn}")
            for number, follower in enumerate(followers):
                if how == "compact":
                    old[number].compact()
                if how == "open again":
                    old[number].close()
                    old[number] = opened(Path(folder, "old"), OLD, number, before)
                    stack.callback(old[number].close)
                    sources[number].shard = old[number]
                if how == "pass":
                    followers[number] = passed(follower, sources[number], sinks)
                if how == "begin":
                    since = follower.progress.since
                    follower._write(sources[number].written_since(since, follower._mark))
                if how == "kill":
                    since = follower.progress.since
                    followers[number] = Follower(sources[number], sinks, Pace(1 << 40), since)
        followers = [passed(it, sources[n], sinks) for n, it in enumerate(followers)]
        assert contents(new) == contents(old)
        counted = sum(follower.progress.documents for follower in followers)
        assert counted == sum(shard.status().documents for shard in new)


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[tuple[list[Shard], list[Shard]]]:
    with contextlib.ExitStack() as stack:
        yield made(stack, tmp_path / "old", OLD, 1), made(stack, tmp_path / "new", NEW, 2)


@contextlib.contextmanager
def running(follower: Follower) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=follower.run)
    thread.start()
    try:
        yield thread
    finally:
        follower.end()
        thread.join(30)
        assert not thread.is_alive()


def test_what_was_written_before_it_was_told_to_catch_up_is_there_when_it_says_so(
    shards: tuple[list[Shard], list[Shard]],
) -> None:
    old, new = shards
    follower = Follower(
        old[0], {n: [ShardSink(shard)] for n, shard in enumerate(new)}, Pace(1 << 40), 0
    )
    with running(follower):
        assert wait_until(lambda: follower.progress.passes > 0)
        for turn in range(5):
            change(old, "put", [f"id {n}" for n in range(turn, turn + 10)], f"text {turn}")
            change(old, "delete", [f"id {turn}"], "")
            follower.catch_up(f"hold {turn}")
            assert wait_until(lambda: follower.progress.caught_up == f"hold {turn}")  # noqa: B023
            assert contents(new) == contents(old)


def test_a_shard_that_was_opened_again_needs_another_follower(
    shards: tuple[list[Shard], list[Shard]], tmp_path: Path
) -> None:
    """What it was given before is not known: one of several replicas is followed from the start."""
    old, new = shards
    source = OldShard(old[0])
    follower = Follower(
        source, {n: [ShardSink(shard)] for n, shard in enumerate(new)}, Pace(1 << 40), 0
    )
    change(old, "put", ["id 1"], "one")
    assert follower._pass()
    old[0].close()
    source.shard = opened(tmp_path / "old", OLD, 0, 1)
    with contextlib.closing(source.shard), pytest.raises(Unavailable, match="opened again"):
        follower._pass()


def test_every_copy_of_a_new_shard_gets_the_same_and_one_that_fails_ends_the_follower(
    shards: tuple[list[Shard], list[Shard]], tmp_path: Path
) -> None:
    old, new = shards
    change(old, "put", [f"id {n}" for n in range(20)], "one")
    with contextlib.ExitStack() as stack:
        copies = made(stack, tmp_path / "copy", NEW, 2)
        sinks = {n: [ShardSink(new[n]), ShardSink(copies[n])] for n in range(2)}
        follower = Follower(old[0], sinks, Pace(1 << 40), 0)
        assert follower._pass()
        assert contents(new) == contents(copies) == contents(old)
        assert [s.newest_version for s in new] == [s.newest_version for s in copies]
        since = follower.progress.since
        sinks[1][1].error = ShardUnavailable("its node is lost")
        change(old, "put", [f"id {n}" for n in range(20)], "two")
        with pytest.raises(ShardUnavailable, match="its node is lost"):
            follower.run()
        assert follower.progress.since == since  # others begin there
