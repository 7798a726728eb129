"""How much of what is asked is asked again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShadowSettings:
    """``share`` of the searches are asked again, 0 to 1; 0: none. That takes ``cpu`` of the time at
    most, above 0 to 1, and as much of one core in each shard.
    """

    share: float = 0.0
    cpu: float = 0.01
