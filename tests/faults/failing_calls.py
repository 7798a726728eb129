"""System calls that fail one at a time: a library in C, made here, that is loaded first.

strace would do without a compiler, but it counts the calls of each thread apart and cannot be told
at run time which is next; here one process tries hundreds.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("failing_calls.c")
CALLS = (
    "pread64", "pwrite64", "read", "write", "writev", "pwritev", "fdatasync", "fsync", "ftruncate",
    "fallocate", "mmap", "openat", "rename", "unlink", "rmdir", "mkdir", "close",
)  # fmt: skip
"""In the order of the source."""
_NO_ROOM = errno.EIO, errno.ENOSPC
ERRORS = dict.fromkeys(CALLS, (errno.EIO,)) | {
    "pwrite64": _NO_ROOM, "write": _NO_ROOM, "writev": _NO_ROOM, "pwritev": _NO_ROOM,
    "fallocate": _NO_ROOM, "mkdir": (errno.ENOSPC,), "mmap": (errno.ENOMEM,),
    "openat": (errno.EMFILE,),
}  # fmt: skip
"""What each of them fails with."""


def build(folder: Path) -> Path:
    """Compile the library into ``folder``. Raises FileNotFoundError where there is no gcc."""
    library = folder / "failing_calls.so"
    command = ["gcc", "-std=gnu17", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"]
    subprocess.run([*map(str, command)], check=True, timeout=60)
    return library


class FailingCalls:
    """The library in this process, which was started with it in LD_PRELOAD."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._library.calls_arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int]
        self._library.calls_counted.restype = ctypes.c_long

    def count(self) -> None:
        """Count from now on; nothing fails."""
        self._library.calls_arm(-1, 0, 0)

    def arm(self, call: str, number: int, error: int) -> None:
        """From now on, the ``number``-th ``call`` fails with ``error``."""
        self._library.calls_arm(CALLS.index(call), number, error)

    def disarm(self) -> None:
        self._library.calls_disarm()

    @property
    def fired(self) -> bool:
        """Whether the armed call came, and failed."""
        return bool(self._library.calls_fired())

    def counted(self) -> dict[str, int]:
        """How often each call was made while armed."""
        counts = {call: self._library.calls_counted(kind) for kind, call in enumerate(CALLS)}
        return {call: count for call, count in counts.items() if count}
