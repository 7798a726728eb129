"""The shard of these tests, and a small disk for those who fill one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bitsift.shard_worker.shard import Shard
from tests.crash.documents import IDENTITY
from tests.faults.support import ROOT, small_disk

_IN_NAMESPACE = "TESTS_IN_NAMESPACE"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The directory of an empty shard."""
    Shard.create(tmp_path / "shard", IDENTITY)
    return tmp_path / "shard"


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of a size. Where that is not permitted, the test runs again in a mount
    namespace of its own, and is skipped here if it passes there.
    """
    with ExitStack() as stack:

        def mount(size: str) -> Path:
            try:
                return stack.enter_context(small_disk(tmp_path / "disk", size))
            except PermissionError as error:
                if os.environ.get(_IN_NAMESPACE):
                    pytest.skip(f"neither mount nor unshare is permitted: {error}")
            command = ["unshare", "-Urm", sys.executable, "-m", "pytest", "-q", request.node.nodeid]
            environment = {**os.environ, _IN_NAMESPACE: "1"}
            done = subprocess.run(command, cwd=ROOT, env=environment, timeout=120, check=False,
                                  capture_output=True, text=True)  # fmt: skip
            if done.returncode == 0 and " passed" in done.stdout:
                pytest.skip("passed in a mount namespace of its own")
            if "skipped" in done.stdout or "unshare failed" in done.stderr:
                pytest.skip("neither mount nor unshare is permitted here")
            raise AssertionError(done.stdout)

        yield mount
