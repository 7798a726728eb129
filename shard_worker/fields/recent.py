"""Ids and metadata of the rows that came last, as they were written: nothing is read back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from bitsift.shard_worker.fields.segment import Texts

RECENT_BYTES_MAX = 16 << 20
"""Of ids and metadata that are kept; the oldest are read from their documents."""
_ROW_BYTES = 150
"""What Python takes for a row beside the characters."""


class RecentTexts:
    """Any number of threads. What is not kept is read."""

    def __init__(self, read: Callable[[Sequence[int]], Iterator[Texts | None]]) -> None:
        """``read`` gives ids and metadata of rows, None of a damaged one."""
        self._read = read
        self._lock = threading.Lock()
        self._held: deque[tuple[int, Sequence[Texts], int]] = deque()
        self.size_bytes = 0

    def add(self, first: int, texts: Sequence[Texts]) -> None:
        """Those of the rows from ``first`` on, which are behind all others."""
        if not texts:
            return
        size_bytes = sum(len(name) + len(said) + _ROW_BYTES for name, said in texts)
        with self._lock:
            self._held.append((first, texts, size_bytes))
            self.size_bytes += size_bytes
            while self.size_bytes > RECENT_BYTES_MAX:
                self._drop()

    def forget_before(self, row: int) -> None:
        """Rows before ``row`` are not asked for any more."""
        with self._lock:
            while self._held and self._held[0][0] + len(self._held[0][1]) <= row:
                self._drop()

    def _drop(self) -> None:
        self.size_bytes -= self._held.popleft()[2]

    def of(self, first: int, stop: int) -> Iterator[Texts | None]:
        """Of the rows ``first`` … ``stop``, in order."""
        with self._lock:
            held = [(begin, texts) for begin, texts, _ in self._held
                    if begin < stop and first < begin + len(texts)]  # fmt: skip
        for begin, texts in held:
            if first < begin:
                yield from self._read(range(first, begin))
                first = begin
            yield from texts[first - begin : stop - begin]
            first = min(stop, begin + len(texts))
        if first < stop:
            yield from self._read(range(first, stop))
