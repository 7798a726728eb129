"""Damage to the data files of shards, open ones too: what LMDB maps changes with the file."""

from __future__ import annotations

from pathlib import Path


def flip(path: Path, part: bytes) -> None:
    """Flip a bit wherever ``part`` lies in the file."""
    data, at, found = path.read_bytes(), 0, 0
    with path.open("r+b") as file:
        while (at := data.find(part, at)) >= 0:
            file.seek(at + len(part) // 2)
            file.write(bytes([data[at + len(part) // 2] ^ 0x10]))
            at, found = at + 1, found + 1
    assert found, "there is nothing to damage"
