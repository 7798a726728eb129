"""The real command line as processes of their own, and what is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

STOP_S = 90
"""Ray waits for its store for a minute where that ended while it started."""
COMMAND = [sys.executable, "-m", "bitsift.cluster.cli"]
DEMO = """
import pathlib, sys
import bitsift.cluster.cli.main, bitsift.cluster.demo
bitsift.cluster.demo.CORPUS = pathlib.Path(sys.argv.pop(1))
bitsift.cluster.cli.main.main()
"""


def bitsift(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """One command, run to its end."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def in_process(*arguments: object) -> str:
    """What a command that does not fail prints, run in this process: it has loaded the libraries.

    A process of its own takes a second of a processor to start, one with a model six.
    """
    from typer.testing import CliRunner

    from bitsift.cluster.cli.main import app

    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, (done.output, done.exception)
    return str(done.stdout)


def free_port() -> int:
    """A port of loopback for a server that is given its number.

    Not of those that the kernel gives to connections of its choice (from 32,768 on): another
    process might get it before the server does.
    """
    for port in random.sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("100 ports are taken")


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
    all_ended(process)


@contextlib.contextmanager
def started(
    *arguments: object,
    environment: dict[str, str] | None = None,
    program: Sequence[object] = COMMAND,
) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own; killed with all that it started if it does not end."""
    process = subprocess.Popen(
        [*map(str, (*program, *arguments))], text=True, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | (environment or {}),
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


def lines_until(process: subprocess.Popen[str], step: str) -> str:
    """What it has said on standard error, up to the line of ``step``."""
    assert process.stderr is not None
    said = ""
    while step not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    return said


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and the rest of what it said, once nothing of its session is left."""
    _, said = process.communicate(timeout=STOP_S)
    all_ended(process)
    return process.returncode, said


def all_ended(process: subprocess.Popen[str]) -> None:
    """Nothing of its session is left, or soon: Ray's agents look whether their raylet has ended,
    and one that had just begun does so late.
    """
    assert wait_until(lambda: not family(process.pid), 90), family(process.pid)


def family(session: int) -> list[str]:
    """Command lines of the processes that still belong to a session."""
    return [line for _, line in processes(session)]


def processes(session: int) -> list[tuple[int, str]]:
    """(pid, command line) of each process of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session and fields[0] != "Z":
                line = (folder / "cmdline").read_text().replace("\0", " ")
                found.append((int(folder.name), line))
    return found


def wait_until(condition: Callable[[], object], timeout_s: float = 30) -> bool:
    """Whether ``condition`` came true in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False
