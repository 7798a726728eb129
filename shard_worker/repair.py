"""Making anew what a check found damaged and what is derived from codes and documents.

Codes and documents themselves are never touched: what is lost there, only a backup brings back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shard_worker.blocks import BLOCKS_FILE
from shard_worker.codes import Calibration
from shard_worker.datafile import DATA_FILE
from shard_worker.findings import Finding, Remedy
from shard_worker.layout import STORE_FOLDER
from shard_worker.lists import LISTS_FILE
from shard_worker.only_store import open_only_store
from shard_worker.shard import Shard
from shard_worker.tuning import TUNING_FILE
from shard_worker.types import ShardIdentity


def repair_shard(
    folder: Path, identity: ShardIdentity, calibration: Calibration, findings: Sequence[Finding]
) -> list[str]:
    """Mend those of ``findings`` that can be mended; what was done, a sentence each.

    Raises Unavailable while another process has the shard open, StorageFull.
    """
    files = {finding.file for finding in findings if finding.remedy is Remedy.REPAIR}
    if not files:
        return []
    done = []
    if f"{folder.name}/{STORE_FOLDER}/{DATA_FILE}" in files:
        with open_only_store(folder, identity) as store:
            store.rebuild_ids()
        done.append(f"{folder.name}: made the id map anew from the documents")
    bits = {folder / Path(file).name for file in files if Path(file).name.startswith("bits-")}
    if folder / LISTS_FILE in bits:
        bits.add(folder / TUNING_FILE)
        done.append(
            f"{folder.name}: removed the lists; the shard makes them anew while it is served"
        )
    if f"{folder.name}/{STORE_FOLDER}/{BLOCKS_FILE}" in files:
        bits.add(folder / STORE_FOLDER / BLOCKS_FILE)
        done.append(f"{folder.name}: removed the hints where blocks lie; searches find them again")
    for path in bits:
        path.unlink(missing_ok=True)
    shard = Shard(folder, calibration, identity)
    try:
        shard.save_bits()
    finally:
        shard.close()
    if any(path.name not in (LISTS_FILE, TUNING_FILE, BLOCKS_FILE) for path in bits):
        done.append(f"{folder.name}: made the bits anew from the codes")
    return done
