"""What both clients do with the indexes of a server: list, create and delete them, set aliases."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from bitsift.client import calls
from bitsift.client.calls import Call

T = TypeVar("T")


class Indexes(Protocol):
    """Of a client that sends calls and waits for their answers."""

    def _send(self, call: Call[T]) -> T: ...

    def indexes(self) -> list[dict[str, Any]]:
        """The indexes of the server, by name (GET /v1/indexes)."""
        found: list[dict[str, Any]] = self._send(calls.indexes())["indexes"]
        return found

    def create_index(
        self,
        name: str,
        *,
        model: str | None = None,
        dimensions: int | None = None,
        shards: int | None = None,
    ) -> dict[str, Any]:
        """Make an empty index: of ``model``, or of ``dimensions`` for vectors of your own.

        Raises InvalidRequest, also where there is one of that name.
        """
        return self._send(calls.create_index(name, model, dimensions, shards))

    def delete_index(self, name: str, *, with_aliases: bool = False) -> dict[str, Any]:
        """Delete an index and its files. Raises NotFound, InvalidRequest for the default one, and
        for one with aliases unless ``with_aliases``.
        """
        return self._send(calls.delete_index(name, with_aliases=with_aliases))

    def set_alias(self, alias: str, index: str) -> dict[str, Any]:
        """Let ``alias`` mean ``index`` from now on. Raises NotFound, InvalidRequest."""
        return self._send(calls.set_alias(alias, index))

    def delete_alias(self, alias: str) -> dict[str, Any]:
        """Let it be no alias any more. Raises NotFound."""
        return self._send(calls.delete_alias(alias))


class AsyncIndexes(Protocol):
    """Of a client of asyncio."""

    async def _send(self, call: Call[T]) -> T: ...

    async def indexes(self) -> list[dict[str, Any]]:
        """As ``Client.indexes``."""
        found: list[dict[str, Any]] = (await self._send(calls.indexes()))["indexes"]
        return found

    async def create_index(
        self,
        name: str,
        *,
        model: str | None = None,
        dimensions: int | None = None,
        shards: int | None = None,
    ) -> dict[str, Any]:
        """As ``Client.create_index``."""
        return await self._send(calls.create_index(name, model, dimensions, shards))

    async def delete_index(self, name: str, *, with_aliases: bool = False) -> dict[str, Any]:
        """As ``Client.delete_index``."""
        return await self._send(calls.delete_index(name, with_aliases=with_aliases))

    async def set_alias(self, alias: str, index: str) -> dict[str, Any]:
        """As ``Client.set_alias``."""
        return await self._send(calls.set_alias(alias, index))

    async def delete_alias(self, alias: str) -> dict[str, Any]:
        """As ``Client.delete_alias``."""
        return await self._send(calls.delete_alias(alias))
