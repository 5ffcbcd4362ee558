"""A collector of OpenTelemetry metrics over HTTP: what is posted is decoded and kept; it can be slow or refuse."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, ResourceMetrics


class Collector:
    """Listens on a free port of the loopback; `answering` cleared lets requests wait, `status` is what they get."""

    def __init__(self) -> None:
        self.requests = list[ExportMetricsServiceRequest]()
        self.status, self.answering, self.asked = 200, threading.Event(), threading.Event()
        self.answering.set()
        collector = self

        class Endpoint(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                payload = self.rfile.read(int(self.headers["Content-Length"]))
                collector.asked.set()
                collector.answering.wait(30)
                if collector.status == 200 and self.path == "/v1/metrics":
                    collector.requests.append(ExportMetricsServiceRequest.FromString(payload))
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """End, with what waits answered."""
        self.answering.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def newest(self) -> ResourceMetrics:
        """The resource of the last request, the only one in it."""
        (found,) = self.requests[-1].resource_metrics
        return found

    def metrics(self) -> dict[str, Metric]:
        """Return the metrics of the last request by name."""
        (scope,) = self.newest.scope_metrics
        return {metric.name: metric for metric in scope.metrics}
