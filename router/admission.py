"""How much of writing goes on at once. What comes beyond it is told to come again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shard_worker.errors import Overloaded


class Admission:
    """At most ``calls_max`` calls that hold ``bytes_max`` bytes together; in one event loop."""

    def __init__(self, calls_max: int, bytes_max: int) -> None:
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self._calls = 0
        self._bytes = 0

    @contextmanager
    def call(self, announced_bytes: int) -> Iterator[Held]:
        """A call that says how much it brings. Raises Overloaded."""
        if self._calls >= self._calls_max:
            raise Overloaded(f"{self._calls} writes are under way already; try again")
        held = Held(self)
        self._calls += 1
        try:
            held.at_least(announced_bytes)
            yield held
        finally:
            self._calls -= 1
            self._bytes -= held.size_bytes

    def take(self, more: int) -> None:
        """Count ``more`` bytes. Raises Overloaded."""
        if self._bytes + more > self._bytes_max:
            raise Overloaded(
                f"writes under way hold {self._bytes:,} bytes already, at most {self._bytes_max:,} "
                "are held; try again"
            )
        self._bytes += more


@dataclass(slots=True)
class Held:
    """The bytes that one call holds."""

    admission: Admission
    size_bytes: int = 0

    def at_least(self, size_bytes: int) -> None:
        """Hold so many from now on. Raises Overloaded."""
        if size_bytes > self.size_bytes:
            self.admission.take(size_bytes - self.size_bytes)
            self.size_bytes = size_bytes
