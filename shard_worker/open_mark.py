"""Says on the disk that a replica is open and answers, to whoever looks there.

It is a lock beside the folder of the replica:

    shard-00003.open

The kernel frees it when the process ends, however that comes about: nobody has to be asked, and
what is said is never old. ``FolderLock`` says less, for it is held while the shard is read and
checked, too.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def open_file(folder: Path) -> Path:
    """Where the mark of the replica in ``folder`` is."""
    return folder.with_name(f"{folder.name}.open")


class OpenMark:
    """The mark, from here on until ``release`` or the end of the process."""

    def __init__(self, folder: Path) -> None:
        """Whoever holds it has the ``FolderLock``: it waits for a look of ``is_open`` alone.

        Raises OSError.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        self._descriptor = os.open(open_file(folder), flags, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def release(self) -> None:
        os.close(self._descriptor)


def is_open(folder: Path) -> bool:
    """Whether a process has the replica in ``folder`` open, read and checked."""
    try:
        descriptor = os.open(open_file(folder), os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
