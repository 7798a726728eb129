"""One server an index; what a killed one left is ended, and nothing else is."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bitsift.cluster.serving import claim
from bitsift.cluster.serving.claim import LOCK_FILE, VARIABLE, marked
from bitsift.cluster.serving.leftovers import GCS_PREFIX, mark_folder
from bitsift.errors import Unavailable

_SERVER = """
import subprocess, sys
from pathlib import Path
from bitsift.cluster.serving.claim import marked

with marked() as processes, processes.serving(Path(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], stdout=subprocess.PIPE)
    print(child.pid, child.stdout.readline().decode().strip(), flush=True)
    sys.stdin.read()
"""
_CHILD = """
import subprocess, sys, time
hidden = {"PATH": "/usr/bin:/bin"}  # as Ray's agents, whose titles lie over their environment
grandchild = subprocess.Popen(["sleep", "600"], env=hidden)
print(grandchild.pid, flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def server(index: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A server of ``index`` that has a child and a grandchild: (its process, their pids)."""
    command = [sys.executable, "-c", _SERVER, str(index), _CHILD]
    pids: list[int] = []
    with subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            pids = [int(pid) for pid in process.stdout.readline().split()]
            yield process, pids
        finally:
            process.kill()
            for pid in pids:
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()


def runs(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def test_a_second_server_is_refused_and_says_who_has_the_index(tmp_path: Path) -> None:
    with server(tmp_path) as (process, pids), marked() as processes:
        said = rf"open in another process \(pid {process.pid}\), which serves it"
        with pytest.raises(Unavailable, match=said), processes.serving(tmp_path):
            pass
        assert all(map(runs, pids))


@pytest.mark.parametrize("is_stopped", [False, True])
def test_what_a_killed_server_left_is_ended_stopped_or_not(
    tmp_path: Path, is_stopped: bool
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with server(tmp_path) as (process, pids), server(other) as (_, others):
        if is_stopped:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
        process.kill()
        process.wait(60)
        assert all(map(runs, pids))
        with marked() as processes, processes.serving(tmp_path) as ended:
            assert set(ended) == set(pids)
            assert not any(map(runs, pids))
            assert all(map(runs, others))  # of another index


def test_serving_a_copy_of_an_index_ends_nothing_of_the_server_of_the_first(
    tmp_path: Path,
) -> None:
    index, copy = tmp_path / "index", tmp_path / "copy"
    index.mkdir()
    with server(index) as (_, pids):
        shutil.copytree(index, copy)
        assert (copy / LOCK_FILE).read_text() == (index / LOCK_FILE).read_text()
        with marked() as processes, processes.serving(copy) as ended:
            assert ended == []
        assert all(map(runs, pids))


@pytest.mark.parametrize(("name", "is_ours"), [("ray::DashboardAgent", True), ("tail", False)])
def test_an_agent_of_ray_is_found_by_its_log_and_who_reads_that_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_ours: bool
) -> None:
    """Its raylet has ended, and its title lies over the mark in its environment."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    logs = tmp_path / f"{GCS_PREFIX}1" / "logs"
    logs.mkdir(parents=True)
    with marked() as processes, (logs / "agent.log").open("w") as log:
        mark_folder(logs.parent, claim.current_mark())
        hidden = {"PATH": "/usr/bin:/bin"}
        program = [name, "-c", "import time; time.sleep(600)"]
        with subprocess.Popen(program, executable=sys.executable, env=hidden, stderr=log) as other:
            try:
                assert (other.pid in processes.end()) == is_ours
                assert runs(other.pid) != is_ours
            finally:
                other.kill()


def test_what_the_kernel_does_not_end_is_waited_for_so_long_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that waits for a disk which does not answer."""
    monkeypatch.setattr(claim, "END_TIMEOUT_S", 0.1)
    with server(tmp_path) as (process, pids):
        process.kill()
        process.wait(60)
        with monkeypatch.context() as undying, marked() as processes:
            undying.setattr(psutil.Process, "kill", lambda _: None)
            said = rf"processes \[{min(pids)}, {max(pids)}\] of a server .* do not end; kill them"
            with pytest.raises(Unavailable, match=said), processes.serving(tmp_path):
                pass
        assert all(map(runs, pids))


def test_a_clean_end_ends_what_was_started_and_leaves_nothing_to_end(tmp_path: Path) -> None:
    with server(tmp_path) as (process, pids):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
        assert not any(map(runs, pids))
    with marked() as processes, processes.serving(tmp_path) as ended:
        assert ended == []


def test_folders_of_a_killed_server_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, index = tmp_path / "temporary", tmp_path / "index"
    monkeypatch.setenv("RAY_TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    mark, other = "a" * 32, "b" * 32
    marks = {"ray/session_own": mark, "bitsift-gcs-own": mark, "bitsift-gcs-other": other}
    marks |= {"ray/session_other": other, "ray/session_longer": mark + "a", "elsewhere": mark}
    for name in [*marks, "bitsift-gcs-bare"]:
        (temporary / name / "logs").mkdir(parents=True)
    for name, found in marks.items():
        mark_folder(temporary / name, found)
    (temporary / "bitsift-gcs-link").symlink_to(temporary / "elsewhere")
    (temporary / "ray" / "session_latest").symlink_to(temporary / "ray" / "session_own")
    index.mkdir()
    lock = index / LOCK_FILE
    lock.touch()
    lock.write_text(f"1 {mark} {lock.stat().st_dev}:{lock.stat().st_ino}\n")
    with marked() as processes, processes.serving(index):
        left = {str(path.relative_to(temporary)) for path in temporary.glob("*")}
        assert left == {
            "ray", "bitsift-gcs-other", "bitsift-gcs-bare", "bitsift-gcs-link", "elsewhere",
        }  # fmt: skip
        sessions = {path.name for path in (temporary / "ray").iterdir()}
        assert sessions == {"session_other", "session_longer"}


def test_the_mark_is_in_the_environment_only_within(tmp_path: Path) -> None:
    with marked() as processes, processes.serving(tmp_path):
        mark = os.environ[VARIABLE]
        pid, word, _ = (tmp_path / LOCK_FILE).read_text().split()
        assert (pid, word) == (str(os.getpid()), mark)
    assert VARIABLE not in os.environ
    assert (tmp_path / LOCK_FILE).read_text() == ""


@pytest.mark.parametrize("text", ["", "garbage", "1 ", "\0" * 300, "1 ../../etc", "1 " + "f" * 31])
def test_a_lock_file_of_any_content_ends_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK_FILE).write_text(text)
    with marked() as processes, processes.serving(tmp_path) as ended:
        assert ended == []


def test_a_link_in_the_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "elsewhere")
    with (
        marked() as processes,
        pytest.raises(Unavailable, match="is a link"),
        processes.serving(tmp_path),
    ):
        pass
    assert (tmp_path / "elsewhere").read_text() == "mine"
