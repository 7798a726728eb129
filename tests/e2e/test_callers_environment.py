"""search, add, get, delete and status in the environments that people run them in: a table.

The server is a gateway in this process; each command is a process of its own, started by a shell.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitsift.client import Client
from tests.gateways import running_empty

DIMENSION = 64
LONG = "/".join(["x" * 60] * 4)
NOWHERE = "http://127.0.0.1:9"
SEARCH, ADD, GET = "search 'naïve café'", "add new.jsonl", "get é1"
STATUS, DELETE = "status", "delete --ids-from ids.txt"

GOOD = [
    ("env -u HOME", SEARCH),
    ("env HOME=/proc/none", ADD),
    ("env HOME=/etc/passwd", GET),
    ("env TMPDIR=/proc/none", ADD),
    (f"env TMPDIR=$PWD/{LONG}", ADD),
    ("env LC_ALL=C LANG=C PYTHONUTF8=0", SEARCH),
    ("env LC_ALL=xx_YY.none PYTHONIOENCODING=ascii", GET),
    ("env TZ=No/Where TERM=dumb COLUMNS=1", STATUS),
    (f"env http_proxy={NOWHERE} no_proxy=127.0.0.1", SEARCH),
    (f"env https_proxy={NOWHERE} NO_PROXY=127.0.0.1 ALL_PROXY={NOWHERE}", ADD),
    ("ulimit -n 24;", ADD),
    ("ulimit -v 600000;", DELETE),
    ("exec 0<&-;", SEARCH),
    ("exec 0<&-;", "add -"),
    ("exec 1>&-;", SEARCH),
]
"""What goes before a command that does its work all the same."""

REFUSED = [
    ("", f"{SEARCH} > /dev/full", 1, "No space left on device"),
    ("", f"{SEARCH} --json > /dev/full", 1, "No space left on device"),
    ("mkdir gone; cd gone; rmdir ../gone;", ADD, 1, "the current folder is gone"),
    (f"env http_proxy={NOWHERE}", SEARCH, 1, f"through the proxy {NOWHERE}"),
    (f"env HTTP_PROXY=http://me:hidden@{NOWHERE[7:]}", ADD, 1, f"through the proxy {NOWHERE}"),
    ("env ALL_PROXY=socks5://127.0.0.1:9", STATUS, 2, "socks5://127.0.0.1:9"),
    ("env http_proxy=:::", SEARCH, 2, "as the environment names proxies"),
    ("env no_proxy=[::1", DELETE, 2, "as the environment names proxies"),
    ("", "add nothing.csv", 2, "nothing.csv does not exist"),
    ("", "delete --ids-from nothing.csv", 2, "nothing.csv cannot be read"),
]
"""What goes before, the command, its exit status, and what the last line says."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_empty(tmp_path_factory.mktemp("environment"), DIMENSION) as running:
        with Client(running.url) as client:
            client.add({"id": "é1", "text": "naïve café"})
        yield running.url


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / LONG).mkdir(parents=True)
    (tmp_path / "new.jsonl").write_text('\ufeff{"id": "é1", "text": "naïve café"}\n', "utf-8")
    (tmp_path / "ids.txt").write_text("\ufeffnobody\r\n", "utf-8")
    yield tmp_path
    shutil.rmtree(tmp_path)


def run(before: str, command: str, url: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    named, _, redirected = command.partition(" >")
    python = f"{shlex.quote(sys.executable)} -m bitsift.cluster.cli"
    script = f"{before} {python} {named} --url {url}" + (f" >{redirected}" if redirected else "")
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, paths))}
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, timeout=120,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("before", "command"), GOOD)
def test_a_caller_is_served_whatever_its_environment(
    url: str, folder: Path, before: str, command: str
) -> None:
    done = run(before, command, url, folder)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr.decode()
    if command in (SEARCH, GET) and "1>&-" not in before:
        text = done.stdout.decode("ascii" if "ascii" in before else "utf-8", "replace")
        assert "caf" in text


@pytest.mark.parametrize(("before", "command", "status", "said"), REFUSED)
def test_what_cannot_be_done_is_a_line_and_an_exit_status(
    url: str, folder: Path, before: str, command: str, status: int, said: str
) -> None:
    done = run(before, command, url, folder)
    stderr = done.stderr.decode()
    assert (done.returncode, said in stderr) == (status, True), stderr
    assert "Traceback" not in stderr
    assert "hidden" not in stderr
