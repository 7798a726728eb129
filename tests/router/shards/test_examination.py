"""Damage is found while a shard answers, and one replica is mended from another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from bitsift.errors import BitsiftError, ChecksumMismatch, Corrupt, Unavailable
from bitsift.router.shards import comparison, examination
from bitsift.router.shards.comparison import lacking
from bitsift.router.shards.examination import (
    Progress,
    ReplicaReport,
    mend_replicas,
    verify_replicas,
)
from bitsift.router.shards.replica import Replica
from bitsift.shard_worker.maintenance import own_rows
from bitsift.shard_worker.operations import Delete, Upsert
from bitsift.shard_worker.replica_state import ReplicaState
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.difference import digest_of
from bitsift.shard_worker.store.lmdb_file import DATA_FILE
from bitsift.shard_worker.store.packing import ROW
from bitsift.shard_worker.types import LIVE_POSITION, ShardSettings
from tests.damage import flip
from tests.replicas import FaultyLink, make_replicas

DIMENSION, ROWS, NODES = 64, 300, 3
VERSION = 1_700_000_000_000 << 16
LIMIT_S = 60.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes of these tests are on all replicas at once."""
    monkeypatch.setattr(comparison, "SETTLE_S", 0.0)
    monkeypatch.setattr(own_rows, "ROWS_AT_ONCE", 125)


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[list[Shard]]:
    """Three replicas with the same documents, written in different orders."""
    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    with contextlib.ExitStack() as opened:
        shards = make_replicas(opened, tmp_path, nothing, DIMENSION, 1, NODES)[0]
        for number, shard in enumerate(shards):
            order = np.random.default_rng(number).permutation(ROWS).tolist()
            shard.write([upsert(place) for place in order])
            shard.write([Delete(["d0"], VERSION + ROWS)])
        yield shards


def upsert(number: int, version: int = 0) -> Upsert:
    codes = np.random.default_rng(number).integers(-127, 128, (1, DIMENSION)).astype(np.int8)
    texts = [f"d{number}"], [""], [f"the text of {number}, version {version}"], [""]
    return Upsert(*texts, [LIVE_POSITION], codes, version=VERSION + (version or number))


def replicas_of(shards: Sequence[Shard]) -> list[Replica]:
    return [Replica(0, f"node-{at}", FaultyLink(shard)) for at, shard in enumerate(shards)]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S):
            await scenario()

    asyncio.run(limited())


def row_of(shard: Shard, name: str) -> int:
    with shard.reading() as store:
        row = store.find(name)
    assert row is not None
    return row


def data_file(shard: Shard) -> Path:
    with shard.reading() as store:
        return store.path / DATA_FILE


def damage_code(shard: Shard, name: str) -> None:
    flip(data_file(shard), upsert(int(name[1:])).codes.tobytes()[8:])


def damage_document(shard: Shard, name: str) -> None:
    row = row_of(shard, name)
    with shard.reading() as store, store.parts.env.begin() as txn:
        packed = txn.get(ROW.pack(row), db=store.parts.env.databases["documents"])
        assert isinstance(packed, bytes)
    flip(data_file(shard), packed)
    with pytest.raises(ChecksumMismatch):
        shard.document(name)


def forget(shard: Shard, name: str) -> None:
    """Its row is gone, and nothing says that it was deleted."""
    row = row_of(shard, name)
    with shard.reading() as store:
        generation = store.generation
    assert shard.bury(generation, [row]) == 1


def digests(shards: Sequence[Shard]) -> set[str]:
    found = set()
    for shard in shards:
        with shard.reading() as store:
            found.add(digest_of(store))
    return found


def said(reports: Sequence[ReplicaReport]) -> list[tuple[int, int, int]]:
    return [(one.damaged, one.lacking, one.mended) for one in reports]


def test_equal_and_sound_replicas_are_sound(shards: list[Shard]) -> None:
    async def scenario() -> None:
        progress = Progress()
        reports = await verify_replicas(replicas_of(shards), progress)
        assert all(one.is_sound for one in reports), reports
        assert [(one.node, one.rows) for one in reports] == [
            (f"node-{at}", ROWS) for at in range(NODES)
        ]
        assert (progress.checked, progress.rows) == (NODES * ROWS, NODES * ROWS)
        again = await mend_replicas(replicas_of(shards), 0, progress)
        assert said(again) == [(0, 0, 0)] * NODES

    run(scenario)


