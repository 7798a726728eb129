"""Records of a load that have the id of another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bitsift.cluster.sources.documents import is_named_by_content


@dataclass(slots=True)
class Doubles:
    """Records whose id another record of the load has, too: ``merged`` where it was made of their
    content, which is the same then, ``replaced`` where the last of them counts.
    """

    merged: int = 0
    replaced: int = 0

    def add(self, records: pa.Table, places: Sequence[int] | NDArray[np.int64]) -> None:
        """Count the records at ``places``."""
        if len(places) == 0:
            return
        rows = records.select(["id", "title", "text", "metadata"]).take(pa.array(places))
        merged = sum(is_named_by_content(**row) for row in rows.to_pylist())
        self.merged += merged
        self.replaced += len(places) - merged


def last_of_each(good: pa.Table) -> NDArray[np.int64]:
    """Places of the records, ascending; of several with one id that of the greatest position."""
    ids = good["id"].to_pylist()
    if len(set(ids)) == len(ids):
        return np.arange(len(ids), dtype=np.int64)
    order = np.argsort(good["position"].to_numpy(), kind="stable")
    winners = {ids[place]: place for place in order.tolist()}
    return np.array(sorted(winners.values()), dtype=np.int64)
