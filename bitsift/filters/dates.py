"""Dates: instants in a filter's operand, and the strings of metadata that read as one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_FORM = re.compile(
    r"\d{4}-\d\d-\d\d"  # 2026-01-31
    r"(?:[T ](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,9})?)?"  # T08:30:00.123456
    r"(?:Z|[+-]\d\d:\d\d)?)?",  # Z or +01:00
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, order=True, slots=True)
class Date:
    """An instant, in microseconds since 1970-01-01T00:00:00Z; negative before."""

    instant_us: int

    def __str__(self) -> str:
        """RFC 3339 in UTC, a date alone where it is midnight: ``date_of`` reads it back."""
        moment = _EPOCH + self.instant_us * _MICROSECOND
        if not self.instant_us % 86_400_000_000:
            return moment.date().isoformat()
        return f"{moment.isoformat()}Z"


def date_of(text: str) -> Date | None:
    """The instant that ``text`` names, None where it has another form.

    ``2026-01-31``, ``2026-01-31T08:30``, ``2026-01-31T08:30:00.5``, a space in the place of T, each
    time with ``Z`` or ``+01:00`` or without: a date alone is its first moment, and what names no
    zone is UTC. Digits of a second beyond the sixth are cut off. An instant outside of the years 1
    to 9999 in UTC is none, nor is a date that no calendar has.
    """
    if not _FORM.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return _date(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):  # 2026-02-30, +99:00; 0001-01-01T00:00+14:00
        return None


def _date(moment: datetime) -> Date:
    return Date((moment.astimezone(UTC).replace(tzinfo=None) - _EPOCH) // _MICROSECOND)
