"""What unpacks compressed bytes, a bounded amount at once."""

from __future__ import annotations

import sys
import zlib
from typing import Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BROKEN = (zlib.error, zstd.ZstdError)
"""What these unpackers raise where the bytes are damaged."""
_WINDOW_LOG_MAX = zstd.DecompressionParameter.window_log_max


class Unpacker(Protocol):
    """One member of a compressed stream; ``decompress`` gives ``max_length`` bytes at most."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Gzip:
    """zlib's unpacker with the interface of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)  # 31: gzip header, any window
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        unpacked = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.needs_input = not self._inner.unconsumed_tail and len(unpacked) < max_length
        return unpacked


def zstandard(window_bytes_max: int) -> Unpacker:
    """Of a stream that looks back so far at most, rounded down to a power of two."""
    window_log_max = window_bytes_max.bit_length() - 1
    return zstd.ZstdDecompressor(options={_WINDOW_LOG_MAX: window_log_max})
