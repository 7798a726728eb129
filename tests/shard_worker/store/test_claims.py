"""What a frame or a file says of its own size is looked at before memory is taken for it."""

from __future__ import annotations

from pathlib import Path

import google_crc32c
import orjson
import pytest

from bitsift.errors import Corrupt, InvalidRequest
from bitsift.shard_worker.maintenance.repository import (
    JSON_BYTES_MAX,
    MARK_FILE,
    OWNER_FILE,
    Repository,
    digest_of,
    name_of,
)
from bitsift.shard_worker.store.packing import CRC, ROW, salt_of
from bitsift.shard_worker.store.row_reader import CONTENT_BYTES_MAX
from tests.shard_worker.small_shard import batch, new_shard
from tests.writing import written


def frame_that_claims(size: int) -> bytes:
    """The head of a zstd frame (RFC 8878) of ``size`` bytes, and an empty last block."""
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\x00\x00"


@pytest.mark.parametrize("claimed", [CONTENT_BYTES_MAX + 1, 1 << 50])
def test_a_document_that_claims_petabytes_is_damage(tmp_path: Path, claimed: int) -> None:
    shard = new_shard(tmp_path / "shard")
    written(shard, batch(["a", "b"], ["one", "two"]))
    reader = shard._current.store.reader
    frame = frame_that_claims(claimed)
    value = CRC.pack(google_crc32c.value(frame) ^ salt_of(0)) + frame
    with reader._env.writing() as txn:  # as whoever makes a hostile backup can
        txn.put(ROW.pack(0), value, db=reader._databases["documents"])
        txn.commit()
    found, other = shard.documents(shard.origin, [0, 1])
    assert isinstance(found, Corrupt)
    assert f"claims a size of {claimed:,} bytes" in found.message
    assert not isinstance(other, Exception)
    shard.close()


@pytest.mark.parametrize("name", [MARK_FILE, OWNER_FILE])
def test_a_file_of_json_that_no_backup_writes_is_not_read(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(JSON_BYTES_MAX + 1)
    with pytest.raises(Corrupt, match=r"larger than [\d,]+ bytes"):
        Repository(str(tmp_path)).claim("any")


def test_a_block_larger_than_any_is_not_read(tmp_path: Path) -> None:
    repository = Repository(str(tmp_path))
    digest = digest_of(b"small")
    repository.put_block(digest, b"small")
    with (tmp_path / "blocks" / name_of(digest)).open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(Corrupt, match="larger than"):
        repository.read_block(digest)


@pytest.mark.parametrize("content", [{}, {"index_uuid": 1}, {"index_uuid": "a", "files": [{}]}])
def test_a_mark_of_another_shape_is_refused(tmp_path: Path, content: dict[str, object]) -> None:
    from bitsift.cluster.maintenance.restore import restore

    Repository(str(tmp_path / "dest")).write_mark(content)
    assert orjson.loads((tmp_path / "dest" / MARK_FILE).read_bytes())["content"] == content
    with pytest.raises(Corrupt, match="not written by a backup"):
        restore(str(tmp_path / "dest"), tmp_path / "restored")
    with pytest.raises((Corrupt, InvalidRequest)):
        Repository(str(tmp_path / "dest")).claim("another")
