"""Spans of requests and of the calls that belong to a trace, exported as OTLP over HTTP: `stoker[otel]`.

    POST /shop/predict                    a request, until its answer is complete
      call shop.predict                   what became of it, with its id, worker and outcome
        queue                             until it was given to a worker, once for each attempt
          start worker                    the part of that in which its worker was started, with the cause
        run                               in the worker, by the worker's own clock where it tells

Only calls whose trace is recorded have spans: those of a request, and what they call in turn. Where the spans go, how
many and under which name is said by OpenTelemetry's own environment variables (``OTEL_EXPORTER_OTLP_ENDPOINT``,
``OTEL_TRACES_SAMPLER``, ``OTEL_SERVICE_NAME``, …).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from stoker._version import __version__
from stoker.core.calls import Call, Delivery
from stoker.errors import InvalidRequest
from stoker.protocol.traces import Trace, parse_trace
from stoker.server.metrics.tally import Start, outcome_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span
    from opentelemetry.util.types import Attributes

    from stoker.server.gateway.tracked import Tracked
    from stoker.server.server import Server

CALLS_PER_SECOND = (
    500  # whose spans are made, some tenths of a millisecond each: a traced map must not hold up all else
)
CLOSING_SECONDS = 3.0  # for the last spans to be sent when the server ends
PROTOCOL = "http/protobuf"
_BEGIN_WAIT = frozenset({"failed", "lost", "displaced", "interrupted"})


class Part(NamedTuple):
    """A stretch of a call's life, in the core's seconds. ``inside`` tells that it is a part of the one before it."""

    name: str
    start: float
    end: float
    attributes: dict[str, Any]
    inside: bool = False


def parts_of(call: Call, *, finished: float, seconds: float, start: Start | None) -> list[Part]:
    """Return what a call's life was made of, in order. ``start``: that of its last attempt's worker."""
    parts: list[Part] = []
    waits_since: float | None = call.created
    runs_since: float | None = None
    worker = ""
    for at, event, detail in call.timeline(finished):
        if event == "running" and waits_since is not None:
            parts.append(Part("queue", waits_since, at, {}))
            waits_since, runs_since, worker = None, at, detail
        elif event in _BEGIN_WAIT and runs_since is not None:
            parts.append(Part("run", runs_since, at, {"stoker.worker": worker, "error.type": event}))
            waits_since, runs_since = at, None
    if waits_since is not None:
        parts.append(Part("queue", waits_since, finished, {}))
    if runs_since is not None:
        if start is not None and parts[-1].start < start.ready <= runs_since:
            began = max(parts[-1].start, start.ordered)
            parts.append(Part("start worker", began, start.ready, {"stoker.start.cause": start.cause}, inside=True))
        began = max(runs_since, finished - seconds) if seconds else runs_since
        parts.append(Part("run", began, finished, {"stoker.worker": worker}))
    return parts


class Spans:
    """Makes spans; see the module. Everything but `close` is called on the loop, and takes some microseconds a span."""

    def __init__(self, server: Server, provider: TracerProvider) -> None:
        from opentelemetry import trace

        self._server = server
        self._provider = provider
        self._api = trace
        self._tracer = provider.get_tracer("stoker", __version__)
        self._second = 0.0  # since which these were made
        self._made = 0
        self.left_out = 0  # calls without spans, as there were too many at once

    def begin(self, tracked: Tracked, *, method: str, path: str) -> Span:
        """Begin the span of a request to a function, a part of whatever it said that it is a part of."""
        labels = tracked.labels
        span = self._tracer.start_span(
            f"{method} {path}",
            context=self._under(tracked.parent),
            kind=self._api.SpanKind.SERVER,
            start_time=self._nanoseconds(tracked.began),
            attributes={
                "http.request.method": method,
                "http.route": path,
                "stoker.app": labels.app,
                "stoker.function": f"{labels.function}.{labels.method}" if labels.method else labels.function,
                "stoker.request_id": tracked.request_id.decode("latin-1"),
            },
        )
        made = span.get_span_context()
        tracked.belongs_to(Trace(f"{made.trace_id:032x}", f"{made.span_id:016x}", made.trace_flags.sampled))
        return span

    def end(self, span: Span, *, status: int) -> None:
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(self._api.StatusCode.ERROR)
        span.end()

    def ended(self, deliveries: Sequence[Delivery]) -> None:
        """Make the spans of calls that have ended, as far as their traces are recorded."""
        for delivery in deliveries:
            call = delivery.call
            if call is None or not call.trace:
                continue
            trace = parse_trace(call.trace)
            if trace is not None and trace.sampled and self._is_room():
                self._call(call, delivery, trace)

    def _is_room(self) -> bool:
        now = self._server.now()
        if now - self._second >= 1.0:
            self._second, self._made = now, 0
        self._made += 1
        if self._made > CALLS_PER_SECOND:
            self.left_out += 1
        return self._made <= CALLS_PER_SECOND

    def _call(self, call: Call, delivery: Delivery, trace: Trace) -> None:
        finished, result = self._server.now(), delivery.result
        outcome = outcome_of(result)
        attributes: dict[str, Any] = {
            "stoker.call_id": call.id,
            "stoker.outcome": outcome,
            "stoker.attempts": call.attempt,
            **({"error.type": result.error.name} if result.error is not None else {}),
        }
        whole = self._span(f"call {call.label}", self._under(trace), call.created, attributes)
        if outcome not in {"succeeded", "cancelled"}:
            whole.set_status(self._api.StatusCode.ERROR, result.error.message[:200] if result.error is not None else "")
        start = self._server.tally.starts.get(call.worker.id) if call.worker is not None else None
        above = context = self._api.set_span_in_context(whole)
        for part in parts_of(call, finished=finished, seconds=result.seconds, start=start):
            made = self._span(part.name, above if part.inside else context, part.start, part.attributes)
            above = self._api.set_span_in_context(made)
            made.end(self._nanoseconds(part.end))
        whole.end(self._nanoseconds(finished))

    def _span(self, name: str, context: Any, start: float, attributes: Attributes) -> Span:
        return self._tracer.start_span(
            name, context=context, start_time=self._nanoseconds(start), attributes=attributes
        )

    def _under(self, trace: Trace | None) -> Any:
        """Return the context of what is a part of a span that was begun elsewhere; without one, of what is none."""
        api = self._api
        if trace is None:
            return api.set_span_in_context(api.INVALID_SPAN)
        flags = api.TraceFlags(api.TraceFlags.SAMPLED if trace.sampled else api.TraceFlags.DEFAULT)
        context = api.SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), is_remote=True, trace_flags=flags)
        return api.set_span_in_context(api.NonRecordingSpan(context))

    def _nanoseconds(self, at: float) -> int:
        return int((at + self._server.wall_offset) * 1e9)

    async def close(self) -> None:
        """Send what is left, for so long as that may take: whoever collects it may be away."""
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def shut_down() -> None:
            self._provider.shutdown()
            loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="last spans", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), CLOSING_SECONDS)
        except TimeoutError:
            pass


def open_spans(server: Server, *, processor: SpanProcessor | None = None) -> Spans:
    """Begin to export spans. ``processor``: where they go instead, in tests.

    Raises:
        InvalidRequest: OpenTelemetry is not installed, or is to speak what it cannot.
    """
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if os.environ.get(name, PROTOCOL) != PROTOCOL:
            raise InvalidRequest(
                f"{name}={os.environ[name]}: the server sends traces by {PROTOCOL} only. Unset it, and name the "
                "endpoint for that (port 4318 of most collectors) in OTEL_EXPORTER_OTLP_ENDPOINT."
            )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InvalidRequest(
            f"Traces were asked for (--traces otlp, STOKER_TRACES), and OpenTelemetry is not installed where the "
            f"server runs ({error}). Install it there: pip install 'stoker[otel]'."
        ) from None
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({"service.version": __version__, **({} if named else {"service.name": "stoker"})})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
    return Spans(server, provider)
