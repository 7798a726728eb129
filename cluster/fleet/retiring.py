"""Shards that nobody serves any more are ended, and removed from every disk that has some."""

from __future__ import annotations

from typing import Any

from bitsift.cluster.fleet.actors import stop_replica
from bitsift.cluster.fleet.node_store import HeldIndex
from bitsift.cluster.fleet.polls import agent_said
from bitsift.cluster.fleet.state import State

REMOVE_TIMEOUT_S = 60.0
"""For large files to go."""


def retire(
    agent: Any, node: str, held: HeldIndex, uuid: str, files: dict[str, bytes], state: State
) -> None:
    """Remove what ``node`` holds of a retired index, once it knows the one in force.

    That is ``state``, of the index ``uuid`` with the ``files``. Raises BitsiftErrors.
    """
    agent_said(agent, node, "adopt", uuid, files)
    agent_said(agent, node, "keep", uuid, state.to_json())
    for replica in held.replicas:
        stop_replica(held.uuid, replica.shard, node)
    agent_said(agent, node, "remove", held.uuid, timeout_s=REMOVE_TIMEOUT_S)
