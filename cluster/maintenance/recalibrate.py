"""Another calibration for an index, made from the codes that it holds, and their way into it.

What a code has lost it does not get back: rows that were there keep the precision they had, less a
little; those that come after are as precise as in an index that was built. So it pays for an index
that was created empty, and it is done when an index is ten times as large as at the last time, not
before: at 1,000 documents, 10,000, 100,000, and so on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitsift.cluster.manifest import Manifest
from bitsift.errors import InvalidRequest
from bitsift.shard_worker.codes import MARGIN, Calibration
from bitsift.shard_worker.operations import Upsert
from bitsift.shard_worker.store import Store

FIRST_AT = 1_000
TIMES = 10
SAMPLE_ROWS = 4_096
_SEED = 20_240_131


def check_due(manifest: Manifest, documents: int) -> None:
    """Raises InvalidRequest while there are too few documents for another calibration."""
    made_at = manifest.records if manifest.calibrated_at is None else manifest.calibrated_at
    least = max(FIRST_AT, TIMES * made_at)
    if documents < least:
        raise InvalidRequest(
            f"{manifest.name} has {documents:,} documents, and was calibrated when it had "
            f"{made_at:,}: it may be calibrated anew from {least:,} on, for each time costs a "
            "little precision; leave --recalibrate out"
        )


def calibration_of(stores: Iterable[Store], shards: int, old: Calibration) -> Calibration:
    """Made from at most ``SAMPLE_ROWS`` random documents of all ``stores``, or some more."""
    random, share = np.random.default_rng(_SEED), -(-SAMPLE_ROWS // shards)
    return calibrated(
        np.concatenate([old.decode(_sample(store, share, random)) for store in stores]), old
    )


def calibrated(decoded: NDArray[np.float32], old: Calibration) -> Calibration:
    """Made from decoded vectors (n, width), which are turned as ``old`` turns them.

    The transform stays: where bits change their value, and how vectors are turned.
    """
    new = Calibration.from_sample(decoded, old.dimension, margin=MARGIN)
    return replace(new, center=old.center, rotation_seed=old.rotation_seed)


def _sample(store: Store, count: int, random: np.random.Generator) -> NDArray[np.int8]:
    """Codes (n, width) of random living rows, without damaged ones."""
    living = np.setdiff1d(np.arange(store.rows, dtype=np.int64), store.dead())
    rows = np.sort(random.choice(living, min(count, len(living)), replace=False))
    codes, intact = store.reader.read_codes(rows)
    return codes[intact]


@dataclass(frozen=True, slots=True, eq=False)
class Recoding:
    """From the codes of one calibration to those of another."""

    old: Calibration
    new: Calibration

    def upserts(self, upserts: Sequence[Upsert]) -> list[Upsert]:
        """The same documents in the same versions, with the new codes."""
        return [replace(upsert, codes=self.codes(upsert.codes)) for upsert in upserts]

    def codes(self, codes: NDArray[np.int8]) -> NDArray[np.int8]:
        """int8 (n, width)."""
        return self.new.quantize(self.old.decode(codes))[0]
