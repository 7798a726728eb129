"""What Ray's control store (GCS) knows of nodes and actors.

Asked by Ray's client that raises: `ray.nodes()` ends the process that calls it, with a stack of
C++, where the store is stopped during the call (Ray 2.60).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import ray
from ray.core.generated import gcs_pb2

from bitsift.router.shards.ray_calls import Callee, translated

_gcs: Any = gcs_pb2
NODE_IS_ALIVE: int = _gcs.GcsNodeInfo.ALIVE
ACTOR_IS_ALIVE: int = _gcs.ActorTableData.ALIVE
STORE = Callee("Ray's control store")
TIMEOUT_S = 30.0


def all_nodes() -> Mapping[str, Any]:
    """The facts (``GcsNodeInfo``) of every node, dead ones too, by its id in hexadecimal.

    Raises Unavailable where the store does not answer in 30 s.
    """
    try:
        found = _client().get_all_node_info(timeout=TIMEOUT_S)
    except Exception as error:
        raise translated(error, STORE, was_sent=False) from error
    return {key.hex(): facts for key, facts in found.items()}


def living_nodes() -> list[Any]:
    """The facts of the nodes that Ray takes for alive. Raises Unavailable, like ``all_nodes``."""
    return [facts for facts in all_nodes().values() if facts.state == NODE_IS_ALIVE]


def all_actors() -> Mapping[str, Any]:
    """The facts (``ActorTableData``) of every actor, dead ones too, by its id in hexadecimal.

    Raises Unavailable where the store does not answer in 30 s. Not for a thread that runs a loop.
    """
    try:
        found = asyncio.run(_asked_for_actors())
    except Exception as error:
        raise translated(error, STORE, was_sent=False) from error
    return {key.hex(): facts for key, facts in found.items()}


async def _asked_for_actors() -> Any:
    return await _client().async_get_all_actor_info(timeout=TIMEOUT_S)


def _client() -> Any:
    worker: Any = ray._private.worker.global_worker
    return worker.gcs_client
