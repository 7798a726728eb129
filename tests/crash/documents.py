"""Documents of the crash loop: the vector of each follows from its text, so that a code that does
not belong to its text is seen. The same in every process.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Sequence

import numpy as np

from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.operations import Upsert
from bitsift.shard_worker.types import GIVEN_VECTOR_POSITION, ShardIdentity

DIMENSION = 64
IDENTITY = ShardIdentity(str(uuid.UUID(int=4)), 0, 1, DIMENSION, DIMENSION)


def vectors_of(texts: Sequence[str]) -> np.ndarray:
    """The unit vectors float32 (n, DIMENSION) that stand for ``texts``."""
    rows = [
        np.random.default_rng(zlib.crc32(text.encode())).standard_normal(DIMENSION)
        for text in texts
    ]
    return normalize(np.array(rows, dtype=np.float32).reshape(-1, DIMENSION), DIMENSION)


CALIBRATION = Calibration.from_sample(vectors_of([str(i) for i in range(2_000)]), DIMENSION)


def codes_of(texts: Sequence[str]) -> np.ndarray:
    """int8 (n, DIMENSION)."""
    return CALIBRATION.quantize(vectors_of(texts))[0]


def upserts(texts: dict[str, str]) -> Upsert:
    """Documents to upsert, text by id."""
    blank, said = [""] * len(texts), list(texts.values())
    positions = [GIVEN_VECTOR_POSITION] * len(texts)
    return Upsert(list(texts), blank, said, blank, positions, codes_of(said))
