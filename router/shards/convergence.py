"""Replicas that may have missed writes become equal: they are compared, and what one lacks it gets
from another that has it (shard_worker/inventory.py).

All that is sent carries its version, so it does not matter what is written in the meantime, nor
whether it comes twice. Little is compared where little differs: digests of ranges of hashed ids
first, then the entries of those that differ, then the documents.

A replica that was away for so long that others have forgotten deletions may hold what was deleted:
it is *outdated*, is told nothing and asked for nothing, and must be copied whole. Where as many
hold such a document as lack it, nobody is left to copy from: then it is deleted, for whoever has
forgotten a deletion had got all that was acknowledged before.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import (
    BitsiftError,
    DeadlineExceeded,
    Fenced,
    FormatMismatch,
    RequestOutcome,
    ShardUnavailable,
)
from bitsift.router.shards.link import ReplicaLink
from bitsift.router.shards.replica import Replica
from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.inventory import KEYS_MAX, Inventory, ReplicaFacts, range_bits
from bitsift.shard_worker.operations import Delete, Operation, statuses
from bitsift.shard_worker.store.packing import id_keys
from bitsift.write_status import WriteStatus
from bitsift.write_token import Reached

ROUNDS_MAX = 4
"""What is written in the meantime makes another round necessary."""
ENTRIES_AT_ONCE = 1 << 16
"""Of each replica, so that a great difference takes no more RAM than a small one."""
ASK_S = 60.0
"""For a replica to answer: it may read all its ids and versions first."""
T = TypeVar("T")
Found = dict[Replica, T]
"""What each replica has answered."""
_NOTHING = np.empty(0, dtype=np.uint64)


@dataclass(slots=True)
class Progress:
    """How far a comparison is: how many documents and deletions were ``missed`` by some replica in
    all rounds so far, how many of them were ``sent``; and how many in the ``last`` whole round.
    """

    missed: int = 0
    sent: int = 0
    last: int | None = None


async def most_equal(
    replicas: Sequence[Replica], epoch: int, least: int, reached: Reached
) -> dict[Replica, BitsiftError]:
    """Make ``least`` of them equal, or more, and as far as ``reached``: those that have to be left
    behind, and why. Raises the error of one of them where there are too many, not done.
    """
    try:
        failed = await equalize(replicas, epoch) if len(replicas) > 1 else {}
        if len(replicas) - len(failed) < least:
            raise next(iter(failed.values()))
        await mended([it for it in replicas if it not in failed], reached)
    except BitsiftError as error:
        raise error.with_outcome(RequestOutcome.NOT_DONE) from error
    return failed


async def mended(replicas: Iterable[Replica], reached: Reached) -> None:
    """They are equal, and as far as ``reached``. Raises what one of them raises."""
    await asyncio.gather(*(it.link.mended(reached) for it in replicas))


async def equalize(
    replicas: Iterable[Replica],
    epoch: int,
    *,
    newcomers: Collection[Replica] = (),
    targets: Collection[Replica] | None = None,
    enough: int = 0,
    progress: Progress | None = None,
) -> dict[Replica, BitsiftError]:
    """Make replicas equal, under the table of ``epoch``. One that fails is left out, and the error
    returned: the others are equal, and are to be told that they are ``mended``.

    What the others hold is the truth for ``newcomers``. Where there are ``targets``, they alone are
    sent what they lack. ``enough`` documents and deletions may be lacking at the end, those that
    were written meanwhile. Raises Fenced, and ShardUnavailable where writes go on so fast that they
    never are equal.
    """
    every = list(replicas)
    sent_to = every if targets is None else targets
    comparison = _Comparison(every, epoch, newcomers, sent_to, progress or Progress())
    for _ in range(ROUNDS_MAX):
        if await comparison.round() <= enough:
            return comparison.failed
    names = ", ".join(replica.node for replica in comparison.replicas)
    raise ShardUnavailable(f"the replicas on {names} still differ after {ROUNDS_MAX} comparisons")


class _Comparison:
    def __init__(
        self,
        replicas: list[Replica],
        epoch: int,
        newcomers: Collection[Replica],
        targets: Collection[Replica],
        progress: Progress,
    ) -> None:
        self.replicas = replicas
        """Those that have not failed."""
        self.failed: dict[Replica, BitsiftError] = {}
        self._epoch = epoch
        self._newcomers = newcomers
        self._targets = targets
        self._progress = progress

    async def round(self) -> int:
        """How many entries some of them lacked, each counted for each; then it was sent them."""
        facts = await self._asked(lambda link: link.facts())
        since = max((fact.forgotten_version for fact in facts.values()), default=0)
        entries = max((fact.entries for fact in facts.values()), default=0)
        bits, lacking = range_bits(entries), 0
        packed = await self._asked(lambda link: link.digests(bits, since))
        if packed:
            digests = np.stack([np.frombuffer(one, np.uint64) for one in packed.values()])
            ranges = np.flatnonzero((digests != digests[0]).any(axis=0)).astype(np.int64)
            at_once = max(1, (ENTRIES_AT_ONCE << bits) // max(1, entries))
            for start in range(0, len(ranges), at_once):
                some = ranges[start : start + at_once].tobytes()
                lacking += await self._level(bits, since, some, facts)
        self._progress.last = lacking
        return lacking

    async def _level(self, bits: int, since: int, ranges: bytes, facts: Found[ReplicaFacts]) -> int:
        """The same for some of the ranges, int64 each."""
        entries = await self._asked(lambda link: link.entries(bits, since, ranges))
        held = {replica: one.inventory() for replica, one in entries.items()}
        outdated, doomed = _outdated(held, facts, self._newcomers)
        for replica in outdated:
            del held[replica]
            self._fail(
                replica,
                FormatMismatch(
                    f"{replica.name} was away for so long that others no longer remember what was "
                    "deleted meanwhile: it must be copied whole"
                ),
            )
        buried = 0
        for holder, keys in doomed.items():
            if holder in held:
                held[holder] = held[holder].without(keys)
                buried += await self._buried(holder, keys, since)
        return buried + await self._sent(_lacking(held))

    async def _asked(self, ask: Callable[[ReplicaLink], Awaitable[T]]) -> Found[T]:
        """What each of them answers; who does not is left out from here on."""
        replicas = list(self.replicas)
        calls = [asyncio.wait_for(ask(it.link), ASK_S) for it in replicas]
        found = dict[Replica, T]()
        said = await asyncio.gather(*calls, return_exceptions=True)
        for replica, answer in zip(replicas, said, strict=True):
            if isinstance(answer, BaseException):
                self._fail(replica, answer)
            else:
                found[replica] = answer
        return found

    def _fail(self, replica: Replica, error: BaseException) -> None:
        if isinstance(error, TimeoutError):
            error = DeadlineExceeded(f"{replica.name} did not answer in {ASK_S:.0f} s")
        if isinstance(error, Fenced) or not isinstance(error, BitsiftError):
            raise error
        self.replicas.remove(replica)
        self.failed[replica] = error

    async def _sent(self, lacking: Found[dict[Replica, list[int]]]) -> int:
        lacking = {target: it for target, it in lacking.items() if target in self._targets}
        counts = {target: sum(map(len, sources.values())) for target, sources in lacking.items()}
        self._progress.missed += sum(counts.values())
        for target, sources in lacking.items():
            for source, keys in sources.items():
                late = await self._send(source, target, np.array(keys, dtype=np.uint64))
                # What it has is newer: a deletion that another has forgotten, and nobody compares.
                if source in self._targets:
                    await self._send(target, source, late)
        return sum(count for target, count in counts.items() if target in self.replicas)

    async def _buried(self, holder: Replica, keys: NDArray[np.uint64], version: int) -> int:
        """How many ``keys`` it has documents under, up to ``version``: these are deleted."""
        if holder not in self._targets:
            return 0
        await self._send(holder, holder, keys, version)
        return len(keys)

    async def _send(
        self,
        source: Replica,
        target: Replica,
        keys: NDArray[np.uint64],
        deleted: int = NO_VERSION,
    ) -> NDArray[np.uint64]:
        """Of what ``target`` has something newer. An answer has the first of what it was asked for,
        or nothing where all is gone. What is not newer than ``deleted`` is sent as a deletion.
        """
        late = [_NOTHING]
        while len(keys) and {source, target}.issubset(self.replicas):
            some, rest = keys[:KEYS_MAX], keys[KEYS_MAX:]
            try:
                changes = await asyncio.wait_for(source.link.changes(some.tobytes()), ASK_S)
            except (BitsiftError, TimeoutError) as error:
                self._fail(source, error)
                break
            try:
                written = self._written(target, [_as_of(one, deleted) for one in changes])
                late.append(await asyncio.wait_for(written, ASK_S))
            except (BitsiftError, TimeoutError) as error:
                self._fail(target, error)
                break
            came = np.isin(some, id_keys([name for one in changes for name in one.ids]))
            self._progress.sent += int(np.count_nonzero(came))
            keys = np.concatenate([some[~came], rest]) if came.any() else rest
        return np.concatenate(late)

    async def _written(self, target: Replica, changes: Sequence[Operation]) -> NDArray[np.uint64]:
        """The keys of what was superseded."""
        if not changes:
            return _NOTHING
        said = statuses(await target.link.mend(changes, self._epoch))
        ids = [name for operation in changes for name in operation.ids]
        each = zip(ids, itertools.chain(*said), strict=True)
        return id_keys([name for name, one in each if one is WriteStatus.SUPERSEDED])


def _as_of(operation: Operation, deleted: int) -> Operation:
    return operation if operation.version > deleted else Delete(operation.ids, deleted)


def _outdated(
    held: Found[Inventory], facts: Found[ReplicaFacts], newcomers: Collection[Replica]
) -> tuple[set[Replica], Found[NDArray[np.uint64]]]:
    """Those that hold a document that another lacks, and may have deleted and forgotten that; or
    the other, where most hold the document: then no majority has deleted it. Where half of them do,
    the keys of the documents, by who holds them.

    What members hold is the truth for a newcomer: it gets the document, or is outdated.
    """
    members = [replica for replica in held if replica not in newcomers]
    found, doomed = set[Replica](), dict[Replica, NDArray[np.uint64]]()
    for other, theirs in held.items():
        forgotten = np.uint64(facts[other].forgotten_version)
        common, half = _held_by_most([held[replica] for replica in members], forgotten)
        for holder, own in held.items():
            if other in newcomers and holder in members:
                continue
            old = ~own.deleted & (own.versions <= forgotten)
            lacked = own.keys[old & ~np.isin(own.keys, theirs.keys)]
            is_common = np.isin(lacked, common) & (holder in members)
            is_doomed = np.isin(lacked, half) & (holder in members)
            if is_common.any():
                found.add(other)
            if not (is_common | is_doomed).all():
                found.add(holder)
            if is_doomed.any():
                doomed[holder] = np.union1d(doomed.get(holder, _NOTHING), lacked[is_doomed])
    return found, doomed


def _held_by_most(
    inventories: Sequence[Inventory], version: np.uint64
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The keys of documents that more than half of them hold, and of those that half of them do; up
    to ``version``: one that is newer may have been written after others had deleted the document.
    """
    alive = [np.unique(it.keys[~it.deleted & (it.versions <= version)]) for it in inventories]
    keys, counts = np.unique(np.concatenate([_NOTHING, *alive]), return_counts=True)
    return keys[2 * counts > len(inventories)], keys[2 * counts == len(inventories)]


def _lacking(held: Found[Inventory]) -> Found[dict[Replica, list[int]]]:
    """For each replica the keys of what it lacks, by the replica that has it.

    Of each entry, for two ids may share a hash. One that has a newer version of the only id of a
    hash lacks nothing.
    """
    replicas = list(held)
    if not replicas:
        return {}
    keys, versions, has = _entries([held[replica] for replica in replicas])
    sources = has.argmax(axis=0)  # the first that has it
    only = np.stack([_only_versions(held[replica], keys) for replica in replicas])
    is_only = only[sources, np.arange(len(keys))] > 0
    found: Found[dict[Replica, list[int]]] = {replica: {} for replica in held}
    for at, target in enumerate(replicas):
        lacked = ~has[at] & ~(is_only & (only[at] > versions))
        for source in np.unique(sources[lacked]):
            found[target][replicas[source]] = keys[lacked & (sources == source)].tolist()
    return found


def _entries(
    inventories: Sequence[Inventory],
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]]:
    """The keys and the versions of all different entries, (n,), and which inventory has each:
    bool (inventories, n).
    """
    keys = np.concatenate([one.keys for one in inventories])
    versions = np.concatenate([one.versions for one in inventories])
    deleted = np.concatenate([one.deleted for one in inventories])
    holders = np.repeat(np.arange(len(inventories)), [len(one) for one in inventories])
    order = np.lexsort((deleted, versions, keys))
    is_other = np.ones(len(order), dtype=np.bool_)
    for column in (keys, versions, deleted):
        column[:] = column[order]
    is_other[1:] = (np.diff(keys) > 0) | (versions[1:] != versions[:-1]) | np.diff(deleted)
    has = np.zeros((len(inventories), np.count_nonzero(is_other)), dtype=np.bool_)
    has[holders[order], np.cumsum(is_other) - 1] = True
    return keys[is_other], versions[is_other], has


def _only_versions(inventory: Inventory, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Of each of ``keys`` (n,) the version of its entry, where it has one only; else 0."""
    known, first, counts = np.unique(inventory.keys, return_index=True, return_counts=True)
    found = np.zeros(len(keys), dtype=np.uint64)
    if len(known):
        at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        is_one = (known[at] == keys) & (counts[at] == 1)
        found[is_one] = inventory.versions[first[at[is_one]]]
    return found
