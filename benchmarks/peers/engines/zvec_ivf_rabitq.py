"""zvec: lists of RaBitQ codes, 7 bits a dimension (its default), scored again from fp32."""

from __future__ import annotations

from typing import Any

import zvec

from benchmarks.peers.engines.zvec_collection import ZvecEngine

SETTINGS: list[dict[str, Any]] = [
    {"nprobe": nprobe, "scale_factor": factor}
    for nprobe, factor in ((8, 2.0), (32, 2.0), (64, 4.0), (256, 4.0), (1_024, 4.0))
]


class IvfEngine(ZvecEngine):
    def index(self, rows: int) -> Any:
        lists = min(1_024, max(16, rows // 64))  # 1,024 is its default
        return zvec.IvfRabitqIndexParam(metric_type=zvec.MetricType.COSINE, nlist=lists)

    def parameters(self, setting: dict[str, Any]) -> Any:
        return zvec.IvfRabitqQueryParam(**setting, is_using_refiner=True)


engine = IvfEngine
