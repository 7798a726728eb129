from __future__ import annotations

import pytest

from cluster.quantities import parse_count
from shard_worker.errors import InvalidRequest


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
