"""A shard directory becomes a generation in RAM: its store, and the bits that belong to it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.bits.index import BinaryIndex, open_index
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.generation import Generation
from bitsift.shard_worker.layout import store_folder
from bitsift.shard_worker.leftovers import remove_leftovers
from bitsift.shard_worker.store import IDS_CHECKED_AT_START, Store
from bitsift.shard_worker.types import ShardIdentity

log = logging.getLogger(__name__)


def open_generation(
    folder: Path, identity: ShardIdentity, calibration: Calibration, bytes_max: int
) -> Generation:
    """The current generation in ``folder``, whose data file may grow to ``bytes_max``.

    What interrupted compactions left is removed, once the store was opened. Raises as ``Store``.
    """
    place = store_folder(folder)
    store = Store(place, identity, bytes_max)
    try:
        remove_leftovers(folder, place)
        _check_ids(store)
        index = BinaryIndex(identity.width // 8, identity.index_uuid, store.generation)
        rebuild = functools.partial(_bits_from_store, store, index, calibration)
        open_index(folder, index, store.rows, rebuild)
        index.mark_dead(store.dead())
    except BaseException:
        store.close()
        raise
    return Generation(store, index)


def _check_ids(store: Store) -> None:
    """The id map is derived from the documents: a damaged one is rebuilt."""
    if store.counters.merged_rows <= IDS_CHECKED_AT_START and not store.ids_are_intact():
        log.warning("%s: the id map is damaged; rebuilding it", store.path)
        store.rebuild_ids()


def _bits_from_store(
    store: Store, index: BinaryIndex, calibration: Calibration, first: int, rows: int
) -> Iterator[NDArray[np.uint8]]:
    """The bits of rows; those of damaged codes are lost, and every answer says so."""
    for start, codes, intact in store.reader.scan_codes(first, rows):
        if not intact.all():
            index.note_lost((start + np.flatnonzero(~intact)).tolist())
        yield calibration.bits(codes)
