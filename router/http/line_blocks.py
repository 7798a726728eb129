"""Whole lines of a stream, as many as have arrived: while one block is written the next gathers."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass

from bitsift.errors import DeadlineExceeded
from bitsift.router.http.documents_schema import DOCUMENTS_MAX, LINE_BYTES_MAX
from bitsift.router.http.pace import Pace

BLOCK_BYTES = 1 << 20
"""About the most that is written at once, and at most 10,000 lines; one line may be longer."""
CHUNKS_AHEAD = 8
"""Chunks of at most 64 KiB, mostly, that are read while a block is written."""
_LINES = re.compile(rb"(?:[^\n]*+\n){1,%d}" % DOCUMENTS_MAX)


@dataclass(frozen=True, slots=True)
class Block:
    """``lines`` whole lines, the first of which has the number ``first_line``, counted from 1.

    ``too_long``: it is one line of more than ``LINE_BYTES_MAX``, and was not kept.
    """

    data: bytes
    first_line: int
    lines: int
    too_long: bool = False


async def line_blocks(
    chunks: AsyncIterator[bytes], pace: Pace, hold: Callable[[int], None]
) -> AsyncGenerator[Block]:
    """The blocks of a stream. Raises DeadlineExceeded when its sender is slower than ``pace``.

    ``hold`` is told how many bytes are gathered whenever that changes; what it raises ends it all.
    """
    ahead: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(CHUNKS_AHEAD)
    reader = asyncio.create_task(_read(chunks, ahead))
    try:
        cutter, ended = _Cutter(), False
        while not ended:
            chunk = await _next(ahead, pace)
            while True:
                if isinstance(chunk, BaseException):
                    raise chunk
                ended = chunk is None
                cutter.add(b"\n" if chunk is None else chunk)
                if ended or len(cutter.gathered) >= BLOCK_BYTES or ahead.empty():
                    break
                chunk = ahead.get_nowait()
            hold(len(cutter.gathered))
            for block in cutter.cut():
                yield block
            hold(len(cutter.gathered))
    finally:
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader


async def _next(
    ahead: asyncio.Queue[bytes | BaseException | None], pace: Pace
) -> bytes | BaseException | None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        async with asyncio.timeout(pace.left_s):
            chunk = await ahead.get()
    except TimeoutError as error:
        raise DeadlineExceeded(pace.too_slow()) from error
    if isinstance(chunk, bytes):
        pace.waited(loop.time() - started, len(chunk), has_line=b"\n" in chunk)
    return chunk


async def _read(
    chunks: AsyncIterator[bytes], ahead: asyncio.Queue[bytes | BaseException | None]
) -> None:
    try:
        async for chunk in chunks:
            await ahead.put(chunk)
        await ahead.put(None)
    except asyncio.CancelledError:  # by the reader, which has ended
        raise
    except BaseException as error:  # whatever it is, the reader waits for it
        await ahead.put(error)


class _Cutter:
    """Cuts what was gathered behind its last newline. Looks at every byte once."""

    def __init__(self) -> None:
        self.gathered = bytearray()
        self._whole = 0  # bytes up to the last newline
        self._line = 1
        self._skipping = False

    def add(self, chunk: bytes) -> None:
        if self._skipping:
            end = chunk.find(b"\n")
            if end < 0:
                return
            self._skipping, chunk = False, chunk[end + 1 :]
        newline = chunk.rfind(b"\n")
        if newline >= 0:
            self._whole = len(self.gathered) + newline + 1
        self.gathered += chunk

    def cut(self) -> list[Block]:
        blocks = []
        start = 0
        while start < self._whole:
            part = _LINES.match(self.gathered, start)
            assert part is not None  # there is a newline behind ``start``
            data = bytes(part.group())
            blocks.append(Block(data, self._line, data.count(b"\n")))
            self._line += blocks[-1].lines
            start = part.end()
            del part  # nothing is taken out of a bytearray that is looked at
        del self.gathered[:start]
        self._whole = 0
        if len(self.gathered) > LINE_BYTES_MAX:
            blocks.append(Block(b"", self._line, 1, too_long=True))
            self._line += 1
            self.gathered.clear()
            self._skipping = True
        return blocks
