"""Who serves an index: one process at a time; processes that a killed one left are ended by pid.

    INDEX/serving.lock    locked by the process that serves; contains the mark of all that it starts
                          and which file it is, so that a copy of it names no processes

Every process that is started while the index is served has the mark, a random word, in its
environment. Only processes with that very mark are ever ended, whatever their names are, and only
temporary folders with it are removed (leftovers.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from bitsift.cluster.interrupts import shielded
from bitsift.cluster.serving.leftovers import marked_folders, remove_left
from bitsift.errors import Unavailable
from bitsift.shard_worker.maintenance.repository import storage_error

LOCK_FILE = "serving.lock"
VARIABLE = "BITSIFT_SERVING"
END_TIMEOUT_S = 10.0
_BYTES_MAX = 200
_MARK_BYTES = 16
_MARK = re.compile(rf"[0-9a-f]{{{2 * _MARK_BYTES}}}")


class Marked:
    """All processes that are started while ``marked`` lasts."""

    def __init__(self, mark: str) -> None:
        self._mark = mark

    def end(self, spared: int | None = None) -> list[int]:
        """Kill all of them except the pid ``spared``; returns their pids. Raises Unavailable when
        one does not end.
        """
        return _end(self._mark, spared)

    @contextlib.contextmanager
    def serving(self, index: Path) -> Iterator[list[int]]:
        """Within it only this process may serve ``index``. Yields the pids of the processes that a
        killed server had left, which have been ended; its temporary folders have been removed.

        Raises Unavailable when another process serves it, or one of the killed server's processes
        does not end; the result of ``storage_error`` for a folder that cannot be written to.
        """
        with _locked(index) as lock:
            _, mark, file = _read(lock)
            left = []
            if _MARK.fullmatch(mark) and file == _identity(lock):
                left = _end(mark)
                remove_left(mark)
            _write(lock, f"{os.getpid()} {self._mark} {_identity(lock)}\n")
            try:
                yield left
            finally:
                _write(lock, "")


@contextlib.contextmanager
def marked() -> Iterator[Marked]:
    """Processes started within have a mark in their environment, and are ended at its end."""
    processes = Marked(secrets.token_hex(_MARK_BYTES))
    os.environ[VARIABLE] = processes._mark
    try:
        yield processes
    finally:
        with shielded():
            os.environ.pop(VARIABLE, None)
            processes.end()


def current_mark() -> str | None:
    """The mark of what this process starts now; None outside of ``marked``."""
    return os.environ.get(VARIABLE)


@contextlib.contextmanager
def _locked(index: Path) -> Iterator[int]:
    path = index / LOCK_FILE
    if path.is_symlink():
        raise Unavailable(f"{path} is a link to a file that would be overwritten; remove it")
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise storage_error(error, f"{path} cannot be written") from error
    try:
        _take(lock, index)
        yield lock
    finally:
        os.close(lock)


def _take(lock: int, index: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        said = f"{index} is open in another process (pid {_read(lock)[0]}), which serves it"
        raise Unavailable(f"{said}; stop that one first, or send requests to it instead") from error


def _read(lock: int) -> tuple[str, str, str]:
    """(pid, mark, file) of the last writer."""
    words = os.pread(lock, _BYTES_MAX, 0).decode("ascii", "replace").split()
    pid, mark, file = [*words[:3], "", "", ""][:3]
    return pid or "unknown", mark, file


def _identity(lock: int) -> str:
    """Which file it is, as no copy of it is."""
    status = os.fstat(lock)
    return f"{status.st_dev}:{status.st_ino}"


def _write(lock: int, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk: then leftovers are not found, the locks hold
        os.ftruncate(lock, 0)
        os.pwrite(lock, text.encode(), 0)


def _end(mark: str, spared: int | None = None) -> list[int]:
    """Kill the processes that have ``mark``, and their children. psutil compares the start times:
    a process that got the pid of another is left alone.

    Raises Unavailable when one is still there after ``END_TIMEOUT_S``.
    """
    found = {child for process in _marked_processes(mark) for child in _family(process)}
    found = {process for process in found if process.pid != spared}
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(found, timeout=END_TIMEOUT_S)
    if left := sorted(process.pid for process in alive if _runs(process)):
        raise Unavailable(f"processes {left} of a server of this index do not end; kill them")
    return sorted(process.pid for process in found)


def _marked_processes(mark: str) -> list[psutil.Process]:
    entry, folders = f"{VARIABLE}={mark}".encode(), marked_folders(mark)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if process.pid == os.getpid():
                continue
            itself = Path(f"/proc/{process.pid}")
            is_ours = entry in (itself / "environ").read_bytes().split(b"\0")
            if (is_ours or _writes_to(itself, folders)) and process.is_running():
                found.append(process)
    return found


def _writes_to(process: Path, folders: Sequence[Path]) -> bool:
    """Whether it is Ray's and has a file open below one of the ``folders``. So agents are found
    that overwrite their environment with their title, and whose raylet has ended before them.
    """
    if not (process / "cmdline").read_bytes().startswith(b"ray::"):
        return False
    for name in os.listdir(process / "fd"):
        with contextlib.suppress(OSError):  # it has just been closed
            if {*folders}.intersection((process / "fd" / name).readlink().parents):
                return True
    return False


def _family(process: psutil.Process) -> list[psutil.Process]:
    """The raylet leads to its agents, before they have opened their logs."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return [process]


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
