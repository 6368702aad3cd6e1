"""Traces on request: where a run or a request spent its time, over processes and hosts, by OpenTelemetry.

Off unless RAYDISTILL_TRACES says where spans go: a file (JSON lines), or the URL of an OTLP collector
(http://HOST:4318/v1/traces). Off, a span costs one look at a variable.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import InputError

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.trace import Tracer

VARIABLE = "RAYDISTILL_TRACES"
PARENT = "TRACEPARENT"  # W3C; given to a process that continues a trace
SERVICE = "raydistill"
SEND_S = 10.0
Value = str | int | float | bool


def on() -> bool:
    """Tell whether spans are asked for."""
    return bool(os.environ.get(VARIABLE))


@contextlib.contextmanager
def span(name: str, *, parent: str | None = None, **attributes: Value) -> Iterator[None]:
    """Measure the block as one span, below the one around it.

    parent: W3C traceparent of another process, such as a request's header; else the span around this one, else
    $TRACEPARENT. An exception marks the span as failed and goes on. Raises InputError on a target that is no place.
    """
    if not on():
        yield
        return
    from opentelemetry.trace import INVALID_SPAN, get_current_span

    outer = get_current_span() is not INVALID_SPAN
    above = parent or (None if outer else os.environ.get(PARENT))
    with _tracer().start_as_current_span(name, context=_context(above), attributes=dict(attributes)):
        yield


def of_requests() -> TelemetryConfig:
    """Return what makes FastAPI write a span for each request, below its `traceparent` header; nothing when tracing is
    off. Its metrics and logs stay off: these are ours."""
    provider = _provider(os.environ[VARIABLE]) if on() else None
    return {
        "tracing": on(), "tracer_provider": provider, "operation_spans": False, "metrics": False, "logs": False,
    }  # fmt: skip


def carried() -> dict[str, str]:
    """Return the headers that let another process continue the current trace; {} when there is none."""
    if not on():
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers


def variables() -> dict[str, str]:
    """Return the environment that makes a started process trace too, below the current span; {} when tracing is off."""
    if not on():
        return {}
    headers = carried()
    inherited = {VARIABLE: os.environ[VARIABLE]}
    above = headers.get("traceparent") or os.environ.get(PARENT)
    return inherited | ({PARENT: above} if above else {})


def ids() -> dict[str, str]:
    """Return {"trace": 32 hex, "span": 16 hex} of the current span; {} when there is none."""
    if not on():
        return {}
    from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

    context = get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace": format_trace_id(context.trace_id), "span": format_span_id(context.span_id)}


def flush() -> None:
    """Send what is not sent yet; nothing happens when tracing is off."""
    if on():
        _provider(os.environ[VARIABLE]).force_flush()


def _context(traceparent: str | None) -> Any:
    if traceparent is None:
        return None  # the current one
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def _tracer() -> Tracer:
    return _provider(os.environ[VARIABLE]).get_tracer(SERVICE)


@functools.cache
def _provider(target: str) -> TracerProvider:
    """The one of this process: it batches spans, so that a slow collector never holds a request up."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about: dict[str, str | int] = {"service.name": SERVICE, "process.pid": os.getpid()}
    if run := os.environ.get("RAYDISTILL_RUN_ID"):
        about["raydistill.run"] = run
    provider = TracerProvider(resource=Resource.create(about))
    provider.add_span_processor(BatchSpanProcessor(exporter(target), schedule_delay_millis=1000))
    return provider


def exporter(target: str) -> Any:
    """Return the SpanExporter for a target: a URL or a file. Raises InputError when it is neither."""
    if "://" in target:
        if not target.startswith(("http://", "https://")):
            raise InputError(
                f"{VARIABLE} is no place for spans", got=target, expected="a file, or http://HOST:4318/v1/traces"
            )
        return _exporting(lambda spans: _post(target, spans))
    path = Path(target)
    if not path.parent.is_dir():
        raise InputError(f"{VARIABLE} is no place for spans", got=f"no folder {path.parent}", expected="a file")
    return _exporting(functools.partial(_append, path, threading.Lock()))


def _exporting(write: Any) -> Any:
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Exporter(SpanExporter):
        """Hands spans to a function; spans that cannot be written are lost, the run goes on."""

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            try:
                write(spans)
            except OSError:
                return SpanExportResult.FAILURE
            return SpanExportResult.SUCCESS

    return Exporter()


def _append(path: Path, lock: threading.Lock, spans: Sequence[ReadableSpan]) -> None:
    # One write call of whole lines: several processes may append to the same file.
    text = "".join(f"{span.to_json(indent=None)}\n" for span in spans)
    with lock, path.open("ab", buffering=0) as stream:
        stream.write(text.encode())


def _post(url: str, spans: Sequence[ReadableSpan]) -> None:
    request = urllib.request.Request(url, otlp(spans), {"Content-Type": "application/x-protobuf"})
    with urllib.request.urlopen(request, timeout=SEND_S):
        pass


def otlp(spans: Sequence[ReadableSpan]) -> bytes:
    """Return the spans as an OTLP ExportTraceServiceRequest (protobuf), all of one process."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    if not spans:
        return bytes(request.SerializeToString())
    group = request.resource_spans.add()
    _attributes(group.resource.attributes, spans[0].resource.attributes)
    scope = group.scope_spans.add()
    scope.scope.name = SERVICE
    for span in spans:
        context = span.context
        assert context is not None
        made = scope.spans.add(
            name=span.name, trace_id=context.trace_id.to_bytes(16, "big"), span_id=context.span_id.to_bytes(8, "big"),
            start_time_unix_nano=span.start_time or 0, end_time_unix_nano=span.end_time or 0, kind=span.kind.value + 1,
        )  # fmt: skip
        if span.parent is not None:
            made.parent_span_id = span.parent.span_id.to_bytes(8, "big")
        made.status.code = span.status.status_code.value
        made.status.message = span.status.description or ""
        _attributes(made.attributes, span.attributes or {})
    return bytes(request.SerializeToString())


def _attributes(target: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        field = {bool: "bool_value", int: "int_value", float: "double_value"}.get(type(value), "string_value")
        made = target.add(key=name)
        setattr(made.value, field, value if field != "string_value" else str(value))
