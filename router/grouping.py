"""group_by: at most so many hits of each value of a field, right across shards.

The ranking is taken a part at a time. A document is a hit unless a value of its field has enough
hits already, so it is the answer that one gets by going through the whole ranking. Each part is
asked for without the documents that are hits, and with a filter that leaves out values that are
full: so it begins with another hit, however many documents the values before it have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import orjson

from bitsift.errors import InvalidRequest
from bitsift.filters.forms import CHARACTERS_MAX, tree_of
from bitsift.filters.operands import VALUES_MAX, path_of
from bitsift.filters.parse import as_json, join
from bitsift.filters.tree import And, Operator, Test, Value, sort_key
from bitsift.filters.values import values_at
from bitsift.options import DEPTH_MAX, SearchOptions
from bitsift.shard_worker.types import Document

PART_MIN, PART_FACTOR = 50, 4
"""Of the ranking so many are looked at together at least, and for each hit that is missing."""
Key = tuple[int, Value]
"""A value, with its type."""


class Groups:
    """The hits of one search so far, ``offset`` of which are skipped."""

    def __init__(self, options: SearchOptions) -> None:
        assert options.group_by is not None
        self._options = options
        self._path = path_of(options.group_by, "group_by")
        self._counts: Counter[Key] = Counter()
        self._values: dict[Key, Value] = {}
        self._ids: list[str] = []
        self._asked = 0
        self.is_done = False

    def next(self) -> SearchOptions:
        """The search for the next part of the ranking. Raises InvalidRequest where a shard would
        have to leave out more values than a filter may have.
        """
        options = self._options
        missing = options.depth - len(self._ids)
        self._asked = min(DEPTH_MAX, max(PART_MIN, PART_FACTOR * missing))
        return replace(
            options,
            group_by=None,
            group_size=1,
            offset=0,
            top_k=self._asked,
            filter=self._without_full(),
            exclude=(*options.exclude, *self._ids),
        )

    def chosen(self, part: Sequence[tuple[int, Document]]) -> list[int]:
        """The places of hits that are to be returned, of ``part``: places and documents with their
        metadata, best first.
        """
        places, before = [], len(self._ids)
        for place, document in part:
            if len(self._ids) == self._options.depth:
                break
            if self._takes(document):
                self._ids.append(document.id)
                if len(self._ids) > self._options.offset:
                    places.append(place)
        full = len(self._ids) == self._options.depth
        self.is_done = full or len(part) < self._asked or len(self._ids) == before
        return places

    def _takes(self, document: Document) -> bool:
        values = values_at(document.metadata, self._path) or ()  # none: in a group of its own
        known = {sort_key(value): value for value in values}
        if any(self._counts[key] == self._options.group_size for key in known):
            return False
        self._counts.update(known.keys())
        self._values |= known
        return True

    def _without_full(self) -> str | None:
        """The filter of the search, and no value that has enough hits."""
        text = None if self._options.filter is None else str(self._options.filter)
        size = self._options.group_size
        full = sorted(key for key, count in self._counts.items() if count == size)
        if not full:
            return text
        values = tuple(self._values[key] for key in full)
        tree = And() if text is None else tree_of(text)
        without = join(And, [tree, Test(self._path, Operator.NIN, values)])
        found = orjson.dumps(as_json(without)).decode()
        if len(values) > VALUES_MAX or len(found) > CHARACTERS_MAX:
            raise InvalidRequest(
                f"group_by: {len(values):,} values of {self._options.group_by} have enough hits, "
                "too many for a filter: ask for fewer hits"
            )
        return found
