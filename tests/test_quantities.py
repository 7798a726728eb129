from __future__ import annotations

import pytest

from bitsift.errors import InvalidRequest
from bitsift.quantities import parse_bytes, parse_count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("40M", 40_000_000),
        ("1.5B", 1_500_000_000),
        ("300k", 300_000),
        ("2_500", 2_500),
        ("1,000,000", 1_000_000),
        (" 7 ", 7),
        (12, 12),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str | int, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "many", "-3", "0", "1.5X", "1e6", "0.2", "M", "1.2.3"])
def test_what_is_no_number_of_documents_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not a number of documents"):
        parse_count(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("500G", 500 << 30), ("1.5 TiB", 3 << 39), ("64mb", 64 << 20), ("1048576", 1 << 20), (7, 7)],
)
def test_sizes_are_read_as_people_write_them(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-3G", "0", "1.5X", "G", "1e6"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not a size in bytes"):
        parse_bytes(text)
