"""Which strings are dates, and which instant they are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.filters.dates import Date, date_of

DAY_US = 86_400_000_000


@pytest.mark.parametrize(
    ("text", "instant_us"),
    [
        ("1970-01-01", 0),
        ("1970-01-02", DAY_US),
        ("1970-01-01T00:00", 0),
        ("1970-01-01 00:00:01", 1_000_000),
        ("1970-01-01T00:00:00.5Z", 500_000),
        ("1970-01-01T00:00:00.1234569", 123_456),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:59:59-00:00", -1_000_000),
        ("2026-02-28T24:00:00", None),
        ("2026-02-30", None),
        ("2026-2-3", None),
        ("20260203", None),
        ("2026-W01-1", None),
        ("2026-02-03T10", None),
        ("2026-02-03t10:00", None),
        ("2026-02-03T10:00:60", None),
        ("2026-02-03T10:00+0100", None),
        ("2026-02-03T10:00+24:00", None),
        ("2026-02-03 ", None),
        ("٢٠٢٦-02-03", None),
        ("0001-01-01T00:00+00:01", None),
        ("9999-12-31T23:59-00:01", None),
        ("0000-01-01", None),
        ("", None),
    ],
)
def test_a_string_is_a_date_or_none(text: str, instant_us: int | None) -> None:
    found = date_of(text)
    assert (None if found is None else found.instant_us) == instant_us


MOMENTS = st.datetimes(
    datetime(1, 1, 3),
    datetime(9999, 12, 29),
    timezones=st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m))),
)


@given(MOMENTS, MOMENTS)
def test_dates_are_ordered_as_their_instants_and_read_back(one: datetime, other: datetime) -> None:
    ours, theirs = date_of(one.isoformat()), date_of(other.isoformat())
    assert ours is not None
    assert theirs is not None
    assert (ours < theirs, ours == theirs) == (one < other, one == other)
    assert date_of(str(ours)) == ours
    assert ours.instant_us == (one - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_a_date_is_written_short() -> None:
    assert str(Date(DAY_US)) == "1970-01-02"
    assert str(Date(DAY_US + 1)) == "1970-01-02T00:00:00.000001Z"
