"""How a search goes through the bits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Way:
    """The rows of the nearest ``nprobe`` lists, or all (None); of these all bits (None), or the
    first ones, and the rest of the ``first_share`` of the rows that are nearest by those.
    """

    nprobe: int | None = None
    first_share: float | None = None


EXACT = Way()
"""All bits of all rows."""
