"""A shard whose disk is missing at the start is named, and heals when the disk is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from bitsift.cluster.bench.index import write_index
from bitsift.shard_worker.layout import shard_folder
from tests.chaos.load import QUERIES, SPEC, hits
from tests.chaos.server import Server
from tests.commands import wait_until

pytestmark = pytest.mark.long
HEAL_S = 60


def asked(url: str, **options: Any) -> httpx.Response:
    body = {"vector": QUERIES[0], "top_k": 5, "timeout_ms": 3_000, **options}
    return httpx.post(f"{url}/v1/search", json=body, timeout=30)


def test_a_shard_without_its_disk_is_named_and_heals_when_the_disk_appears(tmp_path: Path) -> None:
    index = tmp_path / "index"
    write_index(index, SPEC, 2)
    folder, away = shard_folder(index, 1), tmp_path / "away"
    folder.rename(away)
    server = Server(index, tmp_path / "log")
    try:
        server.wait_ready()
        failed = server.cluster()["shards"][1]
        assert failed["state"] == "FAILED"
        assert str(folder) in failed["reason"]
        answer = asked(server.url).json()
        assert answer["partial"] is True
        (failure,) = answer["coverage"]["failures"]
        assert failure["shard"] == 1
        assert str(folder) in failure["message"]
        assert asked(server.url, require_complete=True).status_code == 503

        away.rename(folder)
        assert wait_until(lambda: server.cluster()["shards"][1]["state"] == "READY", HEAL_S)
        whole = asked(server.url, require_complete=True).json()
        assert whole["partial"] is False
        assert len(hits(whole)) == 5
        assert server.stop() == 0
    finally:
        server.kill()
