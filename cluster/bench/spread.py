"""`bitsift plan` for a cluster: how many nodes an index takes, and which of their parts decides.

Calculated from the same measured run as a plan for one machine (plan.py); a router's cost of a call
is from benchmarks/fan_out.py. Nodes are alike, a node holds whole shards, replicas of a shard lie
on different nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitsift.cluster.bench.plan import (
    ROWS_PER_SHARD_MAX,
    SHARD_PROCESS_BYTES,
    Measured,
    disk_bytes,
    ram_per_row,
    shard_approximate_ms,
)
from bitsift.errors import InvalidRequest
from bitsift.shard_worker.types import CANDIDATES_FIXED

SHARD_ROWS_DEFAULT = 100_000_000
"""Many shards cost the router a call each; a large one takes long to train, copy and open."""
RAM_SHARE = 0.85
"""Of a node's RAM for the shards; the rest is for the page cache, Ray and writes."""
DISK_SHARE = 0.7
"""Of a node's disk; a compaction writes a shard a second time."""
CPU_SHARE = 0.6
"""Of a node's cores; beyond it questions queue."""
READS_SHARE = 0.6
"""Of the random reads that a node's disk can do: the codes of a large index are not in RAM."""
CALL_CPU_MS = 0.28
"""A router's processor time for a call to one shard, one query in it: half of it is Ray's."""
CALL_SENT_BYTES = 90
"""Of a query besides its vector; its answer is ``CALL_RECEIVED_BYTES``."""
CALL_RECEIVED_BYTES = 1_043


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster; ``cores`` are those that Linux counts.

    ``reads_s`` is how many random pages of 4 KiB its disks read in a second.
    """

    ram_bytes: int
    disk_bytes: int
    cores: int
    reads_s: int


@dataclass(frozen=True, slots=True)
class QueryCost:
    """Of one approximate query, alone in its calls: in each shard, and processor time in all.

    ``disk_reads`` are random pages of 4 KiB; ``network_bytes`` pass between routers and shards.
    """

    shard_ms: float
    shards_cpu_ms: float
    routers_cpu_ms: float
    disk_reads: int
    network_bytes: int

    @property
    def cpu_s(self) -> float:
        return (self.shards_cpu_ms + self.routers_cpu_ms) / 1e3

    @classmethod
    def of(cls, measured: Measured, documents: int, dimension: int, shards: int) -> QueryCost:
        shard_ms = shard_approximate_ms(measured, documents, dimension, shards)
        call_bytes = 4 * dimension + CALL_SENT_BYTES + CALL_RECEIVED_BYTES
        return cls(
            shard_ms=round(shard_ms, 2),
            shards_cpu_ms=round(shard_ms * shards, 1),
            routers_cpu_ms=round(CALL_CPU_MS * shards, 1),
            disk_reads=shards * CANDIDATES_FIXED,
            network_bytes=shards * call_bytes,
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """What to expect. ``nodes`` is the largest of what RAM, disk, processors and reads ask for.

    Disk is without the documents' own texts; ``build_s`` from precomputed vectors, as if processors
    were all that it takes.
    """

    documents: int
    dimension: int
    shards: int
    replicas: int
    queries_s: float
    nodes: int
    nodes_by_ram: int
    nodes_by_disk: int
    nodes_by_cpu: int
    nodes_by_reads: int
    shards_per_node: int
    node_ram_bytes: int
    node_disk_bytes: int
    total_ram_bytes: int
    total_disk_bytes: int
    query: QueryCost
    build_s: float
    measured: str

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        of = (
            f"RAM {self.nodes_by_ram}, disk {self.nodes_by_disk}, processors {self.nodes_by_cpu}, "
            f"reads {self.nodes_by_reads}"
        )
        totals = (
            f"{self.total_ram_bytes / 1e12:,.2f} TB of RAM, {self.total_disk_bytes / 1e12:,.1f}"
        )
        query = self.query
        rate = query.network_bytes * self.queries_s * 8 / 1e9
        return [
            ("documents", f"{self.documents:,} x {self.dimension}"),
            ("shards", f"{self.shards:,} x {self.replicas} replicas"),
            ("nodes", f"{self.nodes:,} ({of})"),
            (
                "a node",
                f"{self.shards_per_node} shards: {self.node_ram_bytes / 1e9:,.0f} GB of RAM, "
                f"{self.node_disk_bytes / 1e12:,.2f} TB of disk",
            ),
            ("all nodes", f"{totals} TB of disk without texts"),
            (
                "an approximate query",
                f"{query.shard_ms:,.1f} ms in each shard; {query.shards_cpu_ms / 1e3:,.2f} s of "
                f"processor in all, {query.routers_cpu_ms / 1e3:,.2f} s more in routers; "
                f"{query.disk_reads:,} reads; {query.network_bytes / 1e6:,.2f} MB",
            ),
            (
                f"{self.queries_s:,.0f} queries/s",
                f"{rate:,.1f} Gbit/s between routers and shards",
            ),
            ("building, by processors alone", f"{self.build_s / 3_600:,.1f} hours"),
            ("measured on", self.measured),
        ]


def spread_over(
    node: Node,
    documents: int,
    dimension: int,
    shards: int | None,
    replicas: int,
    queries_s: float,
    measured: Measured,
) -> Spread:
    """How ``documents`` spread over machines like ``node``.

    ``shards`` None: one for each 100 million rows. Raises InvalidRequest where a shard is larger
    than it, or a node, can be.
    """
    shards = shards or -(-documents // SHARD_ROWS_DEFAULT)
    rows = -(-documents // shards)
    if rows > ROWS_PER_SHARD_MAX:
        raise InvalidRequest(f"a shard would have {rows:,} rows; give it more --shards")
    ram = round(ram_per_row(documents, dimension, shards) * rows) + SHARD_PROCESS_BYTES
    disk = disk_bytes(measured, documents, dimension, shards) // shards
    copies = shards * replicas
    by_ram = _nodes(copies, node.ram_bytes * RAM_SHARE, ram, "RAM")
    by_disk = _nodes(copies, node.disk_bytes * DISK_SHARE, disk, "disk")
    query = QueryCost.of(measured, documents, dimension, shards)
    by_cpu = _ceil(queries_s * query.cpu_s / (node.cores * CPU_SHARE))
    by_reads = _ceil(queries_s * query.disk_reads / (node.reads_s * READS_SHARE))
    nodes = max(by_ram, by_disk, by_cpu, by_reads, replicas)
    each = -(-copies // nodes)
    rate = measured.documents_s * measured.dimension / dimension
    return Spread(
        documents=documents,
        dimension=dimension,
        shards=shards,
        replicas=replicas,
        queries_s=queries_s,
        nodes=nodes,
        nodes_by_ram=by_ram,
        nodes_by_disk=by_disk,
        nodes_by_cpu=by_cpu,
        nodes_by_reads=by_reads,
        shards_per_node=each,
        node_ram_bytes=each * ram,
        node_disk_bytes=each * disk,
        total_ram_bytes=copies * ram,
        total_disk_bytes=copies * disk,
        query=query,
        build_s=round(documents * replicas / rate * measured.cores / (nodes * node.cores), 1),
        measured=f"{measured.source}: {measured.rows:,} x {measured.dimension}",
    )


def _nodes(copies: int, available: float, each: int, what: str) -> int:
    """How many hold ``copies`` of ``each`` bytes, with so much ``available`` on a node."""
    fitting = int(available // each)
    if not fitting:
        raise InvalidRequest(
            f"a shard takes {each / 1e9:,.0f} GB of {what} and a node has "
            f"{available / 1e9:,.0f} GB for it; give the index more --shards"
        )
    return -(-copies // fitting)


def _ceil(value: float) -> int:
    return int(-(-value // 1))
