"""An Argo CD on loopback: an application controller with a state, behind the part of its REST API that matters to a deployer.

What it does as the server does: refuses a rollback, and a sync of another revision, under automated sync, with the server's own words; hides applications that
a token may not see; syncs by itself once per commit, and not again a commit whose sync failed; keeps a failing operation running as long as it has retries, and
nothing newer passes meanwhile unless ``retry.refresh`` is set. Where the repository holds a chart, it renders it with real Helm.

Every call and every answer is checked against Argo CD's swagger where that is at hand; ``faults`` must be empty.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from predator_si.errors import PredatorError
from predator_si.release.gitops import GitOpsRepo
from predator_si_tests.support.argocd_contract import faults_of

NAME, TOKEN, TOKEN_ENV = "predator-si", "a.project-role.token", "PREDATOR_SI_TEST_ARGOCD_TOKEN"
Render = Callable[[GitOpsRepo, str], Mapping[str, str]]


def now() -> str:
    """As Kubernetes writes a moment: whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Faults:
    """What is wrong with the server, the controller or the cluster; a test sets what it wants."""

    away: int = 0
    """So many calls find nobody."""
    errors: list[int] = field(default_factory=list)
    """Statuses of the next answers."""
    seconds: float = 0.0
    """Each answer's delay."""
    raw: bytes | None = None
    """Answered to everything instead, with status 200."""
    refuses: Callable[[Mapping[str, str]], str | None] = lambda _: None
    """Why the cluster does not take these objects; null where it does."""
    retried: bool = False
    """Whether a sync that fails is tried again and again: until then it runs."""
    stuck: str | None = None
    """Message of an operation that never ends."""
    health: list[str] = field(default_factory=list)
    """What health says at the next looks at a synced application; the last one stays. Empty: Healthy."""
    stale_health: bool = False
    """The controller has not looked at health since the sync."""
    blind: bool = False
    """A refresh does not reach Git: the last state is told as if it were the newest."""


