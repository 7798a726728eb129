"""Limits how much goes on at once, by count and by the RAM it may take. Excess gets a 429."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bitsift.errors import Overloaded


class Admission:
    """At most ``calls_max`` calls, and ``bytes_max`` bytes together; in one event loop.

    The two are apart, because a call that is still being sent takes RAM but does not run yet: so
    slow senders never take the places of others.
    """

    def __init__(self, what: str, calls_max: int, bytes_max: int) -> None:
        """``what`` names the calls in messages: "writes"."""
        self._what = what
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self._calls = 0
        self._bytes = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in use: everything that was taken has been given back."""
        return self._calls == self._bytes == 0

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call that runs. Raises Overloaded."""
        if self._calls >= self._calls_max:
            raise Overloaded(f"{self._calls} {self._what} are already in progress; try again later")
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    @contextmanager
    def hold(self, size_bytes: int = 0) -> Iterator[Held]:
        """RAM that is counted until the end. Raises Overloaded."""
        held = Held(self)
        try:
            held.resize(size_bytes)
            yield held
        finally:
            held.resize(0)

    def check(self, more: int) -> None:
        """Raise Overloaded if ``more`` bytes could not be held now."""
        if self._bytes + more > self._bytes_max:
            raise Overloaded(
                f"{self._what} in progress already take {self._bytes:,} bytes of at most "
                f"{self._bytes_max:,}, and this one needs {more:,} more; try again later"
            )

    def _resize(self, more: int) -> None:
        if more > 0:
            self.check(more)
        self._bytes += more


@dataclass(slots=True)
class Held:
    """The bytes that one call holds."""

    admission: Admission
    size_bytes: int = 0

    def resize(self, size_bytes: int) -> None:
        """Hold so many from now on, more or fewer. Raises Overloaded."""
        self.admission._resize(size_bytes - self.size_bytes)
        self.size_bytes = size_bytes
