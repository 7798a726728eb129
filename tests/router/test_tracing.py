"""Traces: one of a whole search, without a text, and nothing at all where they are not wanted."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bitsift.router import tracing
from bitsift.router.shards.remote import RemoteWriter
from tests.commands import wait_until
from tests.gateways import Running, running_texts
from tests.shard_worker.test_logs import FakeActor

TEXTS = [f"a zebra of number {n}" for n in range(20)]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_texts(tmp_path_factory.mktemp("traced"), TEXTS, 64, 2) as running:
        yield running


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What this process traces."""
    provider, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.start_with(provider)
    yield exporter
    tracing.stop()


def children(found: tuple[ReadableSpan, ...], parent: ReadableSpan) -> list[str]:
    here = parent.context.span_id
    return sorted(it.name for it in found if it.parent is not None and it.parent.span_id == here)


def finished(spans: InMemorySpanExporter, name: str) -> tuple[ReadableSpan, ...]:
    """All spans, as soon as that of the request is among them: it ends behind its answer."""
    assert wait_until(lambda: any(it.name == name for it in spans.get_finished_spans()))
    return spans.get_finished_spans()


def named(found: tuple[ReadableSpan, ...], name: str) -> ReadableSpan:
    (span,) = [it for it in found if it.name == name]
    return span


def test_a_search_is_one_trace_and_holds_no_text(
    gateway: Running, spans: InMemorySpanExporter
) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "first"}
    body = {"query": "a zebra that nobody knows", "filter": {"name": "zebra"}, "top_k": 3}
    answer = httpx.post(f"{gateway.url}/v1/search", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200
    assert httpx.get(f"{gateway.url}/livez").status_code == 200
    found = finished(spans, "POST /v1/search")
    request = named(found, "POST /v1/search")
    assert {f"{it.context.trace_id:032x}" for it in found} == {TRACE}
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    said = dict(request.attributes or {})
    assert said["http.response.status_code"] == 200
    assert said["bitsift.request_id"] == "first"
    assert children(found, request) == ["search"]
    search, fan_out = named(found, "search"), named(found, "fan_out")
    assert children(found, search) == ["encode", "fan_out", "rescore", "texts"]
    assert children(found, fan_out) == ["shard", "shard"]
    assert "zebra" not in "".join(it.to_json() for it in found)


def test_an_error_is_named_and_not_quoted(gateway: Running, spans: InMemorySpanExporter) -> None:
    body = {"like": ["zebra"], "top_k": 1}
    assert httpx.post(f"{gateway.url}/v1/search", json=body).status_code == 404
    found = finished(spans, "POST /v1/search")
    assert dict(named(found, "search").attributes or {})["error.type"] == "NotFound"
    assert "error.type" not in dict(named(found, "POST /v1/search").attributes or {})
    assert "zebra" not in "".join(it.to_json() for it in found)


def test_a_count_has_a_span_for_each_shard(gateway: Running, spans: InMemorySpanExporter) -> None:
    assert httpx.post(f"{gateway.url}/v1/documents/count", json={}).json()["count"] == 20
    found = finished(spans, "POST /v1/documents/count")
    assert children(found, named(found, "POST /v1/documents/count")) == ["shard", "shard"]


def test_a_write_has_a_span(spans: InMemorySpanExporter) -> None:
    asyncio.run(RemoteWriter(FakeActor("delete")).delete(b"1234"))
    (span,) = spans.get_finished_spans()
    assert span.name == "write"
    assert dict(span.attributes or {}) == {"bitsift.operation": "delete", "bitsift.bytes": 4}


def test_where_it_is_not_wanted_nothing_is_loaded() -> None:
    code = """
import sys
from bitsift.router import tracing
tracing.start(None)
with tracing.request({"method": "GET", "headers": []}, "/"), tracing.span("x") as span:
    tracing.answered(span, 500, "a")
tracing.stop()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=60
    )


class Collector(ThreadingHTTPServer):
    """Takes traces by OTLP over HTTP, as soon as it is ``open``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.open = threading.Event()
        self.calls: list[tuple[str, ExportTraceServiceRequest]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for _, call in self.calls
            for resource in call.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.open.wait(60)
        call = ExportTraceServiceRequest()
        call.ParseFromString(body)
        self.server.calls.append((self.path, call))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.open.set()
    tracing.stop()
    found.shutdown()
    found.server_close()


def test_a_collector_is_sent_what_it_understands(collector: Collector, gateway: Running) -> None:
    collector.open.set()
    tracing.start(f"http://127.0.0.1:{collector.server_port}/")
    assert httpx.get(f"{gateway.url}/v1/search?q=zebra", timeout=60).status_code == 200

    def has_all() -> bool:
        assert tracing._provider is not None
        tracing._provider.force_flush()
        return any(span.name == "GET /v1/search" for span in collector.spans)

    assert wait_until(has_all)
    assert {path for path, _ in collector.calls} == {"/v1/traces"}
    found = {span.name: span for span in collector.spans}
    assert {"GET /v1/search", "search", "encode", "fan_out", "shard", "rescore"} <= found.keys()
    assert len({span.trace_id for span in collector.spans}) == 1
    assert found["search"].parent_span_id == found["GET /v1/search"].span_id
    resource = collector.calls[0][1].resource_spans[0].resource
    named = {it.key: it.value.string_value for it in resource.attributes}
    assert named["service.name"] == "bitsift"


def test_spans_that_nobody_takes_are_dropped_and_hold_nothing_up(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "SEND_TIMEOUT_S", 0.2)
    tracing.start(f"http://127.0.0.1:{collector.server_port}")
    made = 2 * tracing.SPANS_WAITING_MAX
    for _ in range(made):
        with tracing.span("x"):
            pass
    tracing.stop()  # gives up what the collector, which is not open, does not take
    assert collector.calls == []
    collector.open.set()
