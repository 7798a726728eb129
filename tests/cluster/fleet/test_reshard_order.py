"""Orders to reshard: what is refused, and what the new index is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.fleet.agent import AgentReport
from bitsift.cluster.fleet.node_store import HeldIndex
from bitsift.cluster.fleet.observed import Move, Node, Observed, Orders, Reshard, Table
from bitsift.cluster.fleet.orders import added, drained, moved
from bitsift.cluster.fleet.reshard_order import index_files_of, ordered, successor_of
from bitsift.cluster.fleet.state import State, state_from
from bitsift.cluster.manifest import read_complete, read_manifest
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.errors import BitsiftError, FormatMismatch, InvalidRequest, StorageFull, Unavailable
from bitsift.shard_worker.types import ShardStatus

GB = 10**9
ORDER = Reshard("new", (("a", "b"), ("b", "c"), ("a", "c")))


@dataclass
class SeenIndex:
    """What an order is checked against."""

    observed: Observed
    said: dict[tuple[int, str], ShardStatus]
    reports: dict[str, AgentReport]
    state: State = field(default_factory=lambda: State(1, Table(1, ()), {}))


def seen(orders: Orders = Orders(), free: int = 100 * GB, kept: str = "2.0") -> SeenIndex:  # noqa: B008
    """Two shards of 3 GB on the nodes a and b, and a node c with nothing on it."""
    table = Table(1, (("a", "b"), ("b", "a")))
    nodes = tuple(Node(name) for name in "abc")
    said = {
        (shard, node): ShardStatus(shard, "READY", disk_bytes=3 * GB, format=kept)
        for shard in range(2)
        for node in "ab"
    }
    reports = {name: AgentReport(name, (), (), free_bytes=free) for name in "abc"}
    return SeenIndex(Observed(table, nodes, orders=orders), said, reports)


def test_the_new_shards_are_spread_over_the_nodes_that_may_have_them() -> None:
    order = ordered(seen(), 2, 3)  # type: ignore[arg-type]
    assert sorted(order.places()) == [(0, "a"), (0, "b"), (1, "a"), (1, "c"), (2, "b"), (2, "c")]
    fewer = ordered(seen(Orders(drained=frozenset("b"))), 2, 3)  # type: ignore[arg-type]
    assert fewer.targets == (("a", "c"),) * 3


@pytest.mark.parametrize(
    ("index", "shards", "kind", "said"),
    [
        (seen(), 0, InvalidRequest, "0 shards: an index has 1 to 4,096"),
        (seen(), -1, InvalidRequest, "an index has 1 to 4,096"),
        (seen(), 4_097, InvalidRequest, "an index has 1 to 4,096"),
        (seen(), 2, InvalidRequest, "the index has 2 shards already"),
        (seen(Orders(reshard=ORDER)), 4, InvalidRequest, "is being resharded to 3 shards: wait"),
        (seen(Orders(moves=(Move(0, "a", "c"),))), 3, InvalidRequest, "copies are being moved"),
        (seen(Orders(stopped=True)), 3, InvalidRequest, "bitsift cluster up comes first"),
        (seen(Orders(drained=frozenset("abc"))), 3, Unavailable, "start one, or undo a drain"),
        (seen(free=4 * GB), 3, StorageFull, r"node a has 4.00 GB free, .* about 4.80 GB there"),
        (seen(kept="1.0"), 3, FormatMismatch, "compact the index first"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(
    index: SeenIndex, shards: int, kind: type[BitsiftError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        ordered(index, 2, shards)  # type: ignore[arg-type]


def test_a_shard_without_a_copy_and_old_shards_that_are_still_there_are_waited_for() -> None:
    index = seen()
    index.observed = replace(index.observed, table=Table(1, (("a",), ())))
    with pytest.raises(Unavailable, match="not every shard has a copy"):
        ordered(index, 2, 3)  # type: ignore[arg-type]
    index = seen()
    index.state = replace(index.state, retired=("old",))
    ordered(index, 2, 3)  # type: ignore[arg-type]
    index.reports["c"] = replace(index.reports["c"], held=(HeldIndex("old", (), None),))
    with pytest.raises(Unavailable, match="being removed: try again"):
        ordered(index, 2, 3)  # type: ignore[arg-type]


def test_no_copy_is_moved_or_added_during_a_reshard_but_a_node_is_drained() -> None:
    observed = seen(Orders(reshard=ORDER)).observed
    with pytest.raises(InvalidRequest, match="or drop it with bitsift cluster reshard --undo"):
        moved(observed, 0, "a", "c")
    with pytest.raises(InvalidRequest, match="is being resharded"):
        added(observed, 0, None)
    assert drained(observed, "a", undo=False).reshard == ORDER


def test_an_order_is_kept_with_the_state_and_one_without_is_read() -> None:
    state = State(7, Table(6, (("a",),)), {"index": {}}, Orders(reshard=ORDER), ("old", "older"))
    assert state_from(state.to_json()) == state
    data = state.to_json()
    del data["retired"], data["orders"]["reshard"]
    assert state_from(data) == replace(state, orders=Orders(), retired=())


def test_the_new_index_is_the_same_but_for_its_shards(tmp_path: Path) -> None:
    write_index(tmp_path / "index", SyntheticSpec(50, 64), 2)
    manifest = read_manifest(tmp_path / "index")
    new = successor_of(manifest, ORDER)
    for name, data in index_files_of(new, (20, 25, 5)).items():
        (tmp_path / name).write_bytes(data)
    found, report = read_manifest(tmp_path), read_complete(tmp_path)
    assert report is not None
    assert (found.uuid, found.shards, report.documents) == ("new", 3, 50)
    assert found.request == {"reshard": manifest.uuid, "shards": 3}
    assert found.describe().calibration.to_json() == manifest.calibration.to_json()
    assert (found.name, found.created, found.model) == (manifest.name, manifest.created, None)
