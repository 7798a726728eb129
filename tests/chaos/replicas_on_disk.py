"""What lies in the data folders of a cluster that was stopped: do all replicas hold the same?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitsift.cluster.manifest import read_manifest
from bitsift.shard_worker.inventory import KEYS_MAX
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.operations import Operation, Upsert
from bitsift.shard_worker.replica_state import ReplicaState
from bitsift.shard_worker.shard import Shard


@dataclass(frozen=True, slots=True)
class Replica:
    """``entries`` are (hash of the id, version, whether deleted); ``documents`` (version, text,
    code) by id.
    """

    node: str
    entries: frozenset[tuple[int, int, bool]]
    documents: dict[str, tuple[int, str, bytes]]


def replicas(folder: Path, nodes: Sequence[str], shard: int) -> list[Replica]:
    """Those of one shard; ``folder`` has the data folders, by the node's name."""
    return [
        _replica(node, index, shard)
        for node in nodes
        for index in sorted((folder / node).glob("*-*-*-*-*"))
        if shard_folder(index, shard).exists()
    ]


def _replica(node: str, index: Path, number: int) -> Replica:
    manifest = read_manifest(index)
    path = shard_folder(index, number)
    shard = Shard(path, manifest.calibration, manifest.identity(number))
    try:
        state = ReplicaState(shard)
        inventory, operations = state.inventory(), list[Operation]()
        for start in range(0, len(inventory), KEYS_MAX):
            operations += state.changes(inventory.keys[start : start + KEYS_MAX].tobytes())
    finally:
        shard.close()
    documents = dict[str, tuple[int, str, bytes]]()
    for one in operations:
        if isinstance(one, Upsert):
            columns = zip(one.ids, one.texts, one.codes, strict=True)
            documents |= {key: (one.version, text, code.tobytes()) for key, text, code in columns}
    return Replica(node, frozenset(inventory.entries()), documents)


def differences(found: Sequence[Replica], wanted: int) -> list[str]:
    """In what the replicas of a shard differ, and whether there are as many as there should be."""
    nodes = [replica.node for replica in found]
    said = [] if len(found) == wanted else [f"{len(found)} replicas, on {nodes}"]
    for other in found[1:]:
        first = found[0]
        entries = first.entries ^ other.entries
        keys = first.documents.keys() | other.documents.keys()
        differing = [k for k in sorted(keys) if first.documents.get(k) != other.documents.get(k)]
        if entries or differing:
            shown = [
                (key, *(one.documents.get(key, (0, None))[:2] for one in (first, other)))
                for key in differing[:5]
            ]
            said.append(f"{first.node} and {other.node}: {len(entries)} entries, {shown}")
    return said
