"""The versions of rows, 8 bytes each, in much less room than that.

They lie as the codes do: that of a row waits in its record of the tail, and goes into one value
with those of its block when that is full. There the differences from row to row are kept, byte
plane by byte plane, compressed: a batch of a bulk load has one version, so its rows take 0.3 bytes
each (0.7 with what LMDB adds; 2 where rows were written one by one). 8 bytes would be 0.3 GiB at 40
million rows.
"""

from __future__ import annotations

import functools
import struct

import google_crc32c
import lmdb
import numpy as np
import zstandard
from numpy.typing import NDArray

from bitsift.errors import ChecksumMismatch
from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.store.environment import Environment
from bitsift.shard_worker.store.lmdb_file import DAMAGE
from bitsift.shard_worker.store.packing import CRC, CRC_BYTES, ROW, salt_of

_VERSION = struct.Struct("<Q")
_WAITING = struct.Struct("<QI")
WAITING_BYTES = _WAITING.size
"""What follows the record of a row in the tail: its version and the checksum of that."""
_PLANES = 8
_ZSTD_LEVEL = 3


def pack_waiting(versions: NDArray[np.uint64], first_row: int) -> list[bytes]:
    """What follows the records of consecutive rows in the tail, for their ``versions`` (n,)."""
    packed = {it: _VERSION.pack(it) for it in set(versions.tolist())}  # one of each write
    crcs = {it: google_crc32c.value(part) for it, part in packed.items()}
    return [
        packed[it] + CRC.pack(crcs[it] ^ salt_of(row))
        for row, it in enumerate(versions.tolist(), first_row)
    ]


def unpack_waiting(packed: bytes, row: int) -> int:
    """The version that ``pack_waiting`` was given. Raises ChecksumMismatch."""
    if len(packed) != WAITING_BYTES:
        raise ChecksumMismatch(f"the version of row {row} is missing")
    version, crc = _WAITING.unpack(packed)
    if google_crc32c.value(packed[: _VERSION.size]) ^ salt_of(row) != crc:
        raise ChecksumMismatch(f"the version of row {row} is damaged")
    return int(version)


def pack_block(versions: NDArray[np.uint64], block: int) -> bytes:
    """The value of a whole block, for its ``versions`` (n,)."""
    packed, crc = _packed(versions.astype("<u8").tobytes())
    return CRC.pack(crc ^ salt_of(block)) + packed


@functools.lru_cache(maxsize=4)
def _packed(versions: bytes) -> tuple[bytes, int]:
    """Compressed ``versions``, 8 bytes each, and their checksum: all blocks that one write fills
    have the same but for the first.
    """
    steps = np.frombuffer(versions, dtype="<u8").copy()
    steps[1:] -= steps[:-1].copy()
    planes = steps.view(np.uint8).reshape(-1, _PLANES).T.tobytes()
    packed = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(planes)
    return packed, google_crc32c.value(packed)


def unpack_block(packed: bytes, block: int, rows: int) -> NDArray[np.uint64]:
    """What ``pack_block`` was given, of ``rows`` rows. Raises ChecksumMismatch."""
    body = packed[CRC_BYTES:]
    if len(packed) <= CRC_BYTES or (
        google_crc32c.value(body) ^ salt_of(block) != CRC.unpack_from(packed)[0]
    ):
        raise ChecksumMismatch(f"the versions of block {block} are damaged")
    if zstandard.frame_content_size(body) != rows * _PLANES:
        raise ChecksumMismatch(f"the versions of block {block} are not those of {rows} rows")
    planes = np.frombuffer(zstandard.ZstdDecompressor().decompress(body), dtype=np.uint8)
    steps = np.ascontiguousarray(planes.reshape(_PLANES, rows).T).view("<u8").ravel()
    return np.cumsum(steps, dtype=np.uint64)


class Versions:
    """The versions of one store's rows, in a format that has them. Any number of threads."""

    def __init__(self, env: Environment, record_bytes: int, block_rows: int) -> None:
        self._env = env
        self._record_bytes = record_bytes
        self._block_rows = block_rows

    def put_block(self, txn: lmdb.Transaction, block: int, versions: NDArray[np.uint64]) -> None:
        """Keep the ``versions`` (n,) of the rows of a block that became full."""
        txn.put(
            ROW.pack(block), pack_block(versions, block), append=True,
            db=self._env.databases["versions"],
        )  # fmt: skip

    def of(self, txn: lmdb.Transaction, row: int) -> int:
        """The version of ``row``; none (0) where it is damaged: any write is newer."""
        try:
            return self.checked(txn, row)
        except ChecksumMismatch:
            return NO_VERSION

    def checked(self, txn: lmdb.Transaction, row: int) -> int:
        """The version of ``row``. Raises ChecksumMismatch."""
        try:
            waiting = txn.get(ROW.pack(row), db=self._env.databases["tail"])
            if waiting is not None:
                return unpack_waiting(bytes(waiting[self._record_bytes :]), row)
            block, offset = divmod(row, self._block_rows)
            return int(self._block(txn, block)[offset])
        except DAMAGE as error:
            raise ChecksumMismatch(f"the version of row {row} cannot be read: {error}") from error

    def _block(self, txn: lmdb.Transaction, block: int) -> NDArray[np.uint64]:
        packed = txn.get(ROW.pack(block), b"", db=self._env.databases["versions"])
        return unpack_block(bytes(packed), block, self._block_rows)

    def scan(self, first: int, stop: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """The versions of rows ``first`` … ``stop``, and which of them passed their checksums.

        Those that did not are none (0). Short read transactions: one per block.
        """
        versions = np.zeros(stop - first, dtype=np.uint64)
        intact = np.zeros(stop - first, dtype=np.bool_)
        size = self._block_rows
        for block in range(first // size, -(-stop // size)):
            rows = range(max(first, block * size), min(stop, (block + 1) * size))
            with self._env.begin() as txn:
                try:
                    found = self._block(txn, block)[rows.start - block * size :][: len(rows)]
                    versions[rows.start - first : rows.stop - first] = found
                    intact[rows.start - first : rows.stop - first] = True
                except (ChecksumMismatch, *DAMAGE):  # not full yet, or damaged
                    self._scan_waiting(txn, rows, first, versions, intact)
        return versions, intact

    def _scan_waiting(
        self,
        txn: lmdb.Transaction,
        rows: range,
        first: int,
        versions: NDArray[np.uint64],
        intact: NDArray[np.bool_],
    ) -> None:
        """Fill in what the tail says of ``rows``; ``first`` is the row of the first place."""
        for row in rows:
            try:
                waiting = txn.get(ROW.pack(row), b"", db=self._env.databases["tail"])
                versions[row - first] = unpack_waiting(bytes(waiting[self._record_bytes :]), row)
                intact[row - first] = True
            except (ChecksumMismatch, *DAMAGE):
                continue
