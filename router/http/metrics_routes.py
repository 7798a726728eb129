"""The route that Prometheus asks."""

from __future__ import annotations

from fastapi import FastAPI, Response

from bitsift.router.indexes import Indexes
from bitsift.router.metrics_page import MetricsPage

TEXT = "text/plain; version=0.0.4; charset=utf-8"
_DESCRIBED = {200: {"description": "Prometheus' text format", "content": {"text/plain": {}}}}


def add_metrics(app: FastAPI, indexes: Indexes) -> None:
    """GET /metrics."""
    page = MetricsPage(indexes)

    @app.get("/metrics", response_class=Response, responses=_DESCRIBED)  # type: ignore[arg-type]
    async def metrics() -> Response:
        """Counters, histograms and gauges of this router, and of the shards as it sees them, for
        Prometheus.
        """
        return Response(await page.text(), headers={"Content-Type": TEXT})
