"""The indexes that a router serves: each by its name and its aliases, one where none is named.

A request asks one of them from its beginning to its end. The routes are made once, around stand-ins
for a service and a writer: behind them are those of the index that the request asks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

from bitsift.errors import NotFound, Unavailable
from bitsift.nearest import no_such_name
from bitsift.router.service import SearchService

_ASKED: ContextVar[Served] = ContextVar("the index that a request asks")


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """An index that answers; ``writer`` is a Writer (http/document_routes.py)."""

    name: str
    service: SearchService
    writer: Any

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """What is done within, and what is begun there, asks this index."""
        token = _ASKED.set(self)
        try:
            yield
        finally:
            _ASKED.reset(token)


class Indexes:
    """Lives in one event loop. ``default`` is asked where a request names none."""

    def __init__(self, default: Served) -> None:
        self.default = default
        self.aliases: Mapping[str, str] = {}
        self.is_whole = True
        """False until the others are placed, where there may be any."""
        self._served = {default.name: default}
        self._broken: Mapping[str, str] = {}

    def place(
        self, others: Iterable[Served], broken: Mapping[str, str], aliases: Mapping[str, str]
    ) -> None:
        """From now on there are ``default``, the ``others``, and those that are ``broken``, with
        the reason; ``aliases`` are other names of them. Requests under way end where they began.
        """
        self._served = {one.name: one for one in (self.default, *others)}
        self._broken = dict(broken)
        self.is_whole = True
        self.aliases = dict(aliases)

    def all(self) -> Iterator[tuple[str, Served | str]]:
        """Each name, in order, with the index or the reason why there is none."""
        found: dict[str, Served | str] = {**self._served, **self._broken}
        yield from sorted(found.items())

    def name_of(self, asked: str | None) -> str:
        """The name of the index that is meant by a name, an alias or nothing; no matter whether
        there is one.
        """
        return self.default.name if asked is None else self.aliases.get(asked, asked)

    def find(self, asked: str | None) -> Served:
        """Raises NotFound, or Unavailable with the reason why the index does not answer."""
        name = self.name_of(asked)
        if name in self._served:
            return self._served[name]
        if name in self._broken:
            raise Unavailable(f"the index {name!r} is not served: {self._broken[name]}")
        if not self.is_whole:
            raise Unavailable("the router has just started; try again in a second")
        if name != asked:
            raise NotFound(f"{asked!r} is an alias of the index {name!r}, which is not there")
        known = {**self._served, **self._broken, **self.aliases}
        raise NotFound(no_such_name(f"index as {name!r}", name, known, "GET /v1/indexes lists all"))

    @property
    def service(self) -> SearchService:
        """Of the index that is asked."""
        return cast("SearchService", _Asked(self.default, "service"))

    @property
    def writer(self) -> Any:
        """Of the index that is asked."""
        return _Asked(self.default, "writer")


class _Asked:
    """Stands for a ``part`` of the index that is asked."""

    def __init__(self, default: Served, part: str) -> None:
        self._default = default
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(_ASKED.get(self._default), self._part), name)
