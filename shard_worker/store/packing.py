"""How a shard's rows lie in the values of its LMDB databases: format version 1. Pure functions.

    codes      int8 code + CRC32C of each row, many rows to a value (``rows_per_block``)
    tail       the same of one row: those that do not fill a block yet
    documents  CRC32C + zstd(JSON [id, title, text, metadata, position])
    ids        row numbers, 8 bytes each, under the 8-byte hash of the id
    meta       CRC32C + JSON

Every CRC32C of a row is mixed with its number: a row in the wrong place does not pass. Dead rows
and the id map, which have none, are summed up (``sum_of``) in the counters of ``meta``.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray

from bitsift.errors import ChecksumMismatch
from bitsift.shard_worker.native import kernels
from bitsift.shard_worker.operations import Documents

CRC_BYTES = 4
ROW = struct.Struct(">Q")
CRC = struct.Struct("<I")
SHORT_ROW = struct.Struct(">I")
SHORT_ROWS = 1 << 32
_KNUTH = 2654435761
_PAGE_BYTES = 4096
_PAGE_HEADER_BYTES = 16
_BLOCK_PAGES_MAX = 32
_ZSTD_LEVEL = 3
_FEW_NUMBERS = 8
_FEW_RECORDS = 4
"""For as many a call of the kernel takes longer than what it spares."""
_RAW_BYTES_MAX = 64
"""JSON up to this size is not worth compressing: zstd itself would store most of it as it is."""
_RAW_FRAMES = [
    b"\x28\xb5\x2f\xfd\x20" + bytes([size]) + (size << 3 | 1).to_bytes(3, "little")
    for size in range(_RAW_BYTES_MAX + 1)
]
"""The head of a zstd frame of one segment and one raw block (RFC 8878 §3.1.1), by content size."""


def rows_per_block(width: int) -> int:
    """Rows of ``width`` + 4 bytes packed in one LMDB value: what wastes least in ≤ 32 pages.

    A value of n pages holds n·4096 - 16 bytes (LMDB's overflow pages have one header).
    """
    record = width + CRC_BYTES

    def waste(pages: int) -> float:
        room = pages * _PAGE_BYTES - _PAGE_HEADER_BYTES
        return 1 - room // record * record / (pages * _PAGE_BYTES)

    best = min(range(4, _BLOCK_PAGES_MAX + 1), key=waste)
    return (best * _PAGE_BYTES - _PAGE_HEADER_BYTES) // record


def row_salt(rows: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Mixed into the checksums of ``rows`` (Knuth's hash)."""
    return (rows.astype(np.uint64) * np.uint64(_KNUTH)).astype(np.uint32)


def salt_of(row: int) -> int:
    """``row_salt`` of one row."""
    return row * _KNUTH & 0xFFFFFFFF


def pack_codes(codes: NDArray[np.int8], first_row: int) -> NDArray[np.uint8]:
    """Codes (n, width) of consecutive rows, each followed by its checksum: uint8 (n, width + 4)."""
    count, width = codes.shape
    records = np.empty((count, width + CRC_BYTES), dtype=np.uint8)
    records[:, :width] = codes.view(np.uint8)
    rows = np.arange(first_row, first_row + count, dtype=np.int64)
    salted = checksums(records, width) ^ row_salt(rows)
    records[:, width:] = salted.astype("<u4").view(np.uint8).reshape(-1, CRC_BYTES)
    return records


def checksums(records: NDArray[np.uint8], width: int) -> NDArray[np.uint32]:
    """CRC32C of the first ``width`` bytes of each of ``records`` (n, bytes): uint32 (n,)."""
    if len(records) > _FEW_RECORDS and kernels.is_there():
        return kernels.crc32c(records, width)
    checksum, size, flat = google_crc32c.value, records.shape[1], records.tobytes()
    found = [checksum(flat[at : at + width]) for at in range(0, len(flat), size)]
    return np.array(found, dtype=np.uint32)


def resalt(
    records: NDArray[np.uint8], old: NDArray[np.int64], new: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """``records`` (n, bytes) that end with a checksum, of rows ``old``, as those of rows ``new``.

    What was damaged stays damaged: the code itself is not looked at.
    """
    moved = records.copy()
    crcs = np.ascontiguousarray(records[:, -CRC_BYTES:]).view("<u4").ravel()
    crcs = crcs ^ row_salt(old) ^ row_salt(new)
    moved[:, -CRC_BYTES:] = crcs.astype("<u4").view(np.uint8).reshape(-1, CRC_BYTES)
    return moved


def resalt_document(packed: bytes, old_salt: int, new_salt: int) -> bytes:
    """The same for a value of ``documents``, whose checksum stands first."""
    return CRC.pack(CRC.unpack_from(packed)[0] ^ old_salt ^ new_salt) + packed[CRC_BYTES:]


def pack_documents(
    batch: Documents, places: Sequence[int], first_row: int
) -> list[tuple[bytes, bytes]]:
    """(key, value) of the documents at ``places``, which become the rows from ``first_row`` on."""
    compress = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress
    checksum, dumps, pack_row, pack_crc = google_crc32c.value, orjson.dumps, ROW.pack, CRC.pack
    ids, titles, texts = batch.ids, batch.titles, batch.texts
    metadata, positions = batch.metadata, batch.positions
    rows = np.arange(first_row, first_row + len(places), dtype=np.int64)
    items = []
    for row, salt, at in zip(rows.tolist(), row_salt(rows).tolist(), places, strict=True):
        body = dumps([ids[at], titles[at], texts[at], metadata[at], positions[at]])
        size = len(body)
        packed = _RAW_FRAMES[size] + body if size <= _RAW_BYTES_MAX else compress(body)
        items.append((pack_row(row), pack_crc(checksum(packed) ^ salt) + packed))
    return items


def content_digest(title: str, text: str, metadata: str) -> bytes:
    """BLAKE2b-128 of what a document says; ``metadata`` is its JSON text as it is stored."""
    return hashlib.blake2b(orjson.dumps([title, text, metadata]), digest_size=16).digest()


def sum_of(numbers: NDArray[np.uint64]) -> int:
    """A checksum of a set of numbers, in any order: the sum of their SplitMix64 (Steele 2014), mod
    2^64. Adding and removing a number is adding and subtracting its part.
    """
    if len(numbers) <= _FEW_NUMBERS:
        return sum(map(_mixed, numbers.tolist())) % (1 << 64)
    with np.errstate(over="ignore"):
        mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return int(np.add.reduce(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64))


def _mixed(number: int) -> int:
    """The same of one number, which takes a tenth of the time."""
    mixed = (number + 0x9E3779B97F4A7C15) % (1 << 64)
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % (1 << 64)
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % (1 << 64)
    return mixed ^ mixed >> 31


def pack_meta(data: dict[str, Any]) -> bytes:
    """A value of ``meta``."""
    text = orjson.dumps(data)
    return CRC.pack(google_crc32c.value(text)) + text


def unpack_meta(packed: bytes) -> dict[str, Any]:
    """What ``pack_meta`` was given. Raises ChecksumMismatch."""
    if (
        len(packed) <= CRC_BYTES
        or google_crc32c.value(packed[CRC_BYTES:]) != CRC.unpack_from(packed)[0]
    ):
        raise ChecksumMismatch("the counters are damaged")
    return dict(orjson.loads(packed[CRC_BYTES:]))


def id_keys(ids: Sequence[str]) -> NDArray[np.uint64]:
    """BLAKE2b-64 of each id, uint64 (n,): in big-endian order of bytes they are the keys."""
    blake2b = hashlib.blake2b
    digests = b"".join([blake2b(name.encode(), digest_size=8).digest() for name in ids])
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def pack_keys(keys: NDArray[np.uint64]) -> list[bytes]:
    """The 8 bytes that each number of ``id_keys`` stands for."""
    flat = keys.astype(">u8").tobytes()
    return [flat[start : start + 8] for start in range(0, len(flat), 8)]


def pack_rows(rows: Sequence[int]) -> bytes:
    """The value of ``ids`` for the rows of one key: 4 bytes for one row, 8 for each of several.

    Nearly every key has one row; the shorter value takes 6 bytes off each 41 on the disk.
    """
    if len(rows) == 1 and rows[0] < SHORT_ROWS:
        return SHORT_ROW.pack(rows[0])
    return b"".join(map(ROW.pack, rows))


def pack_single_rows(rows: NDArray[np.int64]) -> list[bytes]:
    """The same for keys of which each has one of ``rows`` (n,), below ``SHORT_ROWS``."""
    flat = rows.astype(">u4").tobytes()
    return [flat[start : start + 4] for start in range(0, len(flat), 4)]


def unpack_rows(held: bytes) -> list[int]:
    """The row numbers in a value of ``ids``."""
    return [row for (row,) in (SHORT_ROW if len(held) == 4 else ROW).iter_unpack(held)]
