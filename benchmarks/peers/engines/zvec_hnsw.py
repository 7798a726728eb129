"""zvec: a graph over int8 codes, scored again from fp32."""

from __future__ import annotations

from typing import Any

import zvec

from benchmarks.peers.engines.zvec_collection import ZvecEngine

SETTINGS: list[dict[str, Any]] = [{"ef": ef} for ef in (16, 32, 64, 128, 256, 512)]


class HnswEngine(ZvecEngine):
    def index(self, rows: int) -> Any:
        return zvec.HnswIndexParam(
            metric_type=zvec.MetricType.COSINE,
            m=16,
            ef_construction=200,
            quantize_type=zvec.QuantizeType.INT8,
        )

    def parameters(self, setting: dict[str, Any]) -> Any:
        return zvec.HnswQueryParam(**setting, is_using_refiner=True)


engine = HnswEngine
