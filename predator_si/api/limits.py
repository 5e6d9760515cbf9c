"""Around every request: an id, a size, a time, headers, a log line and its numbers for Prometheus.

What belongs here: what holds for every request alike. What must not: who asks (``access``).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predator_si.api.problems import respond
from predator_si.control.secrets import redacted

log = logging.getLogger("predator_si.api.access")

BODY_BYTES = 64 * 1024
"""Largest request body."""
LARGER = {"/alerts/alertmanager": 8}
"""Paths whose bodies may be so many times larger."""
TARGET_BYTES = 4096
"""Longest path and query."""
BODY_SECONDS = 10.0
"""Longest pause between two parts of a body."""
SECONDS = 30.0
"""Longest work on a request, where :data:`LONGER` has no other for its path."""
LONGER = {"/trigger": 660.0, "/rollback": 200.0, "/stop": 60.0, "/kill-switch": 60.0}
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


@dataclass
class Numbers:
    """What the API counts about itself."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.requests = Counter(
            "predator_si_api_requests", "Requests answered, by call, method and status.", ["call", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram("predator_si_api_request_seconds", "Time of an answer, by call.", ["call"], buckets=_BUCKETS, registry=self.registry)
        self.open = Gauge("predator_si_api_open_requests", "Requests that are being answered.", registry=self.registry)
        self.refused = Counter("predator_si_api_refused", "Requests of callers who are not known or may not, by status.", ["status"], registry=self.registry)


class Envelope:
    """The outermost part of the application.

    Parameters
    ----------
    app
        What answers.
    numbers
        Counts.
    limits
        Overrides of sizes and times for tests: ``body_bytes``, ``body_seconds``, ``seconds``.
    """

    def __init__(self, app: ASGIApp, numbers: Numbers, limits: Mapping[str, float] | None = None) -> None:
        self.app, self.numbers = app, numbers
        limits = limits or {}
        self._body_bytes = int(limits.get("body_bytes", BODY_BYTES))
        self._body_seconds, self._seconds = limits.get("body_seconds", BODY_SECONDS), limits.get("seconds", SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        began, status, started = time.perf_counter(), 500, False

        async def sending(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                known = {name.lower() for name, _ in message["headers"]}
                more = [(name, value) for name, value in _HEADERS if name not in known]
                message = {**message, "headers": [*message["headers"], *more, (b"x-request-id", request_id.encode())]}
            await send(message)

        self.numbers.open.inc()
        try:
            most = self._body_bytes * LARGER.get(scope["path"], 1)
            refusal = self._refusal(scope, headers, most)
            if refusal is not None:
                await respond(refusal[0], refusal[1], request_id=request_id, headers={"Connection": "close"})(scope, receive, sending)
                return
            limit = next((seconds for end, seconds in LONGER.items() if scope["path"].endswith(end)), self._seconds)
            try:
                async with asyncio.timeout(limit):
                    await self.app(scope, self._receiving(receive, most), sending)
            except TimeoutError:
                if started:
                    raise
                await respond(504, f"no answer within {limit:g} s", request_id=request_id)(scope, receive, sending)
        finally:
            self.numbers.open.dec()
            self._count(scope, status, time.perf_counter() - began, request_id)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes], most: int) -> tuple[int, str] | None:
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit():
            return 400, "Content-Length is not a number"
        if int(declared[:12]) > most:
            return 413, f"a body may have {most} bytes at most"
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > TARGET_BYTES:
            return 400, f"path and query may have {TARGET_BYTES} bytes at most"
        return None

    def _receiving(self, receive: Receive, most: int) -> Receive:
        size, whole = 0, False

        async def limited() -> Message:
            nonlocal size, whole
            if whole:  # what follows is the client's leaving, which may take its time
                return await receive()
            try:
                async with asyncio.timeout(self._body_seconds):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"the body paused for more than {self._body_seconds:g} s") from error
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if size > most:
                    raise HTTPException(413, f"a body may have {most} bytes at most")
            return message

        return limited

    def _count(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = scope.get("route")
        call = getattr(route, "path_format", None) or ("pages" if status < 400 else "unknown")
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE") else "other"
        self.numbers.requests.labels(call, method, str(status)).inc()
        self.numbers.seconds.labels(call).observe(seconds)
        if status in (401, 403, 429):
            self.numbers.refused.labels(str(status)).inc()
        level = logging.DEBUG if method in ("GET", "HEAD") and status < 400 else logging.INFO  # reads that went well would fill any log
        if log.isEnabledFor(level):
            caller = scope["state"].get("caller")
            line = {"request_id": request_id, "method": method, "path": redacted(scope["path"])[:300], "status": status, "ms": round(seconds * 1000, 1)}
            log.log(level, "%s", json.dumps({**line, "caller": None if caller is None else caller.actor}))
