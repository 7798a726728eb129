"""An empty index, made by the command `bitsift create` in a process of its own: what a model takes
is gone with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bitsift.errors import DeadlineExceeded
from bitsift.problem_lines import last_error

CREATE_TIMEOUT_S = 540.0


def create(
    folder: Path, model: str | None, dimensions: int | None, shards: int | None, backend: str
) -> dict[str, Any]:
    """Its report, as `bitsift create --json` prints it. Raises what it says went wrong."""
    options = {"--model": model, "--dimensions": dimensions, "--shards": shards}
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    command = [sys.executable, "-m", "bitsift.cluster.cli", "create", str(folder), *given]
    try:
        done = subprocess.run(
            [*command, f"--backend={backend}", "--json"],
            capture_output=True,
            text=True,
            timeout=CREATE_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not _is_setting(name)},
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(
            f"the index was not made in {CREATE_TIMEOUT_S:.0f} s; look for a slow disk or network, "
            "then ask again"
        ) from error
    if done.returncode:
        raise last_error(done.stderr, "the index could not be made")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _is_setting(name: str) -> bool:
    """Of this server, the mark of its processes among them (claim.py)."""
    return name.startswith("BITSIFT_")
