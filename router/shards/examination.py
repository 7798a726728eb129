"""Checking the replicas of a shard that is being served, and mending one from its peers.

Each replica checks its own rows by their checksums, some at a time, and rests as long as that took;
one replica of a shard after the other, so that the others answer at their usual speed. Then they
are compared (comparison.py). What is mended comes from a peer, in its version: so nothing is undone
that was written in the meantime, and nothing stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bitsift.errors import BitsiftError, said_by
from bitsift.router.shards import comparison
from bitsift.router.shards.replica import Replica
from bitsift.shard_worker.inventory import KEYS_MAX
from bitsift.shard_worker.maintenance.own_rows import DamagedRow
from bitsift.shard_worker.operations import Operation, statuses
from bitsift.shard_worker.store.packing import id_keys

ASK_S = 60.0
"""For a replica to check some of its rows."""
REST_MAX_S = 5.0
EXAMPLES_MAX = 5


class Progress:
    """How many rows were checked so far, and how many there are. Lives in one event loop."""

    def __init__(self) -> None:
        self._rows = dict[Replica, tuple[int, int]]()

    def note(self, replica: Replica, checked: int, rows: int) -> None:
        self._rows[replica] = checked, rows

    @property
    def checked(self) -> int:
        return sum(checked for checked, _ in self._rows.values())

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in self._rows.values())


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What was found of one replica. ``damaged`` rows do not pass their checksums, ``lacking`` are
    documents and deletions that another replica has; ``examples`` are ids of some of both.
    ``reason`` says why it could not be checked, or not be mended; ``mended`` counts what was.
    """

    shard: int
    node: str
    rows: int = 0
    damaged: int = 0
    lacking: int = 0
    examples: tuple[str, ...] = ()
    mended: int = 0
    reason: str | None = None

    @property
    def is_sound(self) -> bool:
        return not self.damaged and not self.lacking and self.reason is None


@dataclass(slots=True)
class _Examined:
    """What is known of one replica so far."""

    replica: Replica
    generation: int = 0
    rows: int = 0
    damaged: list[DamagedRow] = field(default_factory=list)
    lacking: set[int] = field(default_factory=set)
    names: list[str] = field(default_factory=list)
    mended: int = 0
    reason: str | None = None

    @property
    def is_whole(self) -> bool:
        return not self.damaged and not self.lacking

    def report(self) -> ReplicaReport:
        known = (row.id for row in self.damaged if row.id is not None)
        return ReplicaReport(
            self.replica.shard,
            self.replica.node,
            self.rows,
            len(self.damaged),
            len(self.lacking),
            tuple(dict.fromkeys([*known, *self.names]))[:EXAMPLES_MAX],
            self.mended,
            self.reason,
        )


async def verify_replicas(replicas: Sequence[Replica], progress: Progress) -> list[ReplicaReport]:
    """What is wrong with each replica of one shard. Changes nothing."""
    return [it.report() for it in await _examined(replicas, progress)]


async def mend_replicas(
    replicas: Sequence[Replica], epoch: int, progress: Progress
) -> list[ReplicaReport]:
    """The same, when what is wrong has been mended as far as another replica has it sound;
    ``epoch`` is that of their table.
    """
    found = await _examined(replicas, progress)
    well = [it for it in found if it.reason is None]
    broken = [it for it in well if not it.is_whole]
    if not broken:
        return [it.report() for it in found]
    if len(well) == 1:
        _has_no_peer(broken[0], len(replicas))
        return [it.report() for it in found]
    before = {it.replica: (len(it.damaged), len(it.lacking)) for it in well}
    try:
        for it in broken:
            peers = [other.replica for other in well if other is not it]
            try:
                await _mend(it, peers, epoch)
            except (BitsiftError, TimeoutError) as error:
                it.reason = f"it was not mended: {_said(error)}"
        await comparison.settled()  # what was written meanwhile has come, too
    finally:
        ends = [asyncio.wait_for(it.replica.link.mended(), ASK_S) for it in broken]
        await asyncio.gather(*ends, return_exceptions=True)
    again = {it.replica: it for it in await _examined([it.replica for it in well], progress)}
    return [_after(it, again.get(it.replica), before).report() for it in found]


def _has_no_peer(it: _Examined, replicas: int) -> None:
    why = "it is the only replica" if replicas == 1 else "no other replica answers"
    it.reason = (
        f"{why}, so there is nothing to mend it from: add these documents again, or restore the "
        "index from a backup"
    )


def _after(
    it: _Examined, again: _Examined | None, before: dict[Replica, tuple[int, int]]
) -> _Examined:
    """What is left of what was found, and how much was mended."""
    if again is None:
        return it
    again.mended = max(0, sum(before[it.replica]) - len(again.damaged) - len(again.lacking))
    if again.reason is None and not again.is_whole:
        again.reason = it.reason
    if again.reason is None and again.damaged:
        again.reason = (
            "no replica has these documents sound: add them again, or restore the index from a "
            "backup"
        )
    return again


