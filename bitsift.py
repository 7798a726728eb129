"""Bitsift: search tens of millions of texts by meaning on plain CPUs.

from bitsift import Client, build_index

The names load on first use: importing this module loads neither ray nor torch nor faiss.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.ingest import build_index
    from router.client import AsyncClient, Client
    from shard_worker.errors import BitsiftError

__all__ = ["AsyncClient", "BitsiftError", "Client", "build_index"]

_HOMES = {
    "AsyncClient": "router.client",
    "BitsiftError": "shard_worker.errors",
    "Client": "router.client",
    "build_index": "cluster.ingest",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bitsift' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
