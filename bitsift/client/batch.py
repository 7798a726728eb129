"""Several searches of one request, each with options of its own.

One that is no search already here is not sent: its error has its place, as that of one which fails
at the gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitsift.client.arguments import search_of
from bitsift.client.received import Problem
from bitsift.errors import BitsiftError, InvalidRequest
from bitsift.options import SearchRequest
from bitsift.results import Answer


@dataclass(frozen=True, slots=True)
class Batch:
    """What was asked for, in order: a search, or why it is none."""

    asked: tuple[SearchRequest | InvalidRequest, ...]

    @classmethod
    def of(cls, searches: Iterable[Mapping[str, Any]]) -> Batch:
        """Raises InvalidRequest where ``searches`` are not several."""
        if isinstance(searches, str | Mapping) or not isinstance(searches, Iterable):
            raise InvalidRequest('search_batch takes several searches, each as {"query": …}')
        return cls(tuple(_search(search) for search in searches))

    @property
    def requests(self) -> list[SearchRequest]:
        """Those to be sent."""
        return [each for each in self.asked if isinstance(each, SearchRequest)]

    def answers(self, results: Sequence[Answer | Problem]) -> list[Answer | BitsiftError]:
        """With what those that were sent came to."""
        came = iter(results)
        found = [next(came) if isinstance(one, SearchRequest) else one for one in self.asked]
        return [one.error() if isinstance(one, Problem) else one for one in found]


def _search(options: Mapping[str, Any]) -> SearchRequest | InvalidRequest:
    try:
        return search_of(options)
    except InvalidRequest as error:
        return error
