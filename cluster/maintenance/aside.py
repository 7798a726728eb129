"""Something new on disk, whole or not at all: written under another name, then renamed.

    NAME.bitsift-XXXXXXXX/lock    held by the command that runs
    NAME.bitsift-XXXXXXXX/NAME    what it makes

The folder is made by ``mkdtemp``, so it is never one that was there. Nothing that exists is ever
removed or replaced but such folders of killed commands, known by their name and their lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bitsift.errors import InvalidRequest, RequestOutcome, Unavailable
from bitsift.shard_worker.layout import sync_folder
from bitsift.shard_worker.maintenance.repository import storage_error
from bitsift.shard_worker.store.lmdb_file import disk_named

_LOCK = "lock"
_OWNER = b"made by bitsift; removed by the next command that makes the same name\n"


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A free name elsewhere, where the block makes a file or a folder that then becomes ``path``.

    What a killed run left is removed first, and so is what the block made when it fails; one that
    still runs is refused. Raises InvalidRequest where ``path`` exists, be it a link that leads
    nowhere, Unavailable, and StorageFull or Unavailable where nothing can be made there. Of unknown
    outcome is an error that comes when ``path`` is there already.
    """
    require_new(path)
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path)
            work = Path(tempfile.mkdtemp(prefix=f"{path.name}.bitsift-", dir=path.parent))
            stack.callback(shutil.rmtree, work, ignore_errors=True)
            stack.callback(os.close, _lock(work))
        except OSError as error:
            raise storage_error(error, f"{path} cannot be created") from error
        yield work / path.name
        with disk_named(f"{path} cannot be created"):
            _sync(work / path.name)
            _rename(work / path.name, path)
    try:
        sync_folder(path.parent)
    except OSError as error:
        said = f"{path} is complete, but a power failure may lose it: run sync"
        raise storage_error(error, said).with_outcome(RequestOutcome.UNKNOWN) from error


def require_new(path: Path) -> None:
    """Raises InvalidRequest where there is anything at ``path``."""
    if os.path.lexists(path):
        raise InvalidRequest(f"{path} exists and is left untouched; choose another name")


def _lock(work: Path) -> int:
    """Hold the lock of a folder that was just made; the kernel releases it with the process."""
    descriptor = os.open(work / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, _OWNER)
    return descriptor


def _remove_leftovers(path: Path) -> None:
    """Remove what killed runs for ``path`` left. Raises Unavailable where one still runs."""
    ours = re.compile(re.escape(path.name) + r"\.bitsift-[a-z0-9_]{8}")
    for work in [found for found in path.parent.iterdir() if ours.fullmatch(found.name)]:
        try:
            descriptor = os.open(work / _LOCK, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue  # not ours, or not yet
        try:
            if os.read(descriptor, len(_OWNER) + 1) != _OWNER or work.is_symlink():
                continue
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(work)
        except BlockingIOError as error:
            raise Unavailable(f"another command is creating {path}; wait for it to end") from error
        finally:
            os.close(descriptor)


def _rename(made: Path, path: Path) -> None:
    """Give ``made`` its name, unless there is something by now. Raises InvalidRequest then.

    A rename would replace a file. A folder takes the place of nothing but an empty one.
    """
    try:
        if made.is_dir():
            require_new(path)
            made.rename(path)
        else:
            os.link(made, path, follow_symlinks=False)
    except FileExistsError:
        require_new(path)
    except OSError:  # no hard links in this file system
        require_new(path)
        made.rename(path)


def _sync(path: Path) -> None:
    """Make a file, or a folder and all in it, durable."""
    for inner in path.iterdir() if path.is_dir() else ():
        _sync(inner)
    sync_folder(path)
