"""Checking the files that are derived from the store: bits, lists, tuning, hints.

Files of an earlier generation are what a crash after a compaction leaves, and a snapshot that ends
before the store does is what any crash leaves: neither is wrong.
"""

from __future__ import annotations

import struct
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from bitsift.errors import ChecksumMismatch, Corrupt, NotFound
from bitsift.shard_worker.bits.index import BinaryIndex
from bitsift.shard_worker.bits.lists import LISTS_FILE, ListedBits
from bitsift.shard_worker.bits.parts import SEGMENT_ROWS
from bitsift.shard_worker.bits.tuning import MEASURED_FILES
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.layout import read_json
from bitsift.shard_worker.maintenance.findings import Findings, Remedy
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.block_reader import BLOCKS_FILE
from bitsift.shard_worker.store.packing import CRC_BYTES

_OWNED = struct.Struct("<8s16sI")
"""How every file of bits begins: magic, index uuid, generation."""


class BitsCheck:
    """The bits in the files of one shard, as far as they can be used, to compare codes with."""

    def __init__(
        self,
        folder: Path,
        store: Store,
        index: BinaryIndex,
        calibration: Calibration,
        findings: Findings,
    ) -> None:
        """Load the files into the empty ``index``; those that are damaged are found here."""
        self._folder = folder
        self._index = index
        self._calibration = calibration
        self._findings = findings
        lists_are_sound = self._check_lists()
        try:
            reason = index.load(folder, store.rows)
        except Corrupt as error:
            self._findings.add(f"{folder.name}/{store.path.name}", error.message, Remedy.RESTORE)
            return
        path = folder / self._segment(len(index))
        is_older = (len(index) - self._listed) % SEGMENT_ROWS != 0  # the last segment is not full
        if reason is None or is_older or not lists_are_sound:  # those beside lost lists do not fit
            return
        if path.exists() and not self._is_stale(path):
            self._add(path.name, reason)

    def compare(self, first: int, codes: NDArray[np.int8], intact: NDArray[np.bool_]) -> None:
        """The bits of rows from ``first`` on are those of ``codes`` (n, width), where intact."""
        count = min(len(codes), len(self._index) - first)
        if count <= 0:
            return
        stored = self._index.bits_of(np.arange(first, first + count, dtype=np.int64))
        differ = (stored != self._calibration.bits(codes[:count])).any(axis=1) & intact[:count]
        for row in (first + np.flatnonzero(differ)).tolist():
            name = LISTS_FILE if row < self._listed else self._segment(row)
            problem = "bits are not the signs of the decoded code"
            self._findings.rows(f"{self._folder.name}/{name}", problem, Remedy.REPAIR, [row])

    def _add(self, name: str, problem: str) -> None:
        self._findings.add(f"{self._folder.name}/{name}", problem, Remedy.REPAIR)

    @property
    def _listed(self) -> int:
        return 0 if self._index.listed is None else len(self._index.listed)

    def _segment(self, row: int) -> str:
        """The name of the file with the bits of a row that is in no list."""
        return f"bits-{(row - self._listed) // SEGMENT_ROWS:05d}.bits"

    def _is_stale(self, path: Path) -> bool:
        """Whether the file says that it is of another generation of this index."""
        with path.open("rb") as file:
            head = file.read(_OWNED.size)
        if len(head) < _OWNED.size:
            return False
        _, uuid, generation = _OWNED.unpack(head)
        return bool(uuid == self._index.owner[0] and generation != self._index.generation)

    def _check_lists(self) -> bool:
        path = self._folder / LISTS_FILE
        try:
            if path.exists() and not self._is_stale(path):
                ListedBits(path, self._index.row_bytes, self._index.owner)
        except (ChecksumMismatch, OSError) as error:
            self._add(LISTS_FILE, str(error))
            return False
        return True


def check_hints(folder: Path, store: Path, findings: Findings) -> None:
    """The hints where blocks of codes lie, in the folder ``store``, pass their checksum."""
    path = store / BLOCKS_FILE
    if not path.exists():
        return
    data = path.read_bytes()
    crc, pages = data[:CRC_BYTES], data[CRC_BYTES:]
    if len(pages) % 4 or google_crc32c.value(pages).to_bytes(CRC_BYTES, "little") != crc:
        file = f"{folder.name}/{store.name}/{BLOCKS_FILE}"
        findings.add(file, "the block hints are damaged", Remedy.REPAIR)


def check_tuning(folder: Path, findings: Findings) -> None:
    """What was measured of the bits passes its checksum."""
    for name in MEASURED_FILES:
        try:
            read_json(folder / name)
        except NotFound:
            pass
        except Corrupt as error:
            findings.add(f"{folder.name}/{name}", error.message, Remedy.REPAIR)
