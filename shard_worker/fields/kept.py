"""What was found of filters, kept for the next search: least recently used go first."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.filters.tree import Node, Test, nodes
from bitsift.shard_worker.fields.bounds import Bits, Bounds

FILTERS_BYTES_MAX = 32 << 20
"""RAM of what is kept: the filters, and three bits a row of each at most, mostly two."""
_ENTRY_BYTES = 2_048
_NODE_BYTES, _VALUE_BYTES = 128, 16
"""What Python takes for a node, and for a value of one, beside the field and the values themselves:
a filter of 52,000 characters, 5,400 strings, takes 380,000 bytes."""


def tree_bytes(root: Node) -> int:
    """RAM of a filter, about."""
    found = 0
    for node in nodes(root):
        found += _NODE_BYTES
        if isinstance(node, Test):
            values = node.operand if isinstance(node.operand, tuple) else (node.operand,)
            found += sys.getsizeof(node.field)
            found += sum(sys.getsizeof(value) + _VALUE_BYTES for value in values)
    return found


class Known:
    """What is known of one filter: bounds of the first rows, which only become closer."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.view: tuple[object, Bits, Bits] | None = None
        """The upper bound in another order of the rows: of what, made of which bits, and the bits.
        Kept for whoever makes it (search/filtered.py)."""
        self.marks: tuple[tuple[object, ...], tuple[Any, ...]] | None = None
        """Who is alive and may pass: of what that was made, and the marks. Kept likewise."""
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Of how many rows."""
        return self.bounds.count

    @property
    def size_bytes(self) -> int:
        """What it takes at most, beside the filter: both bounds, or one, with the view and the
        marks.
        """
        return self.bounds.lower.nbytes * (3 if self.bounds.is_exact else 4) + _ENTRY_BYTES

    def settle(self, rows: NDArray[np.int64], passing: NDArray[np.bool_]) -> None:
        """Of ``rows`` (n,) it is known now which are ``passing`` (n,)."""
        with self._lock:
            lower, upper = self.bounds.lower.copy(), self.bounds.upper.copy()
            _set(lower, rows[passing])
            inverse = np.zeros_like(upper)
            _set(inverse, rows[~passing])
            upper &= ~inverse
            exact = np.array_equal(lower, upper)
            self.bounds = Bounds(lower, lower if exact else upper, self.bounds.count)


def _set(bits: Bits, rows: NDArray[np.int64]) -> None:
    np.bitwise_or.at(bits, rows // 8, (1 << rows % 8).astype(np.uint8))


class KeptFilters:
    """Any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Node, tuple[Known, int, int]] = OrderedDict()
        """With the bytes of the filter, and all that are counted."""
        self.size_bytes = 0

    def get(self, node: Node) -> Known | None:
        with self._lock:
            found = self._kept.get(node)
            if found is None:
                return None
            self._kept.move_to_end(node)
            return found[0]

    def put(self, node: Node, before: Known | None, start: int, later: Bounds) -> Known:
        """Keep ``later``, of the rows from ``start`` on, behind what was known of those before."""
        if before is not None:
            later = _joined(before.bounds, start, later)
        known = Known(later)
        with self._lock:
            newest = self._kept.get(node)
            if newest is None or newest[0].count <= known.count:
                of_tree, before_bytes = newest[1:] if newest else (tree_bytes(node), 0)
                size_bytes = of_tree + known.size_bytes
                self.size_bytes += size_bytes - before_bytes
                self._kept[node] = known, of_tree, size_bytes
            self._kept.move_to_end(node)
            while self.size_bytes > FILTERS_BYTES_MAX and len(self._kept) > 1:
                self.size_bytes -= self._kept.popitem(last=False)[1][2]
        return known


def _joined(before: Bounds, start: int, later: Bounds) -> Bounds:
    def behind(one: Bits, other: Bits) -> Bits:
        return np.concatenate([one[: start // 8], other])

    lower = behind(before.lower, later.lower)
    exact = before.is_exact and later.is_exact
    upper = lower if exact else behind(before.upper, later.upper)
    return Bounds(lower, upper, start + later.count)
