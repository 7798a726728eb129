"""`make test` on machines that lack what the tests call."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import FAST
from tests.faults.support import ROOT
from tests.programs import PACKAGES


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH has the shell's own tools and nothing else: no apt-get either."""
    for name in ("sh", "id", "basename", "ls", "env"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    return {**os.environ, "PATH": str(tmp_path)}


def packages(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    shell = shutil.which("sh")
    assert shell is not None
    return subprocess.run(
        [shell, ".ci/packages", *arguments], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_where_nothing_may_be_installed_the_one_command_is_named(bare: dict[str, str]) -> None:
    done = packages("test", environment=bare)
    assert done.returncode == 0
    first, second = done.stderr.splitlines()
    assert "apt-get install chromium chromium-driver strace mount" in first
    assert "skipped" in second
    start = packages("start", environment=bare)
    assert (start.returncode, start.stdout) == (1, "")
    assert "apt-get install make python3" in start.stderr


def test_an_environment_that_cannot_be_made_is_an_error(bare: dict[str, str]) -> None:
    assert packages("venv", sys.executable, environment=bare).returncode == 0
    done = packages("venv", "/nowhere/python3.11", environment=bare)
    assert done.returncode == 1
    assert "apt-get install python3.11-venv" in done.stderr


def test_tests_that_need_what_is_missing_are_skipped_and_counted(bare: dict[str, str]) -> None:
    wanted = ["tests/faults/test_disks.py", "-k", "test_5 or test_6 or test_4_a_full"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider", *wanted],
        cwd=ROOT, env=bare, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    said = "6 tests were skipped because programs are missing; on Debian: "
    assert f"{said}apt-get install mount strace" in done.stdout
    assert "1 passed, 6 skipped" in done.stdout


def test_what_make_test_runs_first_and_what_it_runs_then_are_all_tests() -> None:
    """A test is slow or it is not; those that are not lie where the first of its commands looks. Of
    the others the second takes what the third leaves out.
    """
    makefile = (ROOT / "Makefile").read_text()
    (places,) = re.findall(r'-m "not slow and not long" (.+)', makefile)
    assert {place.replace("*.py", "") for place in places.split()} == {p.rstrip("/") for p in FAST}
    first, servers, others = makefile.partition("\ntest: ")[2].splitlines()[3:6]
    assert first == "\t$(TEST_FAST)"
    slow = '-m "slow and not long"'
    assert servers == f"\t$(PYTEST) -n $(SERVER_JOBS) {slow} $(SERVER_TESTS)"
    assert others == f"\t$(PYTEST) -n $(JOBS) {slow} tests $(SERVER_TESTS:%=--ignore=%)"


def test_promtool_is_fetched_once_and_where_it_cannot_be_its_tests_are_skipped(
    bare: dict[str, str], tmp_path: Path
) -> None:
    done = packages("promtool", str(tmp_path), environment=bare)
    assert done.returncode == 0
    assert "its tests are skipped" in done.stderr
    (tmp_path / "promtool").touch(0o755)
    done = packages("promtool", str(tmp_path), environment=bare)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_each_program_of_the_tests_is_installed_by_make() -> None:
    """But for one whose package starts a server on the machine: it is taken out of the package."""
    script = (ROOT / ".ci" / "packages").read_text()
    for package in set(PACKAGES.values()) - {"prometheus"}:
        assert f"need {package} " in script