class FakeArgoCD:
    """One application that follows a branch.

    Parameters
    ----------
    repo
        The controller's own clone.
    render
        Revision -> live objects, raising as Helm does; default: the owned files of that revision.
    on_live
        Called with what became live: what a cluster would then run.
    sources
        Several sources in place of one; ours is the one whose ``repoURL`` is the repository's.
    """

    def __init__(
        self,
        repo: GitOpsRepo,
        *,
        automated: bool = True,
        retry_refresh: bool = True,
        branch: str = "main",
        render: Render | None = None,
        on_live: Callable[[Mapping[str, str]], None] = lambda _: None,
        sources: list[dict[str, Any]] | None = None,
        project: str = "search",
    ) -> None:
        self.repo, self.faults_now = repo, Faults()
        self.asked: list[str] = []
        self.violations: list[str] = []
        self.live: dict[str, str] = {}
        self._render, self._on_live, self._refresh = render or (lambda held, revision: held.files(revision)), on_live, retry_refresh
        self._project, self._failed = project, ""
        self._lock = threading.RLock()
        source = {"repoURL": repo.url, "path": "chart", "targetRevision": branch}
        policy: dict[str, Any] = {"retry": {"limit": 5, "refresh": retry_refresh}}
        if automated:
            policy["automated"] = {"prune": True, "selfHeal": True}
        self.spec: dict[str, Any] = {
            "project": project, "destination": {"server": "https://kubernetes.default.svc", "namespace": "predator-si"},
            **({"sources": sources} if sources else {"source": source}), "syncPolicy": policy,
        }  # fmt: skip
        self.status: dict[str, Any] = {"history": [], "sync": {"status": "Unknown"}, "health": {"status": "Missing"}, "reconciledAt": "2026-11-01T00:00:00Z"}

    # ------------------------------------------------------------------ the controller

    @property
    def automated(self) -> bool:
        found = self.spec["syncPolicy"].get("automated")
        return found is not None and found.get("enabled") is not False

    def reconcile(self) -> None:
        """Look at Git and at what is live, and sync where that is due."""
        with self._lock:
            if self.faults_now.blind:
                self.status["reconciledAt"] = now()
                return
            revision = self.repo.sync()
            try:
                wanted = dict(self._render(self.repo, revision))
            except PredatorError as error:
                self.status["conditions"] = [{"type": "ComparisonError", "message": str(error), "lastTransitionTime": now()}]
                self.status["sync"] = self._compared(revision, "Unknown")
                return
            self.status.pop("conditions", None)
            same = wanted == self.live and bool(self.status["history"])
            self.status["sync"] = self._compared(revision, "Synced" if same else "OutOfSync")
            state = self.status.get("operationState", {})
            retrying = state.get("phase") == "Running" and state.get("retryCount", 0) > 0
            if state.get("phase") == "Running" and not (retrying and self._refresh):
                self.status["reconciledAt"] = now()  # what is newer waits
                return
            if not same and self.automated and self._failed != revision:
                self._sync(revision, wanted)
            self._look()

    def _look(self) -> None:
        if not self.faults_now.stale_health:
            said = self.faults_now.health
            status = (said.pop(0) if len(said) > 1 else said[0]) if said else ("Healthy" if self.status["history"] else "Missing")
            self.status["health"] = {"status": status, **({"message": "exceeded its progress deadline"} if status == "Degraded" else {})}
            self.status["reconciledAt"] = now()

    def _sync(self, revision: str, wanted: Mapping[str, str]) -> None:
        state: dict[str, Any] = {
            "operation": {"sync": self._revised(revision), "initiatedBy": {"automated": True}, "retry": {"limit": 5}},
            "phase": "Running", "startedAt": datetime.now(UTC).isoformat(), "message": "",
        }  # fmt: skip
        self.status["operationState"] = state
        if self.faults_now.stuck is not None:
            state["message"] = self.faults_now.stuck
            return
        why = self.faults_now.refuses(wanted)
        if why is not None and self.faults_now.retried:
            state |= {"message": f"{why}. Retrying attempt #1", "retryCount": 1}
            return
        if why is not None:
            self._failed = revision
            state |= {"phase": "Failed", "message": why, "finishedAt": now(), "syncResult": {**self._revised(revision), "resources": []}}
            return
        state |= {"phase": "Succeeded", "message": "successfully synced (all tasks run)", "finishedAt": now(), "syncResult": self._revised(revision)}
        self.live = dict(wanted)
        self._on_live(self.live)
        self.status["history"].append({"id": len(self.status["history"]), "deployedAt": now(), **self._revised(revision)})
        self.status["sync"] = self._compared(revision, "Synced")

    def terminate(self) -> bool:
        """End the running operation; automated sync then goes on with what is newest."""
        with self._lock:
            state = self.status.get("operationState", {})
            if state.get("phase") != "Running":
                return False
            revisions = state["operation"]["sync"]
            state |= {"phase": "Failed", "message": "Operation terminated", "finishedAt": now()}
            self._failed = revisions.get("revision") or revisions["revisions"][self._place()]
            return True

    def _place(self) -> int:
        return next(place for place, source in enumerate(self.spec["sources"]) if source["repoURL"] == self.repo.url)

    def _revised(self, revision: str) -> dict[str, Any]:
        if "sources" not in self.spec:
            return {"revision": revision}
        return {"revisions": [revision if source["repoURL"] == self.repo.url else str(source["targetRevision"]) for source in self.spec["sources"]]}

    def _compared(self, revision: str, status: str) -> dict[str, Any]:
        return {"status": status, **self._revised(revision)}

    def application(self) -> dict[str, Any]:
        """``v1alpha1Application``."""
        return {"metadata": {"name": NAME, "namespace": "argocd"}, "spec": self.spec, "status": self.status}

    # ------------------------------------------------------------------ the API server

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, token: str | None, content_type: str | None) -> tuple[int, Any]:
        """What the server says to a call."""
        if path == "/api/version":
            return 200, {"Version": "v3.6.0"}
        if token != f"Bearer {TOKEN}":
            return _error(401, 16, "no session information")
        found = re.fullmatch(r"/api/v1/applications/([^/]+)(?:/(sync|rollback|operation))?", path)
        if found is None:
            return _error(404, 5, "Not Found")
        if found[1] != NAME or query.get("project", self._project) != self._project:
            return _error(403, 7, "permission denied")
        if method in ("POST", "PATCH", "PUT") and content_type != "application/json":
            return _error(415, 3, "Invalid content type")
        with self._lock:
            return self._do(method, found[2], query, body or {})

    def _do(self, method: str, what: str | None, query: dict[str, str], body: Mapping[str, Any]) -> tuple[int, Any]:
        target = (self.spec.get("source") or self.spec["sources"][0])["targetRevision"]
        if (method, what) == ("DELETE", "operation"):
            return (200, {}) if self.terminate() else _error(400, 3, "Unable to terminate operation. No operation is in progress")
        if (method, what) == ("POST", "rollback"):
            if self.automated:
                return _error(400, 9, "rollback cannot be initiated when auto-sync is enabled")
            return _error(400, 3, f"application {NAME} does not have deployment with id {body.get('id')}")
        if (method, what) == ("POST", "sync"):
            if self.automated and body.get("revision") not in (None, "", target):
                return _error(400, 9, f"Cannot sync to {body['revision']}: auto-sync currently set to {target}")
            self.reconcile()
            return 200, self.application()
        if method == "GET" and what is None:
            if query.get("refresh"):
                self.reconcile()
            elif self.status.get("operationState", {}).get("phase") != "Running":
                self._look()
            return 200, json.loads(json.dumps(self.application()))
        return _error(501, 12, "Method Not Allowed")

    def __enter__(self) -> FakeArgoCD:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                return

            def go(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = urlsplit(self.path)
                query, faults = dict(parse_qsl(parts.query)), fake.faults_now
                what = parts.path.removeprefix(f"/api/v1/applications/{NAME}").strip("/")
                fake.asked.append(" ".join(filter(None, [self.command, what, "refresh" if "refresh" in query else ""])))
                if faults.away > 0:
                    faults.away -= 1
                    self.close_connection = True
                    self.connection.close()
                    return
                time.sleep(faults.seconds)
                if faults.raw is not None:
                    self.say(200, faults.raw, "text/html")
                    return
                body = json.loads(raw) if raw else None
                status, answer = (
                    _error(faults.errors.pop(0), 14, "upstream is not there")
                    if faults.errors
                    else fake.answer(self.command, parts.path, query, body, self.headers.get("Authorization"), self.headers.get("Content-Type"))
                )
                fake.violations += faults_of(self.command, parts.path, query, body, status, answer)
                self.say(status, json.dumps(answer).encode(), "application/json")

            def say(self, status: int, data: bytes, kind: str) -> None:
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except (BrokenPipeError, ConnectionResetError):
                    return  # the client did not wait

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = go

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        if kind is None:
            assert self.violations == [], self.violations


def _error(http: int, grpc: int, message: str) -> tuple[int, Any]:
    return http, {"error": message, "code": grpc, "message": message}


def chart_render(path: str, contour: str, helm: Callable[[], Path]) -> Render:
    """Renders the repository's chart with real Helm, as the repo server does."""
    from predator_si.release.manifests import CommittedChart

    return CommittedChart(path, contour, helm).manifests
