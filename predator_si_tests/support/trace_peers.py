"""Loopback collectors: OTLP over HTTP with Protobuf (OpenTelemetry's specification), and LangSmith's batch ingestion (``GET /info``, ``POST /runs/batch``)."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Collector:
    """A running collector: what it took, and with which headers."""

    address: str = ""
    status: int = 200
    spans: list[Any] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    raw: bytes = b""


@contextmanager
def collector() -> Iterator[Collector]:
    """Takes ``POST /v1/traces``, ``GET /info`` and ``POST /runs/batch``; anything else is a 404."""
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/info":
                limits = {"use_multipart_endpoint": False, "size_limit": 100, "size_limit_bytes": 20_000_000, "scale_up_qsize_trigger": 1000,
                          "scale_up_nthreads_limit": 1, "scale_down_nempty_trigger": 4}  # fmt: skip
                self._answer(200, {"version": "0.10.0", "batch_ingest_config": limits})
            else:
                self._answer(404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            found.raw += body
            found.headers.append({name.lower(): value for name, value in self.headers.items()})
            if found.status != 200:
                self._answer(found.status, {"error": "no"})
            elif self.path == "/v1/traces" and self.headers.get("Content-Type") == "application/x-protobuf":
                self._spans(body)
            elif self.path == "/runs/batch" and "json" in self.headers.get("Content-Type", ""):
                told = json.loads(body)
                found.runs += told.get("post") or []
                self._answer(202, {"message": "Runs batch ingested"})
            else:
                self._answer(404, {})

        def _spans(self, body: bytes) -> None:
            from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

            request = ExportTraceServiceRequest.FromString(body)
            found.spans += [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]
            self._answer(200, {})

        def _answer(self, status: int, content: Any) -> None:
            text = json.dumps(content).encode() if content else b""
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
