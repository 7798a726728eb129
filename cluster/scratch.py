"""Real shards in a temporary folder, for measuring what an index of these documents would do."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shard_worker.codes import Calibration, shard_of
from shard_worker.layout import shard_folder
from shard_worker.shard import Shard
from shard_worker.types import Documents, ShardIdentity


def owners_of(ids: Sequence[str], shards: int) -> NDArray[np.int64]:
    """Which of ``shards`` shards owns each document, int64 (n,): by the hash of its id."""
    return np.array([shard_of(name, shards) for name in ids], dtype=np.int64)


@contextlib.contextmanager
def temporary_shards(
    ids: Sequence[str], codes: NDArray[np.int8], calibration: Calibration, shards: int
) -> Iterator[list[Shard]]:
    """Open shards that hold ``codes`` (n, width) under ``ids``, without texts; gone at the end."""
    owners = owners_of(ids, shards)
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
            mine = np.flatnonzero(owners == number).tolist()
            blank = [""] * len(mine)
            names = [ids[place] for place in mine]
            shard.append(Documents(names, blank, blank, blank, mine, codes[mine]))
            opened.append(shard)
        yield opened
