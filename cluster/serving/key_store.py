"""Changing a key file: one command at a time, whole or not at all, and never another's file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from bitsift.errors import InvalidRequest, NotFound, Unavailable
from bitsift.router.http.keys import Key, key_file_bytes, read_keys
from bitsift.shard_worker.layout import sync_folder

LOCK_TIMEOUT_S = 10.0
_POLL_S = 0.02


@contextlib.contextmanager
def editing(path: Path) -> Iterator[list[Key]]:
    """The keys in ``path``, none where it is not there; the file gets what the block leaves.

    Other commands that edit a file in its folder wait. When the block raises, nothing changes.
    Raises as ``read_keys`` does (a file that is no key file is left as it is), NotFound where the
    folder is missing, Unavailable.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    with _locked(path.parent):
        is_new = not path.exists()
        keys = [] if is_new else list(read_keys(path))
        yield keys
        try:
            _write(path, key_file_bytes(keys), is_new)
        except FileExistsError as error:
            raise InvalidRequest(
                f"{path} has just been created by someone else; check it, then try again"
            ) from error
        except OSError as error:
            raise Unavailable(f"{path} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder itself is locked: the file changes with every edit, and no lock file is left."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise NotFound(f"{folder} cannot hold a key file: {error.strerror}") from error
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"another command has locked {folder} for {LOCK_TIMEOUT_S:.0f} s; "
                        "try again later"
                    ) from error
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes, is_new: bool) -> None:
    """Aside, synced, then under its name. A new one takes the place of nothing: a link does not."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask
            if not is_new:
                _keep_owner(descriptor, path.stat())
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if is_new:
            os.link(aside, path)
        else:
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def _keep_owner(descriptor: int, before: os.stat_result) -> None:
    """Edited by root, the file stays readable to the user who serves."""
    mine = os.fstat(descriptor)
    if (mine.st_uid, mine.st_gid) != (before.st_uid, before.st_gid):
        os.fchown(descriptor, before.st_uid, before.st_gid)
