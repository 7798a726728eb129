"""Traces in the form of OpenTelemetry, where a router is told to send them; else nothing of it is
loaded, and a span is a null context.

A request is a span, of which encoding, the fan-out with a span for each shard, rescoring, texts and
writing are parts. They say kinds, numbers and names of routes: no texts, keys or ids of documents.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger(__name__)

SERVICE = "bitsift"
_UNNAMED = "unknown_service"
"""How a service is called that nothing names."""
SPANS_WAITING_MAX = 2_048
"""Spans that wait to be sent; further ones are dropped."""
SPANS_PER_CALL_MAX = 512
SEND_TIMEOUT_S = 10.0
SEND_EVERY_S = 5.0
INSTALL = "it is not installed here: pip install 'bitsift[otel]'"
_UNTRACED = frozenset({"/livez", "/readyz", "/metrics"})
"""They are asked for again and again, and tell nothing."""
_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()
Fact = str | int | float | bool

_provider: TracerProvider | None = None
_tracer: Tracer | None = None


def is_installed() -> bool:
    """Whether what sends traces is."""
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # what it is a part of is missing, too
        return False


def start(endpoint: str | None) -> None:
    """Send spans to the collector at ``endpoint``, by OTLP over HTTP, from now on; None: none.

    What else there is to choose (sampling, headers, names) is said by the variables OTEL_….
    """
    if endpoint is None:
        return
    if not is_installed():  # on another machine than that of the command
        log.error("no traces are sent: OpenTelemetry is wanted, but %s", INSTALL)
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=SEND_TIMEOUT_S)
    named = Resource.create()  # OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
    if str(named.attributes[SERVICE_NAME]).startswith(_UNNAMED):
        named = named.merge(Resource({SERVICE_NAME: SERVICE}))
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=SPANS_WAITING_MAX,
            max_export_batch_size=SPANS_PER_CALL_MAX,
            schedule_delay_millis=SEND_EVERY_S * 1e3,
            export_timeout_millis=SEND_TIMEOUT_S * 1e3,
        )
    )
    start_with(provider)


def start_with(provider: TracerProvider | None) -> None:
    """Give spans to ``provider`` from now on; None: to nobody."""
    global _provider, _tracer
    _provider, _tracer = provider, None if provider is None else provider.get_tracer(SERVICE)


def stop() -> None:
    """Send what waits; takes ``SEND_TIMEOUT_S`` at most where nobody takes it."""
    if _provider is not None:
        _provider.shutdown()
    start_with(None)


def span(name: str, **facts: Fact | None) -> AbstractContextManager[Span | None]:
    """What is done within is a part of the span around it."""
    return _NOTHING if _tracer is None else _open(_tracer, name, facts)


def request(scope: Mapping[str, Any], route: str) -> AbstractContextManager[Span | None]:
    """The span of a request for ``route``: a part of the caller's trace, where it has one."""
    if _tracer is None or route in _UNTRACED:
        return _NOTHING
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    method = scope["method"]
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    facts = {"http.request.method": method, "http.route": route}
    return _open(
        _tracer, f"{method} {route}", facts, context=extract(headers), kind=SpanKind.SERVER
    )


def answered(traced: Span | None, status: int, request_id: str) -> None:
    """What became of a request."""
    if traced is not None:
        traced.set_attributes(
            {"http.response.status_code": status, "bitsift.request_id": request_id}
        )
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _fail(traced, str(status))


def follow(name: str, future: asyncio.Future[Any], **facts: Fact) -> None:
    """A span from now until ``future`` is done."""
    if _tracer is not None:
        traced = _tracer.start_span(name, attributes=_named(facts))
        future.add_done_callback(functools.partial(_end, traced))


def _end(traced: Span, future: asyncio.Future[Any]) -> None:
    error = asyncio.CancelledError() if future.cancelled() else future.exception()
    if error is not None:
        _fail(traced, type(error).__name__)
    traced.end()


@contextlib.contextmanager
def _open(
    tracer: Tracer, name: str, facts: Mapping[str, Fact | None], **more: Any
) -> Iterator[Span]:
    """An error is named by its class alone: what it says may be of a text."""
    with tracer.start_as_current_span(
        name,
        attributes=_named(facts),
        record_exception=False,
        set_status_on_exception=False,
        **more,
    ) as traced:
        try:
            yield traced
        except BaseException as error:
            _fail(traced, type(error).__name__)
            raise


def _fail(traced: Span, why: str) -> None:
    from opentelemetry.trace import StatusCode

    traced.set_status(StatusCode.ERROR)
    traced.set_attribute("error.type", why)


def _named(facts: Mapping[str, Fact | None]) -> dict[str, Fact]:
    return {
        name if "." in name else f"bitsift.{name}": value
        for name, value in facts.items()
        if value is not None
    }
