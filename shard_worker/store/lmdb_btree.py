"""Does a B+tree of LMDB lead to all of its keys?

LMDB finds a key by the separators in its branch pages, which carry no checksum. With a damaged one
a key is not found though it is there, and a walk from leaf to leaf, which follows no separator,
sees nothing of it. For codes and texts that is an error, for all of them must be there. An id that
is not found is an answer, and a dead row that is not found is alive: so the trees of these two are
checked before they are trusted. The layout is that of LMDB 0.9 (mdb.c: MDB_page, MDB_node, MDB_db).
"""

from __future__ import annotations

import itertools
import os
import struct
from operator import lt

from bitsift.errors import Corrupt

_HEADER = struct.Struct("<QHHHH")
"""MDB_page: number, unused, flags, where the offsets of the nodes end, where the nodes begin."""
_NODE = struct.Struct("<HHHH")
"""MDB_node: of a branch page the number of the child in three parts; the length of the key."""
_BRANCH, _LEAF = 0x01, 0x02
_ROOT = struct.Struct("<40xQ")
"""MDB_db: the number of the root page comes last."""
_NO_PAGE = (1 << 64) - 1
_LAST_KEY = b"\xff" * 512


def leads_to_all_keys(data: int, page_bytes: int, record: bytes) -> bool:
    """Whether every key of a database is found in the data file open as ``data``.

    Nothing may be written to it meanwhile. ``record`` is what the main database says of the
    database, whose values are all small. Raises Corrupt where its pages are not those of a tree.
    """
    (root,) = _ROOT.unpack(record)
    sound, seen = True, set[int]()
    waiting = [] if root == _NO_PAGE else [(root, b"", _LAST_KEY)]
    while waiting:
        number, low, high = waiting.pop()
        if number in seen:
            raise Corrupt(f"page {number} occurs twice in the tree")
        seen.add(number)
        page = _Page(number, os.pread(data, page_bytes, number * page_bytes))
        keys = page.keys()
        if page.is_branch:
            keys[0] = low  # the first is never looked at
        sound &= low <= keys[0] and all(itertools.starmap(lt, itertools.pairwise([*keys, high])))
        if page.is_branch:
            waiting += zip(page.children(), keys, [*keys[1:], high], strict=True)
    return sound


class _Page:
    """A branch page or a leaf."""

    def __init__(self, number: int, data: bytes) -> None:
        """Raises Corrupt where ``data`` is not the page of this number."""
        self._data = data
        found, flags, end = -1, 0, 0
        if len(data) >= _HEADER.size:
            found, _, flags, end, _ = _HEADER.unpack_from(data)
        if found != number or not _HEADER.size < end <= len(data) or not flags & (_BRANCH | _LEAF):
            raise Corrupt(f"page {number} is not a page of this tree")
        self.is_branch = bool(flags & _BRANCH)
        self._nodes = struct.unpack_from(f"<{(end - _HEADER.size) // 2}H", data, _HEADER.size)
        if max(self._nodes) + _NODE.size > len(data):
            raise Corrupt(f"page {number} is damaged")

    def keys(self) -> list[bytes]:
        """All keys of a branch page, the first and the last of a leaf.

        A damaged one between those of a leaf does not pass the checksum of all entries.
        """
        data, size = self._data, _NODE.size
        nodes = self._nodes if self.is_branch else {self._nodes[0]: 0, self._nodes[-1]: 0}
        return [
            data[node + size : node + size + int.from_bytes(data[node + 6 : node + 8], "little")]
            for node in nodes
        ]

    def children(self) -> list[int]:
        parts = (_NODE.unpack_from(self._data, node) for node in self._nodes)
        return [low | middle << 16 | high << 32 for low, middle, high, _ in parts]
