"""Files that Bitsift did not make, and whether they are still what they were."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

State = dict[str, tuple[str, object]]


def state(*places: Path) -> State:
    """What lies at and below ``places``, not following links: kind, and bytes with times or target.

    Of a folder only that it is there: what Bitsift adds to one is no change to a foreign file.
    """
    found: State = {}
    for place in places:
        if os.path.lexists(place):
            for path in (place, *(place.rglob("*") if not place.is_symlink() else ())):
                found[str(path)] = _state_of(path)
    return found


def _state_of(path: Path) -> tuple[str, object]:
    if path.is_symlink():
        return "link", os.readlink(path)
    if path.is_dir():
        return "folder", None
    facts = path.stat()
    return "file", (path.read_bytes(), facts.st_mtime_ns, facts.st_ino, facts.st_mode)


def gone_or_changed(before: State, *places: Path) -> list[str]:
    """Paths of ``before`` that are not what they were."""
    after = state(*places)
    return [path for path, was in before.items() if after.get(path) != was]


def put(path: Path, content: str = "dear to its owner") -> Path:
    """A foreign file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def _folder(place: Path, outside: Path) -> None:
    put(place / "photo.jpg")
    put(place / "blocks" / "note.txt")
    put(place / "shard-00000" / "diary.txt")
    put(place / "rejects.jsonl")


def _link_to_file(place: Path, outside: Path) -> None:
    place.symlink_to(put(outside / "file.txt"))


def _link_to_folder(place: Path, outside: Path) -> None:
    _folder(outside / "folder", outside)
    place.symlink_to(outside / "folder")


IN_THE_WAY: dict[str, Callable[[Path, Path], object]] = {
    "a file": lambda place, outside: put(place),
    "a folder": _folder,
    "an index without its manifest": lambda place, outside: [
        put(place / "shard-00000" / "store-00000" / "data.mdb"),
        put(place / "shard-00000" / "shard.lock"),
    ],
    "a folder of blocks": lambda place, outside: put(place / "blocks" / "ab" / ("ab" * 32)),
    "a list of rejects": lambda place, outside: put(place / "rejects.jsonl"),
    "another's manifest": lambda place, outside: put(place / "manifest.json", '{"name": "app"}'),
    "another's backup": lambda place, outside: put(place / "backup.json", '{"backup": true}'),
    "a link to a file": _link_to_file,
    "a link to a folder": _link_to_folder,
    "a link to nothing": lambda place, outside: place.symlink_to(outside / "nothing"),
}
"""By name, what makes ``place`` something of another's, which may lead to a folder outside."""

NEARLY_OURS_IN_AN_INDEX = (
    "notes.txt",
    "manifest.json.bak",
    "manifest.json.mine.partial",
    "shard-0/diary.txt",
    "shard-00000.bak/bits-00000.bits",
    "shard-99999/bits-00000.bits",
    "shard-00000/bits-2024.bits",
    "shard-00000/bits-mine.partial",
    "shard-00000/bits-00000.bits.bak",
    "shard-00000/bits-lists.bits.mine.partial",
    "shard-00000/store.next.old/data.mdb",
    "shard-00000/store-1/data.mdb",
    "shard-00000/store-00000.old/data.mdb",
    "shard-00000/store-00000/data.mdb.bak",
    "shard-00000/store-00000/notes.partial",
    "shard-00000/store-00007/diary.txt",
)
NEARLY_OURS_IN_A_REPOSITORY = (
    "notes.txt",
    "backup.json.bak",
    "blocks/photo.jpg",
    "blocks/zz/note.txt",
    "blocks/ab/note.txt",
    f"blocks/ab/{'ab' * 32}.partial",
    f"blocks/ab/{'ab' * 31}",
    f"blocks/ab/{'AB' * 32}",
    f"blocks/ab/{'cd' * 32}",
    f"blocks/ab/{'ab' * 32}/inner.txt",
    f"blocks/abc/{'ab' * 32}",
)
