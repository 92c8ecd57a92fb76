"""OpenTelemetry: the spans of a request from HTTP through the queue to the engine.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set; the SDK reads this variable and its others (OTEL_...) itself.
"""

import os

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from contract.setting_error import SettingError

TRACER = trace.get_tracer("sentiment-neuron")
CONTEXT = TraceContextTextMapPropagator()

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def enabled() -> bool:
    return bool(os.environ.get(_ENDPOINT))


def set_up(process: str) -> None:
    """Export the spans of this process, where that is enabled. Raises SettingError where the SDK is not installed."""
    if not enabled():
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional: the extra `tracing`
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - optional: the extra `tracing`
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - optional: the extra `tracing`
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - optional: the extra `tracing`
    except ModuleNotFoundError as error:
        raise SettingError(
            f"{_ENDPOINT} is set, and {error.name} is missing: pip install 'sentiment-neuron[tracing]', or unset it"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": f"sentiment-neuron-{process}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def carried() -> str | None:
    """The current span (W3C Trace Context), for a job to carry; None where none is recorded."""
    carrier: dict[str, str] = {}
    CONTEXT.inject(carrier)
    return carrier.get("traceparent")
