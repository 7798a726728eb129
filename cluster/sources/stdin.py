"""Standard input as a source: `-` is copied to a file, which is read like any other.

A build reads its sources twice, in several processes, and perhaps again when it is resumed. So the
copy is named after its content: the same input is the same source. It is removed at the end.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import IO

from bitsift.cluster.sources.disguises import LONGEST, PACKED
from bitsift.cluster.sources.encoding import utf8_blocks
from bitsift.cluster.sources.kinds import FORMATS
from bitsift.cluster.sources.plan import Compression
from bitsift.cluster.sources.streams import BLOCK_BYTES, DamagedStream, read_blocks
from bitsift.errors import InvalidRequest, StorageFull

STDIN = "-"
_KINDS = {
    b"PAR1": ".parquet",
    b"ARROW1": ".arrow",
    b"\xff\xff\xff\xff": ".arrow",
    b"\x93NUMPY": ".npy",
    b"PK\x03\x04": ".npz",
    b"SQLite format 3\0": ".db",
}
_TENSORS_AT = 8
"""A .safetensors begins with 8 bytes of a length, and then a JSON object."""


def copied(kind: str | None, stream: IO[bytes] | None = None) -> Path:
    """A file with all of standard input. `kind` is its format as an ending; None finds it.

    Raises InvalidRequest where there is none, or its format is not known; StorageFull.
    """
    stream = stream or sys.stdin.buffer
    if stream.isatty():
        raise InvalidRequest("standard input is a terminal: pipe a file into it, or name one")
    folder = _own_folder()
    digest = hashlib.blake2b(digest_size=16)
    handle, name = tempfile.mkstemp(dir=folder)
    path = Path(name)
    atexit.register(path.unlink, missing_ok=True)
    try:
        with os.fdopen(handle, "wb") as file:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
                file.write(block)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        path.unlink()
        raise StorageFull(f"no space in {folder} for a copy of standard input") from error
    compression = _compression(path)
    ending = _ending(path, compression) if kind is None else f".{kind}"
    copy = folder / f"{digest.hexdigest()}{ending}{compression.value}"
    path.replace(copy)
    atexit.register(copy.unlink, missing_ok=True)
    return copy


def _own_folder() -> Path:
    """A folder that nobody else can write to. Raises InvalidRequest."""
    folder = Path(tempfile.gettempdir()) / f"bitsift-stdin-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise InvalidRequest(f"{folder} is not a folder of yours alone: remove it, or set TMPDIR")
    return folder


def _compression(path: Path) -> Compression:
    with path.open("rb") as file:
        head = file.read(LONGEST)
    found = (kind for magic, kind in PACKED.items() if head.startswith(magic))
    return next(found, Compression.NONE)


def _ending(path: Path, compression: Compression) -> str:
    try:
        if compression is Compression.NONE:
            with path.open("rb") as file:
                head = file.read(BLOCK_BYTES)
        else:
            head = next(read_blocks(str(path), compression), b"")
    except DamagedStream as damage:
        raise InvalidRequest(f"standard input: {damage}") from damage
    if not head:
        raise InvalidRequest("standard input is empty")
    for magic, ending in _KINDS.items():
        if head.startswith(magic):
            return ending
    if b"\0" in head[1:_TENSORS_AT] and head[_TENSORS_AT : _TENSORS_AT + 1] == b"{":
        return ".safetensors"
    text = next(utf8_blocks(iter([head])), b"").lstrip()
    line = text.partition(b"\n")[0]
    if text[:1] in (b"{", b"["):
        return ".json"
    if b"\t" in line:
        return ".tsv"
    if any(separator in line for separator in (b",", b";", b"|")):
        return ".csv"
    kinds = " ".join(ending.removeprefix(".") for ending in FORMATS)
    raise InvalidRequest(f"the format of standard input is not known: say --format, one of {kinds}")
