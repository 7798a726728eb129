"""The routes that create and delete indexes, and say what an alias means.

They check what is asked; the command that started the router does it (orders.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from bitsift.errors import InvalidRequest, NotFound
from bitsift.options import DIMENSION_MAX
from bitsift.router.http.answer_json import json_response
from bitsift.router.http.parameters import refuse_unknown_parameters
from bitsift.router.indexes import Indexes
from bitsift.router.orders import Orders

NAME_CHARACTERS_MAX = 64
NAME = rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_CHARACTERS_MAX - 1}}}$"
SHARDS_MAX = 64
Name = Annotated[str, Field(pattern=NAME, description="Letters, digits and . _ -")]


class NewIndex(BaseModel):
    """An empty index: of a model, of vectors of so many dimensions, or of both."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    model: str | None = Field(None, min_length=1, max_length=1_024)
    dimensions: int | None = Field(None, ge=1, le=DIMENSION_MAX)
    shards: int | None = Field(None, ge=1, le=SHARDS_MAX, description="Default: one per core.")


class AliasOf(BaseModel):
    """The index that an alias means."""

    model_config = ConfigDict(extra="forbid")

    index: Name


@dataclass(frozen=True, slots=True)
class CreatedIndex:
    """``dimension`` is that of the model, or what was asked for."""

    name: str
    model: str | None
    dimension: int
    shards: int


@dataclass(frozen=True, slots=True)
class DeletedIndex:
    """``aliases`` went with it."""

    name: str
    status: str
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Alias:
    """``index`` None: it is no alias any more."""

    alias: str
    index: str | None


def add_index_changes(app: FastAPI, indexes: Indexes, orders: Orders | None) -> None:
    """POST /v1/indexes, DELETE /v1/indexes/{name}, PUT and DELETE /v1/aliases/{alias}."""

    async def ordered(what: str, **arguments: Any) -> Response:
        if orders is None:
            raise InvalidRequest(
                f"this server has the one index {indexes.default.name!r} and can have no other: "
                "bitsift serve --indexes-root FOLDER can"
            )
        return json_response(await orders.ask(what, **arguments))

    @app.post("/v1/indexes", response_model=CreatedIndex)
    async def create(http: Request, new: NewIndex) -> Response:
        """Make an empty index: of `model`, of `dimensions` for vectors of your own, or of both. It
        answers at once, and is filled by `POST /v1/indexes/{name}/documents`. A model is loaded for
        it, which takes some seconds.
        """
        refuse_unknown_parameters(http)
        if new.model is None and new.dimensions is None:
            raise InvalidRequest("give model, dimensions, or both for vectors that it made")
        return await ordered("create", **new.model_dump())

    @app.delete("/v1/indexes/{name}", response_model=DeletedIndex)
    async def delete(http: Request, name: str, with_aliases: bool = False) -> Response:
        """Delete an index and its files, and nothing else in its folder. One that has aliases is
        deleted only `with_aliases`; the default one is not.
        """
        refuse_unknown_parameters(http, ("with_aliases",), "there is with_aliases")
        if name in indexes.aliases:
            raise InvalidRequest(
                f"{name!r} is an alias of {indexes.aliases[name]!r}: DELETE /v1/aliases/{name}, or "
                "name the index"
            )
        return await ordered("delete", name=name, with_aliases=with_aliases)

    @app.put("/v1/aliases/{alias}", response_model=Alias)
    async def put(http: Request, alias: Name, meant: AliasOf) -> Response:
        """Let an alias mean an index. Requests that begin afterwards ask that one; those under way
        end where they began. It is kept.
        """
        refuse_unknown_parameters(http)
        return await ordered("put_alias", alias=alias, index=meant.index)

    @app.delete("/v1/aliases/{alias}", response_model=Alias)
    async def drop(http: Request, alias: Name) -> Response:
        """Let it be no alias any more; its index stays."""
        refuse_unknown_parameters(http)
        if orders is not None and alias not in indexes.aliases:
            raise NotFound(f"there is no alias {alias!r}")
        return await ordered("drop_alias", alias=alias)
