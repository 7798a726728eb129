"""An index answered in this very process: the same SearchService over plain Shards, without Ray."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from cluster.manifest import open_manifest
from router.answer import Answer
from router.fanout import FanOut, LocalLink
from router.models import ModelSpec
from router.query_vectors import QueryEncoder
from router.service import Question, SearchService
from shard_worker.layout import shard_folder
from shard_worker.shard import Shard


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
        if encoder is None and manifest.model is not None:
            from router.encoder import Encoder

            spec = ModelSpec.from_json(manifest.model)
            encoder = Encoder.load(spec.name, expected=spec)
        yield SearchService(manifest.describe(), FanOut(links), encoder)


def search_local(index: Path, question: Question) -> Answer:
    """Answer one question from an index on this machine's disk."""
    with open_local(index) as service:
        return asyncio.run(service.search(question))
