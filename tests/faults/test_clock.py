"""The clock jumps by an hour; order and deadlines are unaffected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.support import ROOT, there
from tests.programs import LIBFAKETIME


@pytest.mark.needs("faketime")
def test_18_a_clock_that_jumps_by_an_hour_changes_neither_order_nor_deadlines(
    folder: Path, tmp_path: Path
) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+0h")
    environment = {
        **os.environ,
        "LD_PRELOAD": str(LIBFAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.clock", folder], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "done\n", done.stderr
    assert there(folder) == {"a": "version 4"} | {str(i): "more" for i in range(5)}
