"""The real command line as processes of their own, and what is left of them."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

COMMAND = [sys.executable, "-m", "cluster.cli"]


def bitsift(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """One command, run to its end."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@contextlib.contextmanager
def answering(command: Sequence[object]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A command that says its address by --json, in a session of its own; Ctrl-C at the end.

    Asserts that nothing of it is left then.
    """
    process = subprocess.Popen(
        [*map(str, command)], text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        text = ""
        while "}" not in text:
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            text += line
        yield json.loads(text)["url"], process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert wait_until(lambda: not family(process.pid)), family(process.pid)


def family(session: int) -> list[str]:
    """Command lines of the processes that still belong to a session."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found


def wait_until(condition: Callable[[], object], timeout_s: float = 30) -> bool:
    """Whether ``condition`` came true in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False
