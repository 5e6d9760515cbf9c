"""An Argo CD on loopback that says what a drill wants it to say about the home's repository: the truth, or not.

What belongs here: the calls that ``release.argocd`` makes, in the shapes of Argo CD's API. What must not: syncing anything; the embedded reconciler does that.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

from predator_si.errors import Unavailable
from predator_si.orchestration.loop import Loop
from predator_si.release.deployer import STATUS_FILE, SyncStatus

Mood = Literal["honest", "away", "lying", "stuck"]
"""``away``: connections break. ``lying``: synced and healthy at Git's head, whatever runs. ``stuck``: an operation on an older commit that never ends."""
NAME, TOKEN, TOKEN_VARIABLE = "predator-si", "drill", "PREDATOR_SI_DRILL_ARGOCD_TOKEN"


class ArgoCD:
    """Its mood, and what was asked of it as ``GET``, ``GET refresh`` and ``DELETE operation``."""

    def __init__(self, loop: Loop) -> None:
        self.mood: Mood = "honest"
        self.asked: list[str] = []
        self.address = ""
        self._loop, self._stuck_at = loop, datetime.now(UTC)
        self._older = loop.repo.sync()
        self._ended: Callable[[], None] | None = None

    def get_stuck(self, ended: Callable[[], None] | None = None) -> None:
        """From now on an operation on the present head does not end; ``ended`` is called once somebody ends it. Without that it never does."""
        self._older, self._stuck_at, self.mood, self._ended = self._loop.repo.sync(), datetime.now(UTC), "stuck", ended

    def end_operation(self) -> None:
        """Somebody asks for the end of what runs."""
        if self.mood == "stuck" and self._ended is not None:
            self._ended()
            self.mood = "honest"

    def application(self) -> dict[str, Any]:
        """``v1alpha1Application``, as far as it is read."""
        repository = self._loop.repo
        source = {"repoURL": repository.url, "targetRevision": repository.branch, "path": "."}
        answer: dict[str, Any] = {
            "metadata": {"name": NAME, "namespace": "argocd"},
            "spec": {"source": source, "project": "default", "syncPolicy": {"automated": {"prune": True, "selfHeal": True}}},
        }
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if self.mood == "lying":
            revision, sync, health = repository.sync(), "Synced", "Healthy"
        elif self.mood == "stuck":
            revision, sync, health = self._older, "OutOfSync", "Progressing"
        else:
            revision, sync, health = self._truth()
        status: dict[str, Any] = {"sync": {"status": sync, "revision": revision}, "health": {"status": health}, "reconciledAt": now}
        status["history"] = [{"id": 0, "revision": revision}] if sync == "Synced" else []
        if self.mood == "stuck":
            operation = {"sync": {"revision": self._older}}
            started = self._stuck_at.strftime("%Y-%m-%dT%H:%M:%SZ")
            status["operationState"] = {"phase": "Running", "startedAt": started, "operation": operation, "message": "waiting for completion of hook"}
        return {**answer, "status": status}

    def _truth(self) -> tuple[str, str, str]:
        """What the embedded reconciler applied last."""
        said = SyncStatus.read(self._loop.home.applied / STATUS_FILE)
        synced = said.synced and said.applied_revision == said.revision
        return said.revision or "", "Synced" if synced else "OutOfSync", "Healthy"


@contextmanager
def argocd(loop: Loop) -> Iterator[ArgoCD]:
    """An Argo CD of this home on a free port, as long as the block runs."""
    server_state = ArgoCD(loop)
    path = f"/api/v1/applications/{NAME}"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            server_state.asked.append("GET refresh" if "refresh" in url.query else "GET")
            if server_state.mood == "away":
                self.close_connection = True
                self.connection.close()
                return
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._answer(401, {"error": "no session information", "code": 16, "message": "no session information"})
                return
            if url.path != path:
                self._answer(403, {"error": "permission denied", "code": 7, "message": "permission denied"})
                return
            try:
                self._answer(200, server_state.application())
            except Unavailable as error:
                self._answer(503, {"message": str(error)})

        def do_DELETE(self) -> None:
            server_state.asked.append("DELETE operation")
            if server_state.mood == "away":
                self.close_connection = True
                self.connection.close()
                return
            if urlsplit(self.path).path != f"{path}/operation":
                self._answer(404, {"error": "Not Found", "code": 5, "message": "Not Found"})
                return
            server_state.end_operation()
            self._answer(200, {})

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server_state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server_state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
