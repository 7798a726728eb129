"""The answer to a stream of documents: a line for each once it is durable, then the totals."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bitsift.errors import BitsiftError, InvalidRequest, RequestOutcome, reason
from bitsift.router.admission import Admission, Held
from bitsift.router.http.bodies import RAM_PER_BYTE
from bitsift.router.http.documents_schema import LINE_BYTES_MAX, NDJSON
from bitsift.router.http.line_blocks import BLOCK_BYTES, Block, line_blocks
from bitsift.router.http.pace import Pace
from bitsift.write_results import UPSERT_STATUSES, WriteError
from bitsift.write_status import WriteStatus
from bitsift.write_token import joined_text

log = logging.getLogger(__name__)

IDLE_S = 60.0
"""A stream ends when its sender falls this far behind ``RATE``, or reads no answer for this
long.
"""
RATE = 1 << 10
"""Minimum bytes per second while waiting for the sender."""
LINE_TIMEOUT_S = 300.0
"""A line must be complete within this much waiting."""
STREAMS_MAX = 32
STREAM_RAM_BYTES = 12 * BLOCK_BYTES
"""What a stream takes in both processes: what is read ahead, gathered, sent, parsed and written."""
STREAMS_RAM_BYTES_MAX = 512 << 20
"""All streams at once: 32 ordinary ones, and one of the longest lines."""
_NOT_AN_OUTCOME = (asyncio.CancelledError, KeyboardInterrupt, SystemExit)


class LineWriter(Protocol):
    """Writes whole lines: see ``WriteService.upsert_lines``."""

    async def upsert_lines(
        self, block: bytes, first_line: int, only_errors: bool
    ) -> tuple[bytes, dict[str, int], str | None]: ...


class DocumentStream(Response):
    """Reads a block, has it written, and answers, in turn: a slow writer, and a client that does
    not read its answers, slow the sending down, and memory stays flat.
    """

    media_type = NDJSON

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        writer: LineWriter,
        admission: Admission,
        counted: Callable[[Mapping[str, int]], None],
        *,
        only_errors: bool,
    ) -> None:
        """``chunks`` are the bytes of the lines. ``counted`` is told how many of each block had
        which status.
        """
        super().__init__()
        del self.headers["content-length"]
        self._chunks = chunks
        self._writer = writer
        self._admission = admission
        self._counted = counted
        self._only_errors = only_errors
        self._totals: Counter[str] = Counter()
        self._token: str | None = None
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Overloaded, before the answer starts."""
        with self._admission.call(), self._admission.hold(STREAM_RAM_BYTES) as held:
            try:
                await self._answer(send, held)
            except ClientDisconnect:
                log.info("the sender of a stream of documents went away")
            except TimeoutError:
                log.info("a sender of documents read none of its answers for %.0f s", IDLE_S)

    async def _answer(self, send: Send, held: Held) -> None:
        error: WriteError | None = None
        pace = Pace(RATE, IDLE_S, LINE_TIMEOUT_S)

        def hold(gathered_bytes: int) -> None:
            more = RAM_PER_BYTE * max(0, gathered_bytes - BLOCK_BYTES)
            held.resize(STREAM_RAM_BYTES + more)

        async with aclosing(line_blocks(self._chunks, pace, hold)) as blocks:
            try:
                async for block in blocks:
                    await self._send(send, await self._written(block), more=True)
            except BitsiftError as early:  # too slow, or a long line for which there is no room
                error = WriteError.of(early.with_outcome(RequestOutcome.NOT_DONE))
        last = orjson.dumps(self._last(error), option=orjson.OPT_APPEND_NEWLINE)
        await self._send(send, last, more=False)

    def _last(self, error: WriteError | None) -> dict[str, Any]:
        """The last line of the answer."""
        return {"totals": self._so_far(), "error": error, "token": self._token}

    def _so_far(self) -> dict[str, int]:
        return {status: self._totals[status] for status in UPSERT_STATUSES}

    async def _written(self, block: Block) -> bytes:
        """The answer's lines for ``block``."""
        if block.too_long:
            long = InvalidRequest(f"the line has more than {LINE_BYTES_MAX:,} bytes")
            return self._of_all([block.first_line], WriteStatus.REJECTED, long)
        try:
            lines, counts, token = await self._writer.upsert_lines(
                block.data, block.first_line, self._only_errors
            )
        except _NOT_AN_OUTCOME:
            raise
        except BaseException as raised:  # a compiled library's panic is no Exception
            error = _known(raised)
            numbered = enumerate(block.data.split(b"\n"), start=block.first_line)
            failed = [number for number, line in numbered if line.strip()]
            return self._of_all(failed, WriteStatus.FAILED, error)
        self._count(counts)
        self._token = joined_text([self._token, token])
        return lines

    def _of_all(self, numbers: list[int], status: WriteStatus, error: BitsiftError) -> bytes:
        self._count({status.value: len(numbers)})
        result = {"id": None, "status": status, "error": WriteError.of(error)}
        return b"".join(
            orjson.dumps({"line": number, **result}, option=orjson.OPT_APPEND_NEWLINE)
            for number in numbers
        )

    def _count(self, counts: Mapping[str, int]) -> None:
        self._totals.update(counts)
        self._counted(counts)

    async def _send(self, send: Send, lines: bytes, *, more: bool) -> None:
        """Raises TimeoutError when the client reads nothing."""
        async with asyncio.timeout(IDLE_S):
            if not self._started:
                self._started = True
                start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await send(start)
            await send({"type": "http.response.body", "body": lines, "more_body": more})


def _known(error: BaseException) -> BitsiftError:
    """What nobody foresaw fails one block: the lines after it are still worth writing."""
    if isinstance(error, BitsiftError):
        return error
    log.error("a block of documents could not be written", exc_info=error)
    return BitsiftError(f"the writer failed ({reason(error)})")
