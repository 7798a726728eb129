"""Compressed, cut off, damaged and endless files: what was read is kept."""

import bz2
import functools
import gzip
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
import zstandard

from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import Compression
from bitsift.cluster.sources.streams import (
    BLOCK_BYTES,
    LINE_BYTES_MAX,
    WINDOW_BYTES_MAX,
    DamagedStream,
    expansion,
    read_blocks,
)
from bitsift.errors import InvalidRequest
from tests.source_files import GOOD, put, read, rejects

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".bz2": bz2.compress,
    ".xz": functools.partial(lzma.compress, preset=1),  # the default takes 10 s for these tests
}


def many_lines(count: int) -> bytes:
    noise = np.random.default_rng(7).bytes(count * 30).hex()
    return b"".join(
        orjson.dumps({"id": str(row), "text": noise[60 * row : 60 * row + 60]}) + b"\n"
        for row in range(count)
    )


@pytest.mark.parametrize("ending", PACKERS)
def test_a_compressed_file_reads_like_the_plain_one(tmp_path: Path, ending: str) -> None:
    content = many_lines(20_000)
    plain = read(put(tmp_path, content))
    packed = read(put(tmp_path, PACKERS[ending](content), f".jsonl{ending}"))
    assert len(plain) == 20_000
    for row in plain + packed:
        del row["file"]
    assert plain == packed


@pytest.mark.parametrize("ending", PACKERS)
def test_a_packed_file_of_another_name_says_how_to_end_it(tmp_path: Path, ending: str) -> None:
    content = PACKERS[ending](b'{"id": "a", "text": "words"}\n')
    for name in (".jsonl", ".csv", ".txt", ".json"):
        ((line, reason),) = rejects(read(put(tmp_path, content, name)))
        assert f"end its name in {ending}" in reason, (name, line)
    other = ".gz" if ending != ".gz" else ".xz"
    ((_, reason),) = rejects(read(put(tmp_path, content, f".jsonl{other}")))
    assert f"end its name in {ending}" in reason


