"""Bytes: opening a file here or behind a URL, unpacking it, cutting it into lines.

Nothing here holds more than one block, or one line, in RAM. A stream that turns out to be cut
off or damaged gives everything that could be read and then raises `DamagedStream`. An error of
the disk or the network passes through as the OSError it is: reading again may help there.
"""

from __future__ import annotations

import bz2
import functools
import lzma
import os
import socket
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Protocol, cast

import fsspec
import zstandard

from cluster.source_plan import Compression
from shard_worker.errors import InvalidRequest

BLOCK_BYTES = 1 << 20
LINE_BYTES_MAX = 64 << 20
# A zstd block of 4 bytes can stand for 128 KiB, so what one call may unpack is bounded by what
# it is fed: 8 KiB cannot become more than 256 MiB.
PACKED_BYTES = 8 << 10


class DamagedStream(Exception):
    """The rest of the file cannot be read; what came before it is good.

    `line` is the line (from 1) that could not be read, where lines are counted, else 0.
    """

    line: int = 0


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


_UNPACKERS: dict[Compression, Callable[[], _Unpacker]] = {
    Compression.GZIP: functools.partial(zlib.decompressobj, 31),  # 31: gzip header, any window
    Compression.ZSTANDARD: lambda: cast(
        "_Unpacker", zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
    ),
    Compression.BZIP2: bz2.BZ2Decompressor,
    Compression.XZ: lzma.LZMADecompressor,
}


def is_url(path: str) -> bool:
    """True for s3://… and its like, which fsspec opens; False for a path on this machine."""
    return "://" in path


def filesystem_of(url: str) -> fsspec.AbstractFileSystem:
    """The fsspec filesystem of `url`. Raises InvalidRequest where its driver is not installed."""
    try:
        return fsspec.core.url_to_fs(url)[0]
    except (ImportError, ValueError) as error:
        raise InvalidRequest(f"cannot open {url}: {error}; or copy the files here") from error


def open_source(path: str) -> IO[bytes]:
    """Opens a local file or URL for reading, unbuffered.

    Raises InvalidRequest where there is no such file, or it may not be read.
    """
    try:
        if is_url(path):
            return cast("IO[bytes]", filesystem_of(path).open(path, "rb"))
        return open(path, "rb", buffering=0)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        host = socket.gethostname()
        raise InvalidRequest(
            f"{path} cannot be read on {host}: {error.strerror or error}; "
            "every machine that reads must see the same files at the same paths"
        ) from error


def size_of(path: str) -> int:
    """The size of a local file or URL in bytes. Raises InvalidRequest where there is none."""
    try:
        if is_url(path):
            return int(filesystem_of(path).size(path) or 0)
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        host = socket.gethostname()
        raise InvalidRequest(f"{path} cannot be read on {host}: {error}") from error


def read_blocks(path: str, compression: Compression) -> Iterator[bytes]:
    """Yields the unpacked bytes of a file in blocks of about BLOCK_BYTES at most.

    Raises DamagedStream, after the last good block, where the compressed stream is cut off or
    broken; InvalidRequest where the file cannot be opened.
    """
    with open_source(path) as stream:
        raw = iter(functools.partial(stream.read, BLOCK_BYTES), b"")
        if compression is Compression.NONE:
            yield from raw
        else:
            yield from _unpack(raw, compression)


def _unpack(raw: Iterator[bytes], compression: Compression) -> Iterator[bytes]:
    """Unpacks one or several members in a row, as `cat a.gz b.gz` leaves them."""
    kind = compression.name.lower()
    unpacker: _Unpacker | None = None
    for block in raw:
        for start in range(0, len(block), PACKED_BYTES):
            data = block[start : start + PACKED_BYTES]
            while data:
                if unpacker is None:
                    data = data.lstrip(b"\0")  # tapes and xz pad between members with zeros
                    if not data:
                        break
                    unpacker = _UNPACKERS[compression]()
                try:
                    unpacked = unpacker.decompress(data)
                except (zlib.error, OSError, EOFError, lzma.LZMAError, zstandard.ZstdError) as why:
                    raise DamagedStream(f"damaged {kind} stream: {why}") from why
                if unpacked:
                    yield unpacked
                data = unpacker.unused_data if unpacker.eof else b""
                unpacker = None if unpacker.eof else unpacker
    if unpacker is not None:
        raise DamagedStream(f"truncated {kind} stream: the file ends before its data does")


def expansion(path: str, compression: Compression) -> float:
    """Unpacked bytes per packed byte, measured on the first block of the file."""
    if compression is Compression.NONE:
        return 1.0
    with open_source(path) as stream:
        head = stream.read(BLOCK_BYTES)
    unpacked = 0
    try:
        for block in _unpack(iter([head]), compression):
            unpacked += len(block)
            if unpacked > 64 * BLOCK_BYTES:
                break
    except DamagedStream:
        pass  # the head of a longer file always ends too early
    return max(1.0, unpacked / max(1, len(head)))


def read_lines(blocks: Iterator[bytes], line_bytes_max: int) -> Iterator[bytes | None]:
    """Yields the lines of a stream without their newline; None for one over `line_bytes_max`.

    A line that is too long is skipped without being kept. Where the stream raises
    DamagedStream, the line that it cuts in two is not yielded.
    """
    held: list[bytes] = []  # the pieces of a line that spans blocks
    held_bytes = 0
    pending = False
    for block in blocks:
        pieces = block.split(b"\n")
        for piece in pieces[:-1]:
            if pending:
                held_bytes += len(piece)
                held.append(piece)
                piece = b"" if held_bytes > line_bytes_max else b"".join(held)
                too_long = held_bytes > line_bytes_max
                held, held_bytes, pending = [], 0, False
            else:
                too_long = len(piece) > line_bytes_max
            yield None if too_long else piece
        if pieces[-1]:
            pending = True
            held_bytes += len(pieces[-1])
            held.append(pieces[-1])
            if held_bytes > line_bytes_max:
                held.clear()
    if pending:
        yield None if held_bytes > line_bytes_max else b"".join(held)
