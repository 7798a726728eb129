"""A gateway over shards in this process, and a note of what was written to it: for brute force."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as attribute
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.shard import Shard
from tests.fakes import make_service, make_shards, make_writer
from tests.filters.brute_force import passes
from tests.gateways import Running

DIMENSION, SHARDS = 64, 3
ALL = 1_000
EVERY_CODE: dict[str, Any] = {"candidates": 1_000}
"""The funnel is told to read so many codes that its ranking is that of all."""


@dataclass
class Served:
    """A gateway over shards, and the metadata of what was written to it, by id."""

    running: Running
    shards: list[Shard]
    documents: dict[str, dict[str, Any]] = attribute(default_factory=dict)

    def write(self, documents: dict[str, dict[str, Any]]) -> None:
        given = [
            {"id": key, "text": f"text {key}", "metadata": metadata}
            for key, metadata in documents.items()
        ]
        self._post("/v1/documents", {"documents": given})
        self.documents |= documents

    def delete(self, ids: list[str]) -> None:
        self._post("/v1/documents/delete", {"ids": ids})
        for key in ids:
            self.documents.pop(key, None)

    def search(self, written: Any = None, **options: Any) -> dict[str, Any]:
        body = {"query": "a question", "filter": written, "require_complete": True, **options}
        answer = self._post("/v1/search", body)
        assert not answer["partial"]
        return answer

    def ids(self, written: Any = None, **options: Any) -> list[str]:
        return [hit["id"] for hit in self.search(written, **options)["hits"]]

    def expected(self, written: dict[str, Any]) -> list[str]:
        """What passes, in the order of all documents' scores."""
        ranking = self.ids(mode="exhaustive", top_k=ALL)
        assert set(ranking) == self.documents.keys()
        return [key for key in ranking if passes(written, key, self.documents[key])]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.running.url}{path}", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Over shards in ``folder`` that hold nothing yet."""
    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    shards, calibration = make_shards(folder, nothing, DIMENSION, SHARDS)
    links = [LocalLink(shard) for shard in shards]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    try:
        yield Served(running, shards)
    finally:
        running.stop()
        for shard in shards:
            shard.close()
