"""turbovec with 2 bits a dimension."""

from __future__ import annotations

from benchmarks.peers.engines.turbovec_scan import SETTINGS, TurboEngine

__all__ = ["SETTINGS", "engine"]


class Engine(TurboEngine):
    bits = 2


engine = Engine
