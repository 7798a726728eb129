"""What a router counts and times as it happens, under Prometheus' names and conventions.

What is known without counting, such as the rows of a shard, is looked up when somebody asks
(metrics_page.py). Labels have few values: templates of routes, stages, classes of errors, numbers
of shards; never an id, a text, a key or an address.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from bitsift.results import ShardFailure, Timings

STAGES = ("encode", "fan_out", "rescore", "texts")
"""As in the answer's ``timings_ms``."""
ANSWERED, COMPLETE, PARTIAL, LEFT = "answered", "complete", "partial", "left"
"""Outcomes that are no error; the others are called by the class of their error."""
_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
)  # fmt: skip
_ITEMS = (1, 2, 4, 8, 16, 32, 64)
Observe = Callable[[int, float], None]
"""Told of each batch: how many items it has, and how long the first of them waited, in seconds."""

disable_created_metrics()  # type: ignore[no-untyped-call]  # when each series began: as many series again, which nobody asks for


class Metrics:
    """Of one router. ``registry`` holds all of them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        build = Info("bitsift_build", "The version that runs.", registry=registry)
        build.info({"version": importlib.metadata.version("bitsift")})
        self._requests = Counter(
            "bitsift_http_requests_total",
            "Answers to requests, by the template of the route and the status.",
            ["route", "method", "status"],
            registry=registry,
        )
        self._request_s = Histogram(
            "bitsift_http_request_duration_seconds",
            "Time from a request's head to the end of its answer.",
            ["route", "method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._searches = Counter(
            "bitsift_searches_total",
            "Searches by mode and outcome: complete, partial, left by the caller, or an error.",
            ["mode", "outcome"],
            registry=registry,
        )
        self._search_s = Histogram(
            "bitsift_search_duration_seconds",
            "Time of a search that was answered.",
            ["mode"],
            buckets=_SECONDS,
            registry=registry,
        )
        stage_s = Histogram(
            "bitsift_search_stage_duration_seconds",
            "Time of a stage of a search that was answered.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = tuple(stage_s.labels(stage) for stage in STAGES)
        self._shards = Counter(
            "bitsift_shard_queries_total",
            "Queries that a shard was asked, by outcome: answered, or an error.",
            ["shard", "outcome"],
            registry=registry,
        )
        self._filtered = Counter(
            "bitsift_filter_plans_total",
            "Filtered queries of shards, by the way that each shard chose.",
            ["plan"],
            registry=registry,
        )
        self._shadows = Counter(
            "bitsift_shadow_searches_total",
            "Searches of the sample that is asked again in exhaustive mode, by what became of it.",
            ["outcome"],
            registry=registry,
        )
        self._shadow_s = Counter(
            "bitsift_shadow_seconds_total",
            "Time of asking again, of at most one core in each shard.",
            registry=registry,
        )
        self._batch_items = Histogram(
            "bitsift_batch_items",
            "Items of a batch that was sent on together.",
            ["queue"],
            buckets=_ITEMS,
            registry=registry,
        )
        self._wait_s = Histogram(
            "bitsift_queue_wait_seconds",
            "How long the first item of a batch waited in its queue.",
            ["queue"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._written = Counter(
            "bitsift_documents_written_total",
            "Documents of writes by this router, by what became of each.",
            ["operation", "status"],
            registry=registry,
        )
        self._unread_s = Histogram(
            "bitsift_http_unread_seconds",
            "How long requests for searches stayed unread that came while all places were taken.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._lag_s = Histogram(
            "bitsift_event_loop_lag_seconds",
            "How late the event loop was, for whatever reason; measured 20 times a second.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._block_s = Histogram(
            "bitsift_event_loop_block_seconds",
            "How late the event loop was because this process computed.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._answers: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._answered: dict[int, Counter] = {}
        self._of_modes: dict[str, tuple[Counter, Counter, Histogram]] = {}

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered. ``route`` and ``method`` are of a few known ones."""
        key = route, method, status
        found = self._answers.get(key)
        if found is None:
            counter = self._requests.labels(route, method, str(status))
            found = self._answers[key] = counter, self._request_s.labels(route, method)
        found[0].inc()
        found[1].observe(seconds)

    def unread(self, seconds: float) -> None:
        """A request stayed unread (http/search_places.py)."""
        self._unread_s.observe(seconds)

    def search_answered(self, mode: str, timings: Timings, *, partial: bool) -> None:
        """A search was answered."""
        found = self._of_modes.get(mode)
        if found is None:
            counters = [self._searches.labels(mode, outcome) for outcome in (COMPLETE, PARTIAL)]
            found = self._of_modes[mode] = counters[0], counters[1], self._search_s.labels(mode)
        (found[1] if partial else found[0]).inc()
        found[2].observe(timings.total / 1e3)
        times = timings.encode, timings.fan_out, timings.rescore, timings.texts
        for stage, milliseconds in zip(self._stages, times, strict=True):
            stage.observe(milliseconds / 1e3)

    def search_failed(self, mode: str, outcome: str) -> None:
        """``outcome`` is the class of an error, or LEFT."""
        self._searches.labels(mode, outcome).inc()

    def shards_answered(self, found: Iterable[int], failures: Iterable[ShardFailure]) -> None:
        """What became of a query at each shard."""
        for shard in found:
            counter = self._answered.get(shard)
            if counter is None:
                counter = self._answered[shard] = self._shards.labels(str(shard), ANSWERED)
            counter.inc()
        for failure in failures:
            self._shards.labels(str(failure.shard), failure.error).inc()

    def filtered(self, plan: str) -> None:
        """A shard applied a filter in this way."""
        self._filtered.labels(plan).inc()

    def shadowed(self, outcome: str, seconds: float = 0.0) -> None:
        """What became of a search that was to be asked again (router/shadow), and its time."""
        self._shadows.labels(outcome).inc()
        self._shadow_s.inc(seconds)

    def batches(self, queue: str) -> Observe:
        """What is to be told of each batch of ``queue``."""
        items, wait_s = self._batch_items.labels(queue), self._wait_s.labels(queue)

        def observe(size: int, waited_s: float) -> None:
            items.observe(size)
            wait_s.observe(waited_s)

        return observe

    def written(self, operation: str, counts: Mapping[str, int]) -> None:
        """What became of documents that were sent: ``counts`` by status."""
        for status, count in counts.items():
            self._written.labels(operation, status).inc(count)

    def loop_was_late(self, lag_s: float, block_s: float) -> None:
        """One sample of the event loop (loop_lag.py)."""
        self._lag_s.observe(lag_s)
        self._block_s.observe(block_s)
