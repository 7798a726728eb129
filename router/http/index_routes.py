"""The routes of the indexes that a server has. What else there is of an index, its searches and its
documents, has routes below its name: paths.py leads them to those of the only index.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Response

from bitsift.router.http.answer_json import json_response
from bitsift.router.indexes import Indexes, Served
from bitsift.shard_worker.types import ShardStatus

STATUS_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class ListedIndex:
    """``state`` is READY, LOADING, PARTIAL (some shards, or its model, are missing) or FAILED (all
    shards are, or it could not be opened); ``reason`` says why it is not ready.
    """

    name: str
    state: str
    reason: str | None
    documents: int | None
    rows: int | None
    dimension: int | None
    model: str | None
    aliases: tuple[str, ...]
    default: bool


@dataclass(frozen=True, slots=True)
class ListedIndexes:
    """All that a server has, by name."""

    indexes: tuple[ListedIndex, ...]


def add_indexes(app: FastAPI, indexes: Indexes) -> None:
    """GET /v1/indexes."""

    @app.get("/v1/indexes", response_model=ListedIndexes)
    async def listed() -> Response:
        """The indexes of this server, with their states and their aliases.

        Every route below `/v1` that asks an index asks another one as `/v1/indexes/{name}/…`, by
        its name or an alias: `POST /v1/indexes/{name}/search`. `GET /v1/indexes/{name}` is its
        `/v1/index`. Without a name they ask the one that is `default`.
        """
        found = [_listed(indexes, name, one) for name, one in indexes.all()]
        return json_response(ListedIndexes(tuple(await asyncio.gather(*found))))


async def _listed(indexes: Indexes, name: str, one: Served | str) -> ListedIndex:
    known: dict[str, Any] = {
        "name": name,
        "aliases": tuple(sorted(it for it, meant in indexes.aliases.items() if meant == name)),
        "default": name == indexes.default.name,
    }
    if isinstance(one, str):
        nothing: dict[str, Any] = dict.fromkeys(("documents", "rows", "dimension", "model"))
        return ListedIndex(**known, **nothing, state="FAILED", reason=one)
    service, description = one.service, one.service.description
    statuses = await service.shards.last_known(STATUS_TIMEOUT_S)
    state, reason = _state(statuses)
    if state == "READY" and description.model is not None and service.encoder is None:
        failure = service.query_vectors.failure
        state = "PARTIAL" if failure else "LOADING"
        reason = f"the encoder cannot be loaded: {failure}" if failure else "the encoder is loading"
    return ListedIndex(
        **known,
        state=state,
        reason=reason,
        documents=sum(status.documents for status in statuses),
        rows=sum(status.rows for status in statuses),
        dimension=description.dimension,
        model=None if description.model is None else description.model.name,
    )


def _state(statuses: Sequence[ShardStatus]) -> tuple[str, str | None]:
    """That of all shards, and why they are not ready."""
    others = [status for status in statuses if status.state != "READY"]
    if not others:
        return "READY", None
    first = others[0]
    reason = f"shard {first.shard} is {first.state}" + (f": {first.reason}" if first.reason else "")
    if any(status.state == "LOADING" for status in others):
        return "LOADING", reason
    return "PARTIAL" if len(others) < len(statuses) else "FAILED", reason
