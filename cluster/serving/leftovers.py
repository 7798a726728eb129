"""Temporary folders of a server that was killed: the next server of the same index removes them.

    /tmp/bitsift-gcs-…/bitsift.mark        the control store (GCS) of a local Ray cluster
    /tmp/ray/session_…/bitsift.mark        its session: logs, sockets

The file contains the mark of the server (claim.py). A folder without it, with another mark or of
another user is never touched, whatever its name is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

MARK_FILE = "bitsift.mark"
GCS_PREFIX = "bitsift-gcs-"
REMOVE_TIMEOUT_S = 5.0
"""Ray's processes are killed, not waited for: some still write for a moment."""
_BYTES_MAX = 200
_WAIT_S = 0.05


def mark_folder(folder: Path, mark: str | None) -> None:
    """``folder`` is that of the server with ``mark``; None: of a command that serves nothing."""
    if mark is not None:
        with contextlib.suppress(OSError):  # a full disk: then it is not found, and stays
            (folder / MARK_FILE).write_text(mark)


def keep_folder(folder: Path) -> None:
    """``folder`` is nobody's any more: its logs are for people to read."""
    with contextlib.suppress(OSError):
        (folder / MARK_FILE).unlink()


def remove_left(mark: str) -> list[Path]:
    """Remove the folders with ``mark``, whose processes have ended; returns which."""
    found = marked_folders(mark)
    for folder in found:
        remove_folder(folder)
    return found


def marked_folders(mark: str) -> list[Path]:
    """This user's temporary folders with ``mark``."""
    return [folder for folder in _folders() if _is_marked(folder, mark)]


def remove_folder(folder: Path) -> None:
    """Remove it, and Ray's link to it. What cannot be removed stays."""
    latest = folder.parent / "session_latest"
    with contextlib.suppress(OSError):
        if latest.is_symlink() and latest.readlink().name == folder.name:
            latest.unlink()
    until = time.monotonic() + REMOVE_TIMEOUT_S
    while os.path.lexists(folder) and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(_WAIT_S)


def _folders() -> Iterator[Path]:
    from ray._common.utils import get_default_ray_temp_dir

    sessions = Path(get_default_ray_temp_dir()).glob("session_*")
    stores = Path(tempfile.gettempdir()).glob(f"{GCS_PREFIX}*")
    return itertools.chain(sessions, stores)


def _is_marked(folder: Path, mark: str) -> bool:
    """Links are not followed: what is removed is the folder that was looked at."""
    with contextlib.suppress(OSError):
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return False
        file = os.open(folder / MARK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.read(file, _BYTES_MAX) == mark.encode()
        finally:
            os.close(file)
    return False