# --- looking ---------------------------------------------------------------------------------


async def _examined(replicas: Sequence[Replica], progress: Progress) -> list[_Examined]:
    found = [_Examined(replica) for replica in replicas]
    for it in found:
        try:
            await _check_rows(it, progress)
        except (BitsiftError, TimeoutError) as error:
            it.reason = f"it was not checked: {_said(error)}"
    await _compare([it for it in found if it.reason is None])
    return found


async def _check_rows(it: _Examined, progress: Progress) -> None:
    """Raises what the replica raises, and TimeoutError."""
    first = 0
    while True:
        begun_s = time.monotonic()
        async with asyncio.timeout(ASK_S):
            part = await it.replica.slow_call(lambda one, at=first: one.link.check_rows(at))  # type: ignore[misc]
        if first and part.generation != it.generation:  # compacted: rows have other numbers
            first, it.damaged = 0, []
            continue
        it.generation, it.rows, first = part.generation, part.rows, part.next_row
        it.damaged += part.damaged
        progress.note(it.replica, first, part.rows)
        if first >= part.rows:
            return
        await asyncio.sleep(min(REST_MAX_S, time.monotonic() - begun_s))


async def _compare(found: Sequence[_Examined]) -> None:
    """Note what each lacks of what another has."""
    if len(found) < 2:
        return
    try:
        differences = await comparison.lacking([it.replica for it in found])
    except (BitsiftError, TimeoutError) as error:
        for it in found:
            it.reason = f"the replicas could not be compared: {_said(error)}"
        return
    for it, keys in zip(found, differences, strict=True):
        it.lacking = keys
        if keys:
            some = dict.fromkeys(sorted(keys)[:EXAMPLES_MAX], 0)
            peers = [other.replica for other in found if other is not it]
            with contextlib.suppress(BitsiftError, TimeoutError):
                it.names = [name for one in await _changes(peers, some) for name in one.ids]


def _said(error: BaseException) -> str:
    return "it did not answer in time" if isinstance(error, TimeoutError) else said_by(error)


# --- mending ---------------------------------------------------------------------------------


async def _mend(it: _Examined, peers: Sequence[Replica], epoch: int) -> None:
    """Raises what a replica raises, and TimeoutError."""
    await _replace_damaged(it, peers, epoch)
    await _give_lacking(it, peers, epoch)
    await _bury_unnamed(it, epoch)


async def _give_lacking(it: _Examined, peers: Sequence[Replica], epoch: int) -> None:
    """Write what it lacks, as each peer has it: the newest stays."""
    keys = sorted(it.lacking)
    for start in range(0, len(keys), KEYS_MAX):
        wanted = dict.fromkeys(keys[start : start + KEYS_MAX], 0)
        for peer in peers:
            if operations := await _changes([peer], wanted):
                statuses(await it.replica.link.mend(operations, epoch))


async def _replace_damaged(it: _Examined, peers: Sequence[Replica], epoch: int) -> None:
    """Let the damaged rows die of which a peer has a sound document, as new at least, and write
    that.
    """
    rows, versions = defaultdict[int, list[int]](list), defaultdict[int, int](int)
    for damaged in it.damaged:
        if damaged.key is not None:
            rows[damaged.key].append(damaged.row)
            versions[damaged.key] = max(versions[damaged.key], damaged.version)
    keys = sorted(rows)
    for start in range(0, len(keys), KEYS_MAX):
        wanted = {key: versions[key] for key in keys[start : start + KEYS_MAX]}
        sound = await _changes(peers, wanted)
        if sound:
            given_up = [row for one in sound for key in _keys(one) for row in rows[key]]
            await it.replica.link.bury(it.generation, given_up, epoch)
            statuses(await it.replica.link.mend(sound, epoch))


async def _changes(peers: Iterable[Replica], wanted: Mapping[int, int]) -> list[Operation]:
    """The documents and deletions under the keys of ``wanted``, in these versions or newer ones,
    each of the first peer that has it. Raises what a peer raises, and TimeoutError.
    """
    found, left = list[Operation](), dict(wanted)
    for peer in peers:
        while left:
            async with asyncio.timeout(ASK_S):
                part = await peer.link.changes(np.array(list(left), dtype=np.uint64).tobytes())
            new = [one for one in part if all(one.version >= left[key] for key in _keys(one))]
            for key in {key for one in new for key in _keys(one)}:
                del left[key]
            found += new
            if not new:  # an answer has the first of what it was asked for
                break
    return found


def _keys(operation: Operation) -> list[int]:
    keys: list[int] = id_keys(operation.ids).tolist()
    return keys


async def _bury_unnamed(it: _Examined, epoch: int) -> None:
    """Rows that nothing leads to: by now it has all that its peers have."""
    unnamed = [damaged.row for damaged in it.damaged if damaged.key is None]
    if unnamed:
        await it.replica.link.bury(it.generation, unnamed, epoch)
