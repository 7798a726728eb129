from __future__ import annotations

import json
from pathlib import Path

from bitsift.cluster.bench.machine import describe_machine, write_result


def test_a_result_is_kept_with_the_machine_and_the_time(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "speed.json"
    returned = write_result(path, {"figures": {"a": 1}})
    kept = json.loads(path.read_text())
    assert kept == returned
    assert list(kept)[:3] == ["benchmark", "measured", "machine"]
    assert kept["benchmark"] == "speed"
    assert kept["figures"] == {"a": 1}
    assert [item.name for item in path.parent.iterdir()] == ["speed.json"]


def test_the_machine_is_described_by_what_makes_figures_differ() -> None:
    machine = describe_machine()
    assert machine["cores"] >= 1
    assert machine["memory_gib"] > 0
    assert machine["processor"]
    assert {"faiss-cpu", "lmdb", "ray"} <= machine["packages"].keys()
