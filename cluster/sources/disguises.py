"""Files that are not what their names say: packed ones called .csv, plain ones called .gz, pointers
that Git LFS leaves in a clone. What they are is in their first bytes.
"""

from __future__ import annotations

from bitsift.cluster.sources.plan import Compression

PACKED = {
    b"\x1f\x8b": Compression.GZIP,
    b"\x28\xb5\x2f\xfd": Compression.ZSTANDARD,
    b"BZh": Compression.BZIP2,
    b"\xfd7zXZ\0": Compression.XZ,
}
"""How compressed files begin."""
LONGEST = max(map(len, PACKED))
_BZIP2_BLOCK = b"1AY&SY"
"""A text may begin with ``BZh``; after it and a digit comes this in a file that is not empty."""
_OTHERS = {
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or save its sheet as CSV",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Excel or Word file: save it as CSV or text",
    b"%PDF-": "a PDF: extract its text to .txt, .md or JSON lines",
    b"SQLite format 3\0": "an SQLite database: end its name in .db",
}
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_SAID = "a pointer of Git LFS in the place of the file: run git lfs pull in its repository"


def disguise(head: bytes) -> str | None:
    """What a file of text is that begins with `head`, and what to do; None for a text."""
    for magic, packed in PACKED.items():
        if head.startswith(magic) and (packed is not Compression.BZIP2 or _is_bzip2(head)):
            kind = packed.name.lower()
            return f"it is compressed with {kind}: end its name in {packed.value}"
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            return f"it is {what}"
    return pointer(head)


def _is_bzip2(head: bytes) -> bool:
    return head[4 : 4 + len(_BZIP2_BLOCK)] == _BZIP2_BLOCK


def pointer(head: bytes) -> str | None:
    """What to do about a file that begins with `head` if Git LFS left it; else None."""
    return f"it is {_POINTER_SAID}" if head.startswith(_POINTER) else None


def unpacked(head: bytes, compression: Compression) -> str | None:
    """What to do about a file that is not packed as its name says; None where it is.

    Zeros may come before it, as tapes have them.
    """
    head = head.lstrip(b"\0")
    if not head or any(head.startswith(magic) for magic, kind in PACKED.items()
                       if kind is compression):  # fmt: skip
        return None
    if said := pointer(head):
        return said
    meant = next((kind for magic, kind in PACKED.items() if head.startswith(magic)), None)
    end = f"end its name in {meant.value}" if meant else f"take {compression.value} off its name"
    return f"it is not compressed with {compression.name.lower()}: {end}"
