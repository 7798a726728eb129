"""Bitsift: search tens of millions of texts by meaning on plain CPUs.

from bitsift import BuildOptions, Client, build_index

The names load on first use: importing this module loads neither ray nor torch nor faiss.

`cluster`, `router` and `shard_worker` in this folder are links to the folders of the server, whose
modules are only importable as `bitsift.cluster…`. `pip install bitsift` brings what the client
needs, `pip install 'bitsift[server]'` the rest.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitsift.client import AsyncClient, Client
    from bitsift.cluster.ingest.build import build_index
    from bitsift.cluster.ingest.create import create_index
    from bitsift.cluster.ingest.options import BuildOptions
    from bitsift.cluster.ingest.update import update_index
    from bitsift.errors import BitsiftError
    from bitsift.options import Mode, SearchOptions

__all__ = [
    "AsyncClient",
    "BitsiftError",
    "BuildOptions",
    "Client",
    "Mode",
    "SearchOptions",
    "build_index",
    "create_index",
    "update_index",
]

SERVER_MISSING = "the server is not installed: pip install 'bitsift[server]'"
_HOMES = {
    "AsyncClient": "bitsift.client",
    "BitsiftError": "bitsift.errors",
    "BuildOptions": "bitsift.cluster.ingest.options",
    "Client": "bitsift.client",
    "Mode": "bitsift.options",
    "SearchOptions": "bitsift.options",
    "build_index": "bitsift.cluster.ingest.build",
    "create_index": "bitsift.cluster.ingest.create",
    "update_index": "bitsift.cluster.ingest.update",
}

for _name in ("cluster", "router", "shard_worker"):
    if Path(__file__).with_name(_name).is_file():
        raise ImportError(
            f"bitsift/{_name} is a file, not a link: check this repository out with symbolic links"
            " (git config core.symlinks true)"
        )


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bitsift' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("bitsift"):
            raise
        raise ImportError(f"{SERVER_MISSING} (no module {error.name})") from error


def __dir__() -> list[str]:
    return __all__
