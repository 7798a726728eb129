"""Vectors that lie in clusters, as those of texts do, and documents of them."""

from __future__ import annotations

import uuid

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.operations import Upsert
from bitsift.shard_worker.types import GIVEN_VECTOR_POSITION, ShardIdentity

CENTRES, NOISE = 40, 0.7


class Clustered:
    """Of one ``dimension``; ``identity`` is that of the only shard of an index."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.identity = ShardIdentity(str(uuid.UUID(int=1)), 0, 1, dimension, dimension)
        self.calibration = Calibration.from_sample(self.vectors(2_000, 99), dimension)

    def vectors(self, rows: int, seed: int = 0) -> NDArray[np.float32]:
        """Unit vectors float32 (rows, dimension)."""
        random = np.random.default_rng(seed)
        centres = np.random.default_rng(1_000).standard_normal((CENTRES, self.dimension))
        points = centres[random.integers(0, CENTRES, rows)]
        noise = NOISE * random.standard_normal((rows, self.dimension))
        return normalize((points + noise).astype(np.float32), self.dimension)

    def documents(self, units: NDArray[np.float32], first: int = 0) -> Upsert:
        """One for each of ``units``, whose ids count from ``first`` on; without texts."""
        names = [str(first + place) for place in range(len(units))]
        blank, places = [""] * len(units), [GIVEN_VECTOR_POSITION] * len(units)
        return Upsert(names, blank, blank, blank, places, self.calibration.quantize(units)[0])
