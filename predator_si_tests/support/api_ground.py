"""The REST facade over a prepared home, in this process: real control database, real files, a Dagster peer, a search service that takes feedback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient

from predator_si.api.access import BASE
from predator_si.api.app import create_app
from predator_si.api.tokens import Role, TokenFile
from predator_si.home import Home
from predator_si.orchestration.loop import Loop
from predator_si.settings import Settings, load_settings
from predator_si_tests.support.dagster_peer import DagsterPeer
from predator_si_tests.support.platform import fake_model, prepare, write_baseline, write_snapshot

HERE = "http://127.0.0.1:8000"
OPTIMIZER = BASE


class ApiGround:
    """One facade and everything around it."""

    def __init__(self, home: Home, contour: str = "local", values: str | None = None, *, prepared: bool = True, **limits: float) -> None:
        file = None
        if values is not None:
            file = home.path.parent / f"values-of-{home.path.name}.yaml"
            file.write_text(f"selfImprovement:\n{values}")
        self.settings: Settings = load_settings(contour, home.path, file, env={})
        self.loop = Loop(self.settings)
        self.peer = DagsterPeer()
        self.feedback: list[dict[str, Any]] = []
        self.search_down = False
        self.tokens = TokenFile(home.path / "api" / "tokens.json")
        self.app: FastAPI = create_app(self.settings, dagster=self.peer.transport(), search=httpx.MockTransport(self._search), tokens=self.tokens, **limits)
        self.champion = ""
        if prepared:
            self.champion = fake_model(self.loop, "champion")
            prepare(self.loop, self.champion)

    def _search(self, request: httpx.Request) -> httpx.Response:
        if self.search_down:
            raise httpx.ConnectError("refused", request=request)
        assert (request.method, request.url.path) == ("POST", "/events")
        event = json.loads(request.content)
        self.feedback.append(event)
        return httpx.Response(202, json={"accepted": 1, "refused": [], "unknown_query_id": 1 if event["query_id"].startswith("unknown") else 0})

    def measured(self, **values: float | None) -> None:
        """A snapshot and a baseline; by default NDCG has dropped."""
        write_baseline(self.loop, self.champion)
        write_snapshot(self.loop, self.champion, values=values or {"ndcg_at_10": 0.4})

    def token(self, role: Role, name: str | None = None) -> dict[str, str]:
        """Headers of a new token."""
        return {"Authorization": f"Bearer {self.tokens.create(name or role.value, role, None)[0]}"}

    @contextmanager
    def client(self, address: str = "127.0.0.1", host: str = HERE, headers: dict[str, str] | None = None) -> Iterator[TestClient]:
        """A client that connects from an address."""
        with TestClient(self.app, base_url=host, client=(address, 50_000), headers=headers or {}, raise_server_exceptions=False) as client:
            yield client


def local_ground(folder: Path, **more: Any) -> ApiGround:
    """A facade of contour local in a fresh folder."""
    return ApiGround(Home(folder / "home").ensure(), **more)
