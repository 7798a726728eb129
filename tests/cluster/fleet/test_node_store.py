"""The data folder of a node."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.fleet.node_store import STATE_FILE, Held, NodeStore, read_index_files
from bitsift.cluster.fleet.observed import Extra, Move, Orders, Table
from bitsift.cluster.fleet.state import State, state_from
from bitsift.cluster.manifest import read_manifest
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.errors import Corrupt, InvalidRequest, NotFound, Unavailable
from bitsift.shard_worker.fencing import TableFence
from bitsift.shard_worker.layout import MANIFEST_FILE, FolderLock, read_json, shard_folder
from bitsift.shard_worker.operations import Delete
from bitsift.shard_worker.replica_state import ReplicaState
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.counters import Past
from tests.foreign import gone_or_changed, put, state
from tests.shard_worker.small_shard import CALIBRATION, IDENTITY, batch
from tests.writing import written

UUID = "00000000-0000-0000-0000-000000000001"
OTHER = "00000000-0000-0000-0000-000000000002"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "index"
    write_index(folder, SyntheticSpec(100, 64), 2)
    return folder


def filled(built: Path, folder: Path) -> NodeStore:
    store = NodeStore(folder)
    store.adopt(UUID, read_index_files(built))
    shutil.copytree(shard_folder(built, 1), store.replica(UUID, 1))
    return store


def test_it_says_what_it_holds_also_after_a_restart(built: Path, tmp_path: Path) -> None:
    store = filled(built, tmp_path / "a")
    store.fence(UUID, 1, 3)
    TableFence.beside(store.replica(UUID, 1)).admit(8, is_new=True)
    (tmp_path / "a" / UUID / "shard-00000.incoming").mkdir()
    store.keep(UUID, {"epoch": 4})
    store.close()
    (held,) = NodeStore(tmp_path / "a").held()
    assert held.uuid == UUID
    assert held.replicas == (Held(0, False, 0), Held(1, True, 3, 8))
    assert held.state == {"epoch": 4}
    assert store.index_files(UUID) == read_index_files(built)


def test_a_replica_is_made_empty_once_and_its_index_is_known_before_it_is_finished(
    built: Path, tmp_path: Path
) -> None:
    store = NodeStore(tmp_path / "a")
    store.adopt(UUID, {MANIFEST_FILE: (built / MANIFEST_FILE).read_bytes()})
    for document in ("one", "two"):
        store.create(UUID, IDENTITY)
        (held,) = store.held()
        assert held.replicas == (Held(IDENTITY.shard, True, 0),)
        shard = Shard(store.replica(UUID, IDENTITY.shard), CALIBRATION, IDENTITY)
        shard.write([batch([document], ["a text"])])
        documents = shard.status().documents
        shard.close()
    assert documents == 2
    assert set(store.index_files(UUID)) == {MANIFEST_FILE}
    with pytest.raises(Unavailable, match="is not built completely"):
        read_index_files(store.index(UUID))


def test_two_nodes_do_not_share_a_folder(tmp_path: Path) -> None:
    store = NodeStore(tmp_path / "a")
    with pytest.raises(Unavailable, match=r"the data folder .* belongs to another node.*\{node\}"):
        NodeStore(tmp_path / "a")
    store.close()
    NodeStore(tmp_path / "a").close()


def test_an_open_replica_is_not_removed_and_a_closed_one_is(built: Path, tmp_path: Path) -> None:
    store = filled(built, tmp_path / "a")
    store.fence(UUID, 1, 3)
    lock = FolderLock(store.replica(UUID, 1))
    with pytest.raises(Unavailable, match="is open in another process"):
        store.drop(UUID, 1)
    lock.release()
    store.drop(UUID, 1)
    store.drop(UUID, 1)
    (held,) = store.held()
    assert held.replicas == ()
    assert not list((tmp_path / "a" / UUID).glob("shard-*"))


def test_an_empty_replica_is_made_once_and_all_of_an_index_is_removed(
    built: Path, tmp_path: Path
) -> None:
    store, manifest = filled(built, tmp_path / "a"), read_manifest(built)
    identity = replace(manifest.identity(0), index_uuid=OTHER)
    (store.index(OTHER) / "shard-00000").mkdir(parents=True)  # one that was interrupted
    store.create(OTHER, identity, Past(7, 5))
    with closing(Shard(store.replica(OTHER, 0), manifest.calibration, identity)) as shard:
        assert ReplicaState(shard).past() == Past(7, 5)
        written(shard, Delete(["a"]))
        with pytest.raises(Unavailable, match="is open in another process"):
            store.remove(OTHER)
    store.create(OTHER, identity, Past())
    assert read_json(store.replica(OTHER, 0) / "shard.json")
    store.remove(OTHER)
    store.remove(OTHER)
    assert [held.uuid for held in store.held()] == [UUID]


def test_what_bitsift_did_not_make_stays_in_a_data_folder(built: Path, tmp_path: Path) -> None:
    store = filled(built, tmp_path / "a")
    store.fence(UUID, 1, 3)
    store.keep(UUID, {"epoch": 1})
    index, replica = store.index(UUID), store.replica(UUID, 1)
    outside = put(tmp_path / "outside" / "ledger.txt")
    links = [index / "shard-00002", replica / "store-00007", index / "exports" / "b-00001"]
    kept = [
        put(place)
        for place in (
            tmp_path / "a" / "notes.txt",
            index / "notes.txt",
            index / "shard-00001.old" / "shard.json",  # a copy that somebody made
            index / "shard-mine.old" / "notes.txt",
            index / "shard-00005" / "diary.txt",
            index / "exports" / "notes.txt",
            index / "exports" / "b-00001.mine" / "notes.txt",
            index / "exports" / "c-00001" / "blocks" / "ab" / "note.txt",
            index / "shard-00000.incoming" / "notes.txt",
            replica / "notes.txt",
            replica / "store-00000" / "data.mdb.bak",
            replica / "bits-2024.bits",
        )
    ]
    for link in links:
        link.symlink_to(outside.parent)
    ours = put(index / "exports" / "c-00001" / "blocks" / "ab" / ("ab" * 32))
    before = state(*kept, *links, outside.parent)
    store.close()
    store = NodeStore(tmp_path / "a")
    assert not ours.exists()
    identity = replace(read_manifest(built).identity(0), shard=5)
    store.create(UUID, identity)
    assert {held.shard for held in store.held()[0].replicas} == {1, 5}
    store.drop(UUID, 1)
    assert {held.shard for held in store.held()[0].replicas} == {5}
    store.remove(UUID)
    assert store.held() == []
    assert gone_or_changed(before, *kept, *links, outside.parent) == []
    files = {path for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert files - {Path(place) for place in before} == {tmp_path / "a" / "node.lock"}


def test_an_older_state_does_not_take_the_place_of_a_newer_one(tmp_path: Path) -> None:
    store = NodeStore(tmp_path / "a")
    with pytest.raises(NotFound, match=r"has no manifest\.json"):
        store.keep(UUID, {"epoch": 5})
    store.adopt(UUID, {"manifest.json": b"{}"})
    for epoch in (5, 4):
        store.keep(UUID, {"epoch": epoch})
    (held,) = store.held()
    assert held.state == {"epoch": 5}
    (tmp_path / "a" / UUID / STATE_FILE).write_bytes(b"{")
    (held,) = store.held()
    assert held.state is None


def test_no_other_folder_can_be_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is not the uuid of an index"):
        NodeStore(tmp_path / "a").drop("../b", 1)
    with pytest.raises(NotFound, match="is not an index"):
        read_index_files(tmp_path)


def test_a_state_is_read_as_it_was_written() -> None:
    orders = Orders(frozenset("ab"), (Move(0, "a", "b"),), (Extra(1), Extra(0, "c")), True)
    state = State(7, Table(6, (("a", "b"), ()), 1.5), {"index": {"folder": "/i"}}, orders)
    assert state_from(state.to_json()) == state
    with pytest.raises(Corrupt, match="state of the cluster is damaged"):
        state_from({"epoch": 1})
