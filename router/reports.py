"""What a router and a writer say of themselves to the controller of a cluster.

``settings`` names those that the actor was started with, "" outside a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitsift.router.shards.missed import Missed


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
    """``missed`` is what replicas (shard, node) that are behind, or have left the table, were not
    sent. Those that are behind get no later write, and must catch up before they are in a table
    again.
    """

    missed: dict[tuple[int, str], Missed]
    settings: str
