"""What an open shard says of itself."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from bitsift.shard_worker.generation import Generation
from bitsift.shard_worker.generations import Generations
from bitsift.shard_worker.search.probing import Probing
from bitsift.shard_worker.types import ShardStatus


def status_of(
    shard: int,
    generation: Generation,
    probing: Probing,
    generations: Generations,
    busy: str | None,
) -> ShardStatus:
    """``generation`` is that of ``generations``; ``busy`` is the maintenance that runs."""
    store, index = generation.store, generation.index
    volume_bytes, volume_free_bytes = generations.volume()
    return ShardStatus(
        shard=shard,
        state="READY",
        rows=store.rows,
        documents=store.rows - store.dead_rows,
        bits_bytes=index.memory_bytes,
        disk_bytes=generations.disk_bytes(),
        corrupt_rows_seen=generation.damaged_rows(),
        lists=0 if index.listed is None else index.listed.lists,
        clustered_rows=0 if index.listed is None else len(index.listed),
        training=busy == "training",
        nprobe=probing.nprobe,
        first_share=probing.first_share or 0.0,
        exact_scan_ms=round(probing.exact_scan_ms(len(index)), 3),
        generation=store.generation,
        compacting=busy == "compacting",
        writes_stopped=store.writes_stopped,
        format=str(store.format),
        version=store.counters.newest_version,
        fields=generation.fields.facts,
        volume_bytes=volume_bytes,
        volume_free_bytes=volume_free_bytes,
    )


def of_this_process(status: ShardStatus, node: str, settings: str) -> ShardStatus:
    """``status`` with what is known of the process, on ``node``, with ``settings``."""
    resident, pid = resident_bytes(), os.getpid()
    return replace(status, resident_bytes=resident, node=node, pid=pid, settings=settings)


def resident_bytes() -> int:
    """RAM of this process that is its own: resident minus file-backed shared pages (Linux)."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
