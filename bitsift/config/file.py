"""bitsift.toml: which one is read, and what it says on which line.

`--config` names it, else the variable `BITSIFT_CONFIG`, else it is the one in the folder where the
command runs, if there is one. Since nobody named that last one, it must belong to the user or to
root, nobody else may be able to change it, and it may not contain some of the settings.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bitsift.config.fields import SETTINGS
from bitsift.config.toml_file import beside, read_toml
from bitsift.errors import InvalidRequest

FILE_NAME = "bitsift.toml"
FILE_VARIABLE = "BITSIFT_CONFIG"
_HEADER = re.compile(r"\s*\[\s*([\w.-]+)\s*\]")
_KEY = re.compile(r"\s*([\w.-]+)\s*=")


def find_file(named: Path | None) -> tuple[Path | None, bool]:
    """The file to read, and whether somebody named it: else the one that lies here, or none.

    Raises InvalidRequest where the one that lies here could be somebody else's.
    """
    chosen = named or os.environ.get(FILE_VARIABLE)
    if chosen:
        return Path(chosen).absolute(), True
    try:
        here = Path(FILE_NAME).absolute()
        found = here.stat()
    except OSError:  # there is none, or no working folder either
        return None, False
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidRequest(
            f"{here} is not yours, or users other than its owner can change it (mode "
            f"{found.st_mode & 0o777:04o}, user {found.st_uid}): chmod go-w it, or name it with "
            "--config if it is to be read"
        )
    return here, False


def read_file(path: Path) -> tuple[dict[str, Any], Callable[[str], str]]:
    """What the file says, by section and name; and where it says it: ``FILE:LINE`` of a key.

    What it names on disk is relative to its own folder. Raises NotFound, Unavailable, or
    InvalidRequest where it is not TOML.
    """
    values, text = read_toml(
        path, "settings file", f"`bitsift config --example > {FILE_NAME}` creates one"
    )
    for setting in SETTINGS:
        table = values.get(setting.section)
        if isinstance(table, dict) and setting.is_path and setting.name in table:
            table[setting.name] = beside(path, table[setting.name])
    lines = dict(_lines(text))
    return values, lambda key: f"{path}:{lines[key]}" if key in lines else str(path)


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """The line of each section and of each key as they are usually written: one on a line."""
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            section = header[1]
            yield section, number
        elif found := _KEY.match(line):
            yield f"{section}.{found[1]}" if section else found[1], number
