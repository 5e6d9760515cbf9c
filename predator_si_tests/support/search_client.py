"""The search service in this process, over a fake home, and a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from predator_si.search.app import create_app
from predator_si.search.events import EventFrames, read_events
from predator_si.search.service import SearchService
from predator_si_tests.support.search_fakes import FakeHome, fake_home, load_fake_index, load_fake_reranker


@pytest.fixture
def home(tmp_path: Path) -> FakeHome:
    """A home with a released model."""
    found = fake_home(tmp_path)
    found.release(found.model("first"))
    return found


class Client:
    """An open service and a client of it."""

    def __init__(self, service: SearchService, http: httpx.AsyncClient) -> None:
        self.service, self.http = service, http

    async def search(self, status: int = 200, **body: Any) -> dict[str, Any]:
        response = await self.http.post("/search", json={"query": "a question", **body})
        assert response.status_code == status, response.text
        return response.json()

    async def until(self, true: Callable[[], bool], seconds: float = 5) -> None:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.01)

    async def metric(self, name: str, /, **labels: str) -> float | None:
        text = (await self.http.get("/metrics")).text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return next((s.value for s in samples if s.name == f"predator_si_{name}" and s.labels == labels), None)

    def events(self) -> EventFrames:
        self.service.spool.flush()
        now = datetime.now(UTC)
        return read_events(self.service.spool.folder, now - timedelta(hours=1), now + timedelta(hours=1))


@asynccontextmanager
async def opened(home: FakeHome) -> AsyncIterator[Client]:
    app = create_app(home.path, load_index=load_fake_index, load_reranker=load_fake_reranker, poll_seconds=0.02, flush_seconds=0.05)
    service = app.state.service
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://search") as http,
    ):
        yield Client(service, http)


def run(home: FakeHome, scenario: Callable[[Client], Awaitable[None]]) -> None:
    async def play() -> None:
        async with opened(home) as client:
            await scenario(client)

    asyncio.run(play())
