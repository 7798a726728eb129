"""What aliases mean, in one file below the root of a server's indexes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from bitsift.errors import Corrupt, Unavailable
from bitsift.router.others import ALIASES_MAX
from bitsift.shard_worker.layout import replace_file
from bitsift.shard_worker.maintenance.repository import storage_error

ALIASES_FILE = ".bitsift-aliases.json"
FILE_BYTES_MAX = 256 << 10


@dataclass(frozen=True, slots=True)
class _File:
    __pydantic_config__ = ConfigDict(extra="forbid")

    bitsift_aliases: Literal[1]
    aliases: dict[str, str]


_FILE = TypeAdapter(_File)


def read_aliases(root: Path) -> dict[str, str]:
    """The index that each alias means; none where there is no file. Raises Corrupt, Unavailable."""
    path = root / ALIASES_FILE
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error
    try:
        found = _FILE.validate_json(data).aliases
    except ValidationError as error:
        raise Corrupt(f"{path} is damaged; restore it, or remove it and set its aliases") from error
    if len(found) > ALIASES_MAX:
        raise Corrupt(f"{path} has over {ALIASES_MAX} aliases; restore it")
    return found


def write_aliases(root: Path, aliases: dict[str, str]) -> None:
    """Whole or not at all, and synced. Raises StorageFull, Unavailable."""
    path = root / ALIASES_FILE
    try:
        replace_file(path, _FILE.dump_json(_File(1, aliases), indent=2) + b"\n")
    except OSError as error:
        raise storage_error(error, f"{path} cannot be written") from error