@pytest.mark.parametrize("damage", [damage_code, damage_document])
def test_damaged_rows_are_named_and_mended_from_a_peer(
    shards: list[Shard], damage: Callable[[Shard, str], None]
) -> None:
    async def scenario() -> None:
        names = ["d7", "d130", "d299"]
        for name in names:
            damage(shards[1], name)
        reports = await verify_replicas(replicas_of(shards), Progress())
        assert said(reports) == [(0, 0, 0), (3, 0, 0), (0, 0, 0)]
        if damage is damage_code:  # of a damaged document the id is not known
            assert set(reports[1].examples) == set(names)
        reports = await mend_replicas(replicas_of(shards), 0, Progress())
        assert said(reports) == [(0, 0, 0), (0, 0, 3), (0, 0, 0)]
        assert all(one.is_sound for one in reports), reports
        for name in names:
            assert shards[1].document(name) == shards[0].document(name)
        assert len(digests(shards)) == 1
        assert {shard.status().documents for shard in shards} == {ROWS - 1}

    run(scenario)


def test_what_one_lacks_is_found_and_mended(shards: list[Shard]) -> None:
    async def scenario() -> None:
        for number in range(20, 45):
            forget(shards[2], f"d{number}")
        shards[0].write([Delete(["d1"], VERSION + 700)])
        reports = await verify_replicas(replicas_of(shards), Progress())
        assert said(reports) == [(0, 0, 0), (0, 1, 0), (0, 26, 0)]
        assert len(set(reports[2].examples)) == examination.EXAMPLES_MAX
        assert reports[1].examples == ("d1",)
        reports = await mend_replicas(replicas_of(shards), 0, Progress())
        assert said(reports) == [(0, 0, 0), (0, 0, 1), (0, 0, 26)]
        assert len(digests(shards)) == 1
        assert shards[2].document("d30").text == "the text of 30, version 0"
        for shard in shards:
            with pytest.raises(BitsiftError):
                shard.document("d1")

    run(scenario)


def test_every_replica_may_be_damaged_elsewhere_and_all_is_mended(shards: list[Shard]) -> None:
    async def scenario() -> None:
        damage_code(shards[0], "d3")
        damage_document(shards[1], "d3")
        damage_document(shards[0], "d4")
        damage_code(shards[2], "d5")
        forget(shards[2], "d4")
        reports = await mend_replicas(replicas_of(shards), 0, Progress())
        assert all(one.is_sound for one in reports), reports
        assert [one.mended for one in reports] == [2, 1, 2]
        for name in ("d3", "d4", "d5"):
            assert len({shard.document(name).text for shard in shards}) == 1

    run(scenario)


def test_what_is_damaged_everywhere_is_left_and_said(shards: list[Shard]) -> None:
    async def scenario() -> None:
        for shard in shards:
            damage_document(shard, "d9")
        damage_code(shards[0], "d10")
        reports = await mend_replicas(replicas_of(shards), 0, Progress())
        assert said(reports) == [(1, 0, 1), (1, 0, 0), (1, 0, 0)]
        assert all("no replica has these documents sound" in str(one.reason) for one in reports)

    run(scenario)


def test_an_older_document_of_a_peer_takes_no_place(shards: list[Shard]) -> None:
    """The newest version is damaged where it is alone: what was acknowledged is not undone."""

    async def scenario() -> None:
        newest = upsert(11, version=5_000)
        shards[0].write([newest])
        damage_document(shards[0], "d11")
        reports = await mend_replicas(replicas_of(shards[:2]), 0, Progress())
        assert reports[0].damaged == 1
        assert not reports[0].is_sound
        with pytest.raises(ChecksumMismatch):
            shards[0].document("d11")

    run(scenario)


def test_a_row_that_nothing_leads_to_is_given_up_when_its_document_is_there_again(
    shards: list[Shard],
) -> None:
    async def scenario() -> None:
        damage_document(shards[1], "d12")
        shards[1].save_bits()
        with shards[1].reading() as store:
            store.rebuild_ids()  # which loses the id of the damaged document
        reports = await verify_replicas(replicas_of(shards), Progress())
        assert said(reports) == [(0, 0, 0), (1, 1, 0), (0, 0, 0)]
        reports = await mend_replicas(replicas_of(shards), 0, Progress())
        assert said(reports) == [(0, 0, 0), (0, 0, 2), (0, 0, 0)]
        assert shards[1].document("d12") == shards[0].document("d12")
        assert {shard.status().documents for shard in shards} == {ROWS - 1}

    run(scenario)


def test_a_single_replica_has_no_peer_and_says_what_to_do(shards: list[Shard]) -> None:
    async def scenario() -> None:
        damage_code(shards[0], "d3")
        (report,) = await mend_replicas(replicas_of(shards[:1]), 0, Progress())
        assert report.damaged == 1
        assert "it is the only replica" in str(report.reason)
        assert "restore the index from a backup" in str(report.reason)
        replicas = replicas_of(shards)
        for replica in replicas[1:]:
            assert isinstance(replica.link, FaultyLink)
            replica.link.check_rows = unreachable  # type: ignore[method-assign]
        reports = await mend_replicas(replicas, 0, Progress())
        assert "no other replica answers" in str(reports[0].reason)
        assert "was not checked: its process died" in str(reports[1].reason)

    async def unreachable(first: int) -> own_rows.RowCheck:
        raise Unavailable("its process died")

    run(scenario)


