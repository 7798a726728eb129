"""Whole lines of a stream, as many as have arrived: while one block is written the next gathers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from router.documents_schema import LINE_BYTES_MAX
from shard_worker.errors import DeadlineExceeded

BLOCK_BYTES = 1 << 20
"""About the most that is written at once; one line may be longer."""
CHUNKS_AHEAD = 8
"""Chunks of at most 64 KiB, mostly, that are read while a block is written."""


@dataclass(frozen=True, slots=True)
class Block:
    """``lines`` whole lines, the first of which has the number ``first_line``, counted from 1.

    ``too_long``: it is one line of more than ``LINE_BYTES_MAX``, and was not kept.
    """

    data: bytes
    first_line: int
    lines: int
    too_long: bool = False


async def line_blocks(chunks: AsyncIterator[bytes], idle_s: float) -> AsyncGenerator[Block]:
    """The blocks of a stream. Raises DeadlineExceeded when nothing comes for ``idle_s`` seconds."""
    ahead: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(CHUNKS_AHEAD)
    reader = asyncio.create_task(_read(chunks, ahead))
    try:
        cutter, ended = _Cutter(), False
        while not ended:
            try:
                async with asyncio.timeout(idle_s):
                    chunk = await ahead.get()
            except TimeoutError as error:
                raise DeadlineExceeded(f"nothing came for {idle_s:.0f} s") from error
            while True:
                if isinstance(chunk, BaseException):
                    raise chunk
                ended = chunk is None
                cutter.add(b"\n" if chunk is None else chunk)
                if ended or len(cutter.gathered) >= BLOCK_BYTES or ahead.empty():
                    break
                chunk = ahead.get_nowait()
            for block in cutter.cut():
                yield block
    finally:
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader


async def _read(
    chunks: AsyncIterator[bytes], ahead: asyncio.Queue[bytes | BaseException | None]
) -> None:
    try:
        async for chunk in chunks:
            await ahead.put(chunk)
        await ahead.put(None)
    except Exception as error:  # the client went away: told to who reads
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
        if self._whole:
            data = bytes(self.gathered[: self._whole])
            blocks.append(Block(data, self._line, data.count(b"\n")))
            self._line += blocks[-1].lines
            del self.gathered[: self._whole]
            self._whole = 0
        if len(self.gathered) > LINE_BYTES_MAX:
            blocks.append(Block(b"", self._line, 1, too_long=True))
            self._line += 1
            self.gathered.clear()
            self._skipping = True
        return blocks
