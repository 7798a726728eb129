from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bitsift.errors import (
    ChecksumMismatch,
    Corrupt,
    FormatMismatch,
    InvalidRequest,
    NotFound,
    StorageFull,
    Unavailable,
)
from bitsift.shard_worker.maintenance.repository import (
    BLOCK_BYTES,
    MARK_FILE,
    PACKED_BYTES_MAX,
    Repository,
    digest_of,
    name_of,
)


@pytest.fixture(params=["folder", "memory"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    folder = str(tmp_path / "repository")
    return Repository(folder if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


def put(repository: Repository, block: bytes) -> str:
    digest = digest_of(block)
    repository.put_block(digest, block)
    return digest


def test_a_block_comes_back_under_its_digest(repository: Repository) -> None:
    blocks = [b"x", os.urandom(BLOCK_BYTES), bytes(BLOCK_BYTES), b"words " * 1000]
    digests = [put(repository, block) for block in blocks]
    assert [repository.read_block(digest) for digest in digests] == blocks
    assert repository.digests() == set(digests)


def test_an_empty_repository_has_no_blocks_and_no_mark(repository: Repository) -> None:
    assert repository.digests() == set()
    assert repository.read_mark() is None


def test_the_mark_is_replaced_as_a_whole(repository: Repository) -> None:
    repository.write_mark({"files": [1, 2]})
    repository.write_mark({"files": [3], "created": "now"})
    assert repository.read_mark() == {"files": [3], "created": "now"}
    assert repository.digests() == set()


def test_removed_blocks_are_gone_and_missing_ones_are_no_error(repository: Repository) -> None:
    kept, removed = put(repository, b"kept"), put(repository, b"removed")
    repository.remove({name_of(removed), name_of(digest_of(b"never there"))})
    assert repository.digests() == {kept}
    with pytest.raises(NotFound, match=removed):
        repository.read_block(removed)


@given(data=st.data())
def test_a_damaged_block_is_named(data: st.DataObject, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("damaged")
    repository = Repository(str(folder))
    digest = put(repository, b"some words " * 100)
    path = folder / "blocks" / name_of(digest)
    packed = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(packed[: data.draw(st.integers(place + 1, len(packed)))])
    try:
        assert repository.read_block(digest) == b"some words " * 100  # a bit that means nothing
    except ChecksumMismatch as error:
        assert digest in error.message


def test_a_block_that_unpacks_to_more_than_a_block_is_refused_without_being_unpacked(
    tmp_path: Path,
) -> None:
    repository = Repository(str(tmp_path))
    digest = put(repository, b"small")
    bomb = zstandard.ZstdCompressor().compress(bytes(64 * BLOCK_BYTES))
    claim = b"\x28\xb5\x2f\xfd\xe0" + (1 << 50).to_bytes(8, "little") + bytes(16)
    for content in (bomb, claim):
        (tmp_path / "blocks" / name_of(digest)).write_bytes(content)
        with pytest.raises(ChecksumMismatch, match=digest):
            repository.read_block(digest)


def test_a_file_that_is_larger_than_any_block_is_not_read(tmp_path: Path) -> None:
    repository = Repository(str(tmp_path))
    digest = put(repository, b"small")
    file = tmp_path / "blocks" / name_of(digest)
    for size, said in ((PACKED_BYTES_MAX, "is damaged"), (PACKED_BYTES_MAX + 1, "is larger than")):
        file.write_bytes(bytes(size))
        with pytest.raises(Corrupt, match=f"{digest} {said}"):
            repository.read_block(digest)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda mark: mark[:-5], Corrupt),
        (lambda mark: mark.replace(b"2026", b"2027"), ChecksumMismatch),
        (lambda mark: mark.replace(b'"repository_version":1', b'"repository_version":2'),
         FormatMismatch),
        (lambda mark: b"[]", FormatMismatch),
    ],
)  # fmt: skip
def test_a_mark_that_cannot_be_trusted_is_refused(tmp_path: Path, change, error) -> None:  # type: ignore[no-untyped-def]
    repository = Repository(str(tmp_path))
    repository.write_mark({"created": "2026"})
    path = tmp_path / MARK_FILE
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(error, match=MARK_FILE):
        repository.read_mark()


def test_leftovers_of_a_killed_backup_are_no_blocks_to_trust(tmp_path: Path) -> None:
    repository = Repository(str(tmp_path))
    digest = put(repository, b"whole")
    leftover = tmp_path / "blocks" / f"{name_of(digest)}.{uuid.uuid4().hex}.partial"
    leftover.write_bytes(b"ha")
    other = digest_of(b"other")
    assert other not in repository.digests()
    assert leftover.name in {Path(name).name for name in repository.names()}


def test_a_missing_driver_says_what_to_install() -> None:
    with pytest.raises(InvalidRequest, match="s3fs"):
        Repository("s3://bucket/name")
    with pytest.raises(InvalidRequest, match="nonsense"):
        Repository("nonsense://bucket/name")


def test_a_place_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    repository = Repository(str(tmp_path / "file" / "below"))
    with pytest.raises(Unavailable, match="cannot be written"):
        repository.write_mark({})


def test_a_full_disk_is_storage_full() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    from bitsift.shard_worker.maintenance.repository import storage_error

    with pytest.raises(OSError, match="No space left") as caught, open("/dev/full", "wb") as file:
        file.write(b"x" * 100_000)
    assert isinstance(storage_error(caught.value, "it cannot be written"), StorageFull)


def test_a_destination_that_is_a_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("dear")
    link.symlink_to(tmp_path / "nowhere")
    for dest in (file, link):
        with pytest.raises(InvalidRequest, match="is not a folder"):
            Repository(str(dest))
    assert file.read_text() == "dear"
    assert link.is_symlink()