def test_writes_and_compactions_go_on_and_are_no_difference(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        ended, number = asyncio.Event(), 0

        async def write() -> None:
            nonlocal number
            while not ended.is_set():
                number += 1
                for shard in shards:  # one after the other: they are never quite equal
                    operation = upsert(number % ROWS, version=10_000 + number)
                    await asyncio.to_thread(shard.write, [operation])
                    await asyncio.sleep(0.001)
                if number % 5 == 0:
                    await asyncio.to_thread(shards[number // 5 % NODES].compact)

        async def two_rounds() -> None:
            wanted = number + 2
            while number < wanted:
                await asyncio.sleep(0.001)

        monkeypatch.setattr(comparison, "settled", two_rounds)
        forget(shards[2], "d280")
        writing = asyncio.ensure_future(write())
        for _ in range(5):
            reports = await verify_replicas(replicas_of(shards), Progress())
            assert [(one.damaged, one.lacking) for one in reports] == [(0, 0), (0, 0), (0, 1)]
        reports = await mend_replicas(replicas_of(shards), 0, Progress())
        ended.set()
        await writing
        assert [one.lacking for one in reports] == [0] * NODES, reports
        assert len(digests(shards)) == 1

    run(scenario)


def test_a_check_begins_again_where_rows_were_renumbered(shards: list[Shard]) -> None:
    async def scenario() -> None:
        replica = replicas_of(shards)[0]
        assert isinstance(replica.link, FaultyLink)
        check, calls = replica.link.check_rows, list[int]()

        async def compacting(first: int) -> own_rows.RowCheck:
            calls.append(first)
            if len(calls) == 2:
                shards[0].compact()
            return await check(first)

        replica.link.check_rows = compacting  # type: ignore[method-assign]
        damage_code(shards[0], "d200")
        (report,) = await verify_replicas([replica], Progress())
        assert calls == [0, 125, 0, 125, 250]
        assert (report.damaged, report.rows) == (1, ROWS - 1)

    run(scenario)


def test_rows_of_another_generation_are_never_given_up(shards: list[Shard]) -> None:
    with pytest.raises(Unavailable, match="check the rows again"):
        shards[0].bury(7, [0])
    assert shards[0].bury(0, []) == 0
    row = row_of(shards[0], "d5")
    assert (shards[0].bury(0, [row, row]), shards[0].bury(0, [row])) == (1, 0)


def test_what_is_given_up_stays_so_after_a_restart_and_leaves_no_tombstone(
    shards: list[Shard],
) -> None:
    forget(shards[0], "d5")
    assert ReplicaState(shards[0]).held(["d5"]) == [0]
    object.__setattr__(shards[0], "_settings", ShardSettings())
    shards[0].compact()
    assert ReplicaState(shards[0]).held(["d5"]) == [0]
    shards[0].write([upsert(5)])
    assert shards[0].document("d5").text == "the text of 5, version 0"


def test_lacking_says_nothing_of_replicas_that_are_equal(shards: list[Shard]) -> None:
    async def scenario() -> None:
        replicas = replicas_of(shards)
        assert await lacking(replicas) == [set()] * NODES
        assert not any(
            replica.link.calls["changes"]
            for replica in replicas
            if isinstance(replica.link, FaultyLink)
        )

    run(scenario)


def test_a_peer_that_cannot_give_is_said(shards: list[Shard]) -> None:
    async def scenario() -> None:
        forget(shards[2], "d30")
        replicas = replicas_of(shards)

        async def broken(keys: bytes) -> Sequence[Upsert]:
            raise Corrupt("its file is damaged")

        for replica in replicas:
            assert isinstance(replica.link, FaultyLink)
            replica.link.changes = broken  # type: ignore[method-assign]
        reports = await mend_replicas(replicas, 0, Progress())
        assert "it was not mended: its file is damaged" in str(reports[2].reason)
        assert (reports[2].lacking, reports[2].mended) == (1, 0)

    run(scenario)


def test_a_replica_that_does_not_answer_is_waited_for_so_long_and_said(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "ASK_S", 0.3)
    monkeypatch.setattr(comparison, "ASK_S", 0.3)

    async def scenario() -> None:
        replicas = replicas_of(shards)
        silent = replicas[1].link
        with monkeypatch.context() as patch:
            patch.setattr(silent, "check_rows", never)
            reports = await verify_replicas(replicas, Progress())
        late = "it was not checked: it did not answer in time"
        assert [one.reason for one in reports] == [None, late, None]
        with monkeypatch.context() as patch:
            patch.setattr(silent, "facts", never)
            reports = await verify_replicas(replicas, Progress())
        late = "the replicas could not be compared: it did not answer in time"
        assert [one.reason for one in reports] == [late] * NODES

    run(scenario)


async def never(*_: object) -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError
