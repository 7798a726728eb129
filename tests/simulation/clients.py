"""The clients of the simulation: what they ask for, and whether the answers can be true."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from bitsift.errors import BitsiftError, NotFound, RequestOutcome, Unavailable
from bitsift.shard_worker.operations import ABSENT, Delete, Insert, Operation, Outcome
from bitsift.write_status import WriteStatus
from bitsift.write_token import WriteToken
from tests.simulation.history import History, Read, Write
from tests.simulation.plan import Asked, Kind
from tests.simulation.rows import codes, upsert

if TYPE_CHECKING:
    from tests.simulation.world import World

ENDS_S = 75.0
"""Every operation ends within this time, however it ends."""
ANSWERED_S = 60.0
"""How long a gateway waits for a writer, which may have ended."""
SEARCH_S = 5.0


class Broken(AssertionError):
    """An invariant does not hold."""


class Clients:
    """All that ask, and the ``history`` of what they were told."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.history = History()
        self.answered = 0
        """Requests that were not refused."""
        self._numbers = itertools.count()
        self._searches = itertools.count()
        self.token: WriteToken | None = None
        """What sees all that was acknowledged so far."""

    async def ask(self, asked: Asked) -> bool:
        """Whether it was done, and the answer says so."""
        begun_s = self._now()
        match asked.kind:
            case Kind.READ:
                done = await self._read(asked)
            case Kind.SEARCH:
                done = await self._search(asked)
            case Kind.SWAP:
                done = await self._swap(asked)
            case _:
                done = await self._write(asked)
        if self._now() > begun_s + ENDS_S:
            raise Broken(f"{asked} ended {self._now() - begun_s:.0f} s later")
        self.answered += done
        return done

    def check(self, read: Read) -> None:
        """Raises Broken: no acknowledged write is lost, the later one wins, what was deleted stays
        so, and a document is read as it was written or later.
        """
        if (why := self.history.broken_by(read)) is not None:
            raise Broken(why)

    # --- reads -----------------------------------------------------------------------------

    async def _read(self, asked: Asked) -> bool:
        router, start, text = self._world.routers[asked.gateway], self._now(), None
        (key,) = asked.keys
        try:
            text = (await router.shard.document(key)).text
        except NotFound:
            pass
        except (BitsiftError, TimeoutError):
            return False
        self.check(Read(key, text, start, self._now()))
        return True

    async def _search(self, asked: Asked) -> bool:
        """Any replica may answer it, also one that lags: nothing is promised without a token. But
        what was not searched is said, and what was found had been written.
        """
        start, token = self._now(), self.token if next(self._searches) % 2 else None
        found = await self.searched(asked.gateway, token)
        for key, text in (found or {}).items():
            if self.history.is_invented(key, text, self._now()):
                raise Broken(f"a search found {key!r} as {text!r}, which nobody wrote")
        if found is not None and token is not None:
            self._check_seen(found, start)
        return found is not None

    def _check_seen(self, found: dict[str, str], start: float) -> None:
        """The token was of all that had been acknowledged when the search began."""
        for key in self.history.keys:
            allowed = self.history.allowed(key, start, self._now())
            if (text := found.get(key)) not in allowed:
                raise Broken(
                    f"a search with a token found {key!r} as {text!r} at {start:.3f}, which was "
                    f"one of {allowed}"
                )

    async def searched(
        self, gateway: str, token: WriteToken | None = None
    ) -> dict[str, str] | None:
        """The texts of all documents; None where the answer says that the shard is missing."""
        found, coverage = await self._world.routers[gateway].search(SEARCH_S, token)
        told = coverage.answered, len(coverage.failures)
        if (len(found), *told) not in {(1, 1, 0), (0, 0, 1)} or coverage.shards != 1:
            raise Broken(f"{len(found)} of 1 shards were searched, but the answer says {coverage}")
        if not found:
            return None
        documents = list(found[0].documents.values())
        texts = {document.id: document.text for document in documents}
        if len(texts) < len(documents):
            raise Broken("a search found two versions of a document")
        return texts

    # --- writes ----------------------------------------------------------------------------

    async def _swap(self, asked: Asked) -> bool:
        """A document is read, and written if nobody has written it since."""
        router, text, version = self._world.routers[asked.gateway], None, ABSENT
        (key,) = asked.keys
        with contextlib.suppress(NotFound):
            try:
                held = await router.shard.document(key)
            except (Unavailable, TimeoutError):
                return False
            text, version = held.text, held.version
        new = f"t{next(self._numbers)}"
        operation = replace(upsert({key: new}), expected=[version])
        swap = Write(key, new, self._now(), is_swap=True, expected=text)
        return await self._do(asked.gateway, operation, [swap])

    async def _write(self, asked: Asked) -> bool:
        return await self._do(asked.gateway, *self._operation(asked))

    async def _do(self, gateway: str, operation: Operation, writes: list[Write]) -> bool:
        """A writer that ended answers nobody: after a while the gateway says that it is unknown."""
        writer = self._world.routers[gateway].writer
        for write in writes:
            self.history.add(write)
        if not await self._passes(gateway, writer.name):
            for write in writes:
                write.is_not_done = True
            return False
        try:
            async with asyncio.timeout(ANSWERED_S):
                outcome, token = await writer.write(operation)
                await writer.goes_on()
        except TimeoutError:
            return False
        if not await self._passes(writer.name, gateway):
            return False
        self._learn(writes, outcome, isinstance(operation, Insert))
        if token is not None:
            self.token = token if self.token is None else self.token.joined(token)
        return not isinstance(outcome, BitsiftError)

    def _operation(self, asked: Asked) -> tuple[Operation, list[Write]]:
        now, texts = self._now(), {key: f"t{next(self._numbers)}" for key in asked.keys}
        if asked.kind is Kind.DELETE:
            return Delete(asked.keys), [Write(key, None, now) for key in asked.keys]
        writes = [Write(key, text, now) for key, text in texts.items()]
        if asked.kind is Kind.WRITE:
            return upsert(texts), writes
        blank, positions = [""] * len(texts), [next(self._numbers) for _ in texts]
        rows = [*texts], blank, [*texts.values()], blank, positions, codes(len(texts))
        return Insert(*rows), writes

    def _learn(self, writes: list[Write], outcome: Outcome, is_load: bool) -> None:
        now = self._now()
        if isinstance(outcome, BitsiftError):
            for write in writes:
                write.is_not_done = outcome.outcome is RequestOutcome.NOT_DONE
            return
        for write, status in zip(writes, outcome, strict=True):
            if status is WriteStatus.SUPERSEDED:
                raise Broken("a client was told of a version that is not its business")
            if is_load:
                self._learn_of_record(write, status, now)
            elif write.is_swap:
                self._learn_of_swap(write, status, now)
            else:
                write.is_acknowledged, write.end = True, now

    def _learn_of_swap(self, swap: Write, status: WriteStatus, now: float) -> None:
        swap.is_not_done, swap.end = status is WriteStatus.CONFLICT, now
        swap.is_acknowledged = not swap.is_not_done
        if (why := self.history.broken_by_swap(swap)) is not None:
            raise Broken(why)

    def _learn_of_record(self, write: Write, status: WriteStatus, now: float) -> None:
        """A bulk load takes the place of nothing. UNCHANGED is said of a record that came twice,
        and of one that was deleted.
        """
        before = self.history.allowed(write.key, write.start, now) - {write.text}
        if status is WriteStatus.CREATED:
            write.is_acknowledged, write.end = True, now
            if None not in before:
                raise Broken(f"a load created {write.key!r}, where one of {before} was")
        elif status is WriteStatus.REJECTED:
            write.is_not_done = True
            if before == {None}:
                raise Broken(f"a load was refused {write.key!r}, where no document was")

    async def _passes(self, source: str, target: str) -> bool:
        if source == target:
            return True
        try:
            await self._world.network.carry(source, target)
        except BitsiftError:
            return False
        return True

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
