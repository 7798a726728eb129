"""Whole lines out of chunks, however the chunks are cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import line_blocks
from router.line_blocks import CHUNKS_AHEAD, Block
from shard_worker.errors import DeadlineExceeded


def blocks_of(chunks: Sequence[bytes]) -> list[Block]:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def collect() -> list[Block]:
        return [block async for block in line_blocks.line_blocks(stream(), 30)]

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
        blocks = line_blocks.line_blocks(stream(), 30)
        await anext(blocks)
        for _ in range(100):
            await asyncio.sleep(0)
        assert sent <= 2 * (CHUNKS_AHEAD + 2)
        await blocks.aclose()

    asyncio.run(scenario())


def test_silence_ends_the_stream_with_an_error() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"x\n"
        await asyncio.Event().wait()

    async def scenario() -> None:
        blocks = line_blocks.line_blocks(stream(), 0.05)
        assert (await anext(blocks)).data == b"x\n"
        with pytest.raises(DeadlineExceeded, match="nothing came"):
            await anext(blocks)

    asyncio.run(scenario())


def test_what_breaks_the_stream_reaches_the_reader() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"x\n"
        raise ConnectionError("gone")

    async def scenario() -> None:
        with pytest.raises(ConnectionError, match="gone"):
            async for _ in line_blocks.line_blocks(stream(), 30):
                pass

    asyncio.run(scenario())
