"""What `bitsift cluster status` prints."""

from __future__ import annotations

from typing import Any

import pytest

from bitsift.cluster.cli.cluster_status import show

SYNC = {"state": "in step", "since": None, "missed": 0, "sent": None, "reason": None}


def replica(node: str, **sync: Any) -> dict[str, Any]:
    return {"node": node, "state": "ready", "copy": None, "reason": None, "sync": SYNC | sync} | {
        "lag_ms": 0, "digest": "equal",
    }  # fmt: skip


def status(*replicas: dict[str, Any], lost: tuple[str, ...] = ()) -> dict[str, Any]:
    shard = {"shard": 3, "answering": ["a"], "lacking": 0, "lost_majority": list(lost)}
    return {
        "index": {"name": "n", "uuid": "u"}, "epoch": 7, "nodes": [], "routers": [],
        "shards": [shard | {"replicas": list(replicas)}], "reshard": None,
        "rolling": None, "failures": {},
        "failure": None,
    }  # fmt: skip


def test_each_replica_says_whether_it_is_in_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsift.cluster.cli.cluster_status.out.width", 200)
    show(
        status(
            replica("a"),
            replica("b", state="behind", since=1_700_000_000.0, missed=1_234, reason="it is late"),
            replica("c", state="catching up", missed=12, sent=5),
            replica("d", state="behind", since=None, missed=None),
        ),
        json=False,
    )
    printed = capsys.readouterr().out
    assert "in step" in printed
    assert "behind since " in printed
    assert "1,234 documents missed" in printed
    assert "it is late" in printed
    assert "catching up, 12 documents missed, 5 of them sent" in printed


def test_a_shard_that_has_lost_its_majority_says_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(status(replica("a"), lost=("b", "c")), json=False)
    said = capsys.readouterr().err
    assert "shard 3 takes no writes: its replicas on b, c do not answer" in said
    assert "bitsift cluster accept-loss 3" in said
