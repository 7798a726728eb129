"""What of a controller outlives it: the newest table and the orders of operators.

Every node keeps it on its data disk before routers and the writer are told. The greatest epoch is
the one in force; a controller that finds no other starts with an empty table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bitsift.cluster.fleet.observed import Orders, Table
from bitsift.errors import Corrupt


@dataclass(frozen=True, slots=True)
class State:
    """``epoch`` grows with each change, of the table, of the orders or of a replica's actor.

    ``spec`` is the one that was given last, as JSON. ``retired`` are the uuids of indexes that this
    one took the place of, or that were to take its place: nobody serves them, and they are removed
    from every disk.
    """

    epoch: int
    table: Table
    spec: dict[str, Any]
    orders: Orders = field(default_factory=Orders)
    retired: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["orders"]["drained"] = sorted(self.orders.drained)
        return data


_STATE = TypeAdapter(State)


def state_from(data: Mapping[str, Any]) -> State:
    """What ``to_json`` made. Raises Corrupt."""
    try:
        return _STATE.validate_python(dict(data))
    except ValidationError as error:
        raise Corrupt(f"the stored state of the cluster is damaged: {error}") from error
