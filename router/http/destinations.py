"""Where a backup that is asked for over HTTP may go: below one root that the operator named.

Otherwise, anyone who may ask for a backup could make the server write to any path and send requests
to any address inside its network.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bitsift.errors import Forbidden, InvalidRequest

SCHEMES = ("file", "s3", "gs", "az")
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class BackupRoot:
    """A folder (``scheme`` "file"), or a bucket and a prefix in it: ``parts`` of the path."""

    scheme: str
    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """An absolute path, or a URL of one of SCHEMES. Raises InvalidRequest."""
        return cls(*_parsed(text, "--backup-root"))

    def destination(self, dest: str) -> str:
        """``dest`` in its one form: every link followed, no ``..``.

        Raises InvalidRequest where it is malformed, Forbidden where it is not at the root or below.
        """
        scheme, parts = _parsed(dest, "dest")
        if scheme != self.scheme or parts[: len(self.parts)] != self.parts:
            shown = dest[:_SHOWN_CHARACTERS]
            raise Forbidden(f"dest: {shown!r} is not below the server's --backup-root, {self}")
        return str(BackupRoot(scheme, parts))

    def __str__(self) -> str:
        if self.scheme == "file":
            return str(Path(*self.parts))
        return f"{self.scheme}://{'/'.join(self.parts)}"


def destination(root: str | None, dest: str) -> str:
    """The destination of a backup that a caller wants at ``dest``. Raises InvalidRequest,
    Forbidden.
    """
    if root is None:
        raise Forbidden(
            "backups over HTTP are off: start the server with --backup-root FOLDER or "
            "--backup-root s3://BUCKET/PREFIX, or stop it and run bitsift backup INDEX DEST"
        )
    return BackupRoot.parse(root).destination(dest)


def _parsed(text: str, what: str) -> tuple[str, tuple[str, ...]]:
    shown = f"{what}: {text[:_SHOWN_CHARACTERS]!r}"
    if "::" in text or not text.isprintable():  # fsspec: a::b is a file system within another
        raise InvalidRequest(f"{shown} contains :: or unprintable characters")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "file", text
    if scheme not in SCHEMES:
        raise InvalidRequest(f"{shown} has none of the schemes {', '.join(SCHEMES)}")
    return scheme, _folder(shown, rest) if scheme == "file" else _object(shown, rest)


def _folder(shown: str, path: str) -> tuple[str, ...]:
    if not os.path.isabs(path):
        raise InvalidRequest(f"{shown} is neither an absolute path nor a URL")
    try:
        return Path(os.path.realpath(path)).parts
    except OSError as error:  # a name that is too long
        raise InvalidRequest(f"{shown} is not a valid path: {error.strerror}") from error


def _object(shown: str, path: str) -> tuple[str, ...]:
    parts = tuple(path.rstrip("/").split("/"))
    if not {"", ".", ".."}.isdisjoint(parts) or not {"?", "#", "\\"}.isdisjoint(path):
        raise InvalidRequest(
            f"{shown} is not a bucket and prefix: an empty part, '.', '..', '?', '#' "
            "and '\\' are not allowed"
        )
    return parts
