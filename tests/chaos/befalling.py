"""What befalls the nodes of a cluster, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.chaos.fault_plan import Fault
from tests.chaos.nodes import ChaosNodes
from tests.chaos.rolling import ACTORS

AWAY_S = 2.0
"""How long a node is away at least that was killed."""
DISK = "64m"
CLOCK_SOURCE = Path(__file__).with_name("shifted_clock.c")
_BLOCK = bytes(1 << 16)
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "terminate": signal.SIGTERM}


class Befalling:
    """Does faults to nodes, and undoes them. Any number of threads."""

    def __init__(self, nodes: ChaosNodes, data: Path, clocks: Path) -> None:
        """In ``data`` each node has a disk of its own (``disks``), in ``clocks`` its clock."""
        self._nodes, self._data, self._clocks = nodes, data, clocks
        self._lock = threading.Lock()
        """Of what starts nodes."""
        self._away: set[str] = set()

    def befall(self, fault: Fault, ended: threading.Event) -> bool:
        """One fault, from its beginning to its end: ``for_s`` later or when ``ended``, if it does
        not end by itself. Whether it could be done: what it is about may be away.
        """
        what, _, whom = fault.kind.partition(" ")
        undo = self._begin(fault, what, whom)
        if undo is None:
            return False
        if undo is not _nothing:
            ended.wait(fault.for_s)
        undo()
        return True

    def _begin(self, fault: Fault, what: str, whom: str) -> Callable[[], None] | None:
        match fault.kind.split():
            case [how, "node" | "nodes"] if how in _SIGNALS:
                return self._nodes_hit(fault.nodes, how)
            case [how, "replica" | "replicas"]:
                pids = [pid for node in fault.nodes for pid in self._replicas(node)]
                return _signalled(pids[:1] if whom == "replica" else pids, how)
            case [how, "raylet"]:
                return _signalled(self._nodes.programs(fault.nodes[0], "raylet"), how)
            case ["cut", "off", *_] | ["mute"] | ["deaf"]:
                return self._network(fault)
            case ["fill", _]:
                return self._filled(fault.nodes)
            case ["jump", "clock"]:
                return self._clock(fault.nodes[0], fault.number)
            case [how, actor]:
                pids = [pid for node in self._nodes.nodes for pid in self._of(node, actor)]
                pids = pids[int(fault.number * len(pids)) :]
                return _signalled(pids[:1], how)
        raise AssertionError(fault)

    def _of(self, node: str, actor: str) -> list[int]:
        return self._nodes.actors(node, ACTORS[actor])

    def _replicas(self, node: str) -> list[int]:
        return self._of(node, "replica")

    # --- nodes -----------------------------------------------------------------------------

    def _nodes_hit(self, names: Sequence[str], how: str) -> Callable[[], None]:
        number = _SIGNALS[how]
        if number is signal.SIGSTOP:
            stopped = [pid for name in names for pid in self._nodes.processes(name)]
            return _signalled(stopped, how) or _nothing
        with self._lock:
            self._away |= set(names)
        for name in names:
            self._nodes.signal(name, number)
        time.sleep(AWAY_S)

        def back() -> None:
            with self._lock:
                self._away -= set(names)
            self.revive()

        return back

    def revive(self) -> None:
        """Start the nodes that have ended, as systemd does, the head first."""
        with self._lock:
            for name in self._nodes.nodes:
                if name not in self._away:
                    with contextlib.suppress(AssertionError):  # it is cut off: it is tried again
                        self._nodes.revive(name)

    # --- network ---------------------------------------------------------------------------

    def _network(self, fault: Fault) -> Callable[[], None]:
        for name in fault.nodes:
            match fault.kind:
                case "mute":
                    self._nodes.make_mute(name)
                case "deaf":
                    self._nodes.make_deaf(name)
                case _:
                    self._nodes.cut_off(name)

        def joined() -> None:
            for name in fault.nodes:
                self._nodes.join_up(name)

        return joined

    # --- disk and clock ----------------------------------------------------------------------

    def _filled(self, names: Sequence[str]) -> Callable[[], None]:
        files = [self._data / name / "ballast" for name in names]
        for file in files:
            _fill(file)

        def freed() -> None:
            for file in files:
                file.unlink(missing_ok=True)

        return freed

    def _clock(self, name: str, seconds: float) -> Callable[[], None]:
        file = clock_file(self._clocks, name)
        set_clock(file, seconds)
        return lambda: set_clock(file, 0.0)


def _nothing() -> None:
    return


def _signalled(pids: Sequence[int], how: str) -> Callable[[], None] | None:
    """None where there is nobody to send it to."""
    if not pids:
        return None
    for pid in pids:
        _send(pid, _SIGNALS[how])

    def go_on() -> None:
        for pid in pids:
            _send(pid, signal.SIGCONT)

    return go_on if how == "stop" else _nothing


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _fill(file: Path) -> None:
    """Until nothing more goes onto the disk."""
    with file.open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(_BLOCK):
            pass


def clock_file(folder: Path, name: str) -> Path:
    """By how many nanoseconds the clock of a node is wrong: an int64 (shifted_clock.c)."""
    return folder / f"{name}.clock"


def set_clock(file: Path, seconds: float) -> None:
    """In place: processes have mapped it."""
    with file.open("r+b" if file.exists() else "wb") as opened:
        opened.write(struct.pack("<q", round(1e9 * seconds)))


def wrong_clocks(folder: Path, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """The environment of each node in which its clock can be set, by files in ``folder``."""
    library = folder / "shifted_clock.so"
    command = ["gcc", "-std=gnu17", "-O2", "-shared", "-fPIC", "-o", library, CLOCK_SOURCE, "-ldl"]
    subprocess.run([*map(str, command)], check=True, timeout=60)
    found = {}
    for name in names:
        file = clock_file(folder, name)
        set_clock(file, 0.0)
        found[name] = {"LD_PRELOAD": str(library), "BITSIFT_CLOCK_FILE": str(file)}
    return found


@contextlib.contextmanager
def disks(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """A small disk for each node, at its name in ``folder``."""
    with contextlib.ExitStack() as stack:
        for name in names:
            place = folder / name
            place.mkdir(parents=True)
            mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
            subprocess.run(mount, check=True, timeout=30)
            stack.callback(subprocess.run, ["umount", "-l", str(place)], timeout=30, check=False)
        yield
