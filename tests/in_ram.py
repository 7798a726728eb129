"""Where histories are tried by the dozen: each is thousands of calls of fsync, which prove nothing
there that a write to RAM does not.
"""

import shutil

_RAM, _FREE_MIN_BYTES = "/dev/shm", 1 << 30


def ram() -> str | None:
    """A folder in RAM with 1 GiB free; None, tempfile's own, where there is none."""
    try:
        return _RAM if shutil.disk_usage(_RAM).free > _FREE_MIN_BYTES else None
    except OSError:
        return None
