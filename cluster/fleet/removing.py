"""Removing what Bitsift made in a data folder, by its names, and nothing else.

A file that somebody put beside it stays, and so do the folder that holds it, and links.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from bitsift.shard_worker.maintenance.repository import BLOCKS_FOLDER

_PARTIAL = r"(\.([0-9a-f]{32}\.)?partial)?"
OF_A_SHARD = re.compile(
    r"(shard\.(json|lock)|bits-\d{5}\.bits|bits-lists\.(bits|json)|bits-first\.json"
    r"|store(\.next|-\d{5,})?(/(data\.mdb|lock\.mdb|blocks\.pages|bits-lists\.bits))?)" + _PARTIAL
)
OF_AN_EXPORT = re.compile(rf"{BLOCKS_FOLDER}(/[0-9a-f]{{2}}(/[0-9a-f]{{64}}{_PARTIAL})?)?")
OF_AN_INDEX = re.compile(
    r"((manifest|complete|cluster)\.json|rejects\.jsonl"
    rf"|shard-\d{{5}}\.(open|(epoch|table|applied)\.json)){_PARTIAL}"
)


def remove_named(folder: Path, ours: re.Pattern[str]) -> None:
    """Remove the files below ``folder`` whose path in it is one of ``ours``; then the folders of
    such names, and ``folder`` itself, if they are empty. Raises OSError.
    """
    if folder.is_symlink():
        return
    folders = [folder]
    for path in list(_named(folder, ours)):
        if path.is_dir():
            folders.append(path)
        else:
            path.unlink(missing_ok=True)
    for path in sorted(folders, reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()


def is_foreign(folder: Path, ours: re.Pattern[str]) -> bool:
    """Whether there is something in ``folder``, and no file of ``ours``."""
    return any(folder.iterdir()) and all(path.is_dir() for path in _named(folder, ours))


def _named(folder: Path, ours: re.Pattern[str]) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if ours.fullmatch(str(path.relative_to(folder))) and not path.is_symlink():
                yield path
