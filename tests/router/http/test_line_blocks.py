"""Whole lines out of chunks, however the chunks are cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.errors import DeadlineExceeded, Overloaded
from bitsift.router.http import line_blocks
from bitsift.router.http.documents_schema import DOCUMENTS_MAX
from bitsift.router.http.line_blocks import CHUNKS_AHEAD, Block
from bitsift.router.http.pace import Pace


def patient() -> Pace:
    return Pace(1, 30, 30)


def blocks_of(chunks: Sequence[bytes]) -> list[Block]:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def collect() -> list[Block]:
        return [
            block async for block in line_blocks.line_blocks(stream(), patient(), lambda _: None)
        ]

    return asyncio.run(collect())


@given(st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\0", b"\n")), max_size=12))
def test_blocks_hold_whole_lines_and_all_of_them(chunks: list[bytes]) -> None:
    found = blocks_of(chunks)
    whole = b"".join(block.data for block in found)
    assert whole == b"".join(chunks) + b"\n"
    line = 1
    for block in found:
        assert block.data.endswith(b"\n")
        assert (block.first_line, block.lines) == (line, block.data.count(b"\n"))
        line += block.lines


@given(st.lists(st.sampled_from([b"a", b"bb", b"\n", b"c" * 9]), max_size=40))
def test_a_line_that_is_too_long_is_named_and_the_rest_is_kept(chunks: list[bytes]) -> None:
    limit = 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_blocks, "LINE_BYTES_MAX", limit)
        patch.setattr(line_blocks, "BLOCK_BYTES", 1)  # every chunk is cut for itself
        found = blocks_of(chunks)
    lines = (b"".join(chunks) + b"\n").split(b"\n")[:-1]
    kept: dict[int, bytes] = {}
    for block in found:
        numbered = enumerate(block.data.split(b"\n")[:-1], start=block.first_line)
        kept |= {block.first_line: b"TOO LONG"} if block.too_long else dict(numbered)
    for number, line in enumerate(lines, start=1):
        if len(line) <= limit:
            assert kept[number] == line
        else:
            assert kept[number] in (b"TOO LONG", line)  # its end came with what went over


def test_what_has_arrived_is_cut_at_once_and_no_more_than_some_is_read_ahead() -> None:
    sent = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1_000):
            sent += 1
            yield b"x\n"

    async def scenario() -> None:
        blocks = line_blocks.line_blocks(stream(), patient(), lambda _: None)
        await anext(blocks)
        for _ in range(100):
            await asyncio.sleep(0)
        assert sent <= 2 * (CHUNKS_AHEAD + 2)
        await blocks.aclose()

    asyncio.run(scenario())


def test_a_block_has_no_more_lines_than_a_call_has_documents() -> None:
    at_most, one_beyond = (
        blocks_of([b"5\n" * more]) for more in (DOCUMENTS_MAX - 1, DOCUMENTS_MAX)
    )
    assert [block.lines for block in at_most] == [DOCUMENTS_MAX]  # the end adds a newline
    assert [block.lines for block in one_beyond] == [DOCUMENTS_MAX, 1]
    assert one_beyond[1].first_line == DOCUMENTS_MAX + 1


def test_what_is_gathered_is_told_and_told_again_when_it_is_written() -> None:
    told: list[int] = []

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 65_536
        yield b"\n"

    async def collect() -> None:
        async for _ in line_blocks.line_blocks(stream(), patient(), told.append):
            pass

    asyncio.run(collect())
    assert 100 * 65_536 <= max(told) <= 100 * 65_536 + 2
    assert told[-1] == 0


def test_no_room_for_what_is_gathered_ends_the_stream() -> None:
    async def stream() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65_536

    def hold(size_bytes: int) -> None:
        if size_bytes > line_blocks.BLOCK_BYTES:
            raise Overloaded("no room")

    async def collect() -> None:
        async for _ in line_blocks.line_blocks(stream(), patient(), hold):
            pass

    with pytest.raises(Overloaded):
        asyncio.run(collect())


def test_a_byte_now_and_then_is_no_stream() -> None:
    """Every wait is shorter than what a sender may be behind; the old time-out was per chunk."""
    sent = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            await asyncio.sleep(0.04)
            sent += 1
            yield b"x\n"

    async def collect() -> None:
        async for _ in line_blocks.line_blocks(stream(), Pace(100, 0.5, 30), lambda _: None):
            pass

    with pytest.raises(DeadlineExceeded, match="under 100 bytes a second"):
        asyncio.run(asyncio.wait_for(collect(), 20))
    assert sent >= 2


def test_a_line_that_never_ends_ends_the_stream() -> None:
    async def stream() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.02)
            yield b"x" * 1_000

    async def collect() -> None:
        async for _ in line_blocks.line_blocks(stream(), Pace(100, 30, 0.1), lambda _: None):
            pass

    with pytest.raises(DeadlineExceeded, match="no line was completed"):
        asyncio.run(asyncio.wait_for(collect(), 20))


class PanicError(BaseException):
    """What a compiled library raises that is no Exception."""


def test_whatever_breaks_the_stream_reaches_the_reader_at_once() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"x\n"
        raise PanicError

    async def collect() -> None:
        async for _ in line_blocks.line_blocks(stream(), patient(), lambda _: None):
            pass

    with pytest.raises(PanicError):
        asyncio.run(collect())


def test_silence_ends_the_stream_with_an_error() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"x\n"
        await asyncio.Event().wait()

    async def scenario() -> None:
        blocks = line_blocks.line_blocks(stream(), Pace(1, 0.05, 30), lambda _: None)
        assert (await anext(blocks)).data == b"x\n"
        with pytest.raises(DeadlineExceeded, match="too slow"):
            await anext(blocks)

    asyncio.run(scenario())


def test_what_breaks_the_stream_reaches_the_reader() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"x\n"
        raise ConnectionError("gone")

    async def scenario() -> None:
        with pytest.raises(ConnectionError, match="gone"):
            async for _ in line_blocks.line_blocks(stream(), patient(), lambda _: None):
                pass

    asyncio.run(scenario())
