"""A TOML file that a person wrote: read within a limit, with errors that say what to do."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from bitsift.errors import InvalidRequest, NotFound, Unavailable

FILE_BYTES_MAX = 256 << 10


def read_toml(path: Path, what: str, otherwise: str) -> tuple[dict[str, Any], str]:
    """What ``path`` says, and its text.

    ``what`` it should be, as "settings file", and what to do ``otherwise``, where there is no such
    file, are for errors. Raises NotFound, Unavailable, or InvalidRequest where it is not TOML.
    """
    text = _text(path, what, otherwise)
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{path} is not TOML: {error}") from error


def beside(file: Path, value: Any) -> Any:
    """A path as ``file`` means it: relative to its own folder. A URL or no text is left alone."""
    if not isinstance(value, str) or not value or "://" in value:
        return value
    return str(file.parent / os.path.expanduser(value))


def _text(path: Path, what: str, otherwise: str) -> str:
    """Raises NotFound, Unavailable, InvalidRequest (no file, too large, not UTF-8)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # never waits for a pipe's writer
    except FileNotFoundError as error:
        raise NotFound(f"the {what} {path} does not exist; {otherwise}") from error
    except OSError as error:
        raise Unavailable(f"the {what} {path} cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidRequest(f"{path} is not a file: name the {what}")
        data = os.read(descriptor, FILE_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    if len(data) > FILE_BYTES_MAX:
        raise InvalidRequest(
            f"{path} is too large for a {what}: it has over {FILE_BYTES_MAX:,} bytes"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not TOML: {error}") from error
