"""How slow the sender of a stream may be."""

from __future__ import annotations


class Pace:
    """At least ``rate`` bytes a second, and a line now and then; only waiting for them counts.

    A sender may fall ``behind_s`` seconds behind; bytes that come earlier than they must are not
    credited for later. So a byte a minute is no stream, however long each wait is.
    """

    def __init__(self, rate: int, behind_s: float, line_s: float) -> None:
        self._rate = rate
        self._behind_max_s = behind_s
        self._line_max_s = line_s
        self._behind_s = 0.0
        self._line_s = 0.0

    @property
    def left_s(self) -> float:
        """How long may be waited now."""
        return max(0.0, min(self._behind_max_s - self._behind_s, self._line_max_s - self._line_s))

    def waited(self, waited_s: float, size_bytes: int, *, has_line: bool) -> None:
        """After ``waited_s`` seconds came ``size_bytes`` bytes, the end of a line among them?"""
        self._behind_s = max(0.0, self._behind_s + waited_s - size_bytes / self._rate)
        self._line_s = 0.0 if has_line else self._line_s + waited_s

    def too_slow(self) -> str:
        """Why the stream ends when nothing came in the time that was left."""
        if self._line_max_s - self._line_s < self._behind_max_s - self._behind_s:
            return f"no line was completed in {self._line_max_s:.0f} s"
        return (
            f"the sender is too slow: under {self._rate:,} bytes a second, "
            f"{self._behind_max_s:.0f} s behind"
        )
