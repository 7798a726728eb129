"""The files below a folder or a URL, and what of it is not looked at: hidden names, links.

A name that begins with `.` or `_` is hidden, as it is to Spark and Hive: `_temporary/` is the
unfinished output of a job, `_SUCCESS` and `_metadata` are notes of one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from bitsift.cluster.sources.kinds import SUPPORTED
from bitsift.cluster.sources.plan import PassedOver
from bitsift.cluster.sources.streams import filesystem_of
from bitsift.errors import InvalidRequest

_HIDDEN = "its name begins with . or _"
_NO_FILE = "neither a file nor a folder, or a link to nothing"
_NOTES = {
    "_delta_log": "the log of a Delta table: files that it has removed are read like the others"
}


@dataclass(frozen=True)
class Found:
    """A file before it was opened; `name` is its path below the source, with slashes.

    `is_named`: the caller named this very file, not a folder above it.
    """

    path: str
    name: str
    size_bytes: int
    is_named: bool = False


Listing = tuple[list[Found], list[PassedOver]]


def list_folder(folder: str) -> Listing:
    """The files below a folder, and what is passed over. Raises InvalidRequest."""
    files: list[Found] = []
    passed: list[PassedOver] = []
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        for name in sorted(folders):
            path = os.path.join(parent, name)
            if _is_hidden(name):
                passed.append(PassedOver(path, _NOTES.get(name, _HIDDEN)))
            elif os.path.islink(path):
                passed.append(PassedOver(path, "a link to a folder: name the folder itself"))
            else:
                continue
            folders.remove(name)
        for name in names:
            path = os.path.join(parent, name)
            if _is_hidden(name):
                passed.append(PassedOver(path, _HIDDEN))
            elif not os.path.isfile(path):
                passed.append(PassedOver(path, _NO_FILE))
            else:
                relative = os.path.relpath(path, folder).replace(os.sep, "/")
                files.append(Found(path, relative, os.path.getsize(path)))
    return files, passed


def _refuse(error: OSError) -> None:
    raise InvalidRequest(f"cannot list {error.filename}: {error.strerror or error}") from error


def list_url(url: str) -> Listing | None:
    """The same for what is below a URL; None where it is a file itself."""
    filesystem = filesystem_of(url)
    try:
        root = filesystem._strip_protocol(url).rstrip("/")
        if filesystem.isfile(root):
            return None
        details = filesystem.find(root, detail=True)
    except Exception as error:  # each driver has its own errors: no network, no rights, no bucket
        raise InvalidRequest(f"cannot list {url}: {error}") from error
    if not details:
        raise InvalidRequest(f"{url} does not exist; a source is {SUPPORTED}")
    files: list[Found] = []
    passed: dict[str, PassedOver] = {}
    for path, detail in details.items():
        name = path.removeprefix(root).lstrip("/")
        parts = name.split("/")
        hidden = next((place for place, part in enumerate(parts) if _is_hidden(part)), None)
        if hidden is None:
            files.append(Found(filesystem.unstrip_protocol(path), name, int(detail["size"])))
        else:
            whole = filesystem.unstrip_protocol("/".join([root, *parts[: hidden + 1]]))
            passed[whole] = PassedOver(whole, _NOTES.get(parts[hidden], _HIDDEN))
    return files, list(passed.values())


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))
