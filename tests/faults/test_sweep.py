"""Each call to the system that a write makes fails once. All calls: see sweep.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.lives import WRITES
from tests.faults.sweep import run


@pytest.mark.needs("gcc", "libc headers")
def test_6_whichever_call_of_a_write_fails_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    found = run(tmp_path, WRITES)
    assert found["wrong"] == []
    assert found["calls_failed"] >= 9 * len(WRITES), "fewer calls than a write makes"
    assert found["planned_and_not_reached"] == 0
    assert set(found["by_task_and_call"]) == {task.name for task in WRITES}
    assert set(found["by_task_and_call"]["upsert"]) == {
        "pread64", "pwrite64", "writev", "fdatasync", "fallocate",
    }  # fmt: skip
    assert found["writes_stopped"] > 0
    assert set(found["raised"]) == {"None", "StorageFull", "WritesStopped"}
