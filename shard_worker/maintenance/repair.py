"""Rebuilding damaged data that is derived from codes and documents.

Codes and documents themselves are never touched: what is lost there, only a backup brings back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitsift.shard_worker.bits.lists import LISTS_FILE
from bitsift.shard_worker.bits.tuning import MEASURED_FILES, TUNING_FILE
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.fields.index import FieldIndex
from bitsift.shard_worker.layout import store_folder
from bitsift.shard_worker.maintenance.findings import Finding, Remedy
from bitsift.shard_worker.maintenance.verify_fields import is_of_fields
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.block_reader import BLOCKS_FILE
from bitsift.shard_worker.store.lmdb_file import DATA_FILE
from bitsift.shard_worker.store.only_store import open_only_store
from bitsift.shard_worker.types import ShardIdentity


def repair_shard(
    folder: Path, identity: ShardIdentity, calibration: Calibration, findings: Sequence[Finding]
) -> list[str]:
    """Repair the ``findings`` that can be repaired; returns what was done, a sentence each.

    Raises Unavailable while another process has the shard open, StorageFull.
    """
    findings = [finding for finding in findings if finding.remedy is Remedy.REPAIR]
    fields = any(map(is_of_fields, findings))
    files = {finding.file for finding in findings if not is_of_fields(finding)}
    if not files and not fields:
        return []
    done, store_place = [], store_folder(folder)
    if f"{folder.name}/{store_place.name}/{DATA_FILE}" in files:
        with open_only_store(folder, identity) as store:
            store.rebuild_ids()
        done.append(f"{folder.name}: rebuilt the id map from the documents")
    if fields:
        with open_only_store(folder, identity) as store:
            FieldIndex(store).clear()
        done.append(f"{folder.name}: rebuilt the field index from the documents")
    bits = {folder / Path(file).name for file in files if Path(file).name.startswith("bits-")}
    if folder / LISTS_FILE in bits:
        bits.add(folder / TUNING_FILE)
        done.append(f"{folder.name}: removed the lists; the shard rebuilds them while it is served")
    if f"{folder.name}/{store_place.name}/{BLOCKS_FILE}" in files:
        bits.add(store_place / BLOCKS_FILE)
        done.append(f"{folder.name}: removed the block hints; searches find the blocks again")
    for path in bits:
        path.unlink(missing_ok=True)
    shard = Shard(folder, calibration, identity)
    try:
        shard.save_bits()
    finally:
        shard.close()
    if any(path.name not in (LISTS_FILE, BLOCKS_FILE, *MEASURED_FILES) for path in bits):
        done.append(f"{folder.name}: rebuilt the bits from the codes")
    return done
