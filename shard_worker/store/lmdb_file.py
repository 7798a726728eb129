"""LMDB's data file from the outside: is it whole, and is there room for what comes?

LMDB maps the file without looking at its length: a truncated one is a SIGBUS at the first touch, an
empty one opens as an empty database. Its two meta pages carry no checksum, and with a damaged one
it may open an older state. So both are read and compared before it is opened.

Space is asked for before it is written to: ``make_room`` has the file system allocate what a
transaction may need, and a reserve beyond it, which no upsert may use. So a full disk refuses an
upsert before anything is written, and leaves deletes their room.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lmdb

from bitsift.errors import (
    Corrupt,
    FormatMismatch,
    RequestOutcome,
    ShardUnavailable,
    StorageFull,
    Unavailable,
)

DATA_FILE = "data.mdb"
LMDB_ENGINE = 0
"""``lib_version`` of every environment: LMDB 0.9, whose pages are read here, in tree.py and in
blocks.py. Left unsaid, LMDB_DEFAULT_LIB_VERSION would have new files made in the format of 1.0."""
RESERVE_BYTES = 1 << 20
_STEP_MIN, _STEP_MAX = 256 << 10, 8 << 20
_STEP_SHARE = 128
"""More is allocated at a time than is needed, by this part of the file up to 8 MiB: it saves system
calls. The whole part would be 0.8 % of the disk, 0.3 GiB at 40 million rows."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DAMAGE = (
    lmdb.BadDbiError,
    lmdb.BadTxnError,  # after one of the others
    lmdb.BadValsizeError,
    lmdb.CorruptedError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.NotFoundError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
)
"""What LMDB raises where pages are not what they should be."""
_PAGE_HEADER_BYTES = 16
_MAGIC = 0xBEEFC0DE
_VERSION = 1
_META = struct.Struct("<II Q Q 48s 48s Q Q")
"""MDB_meta of LMDB 0.9: magic, version, address, map size, the two root databases, last page,
transaction."""


@dataclass(frozen=True, slots=True)
class _Meta:
    magic: int
    version: int
    page_bytes: int
    last_page: int
    transaction: int


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """What LMDB, or who reads what it holds, stumbles over becomes Corrupt, naming the file."""
    try:
        yield
    except (*DAMAGE, struct.error, ValueError) as error:
        raise Corrupt(f"{path} is damaged ({error}); restore it from a backup") from error


@contextlib.contextmanager
def disk_named(what: str) -> Iterator[None]:
    """What the disk does to us becomes StorageFull where there is no room, else Unavailable."""
    try:
        yield
    except (OSError, lmdb.Error) as error:
        full = isinstance(error, (lmdb.DiskError, lmdb.MapFullError))
        full = full or (isinstance(error, OSError) and error.errno in _FULL)
        raise (StorageFull if full else Unavailable)(f"{what} ({error})") from error


@contextlib.contextmanager
def unusable_named(path: Path) -> Iterator[None]:
    """What the disk does to those who only read, or open, becomes ShardUnavailable, naming the
    file; ``path`` where the error names none.
    """
    try:
        yield
    except (OSError, lmdb.Error) as error:
        file = getattr(error, "filename", None) or path
        why = getattr(error, "strerror", None) or error
        raise ShardUnavailable(
            f"{file} cannot be used ({why}): check its disk; restore lost data from a backup"
        ).with_outcome(RequestOutcome.NOT_DONE) from error


def check_data_file(path: Path) -> None:
    """Refuse a data file that LMDB must not be given.

    Raises Corrupt when it is missing, empty, shorter than what was committed to it, or when its two
    meta pages contradict each other; FormatMismatch when it is of another LMDB.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = _read_meta(file.read(_PAGE_HEADER_BYTES + _META.size), path)
            file.seek(first.page_bytes)
            second = _read_meta(file.read(_PAGE_HEADER_BYTES + _META.size), path)
    except FileNotFoundError as error:
        raise Corrupt(f"{path} is missing; restore it from a backup") from error
    one, other = first.transaction, second.transaction  # even and odd ones take turns
    in_turn = one % 2 == 0 and (other % 2 == 1 or other == one == 0) and abs(one - other) <= 1
    if second.page_bytes != first.page_bytes or not in_turn:
        raise Corrupt(f"{path}: its two meta pages contradict each other; restore it from a backup")
    newest = max(first, second, key=lambda meta: meta.transaction)
    committed = (newest.last_page + 1) * newest.page_bytes
    if size < committed:
        raise Corrupt(
            f"{path} is truncated: it has {size} bytes, but {committed} were committed; "
            "restore it from a backup"
        )


def _read_meta(page: bytes, path: Path) -> _Meta:
    if len(page) < _PAGE_HEADER_BYTES + _META.size:
        raise Corrupt(f"{path} is empty or truncated; restore it from a backup")
    magic, version, _, _, free, _, last, transaction = _META.unpack_from(page, _PAGE_HEADER_BYTES)
    (page_bytes,) = struct.unpack_from("<I", free)
    if magic != _MAGIC or page_bytes not in (4096, 8192, 16384, 32768, 65536):
        raise Corrupt(f"{path} is damaged or not an LMDB data file; restore it from a backup")
    if version != _VERSION:
        raise FormatMismatch(f"{path} is of LMDB's data version {version}, not {_VERSION}")
    return _Meta(magic, version, page_bytes, last, transaction)


class Room:
    """The space that a data file has and may take. Used by the one thread that writes."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """``max_bytes`` is the most that the file may grow to."""
        self.path = path
        self._max_bytes = max_bytes
        self._file = os.open(path, os.O_RDWR)
        self._allocated = 0  # of what other programs left there, nothing is known

    def close(self) -> None:
        os.close(self._file)

    def make(self, used_bytes: int, wanted_bytes: int) -> None:
        """Have room for ``wanted_bytes`` behind ``used_bytes``, and the reserve.

        Raises StorageFull, OSError.
        """
        needed = used_bytes + wanted_bytes + RESERVE_BYTES
        if needed > self._max_bytes:
            raise StorageFull(
                f"{self.path} would grow beyond the configured {self._max_bytes} bytes; "
                "raise the limit, or delete documents and compact"
            )
        if needed <= self._allocated:
            return
        step = min(max(_STEP_MIN, used_bytes // _STEP_SHARE), _STEP_MAX)
        for target in (min(needed + step, self._max_bytes), needed):
            try:
                os.posix_fallocate(self._file, used_bytes, target - used_bytes)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                failure = error
            else:
                self._allocated = target
                return
        raise StorageFull(
            f"{self.path} cannot grow by {wanted_bytes} bytes ({failure.strerror}); add disk space"
        ) from failure
