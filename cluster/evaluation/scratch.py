"""Real shards in a temporary folder, for measuring what an index of these documents would do."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitsift.router.shards.placement import Placement
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.operations import Insert, statuses
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import ShardIdentity


@contextlib.contextmanager
def temporary_shards(
    ids: Sequence[str], codes: NDArray[np.int8], calibration: Calibration, shards: int
) -> Iterator[list[Shard]]:
    """Open shards that hold ``codes`` (n, width) under ``ids``, without texts; gone at the end."""
    parts = Placement(shards).by_owner(ids)
    index_uuid = str(uuid.uuid4())
    dimension, width = calibration.dimension, calibration.width
    with tempfile.TemporaryDirectory(prefix="bitsift-") as root, contextlib.ExitStack() as stack:
        opened = []
        for number in range(shards):
            identity = ShardIdentity(index_uuid, number, shards, dimension, width)
            folder = shard_folder(Path(root), number)
            Shard.create(folder, identity)
            shard = Shard(folder, calibration, identity)
            stack.callback(shard.close)
            mine = parts[number].tolist() if number in parts else []
            blank = [""] * len(mine)
            names = [ids[place] for place in mine]
            statuses(shard.write([Insert(names, blank, blank, blank, mine, codes[mine])]))
            opened.append(shard)
        yield opened
