"""Bytes: opening a file here or behind a URL, unpacking it, cutting it into lines.

Nothing here holds more than one block, or one line, in RAM. A stream that turns out to be cut
off or damaged gives everything that could be read and then raises `DamagedStream`. An error of
the disk or the network passes through as the OSError it is: reading again may help there.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import lzma
import os
import socket
from collections.abc import Callable, Iterator
from itertools import chain
from typing import IO, cast

import fsspec

from bitsift.cluster.sources.disguises import disguise, pointer, unpacked
from bitsift.cluster.sources.plan import Compression
from bitsift.errors import BitsiftError, InvalidRequest
from bitsift.router.unpackers import BROKEN, Gzip, Unpacker, zstandard

BLOCK_BYTES = 1 << 20
"""The most that is unpacked at once, whatever the stream says."""
LINE_BYTES_MAX = 16 << 20
"""As over HTTP. A line of JSON may take 25 times its size as Python objects: ``[[],[],[], …``"""
TOO_LONG = f"record is longer than {LINE_BYTES_MAX >> 20} MiB"
WINDOW_BYTES_MAX = 128 << 20
"""RAM that a stream may ask for to be unpacked. ``xz -9`` asks for 65 MiB, ``zstd -19`` for 8, with
--long or --ultra -22 for 128, the most that zstd itself unpacks unasked; --long=31 for 2 GiB."""
_PACKED_BYTES = 8 << 10
"""Fed at once: what follows a member is copied, and a member may be 20 bytes long."""


class DamagedStream(Exception):
    """The rest of the file cannot be read; what came before it is good.

    `line` is the line (from 1) that could not be read, where lines are counted, else 0.
    """

    line: int = 0


_UNPACKERS: dict[Compression, Callable[[], Unpacker]] = {
    Compression.GZIP: Gzip,
    Compression.ZSTANDARD: functools.partial(zstandard, WINDOW_BYTES_MAX),
    Compression.BZIP2: bz2.BZ2Decompressor,
    Compression.XZ: functools.partial(lzma.LZMADecompressor, memlimit=WINDOW_BYTES_MAX),
}
_NO_MEMORY = ("Memory usage limit exceeded", "requires too much memory")
"""How lzma and zstd say that a stream asks for more than they may take."""


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
            "every reading machine must see the same files at the same paths"
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


def unreadable(path: str, kind: str, error: object) -> InvalidRequest:
    """Why a file of this kind is refused, which nothing can be read of."""
    head = b""
    with contextlib.suppress(OSError, BitsiftError), open_source(path) as stream:
        head = stream.read(_PACKED_BYTES)
    return InvalidRequest(f"{path} is not a readable {kind} file: {pointer(head) or error}")


def read_blocks(path: str, compression: Compression) -> Iterator[bytes]:
    """Yields the unpacked bytes of a file in blocks of BLOCK_BYTES at most.

    Raises DamagedStream, after the last good block, where the compressed stream is cut off,
    broken, or needs more than WINDOW_BYTES_MAX of RAM, and where the file is not what its name
    says; InvalidRequest where the file cannot be
    opened.
    """
    with open_source(path) as stream:
        raw = iter(functools.partial(stream.read, BLOCK_BYTES), b"")
        first = next(raw, b"")
        if compression is Compression.NONE:
            if why := disguise(first):
                raise DamagedStream(why)
            yield from chain([first] if first else [], raw)
            return
        if why := unpacked(first, compression):
            raise DamagedStream(why)
        yield from _unpack(chain([first], raw), compression)


def _unpack(raw: Iterator[bytes], compression: Compression) -> Iterator[bytes]:
    """Unpacks one or several members in a row, as `cat a.gz b.gz` leaves them."""
    kind = compression.name.lower()
    unpacker: Unpacker | None = None
    for data in _slices(raw, _PACKED_BYTES):
        while data or (unpacker is not None and not unpacker.needs_input):
            if unpacker is None:
                data = data.lstrip(b"\0")  # tapes and xz pad between members with zeros
                if not data:
                    break
                unpacker = _UNPACKERS[compression]()
            try:
                unpacked = unpacker.decompress(data, BLOCK_BYTES)
            except (*BROKEN, OSError, EOFError, lzma.LZMAError) as why:
                raise DamagedStream(_reason(kind, why)) from why
            if unpacked:
                yield unpacked
            data = unpacker.unused_data if unpacker.eof else b""
            unpacker = None if unpacker.eof else unpacker
    if unpacker is not None:
        raise DamagedStream(f"truncated {kind} stream: the file ends before its data does")


def _slices(blocks: Iterator[bytes], size: int) -> Iterator[bytes]:
    for block in blocks:
        for start in range(0, len(block), size):
            yield block[start : start + size]


def _reason(kind: str, why: Exception) -> str:
    if any(words in str(why) for words in _NO_MEMORY):
        return (
            f"{kind} stream needs more than {WINDOW_BYTES_MAX >> 20} MiB of RAM to be unpacked: "
            "unpack the file first, or compress it without a larger window or dictionary"
        )
    return f"damaged {kind} stream: {why}"


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
