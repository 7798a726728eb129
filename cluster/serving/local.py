"""Searches an index within this process: the same SearchService over plain Shards, without Ray."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from bitsift.cluster.manifest import open_manifest
from bitsift.options import SearchOptions
from bitsift.results import Answer
from bitsift.router.model.query_vectors import QueryEncoder
from bitsift.router.service import SearchService
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.shard import Shard


@contextlib.contextmanager
def open_local(index: Path, *, encoder: QueryEncoder | None = None) -> Iterator[SearchService]:
    """Open all shards of a finished index. ``encoder`` None loads the index's own model.

    Raises NotFound, Unavailable (in use, or not finished), Corrupt, FormatMismatch.
    """
    manifest, _ = open_manifest(index)
    with contextlib.ExitStack() as stack:
        links = []
        for number in range(manifest.shards):
            identity = manifest.identity(number)
            shard = Shard(shard_folder(index, number), manifest.calibration, identity)
            stack.callback(shard.close)
            links.append(LocalLink(shard))
        spec = manifest.encoder()
        if encoder is None and spec is not None:
            encoder = spec.load()
        yield SearchService(manifest.describe(), FanOut(links), encoder)


def search_local(index: Path, options: SearchOptions) -> Answer:
    """Answer one search, of checked ``options``, from an index on this machine's disk."""
    with open_local(index) as service:
        return asyncio.run(service.search(options))
