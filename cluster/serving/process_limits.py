"""What a local Ray cluster cannot live with, said before it starts: limits of the shell (ulimit), a
temporary folder without room.

Ray's processes end without a word of the reason: a failed mmap ends the driver itself, a file that
may not grow lets the start time out after a minute, and where sockets and logs have no room a build
waits for ever.
"""

from __future__ import annotations

import os
import resource
import tempfile

from bitsift.errors import StorageFull, Unavailable

_NEEDS = (
    (resource.RLIMIT_AS, "-v", 2 << 40, "address space", "a shard maps its file as a whole"),
    (resource.RLIMIT_FSIZE, "-f", 2 << 30, "size of a file", "shards and Ray's store are files"),
)
"""The limit, its option of ulimit, the bytes that are needed, and for what (ShardLimits)."""

TEMPORARY_BYTES_MIN = 64 << 20
"""Of sockets and logs: a short command writes 1 MB, and those of a server are rotated."""


def check_temporary_folder() -> None:
    """Raises StorageFull, which names the folder where Ray's sockets and logs would be."""
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    try:
        room = os.statvfs(folder)
    except OSError:  # Ray makes it
        return
    free = room.f_bavail * room.f_frsize
    if free < TEMPORARY_BYTES_MIN or (room.f_files and not room.f_favail):
        raise StorageFull(
            f"the temporary folder {folder} has room for {free >> 20:,} MiB, or for no more files, "
            f"and Ray needs {TEMPORARY_BYTES_MIN >> 20}: make room, or set TMPDIR to another folder"
        )


def check_process_limits() -> None:
    """Raises Unavailable, which names the limit and its option of ulimit."""
    for limit, option, least, what, why in _NEEDS:
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY and soft < least:
            raise Unavailable(
                f"this process has a limit on the {what}, {soft / (1 << 30):,.1f} GiB (ulimit "
                f"{option}), and {least >> 30:,} GiB are needed, since {why}: lift it with "
                f"ulimit {option} unlimited where the process is started"
            )
