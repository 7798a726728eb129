"""Containers by runc: started, asked, told to end, measured."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUNC = "runc"
_WITHIN_S = 30.0
SHARES = 10_240
"""Of all pods together: ten processors are what the pods of ``production`` ask for."""
_MEMORY = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
"""Version 1 of cgroups, and 2."""
_COUNTED = ({"total_rss", "total_shmem"}, {"anon", "shmem"})
"""What a limit cannot take back: the page cache of files is left out."""


@dataclass(slots=True)
class Running:
    """One container, from its start to its end."""

    name: str
    state: Path
    cgroup: str
    process: subprocess.Popen[bytes]
    began_s: float
    peak_bytes: int = 0

    def goes_on(self) -> bool:
        return self.process.poll() is None

    def kill(self, number: signal.Signals) -> bool:
        """To its first process; with SIGKILL the kernel ends all others. Whether there was one: a
        container that has just been begun has none yet.
        """
        return _runc(self.state, "kill", self.name, number.name.removeprefix("SIG"))

    def freeze(self, is_frozen: bool) -> None:
        _runc(self.state, "pause" if is_frozen else "resume", self.name)

    def run(self, command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """A command beside it, as its user. Raises TimeoutExpired."""
        return subprocess.run(
            [RUNC, f"--root={self.state}", "exec", self.name, *command],
            capture_output=True, text=True, check=False, timeout=timeout_s,
        )  # fmt: skip

    def measure(self) -> None:
        """Note how much memory it holds, if it is more than before."""
        for root, names in zip(_MEMORY, _COUNTED, strict=True):
            with contextlib.suppress(OSError):
                lines = (root / self.cgroup.lstrip("/") / "memory.stat").read_text().splitlines()
                pairs = (line.split() for line in lines)
                held = sum(int(value) for name, value in pairs if name in names)
                self.peak_bytes = max(self.peak_bytes, held)
                return

    def remove(self) -> None:
        """After its end."""
        subprocess.run(
            [RUNC, f"--root={self.state}", "delete", "--force", self.name],
            capture_output=True, check=False, timeout=_WITHIN_S,
        )  # fmt: skip
        self.process.wait(_WITHIN_S)


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where runc keeps what it knows."""

    state: Path
    group: str
    """The folder of cgroups that all containers are in."""
    logs: Path
    bundles: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bundles", self.state / "bundles")
        self.logs.mkdir(parents=True, exist_ok=True)
        shares = Path("/sys/fs/cgroup/cpu") / self.group.lstrip("/") / "cpu.shares"
        if shares.parents[1].exists():  # version 1: all pods together would weigh as one process
            shares.parent.mkdir(exist_ok=True)
            shares.write_text(str(SHARES))

    def remove(self) -> None:
        """All containers have ended."""
        _remove_group(self.group)

    def start(self, name: str, config: dict[str, Any], now_s: float) -> Running:
        """A container of this ``name``; what it says is added to ``logs``/NAME.log."""
        folder = self.bundles / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [RUNC, f"--root={self.state}", "run", "--bundle", str(folder), name],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return Running(name, self.state, config["linux"]["cgroupsPath"], process, now_s)


def _remove_group(group: str) -> None:
    """The folders of cgroups, of which each controller has one in version 1."""
    for root in (*Path("/sys/fs/cgroup").iterdir(), Path("/sys/fs/cgroup")):
        with contextlib.suppress(OSError):
            (root / group.lstrip("/")).rmdir()


def _runc(state: Path, *arguments: str) -> bool:
    """Whether it was done."""
    done = subprocess.run(
        [RUNC, f"--root={state}", *arguments], capture_output=True, check=False, timeout=_WITHIN_S
    )
    return done.returncode == 0
