"""schemathesis over every route that /openapi.json describes, as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz.leaks import HANG_S, leaks, settled
from tests.fuzz.targets import Target

ROOT = Path(__file__).parents[2]
_HOOKS = {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.fuzz.schema_checks"}


def fuzz_by_schema(target: Target, seconds: int, seed: int) -> dict[str, Any]:
    """What it sent and found. Backups are left out: where one is written to is made up."""
    before = target.state()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")), "run",
                f"{target.url}/openapi.json", "--max-time", str(seconds), "--seed", str(seed),
                # One: Python 3.11 parses source, as Hypothesis does, in one thread at a time only.
                "--workers", "1", "--continue-on-failure", "--exclude-path", "/v1/admin/backup",
                "--checks", "no_unmeant_server_error", "--request-timeout", str(HANG_S),
                "--suppress-health-check", "all", "--warnings", "off", "--no-color",
                "--generation-database", "none",
            ],
            capture_output=True, text=True, check=False, timeout=2 * seconds + 300, cwd=folder,
            env={**os.environ, **_HOOKS},
        )  # fmt: skip
    states = [before, settled(target, before["files"])]
    cases = re.search(r"(\d[\d,]*) generated", done.stdout)
    failed = done.returncode != 0
    return {
        "seed": seed,
        "cases": int(cases[1].replace(",", "")) if cases else None,
        "exit_status": done.returncode,
        "failures": (done.stdout + done.stderr)[-6_000:].splitlines() if failed else [],
        "leaks": leaks(states),
        "states": states,
    }
