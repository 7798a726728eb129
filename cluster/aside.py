"""Something new on the disk, whole or not at all: written aside, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from shard_worker.errors import InvalidRequest, Unavailable
from shard_worker.layout import sync_folder


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A name beside ``path``, where the block makes a file or a folder that then becomes ``path``.

    What a killed run left there is removed first, and so is what the block made when it fails; one
    that still runs is refused. Raises InvalidRequest where ``path`` exists, Unavailable.
    """
    if path.exists():
        raise InvalidRequest(f"{path} exists and is left as it is; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    with _held(path.with_name(path.name + ".partial.lock")):
        _remove(aside)
        try:
            yield aside
            _sync(aside)
            aside.rename(path)
        except BaseException:
            _remove(aside)
            raise
    sync_folder(path.parent)


@contextlib.contextmanager
def _held(lock: Path) -> Iterator[None]:
    """The one that has ``lock``. The kernel releases it when a process dies."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Unavailable(f"another command holds {lock}; wait for it to end") from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    """Make a file, or a folder and all in it, durable."""
    for inner in path.iterdir() if path.is_dir() else ():
        _sync(inner)
    sync_folder(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
