"""Compressed, cut off, damaged and endless files: what was read is kept."""

import bz2
import gzip
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
import zstandard

from cluster.streams import LINE_BYTES_MAX
from tests.source_files import GOOD, put, read, rejects

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
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
    assert rejects(rows) == [(2, "record is longer than 64 MiB")]
    assert [row["id"] for row in rows] == ["good", None, "good"]
    assert peak < 1.5 * LINE_BYTES_MAX
