"""Every separator of a B+tree matters: a damaged one is seen before a key is not found."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from bitsift.errors import Corrupt
from bitsift.shard_worker.store.lmdb_btree import leads_to_all_keys
from bitsift.shard_worker.store.lmdb_file import LMDB_ENGINE

KEYS = 20_000
PAGE = 4096


def make(folder: Path, keys: int) -> bytes:
    """A database "d" in ``folder``; what the main database says of it."""
    env = lmdb.open(str(folder), max_dbs=1, map_size=1 << 26, lib_version=LMDB_ENGINE)
    database = env.open_db(b"d")
    with env.begin(write=True) as txn:
        for key in range(keys):
            txn.put(struct.pack(">Q", key * 7), b"1234", db=database)
    with env.begin() as txn:
        record = bytes(txn.get(b"d", b""))
    env.close()
    return record


def check(folder: Path, record: bytes) -> bool:
    descriptor = os.open(folder / "data.mdb", os.O_RDONLY)
    try:
        return leads_to_all_keys(descriptor, PAGE, record)
    finally:
        os.close(descriptor)


def branches(data: bytes) -> Iterator[tuple[int, int]]:
    """(page, node) of every child but the first of a branch page."""
    for page in range(2, len(data) // PAGE):
        number, _, flags, end, _ = struct.unpack_from("<QHHHH", data, page * PAGE)
        if number == page and flags == 0x01:
            for node in struct.unpack_from(f"<{(end - 16) // 2}H", data, page * PAGE + 16)[1:]:
                yield page, page * PAGE + node


@pytest.mark.parametrize("keys", [0, 1, 100, KEYS])
def test_sound_trees_pass(tmp_path: Path, keys: int) -> None:
    assert check(tmp_path, make(tmp_path, keys))


def lost_keys(folder: Path) -> int:
    env = lmdb.open(str(folder), max_dbs=1, readonly=True, lock=False)
    database = env.open_db(b"d", create=False)
    with env.begin() as txn:
        walked = sum(1 for _ in txn.cursor(db=database))
        found = sum(txn.get(struct.pack(">Q", key * 7), db=database) is not None
                    for key in range(KEYS))  # fmt: skip
    env.close()
    assert walked == KEYS, "a walk from leaf to leaf sees nothing of it"
    return KEYS - found


def test_each_damaged_separator_is_seen(tmp_path: Path) -> None:
    record = make(tmp_path, KEYS)
    path = tmp_path / "data.mdb"
    plain = path.read_bytes()
    places = list(branches(plain))
    assert len(places) > 50
    lost = 0
    for _, node in places[::8]:
        for bit in (0, 5, 9):  # of the key, from its end
            data = bytearray(plain)
            data[node + 15 - bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            loses = lost_keys(tmp_path)
            lost += loses > 0
            assert not (loses and check(tmp_path, record))
    assert lost > 10


def test_pages_that_are_not_of_the_tree_are_seen(tmp_path: Path) -> None:
    record = make(tmp_path, KEYS)
    path = tmp_path / "data.mdb"
    plain = path.read_bytes()
    (_, node), *_ = branches(plain)
    for damage in (1 << 20, 3, 0):  # outside of the file, another page, a meta page
        data = bytearray(plain)
        data[node : node + 4] = struct.pack("<I", damage)
        path.write_bytes(data)
        with pytest.raises(Corrupt):
            check(tmp_path, record)
