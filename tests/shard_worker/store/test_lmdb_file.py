"""LMDB's data file from the outside: real files of LMDB, cut and damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import lmdb
import pytest

from bitsift.errors import Corrupt, StorageFull
from bitsift.shard_worker.store.lmdb_file import LMDB_ENGINE, RESERVE_BYTES, Room, check_data_file

TRANSACTION_AT = 16 + 24 + 96 + 8
"""Where the number of the transaction stands in a meta page."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with lmdb.open(str(tmp_path), map_size=1 << 30, lib_version=LMDB_ENGINE) as env:
        for number in range(5):
            with env.begin(write=True) as txn:
                txn.put(str(number).encode(), bytes(30_000))
    return tmp_path / "data.mdb"


def test_a_sound_file_passes_also_when_it_is_new(data: Path, tmp_path: Path) -> None:
    check_data_file(data)
    (tmp_path / "new").mkdir()
    lmdb.open(str(tmp_path / "new"), lib_version=LMDB_ENGINE).close()
    check_data_file(tmp_path / "new" / "data.mdb")


@pytest.mark.parametrize("kept", [0, 100, 4_096, 8_191, 8_192, -4_096])
def test_a_truncated_file_is_refused(data: Path, kept: int) -> None:
    whole = data.read_bytes()
    data.write_bytes(whole[:kept])
    with pytest.raises(Corrupt, match="truncated"):
        check_data_file(data)


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="missing"):
        check_data_file(tmp_path / "data.mdb")
    (tmp_path / "data.mdb").write_bytes(b"something else" * 1_000)
    with pytest.raises(Corrupt, match="not an LMDB data file"):
        check_data_file(tmp_path / "data.mdb")


@pytest.mark.parametrize("page", [0, 1])
@pytest.mark.parametrize("bit", [0, 5, 40])
def test_a_meta_page_of_another_transaction_is_refused(data: Path, page: int, bit: int) -> None:
    whole = bytearray(data.read_bytes())
    at = page * 4_096 + TRANSACTION_AT
    (number,) = struct.unpack_from("<Q", whole, at)
    assert 3 < number < 10, number
    struct.pack_into("<Q", whole, at, number ^ (1 << bit))
    data.write_bytes(bytes(whole))
    with pytest.raises(Corrupt, match="contradict"):
        check_data_file(data)


def test_room_is_allocated_with_a_reserve_and_up_to_a_limit(data: Path) -> None:
    used = data.stat().st_size
    room = Room(data, used + RESERVE_BYTES + 50_000)
    room.make(used, 10_000)
    assert data.stat().st_size >= used + 10_000 + RESERVE_BYTES
    room.make(used, 50_000)
    with pytest.raises(StorageFull, match="configured"):
        room.make(used, 50_001)
    room.close()
