"""The folder of an index that is being made: one with foreign files in it is refused, and only the
manifest, which comes after the empty shards, makes it an index.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import orjson

from bitsift.cluster.manifest import SHARDS_MAX, Manifest, write_manifest
from bitsift.errors import InvalidRequest
from bitsift.shard_worker.layout import (
    PARTIAL,
    REJECTS_FILE,
    SHARD_FILE,
    remove_partials,
    shard_folder,
    store_name,
)
from bitsift.shard_worker.maintenance.repository import storage_error
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.counters import NO_PAST, Past
from bitsift.shard_worker.store.lmdb_file import DATA_FILE

_NEW_STORE = store_name(0)
_NEW_SHARD = {SHARD_FILE, _NEW_STORE, f"{_NEW_STORE}/{DATA_FILE}", f"{_NEW_STORE}/lock.mdb"}
_OF_A_REJECT = {"file", "line", "reason"}
REJECT_BYTES_MAX = 1 << 20
"""Of the first line of a list of rejects: a path and a reason are shorter."""


def check_shards(shards: int) -> None:
    """Raises InvalidRequest for a number of shards that no index may have."""
    if not 1 <= shards <= SHARDS_MAX:
        raise InvalidRequest(f"shards: {shards} is not between 1 and {SHARDS_MAX}")


def check_new(index: Path, remedy: str = "choose another --out") -> None:
    """Before there is a manifest, nothing but empty shards and a list of rejects may lie in the
    folder ``index``. Raises InvalidRequest, which names the ``remedy``.
    """
    if not os.path.lexists(index):
        return
    if not index.is_dir() or not all(map(_is_leftover, index.iterdir())):
        raise InvalidRequest(f"{index} exists and is not an index; {remedy}")


def _is_leftover(path: Path) -> bool:
    """Whether a command that was killed before it had a manifest left ``path``.

    A shard that was ever opened has a lock besides, and perhaps documents.
    """
    if path.is_symlink() or not path.is_dir():
        return _is_list_of_rejects(path) or bool(PARTIAL.fullmatch(path.name))
    if not re.fullmatch(r"shard-\d{5}", path.name):
        return False  # unread: it may be somebody's home
    inside = (inner for inner in path.rglob("*") if not PARTIAL.fullmatch(inner.name))
    return all(str(inner.relative_to(path)) in _NEW_SHARD for inner in inside)


def _is_list_of_rejects(path: Path) -> bool:
    """Whether a build without any usable document has left it: a file of someone else's may have
    its name. Links are not written through.
    """
    if path.name != REJECTS_FILE or path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as lines:
        first = lines.readline(REJECT_BYTES_MAX)
    try:
        value = orjson.loads(first)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and value.keys() == _OF_A_REJECT


def make_folder(index: Path) -> None:
    """Make the folder where there is none, and remove what killed commands were writing in it."""
    try:
        index.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, f"{index} cannot be made") from error
    remove_partials(index)


def make_index(index: Path, manifest: Manifest, past: Past = NO_PAST) -> None:
    """Empty shards with the ``past`` of those they will be made of, then the manifest: a command
    that is killed in between leaves none. Raises StorageFull, Unavailable.
    """
    try:
        for shard in range(manifest.shards):
            Shard.create(shard_folder(index, shard), manifest.identity(shard), past)
        write_manifest(index, manifest)
    except OSError as error:
        raise storage_error(error, f"{index} cannot be made") from error