@pytest.mark.parametrize("ending", PACKERS)
def test_a_plain_file_with_the_name_of_a_packed_one_says_so(tmp_path: Path, ending: str) -> None:
    """A browser or a proxy may have unpacked it."""
    ((_, reason),) = rejects(read(put(tmp_path, GOOD, f".jsonl{ending}")))
    assert f"take {ending} off its name" in reason


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04" + b"\0" * 40, "a zip archive or a spreadsheet"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Word file"),
        (b"SQLite format 3\0" + b"\0" * 80, "an SQLite database: end its name in .db"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    ],
)
@pytest.mark.parametrize("name", [".csv", ".jsonl", ".txt", ".md"])
def test_a_file_that_is_no_text_says_what_it_is(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    ((_, reason),) = rejects(read(put(tmp_path, content, name)))
    assert said in reason


@pytest.mark.parametrize("text", [b"BZh9 is how bzip2 begins", b"PAR1 is a receptor", b"PK 3"])
def test_a_text_that_begins_like_another_format_is_a_text(tmp_path: Path, text: bytes) -> None:
    (row,) = read(put(tmp_path, text, ".txt"))
    assert row["text"] == text.decode()


@pytest.mark.parametrize("ending", PACKERS)
def test_a_truncated_file_keeps_what_was_read_and_ends_with_a_reject(
    tmp_path: Path, ending: str
) -> None:
    packed = PACKERS[ending](many_lines(50_000))
    rows = read(put(tmp_path, packed[: len(packed) // 2], f".jsonl{ending}"))
    good = len(rows) - 1
    assert good > 5_000
    assert [row["id"] for row in rows[:-1]] == [str(number) for number in range(good)]
    ((line, reason),) = rejects(rows)
    assert (line, rows[-1]["position"]) == (good + 1, good)
    assert reason.startswith("truncated")
    assert f"{good} records were read before it" in reason


@pytest.mark.parametrize("ending", PACKERS)
def test_a_file_damaged_in_the_middle_keeps_what_was_read(tmp_path: Path, ending: str) -> None:
    packed = bytearray(PACKERS[ending](many_lines(50_000)))
    middle = len(packed) // 2
    packed[middle : middle + 4096] = bytes(4096)
    rows = read(put(tmp_path, bytes(packed), f".jsonl{ending}"))
    assert "damaged" in rows[-1]["reject"]
    assert len([row for row in rows if row["reject"] is None]) > 5_000


@pytest.mark.parametrize("ending", PACKERS)
def test_members_one_after_the_other_are_one_file(tmp_path: Path, ending: str) -> None:
    pack = PACKERS[ending]
    rows = read(put(tmp_path, pack(GOOD) + pack(GOOD) + bytes(4), f".jsonl{ending}"))
    assert [row["reject"] for row in rows] == [None, None]


def test_a_truncated_table_names_the_line_where_it_ends(tmp_path: Path) -> None:
    content = b"id,text\n" + b"".join(b'%d,"a\nb %d"\n' % (row, row**9) for row in range(20_000))
    packed = gzip.compress(content)
    rows = read(put(tmp_path, packed[: len(packed) // 2], ".csv.gz"))
    assert rows[-1]["reject"].startswith("truncated gzip")
    assert rows[-1]["line"] == 2 * len(rows)


def test_a_line_over_the_limit_is_rejected_without_being_kept(tmp_path: Path) -> None:
    huge = b'{"text": "' + b"a" * (4 * LINE_BYTES_MAX) + b'"}\n'
    path = put(tmp_path, gzip.compress(GOOD + huge + GOOD, compresslevel=1), ".jsonl.gz")
    del huge
    tracemalloc.start()
    try:
        rows = read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rejects(rows) == [(2, "record is longer than 16 MiB")]
    assert [row["id"] for row in rows] == ["good", None, "good"]
    assert peak < 1.5 * LINE_BYTES_MAX


# --- streams that unpack to far more than they are ---------------------------------------------

LARGE_BYTES = 64 << 20


@pytest.fixture(scope="module", params=PACKERS)
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 MiB of spaces in some hundred bytes or some thousand; not a record among them."""
    packed = PACKERS[request.param](b" " * LARGE_BYTES)
    path = tmp_path_factory.mktemp("large") / f"large.jsonl{request.param}"
    path.write_bytes(packed * 2)
    return path


def test_no_stream_unpacks_more_than_a_block_at_once(large: Path) -> None:
    total = largest = 0
    tracemalloc.start()
    try:
        for block in read_blocks(str(large), Compression(large.suffix)):
            total += len(block)
            largest = max(largest, len(block))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 2 * LARGE_BYTES
    assert largest <= BLOCK_BYTES
    assert peak < 16 * BLOCK_BYTES  # xz keeps 8 MiB of what it unpacked


def test_looking_at_a_large_stream_unpacks_only_its_head(large: Path) -> None:
    assert expansion(str(large), Compression(large.suffix)) > 100
    assert plan_sources([large]).files[0].records is None


def asks_for_ram(ending: str, size: int) -> bytes:
    """A small stream of GOOD whose header asks for ``size`` bytes of RAM."""
    if ending == ".xz":
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": size}]
        return lzma.compress(GOOD, filters=filters)
    parameters = zstandard.ZstdCompressionParameters(window_log=size.bit_length() - 1)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(GOOD) + packer.flush()  # without a size, so the window is not cut down


@pytest.mark.parametrize("ending", [".xz", ".zst"])
def test_a_stream_that_asks_for_more_ram_than_it_may_says_what_to_do(
    tmp_path: Path, ending: str
) -> None:
    path = put(tmp_path, asks_for_ram(ending, 2 * WINDOW_BYTES_MAX), f".jsonl{ending}")
    ((line, reason),) = rejects(read(path))
    assert line == 1
    assert "more than 128 MiB of RAM" in reason
    assert "unpack the file first" in reason
    with pytest.raises(DamagedStream, match="more than 128 MiB"):
        list(read_blocks(str(path), Compression(ending)))
    within = WINDOW_BYTES_MAX if ending == ".zst" else WINDOW_BYTES_MAX // 2
    rows = read(put(tmp_path, asks_for_ram(ending, within), f".within.jsonl{ending}"))
    assert [row["reject"] for row in rows] == [None]


def test_what_is_packed_twice_is_not_unpacked_twice(tmp_path: Path) -> None:
    twice = gzip.compress(zstandard.ZstdCompressor().compress(GOOD))
    path = tmp_path / "twice.jsonl.zst.gz"
    path.write_bytes(twice)
    with pytest.raises(InvalidRequest, match="unsupported ending"):
        plan_sources([path])


@pytest.mark.parametrize("ending", PACKERS)
def test_ten_thousand_members_are_one_file(tmp_path: Path, ending: str) -> None:
    member, empty = PACKERS[ending](GOOD), PACKERS[ending](b"")
    rows = read(put(tmp_path, (member + empty) * 5_000, f".jsonl{ending}"))
    assert [row["reject"] for row in rows] == [None] * 5_000
