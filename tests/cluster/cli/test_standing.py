"""How commands show how a replica compares with the others."""

from __future__ import annotations

from typing import Any

import pytest

from bitsift.cluster.cli import cluster_status
from bitsift.cluster.cli.console import standing_cells


@pytest.mark.parametrize(
    ("lag_ms", "digest", "cells"),
    [
        (0, "equal", ("0", "equal")),
        (12_340, "unknown", ("12.3 s", "unknown")),
        (None, None, ("?", "-")),
    ],
)
def test_lag_and_digest(lag_ms: int | None, digest: str | None, cells: tuple[str, str]) -> None:
    assert standing_cells({"lag_ms": lag_ms, "digest": digest}) == cells


def test_the_status_of_a_cluster_shows_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def replica(node: str, **more: Any) -> dict[str, Any]:
        sync = {"state": "in step", "since": None, "missed": 0, "sent": None, "reason": None}
        return {"node": node, "state": "ready", "copy": None, "reason": None, "sync": sync, **more}

    replicas = [
        replica("a", lag_ms=0, digest="differs"),
        replica("b", lag_ms=65_000, digest="unknown"),
    ]
    monkeypatch.setattr("bitsift.cluster.cli.cluster_status.out.width", 200)
    shard = {"shard": 3, "answering": ["a"], "lacking": 1, "lost_majority": []}
    cluster_status._show_shards({"shards": [shard | {"replicas": replicas}]})
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("│")
    ]
    assert [row[:6] for row in rows] == [
        ["3", "a", "ready", "yes", "0", "differs"],
        ["3", "b", "ready", "no", "65.0 s", "unknown"],
        ["3", "", "lacks 1", "", "", ""],
    ]
