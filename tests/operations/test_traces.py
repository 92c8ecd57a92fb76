"""A request is one trace from the caller through gateway and queue to the engine, and no span holds a text."""

import itertools
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import run_stack, wait_until

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(ThreadingHTTPServer):
    """Takes spans by OTLP over HTTP, with the service that each is of."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Export)
        self.spans: list[tuple[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Export(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        for resource in request.resource_spans:
            (service,) = [one.value.string_value for one in resource.resource.attributes if one.key == "service.name"]
            for scope in resource.scope_spans:
                self.server.spans += [(service, span) for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the test's output."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_request_is_one_trace(collector: Collector, tiny_volume: Path, tmp_path: Path) -> None:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    parts = ["queued", "waited", "computed", "answered"]
    names = ["POST /classify", "job classify", *parts]
    with run_stack(tmp_path, NEURON_CHECKPOINT_DIR=str(tiny_volume), **settings) as stack, stack.client() as client:
        client.post("/classify", json={"text": "A secret text."}, headers={"traceparent": CALLER})
        wait_until(lambda: {span.name for _, span in collector.spans} >= set(names), what="the spans")
    # When both processes have ended, and sent what they had.
    found = [(service, span) for service, span in collector.spans if span.trace_id.hex() == CALLER.split("-")[1]]
    assert sorted(span.name for _, span in found) == sorted(names)
    services, spans = zip(*sorted(found, key=lambda item: names.index(item[1].name)), strict=True)
    assert services == ("sentiment-neuron-api", *["sentiment-neuron-worker"] * 5)
    request, job, *inner = spans
    assert request.parent_span_id.hex() == CALLER.split("-")[2]
    assert job.parent_span_id == request.span_id
    assert {span.parent_span_id for span in inner} == {job.span_id}
    for before, after in itertools.pairwise(inner):
        assert abs(after.start_time_unix_nano - before.end_time_unix_nano) < 1000
    assert inner[0].start_time_unix_nano == job.start_time_unix_nano
    assert inner[-1].end_time_unix_nano == job.end_time_unix_nano
    assert "secret" not in str(collector.spans)
