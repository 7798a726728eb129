"""What a local Ray cluster cannot live with, said before it starts: limits of the shell (ulimit), a
temporary folder without room.

Ray's processes end without a word of the reason: a failed mmap ends the driver itself, a file that
may not grow lets the start time out after a minute, and where sockets and logs have no room a build
waits for ever.
"""

from __future__ import annotations

import os
import resource

from bitsift.errors import StorageFull, Unavailable

ADDRESS_SPACE_BYTES_MIN, FILE_BYTES_MIN = 2 << 40, 2 << 30
_SPACE = "address space", "a shard maps its file as a whole"
_SIZE = "size of a file", "shards and Ray's store are files"
_NEEDS = (
    (resource.RLIMIT_AS, "-v", ADDRESS_SPACE_BYTES_MIN, *_SPACE),
    (resource.RLIMIT_FSIZE, "-f", FILE_BYTES_MIN, *_SIZE),
)
"""The limit, its option of ulimit, the bytes that are needed, and for what (ShardLimits)."""

FILES_MIN = 128
"""With 128 a server of one shard starts and answers, with 64 Ray waits for its GCS for ever."""
SOCKET_PATH_BYTES_MAX = 107
"""Of the path of a socket: sun_path of Linux, less its end."""
_SOCKET = "/session_2026-01-31_08-00-00_000000_4194304/sockets/plasma_store"
TEMPORARY_BYTES_MIN = 64 << 20
"""Of sockets and logs: a short command writes 1 MB, and those of a server are rotated."""


def check_temporary_folder(sessions: str) -> None:
    """``sessions`` is where Ray will make a folder for this session. Raises StorageFull where its
    sockets and logs have no room.
    """
    folder = os.path.dirname(sessions)
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
    check_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    for limit, option, least, what, why in _NEEDS:
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY and soft < least:
            raise Unavailable(
                f"this process has a limit on the {what}, {soft / (1 << 30):,.1f} GiB (ulimit "
                f"{option}), and {least >> 30:,} GiB are needed, since {why}: lift it with "
                f"ulimit {option} unlimited where the process is started"
            )


def check_sockets(temporary: str) -> None:
    """Raises Unavailable where the sockets of a session below ``temporary`` would have longer paths
    than Linux takes: Ray itself waits a minute and says that something timed out.
    """
    room = SOCKET_PATH_BYTES_MAX - len(_SOCKET)
    if len(os.fsencode(temporary)) > room:
        raise Unavailable(
            f"the path of the temporary folder {temporary} is too long for the sockets of Ray, at "
            f"most {room} bytes: set TMPDIR or RAY_TMPDIR to a shorter one, such as /tmp"
        )


def check_files(limit: int) -> None:
    """Raises Unavailable where Ray's processes could not open what they need: they say nothing."""
    if 0 <= limit < FILES_MIN:
        raise Unavailable(
            f"this process may open {limit} files, and Ray needs {FILES_MIN}: raise the limit "
            "(ulimit -n 1024)"
        )
