"""OpenTelemetry: a request's way from HTTP through the queue to the engine, as one trace.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set; the SDK reads that and its other variables (OTEL_...) itself.
"""

import os

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from contract.settings import SettingError

TRACER = trace.get_tracer("sentiment-neuron")
CONTEXT = TraceContextTextMapPropagator()

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def enabled() -> bool:
    return bool(os.environ.get(_ENDPOINT))


def set_up(process: str) -> None:
    """For the whole process, where it is enabled. Raises SettingError where the SDK is not installed."""
    if not enabled():
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise SettingError(
            f"{_ENDPOINT} is set, and {error.name} is missing: pip install 'sentiment-neuron[tracing]', or unset it"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": f"sentiment-neuron-{process}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def carried() -> str | None:
    """The span that is current here, for a job to take with it; None where none is recorded."""
    carrier: dict[str, str] = {}
    CONTEXT.inject(carrier)
    return carrier.get("traceparent")
