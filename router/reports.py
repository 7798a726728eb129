"""What a router and a writer say of themselves to the controller of a cluster.

``settings`` names those that the actor was started with, "" outside a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RouterReport:
    """Where it listens, and whether it has loaded its encoder or needs none; else ``failure``."""

    url: str
    admin_url: str | None
    is_loaded: bool
    failure: str | None
    settings: str


@dataclass(frozen=True, slots=True)
class WriterReport:
    """``behind`` are (shard, node) of replicas in the table that failed a write: they get no later
    one, and must catch up before they are in a table again.
    """

    behind: tuple[tuple[int, str], ...]
    settings: str
