"""A collector of the tests' own: OTLP over HTTP, decoded by the real protobuf classes. It may also hang."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

_REQUESTS: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


class Receiver:
    """What was received, in flat lists of messages; each with its resource's attributes beside it."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.asked = threading.Event()  #: Something was sent here.
        self.answers = threading.Event()  #: It is answered only once this is set.
        self.endpoint = ""

    @property
    def spans(self) -> list[tuple[dict[str, Any], Any]]:
        return [
            (values(resource.resource.attributes), span)
            for request in self.requests
            if isinstance(request, ExportTraceServiceRequest)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def logs(self) -> list[tuple[dict[str, Any], Any]]:
        return [
            (values(resource.resource.attributes), record)
            for request in self.requests
            if isinstance(request, ExportLogsServiceRequest)
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    @property
    def metrics(self) -> list[tuple[dict[str, Any], Any]]:
        return [
            (values(resource.resource.attributes), metric)
            for request in self.requests
            if isinstance(request, ExportMetricsServiceRequest)
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]


def values(attributes: Any) -> dict[str, Any]:
    """Attributes as a dict."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextmanager
def receiver(*, hangs: bool = False) -> Iterator[Receiver]:
    """A receiver on loopback, at `Receiver.endpoint`; one that hangs takes requests and does not answer."""
    received = Receiver()
    if not hangs:
        received.answers.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.asked.set()
            received.answers.wait()
            received.requests.append(_REQUESTS[self.path].FromString(body))
            with suppress(OSError):  # whoever asked may have gone
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # so that closing it waits for them
    received.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield received
    finally:
        received.answers.set()
        server.shutdown()
        thread.join()
        server.server_close()
