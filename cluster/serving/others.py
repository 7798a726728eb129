"""The indexes of a server besides its default one, as who serves that one sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bitsift.errors import BitsiftError, reason
from bitsift.router.others import OtherIndexes
from bitsift.router.shards.placement import ReplicaTable
from bitsift.router.shards.ray_calls import ROUTER, asked, sent

ORDER_WAIT_S = 2.0
"""How long a router is asked for an order before it is asked again."""
ANSWER_TIMEOUT_S = 10.0


class OtherIndexesOwner(Protocol):
    """Has the indexes of a server besides the default one (cluster/collection)."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def abandon(self) -> None: ...

    def told(self) -> OtherIndexes: ...

    def names(self) -> dict[str, str]: ...

    def do(self, what: str, arguments: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True, slots=True)
class StartedIndex:
    """The actors of one index."""

    shards: list[Any]
    writer: Any

    @property
    def table(self) -> ReplicaTable:
        return ReplicaTable.of(self.shards)

    def names(self) -> dict[str, str]:
        """How people name each actor, by its id in Ray's table of actors."""
        named = {"the writer": self.writer}
        named |= {f"shard {number}": actor for number, actor in enumerate(self.shards)}
        return {actor._actor_id.hex(): name for name, actor in named.items()}


def do_next_order(router: Any, others: OtherIndexesOwner, tell: Callable[[], None]) -> None:
    """Wait a while for an order of a caller, do it, and ``tell`` the router what there is now.

    Raises BitsiftErrors where the router does not answer.
    """
    order = asked(sent(router.next_order, ROUTER, ORDER_WAIT_S), ROUTER, ANSWER_TIMEOUT_S)
    if order is None:
        return
    answer, failed = None, None
    try:
        answer = others.do(order.what, order.arguments)
    except BitsiftError as error:
        failed = error
    except Exception as error:  # of any class: the next order has nothing to do with it
        failed = BitsiftError(reason(error))
    tell()
    done = sent(router.order_done, ROUTER, order.number, answer, failed)
    asked(done, ROUTER, ANSWER_TIMEOUT_S)
