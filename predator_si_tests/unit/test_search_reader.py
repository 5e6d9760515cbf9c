"""Several processes answer over one home: one owns it, the others read; and readiness means the release that was asked for."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from predator_si.records import utc_now
from predator_si.search.app import create_app
from predator_si.search.index_builds import IndexBuild, IndexBuilds
from predator_si.search.service import SearchService
from predator_si_tests.support.search_fakes import DOCUMENTS, FakeHome, FakeIndex, fake_home, load_fake_index, load_fake_reranker

DOCUMENT = {"documents": [{"doc_id": "new", "title": "New", "text": "a new document"}]}


@pytest.fixture
def home(tmp_path: Path) -> FakeHome:
    found = fake_home(tmp_path)
    found.release(found.model("first"))
    return found


@asynccontextmanager
async def opened(home: FakeHome, *, reader: bool) -> AsyncIterator[tuple[SearchService, httpx.AsyncClient]]:
    app = create_app(home.path, load_index=load_fake_index, load_reranker=load_fake_reranker, poll_seconds=0.02, flush_seconds=0.05, reader=reader)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://search")
    async with app.router.lifespan_context(app), client:
        yield app.state.service, client


async def until(true: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())


def release_of(home: FakeHome) -> str:
    return hashlib.sha256((home.path / "applied" / "release-local.yaml").read_bytes()).hexdigest()


def test_readers_share_a_home_with_its_owner_and_follow_its_index(home: FakeHome):
    async def scenario() -> None:
        async with opened(home, reader=False) as (owner, owning), opened(home, reader=True) as (one, asking), opened(home, reader=True) as (two, _):
            assert owner.spool.writer != one.spool.writer != two.spool.writer
            assert (await asking.post("/search", json={"query": "a question"})).status_code == 200
            assert (await owning.post("/documents", json=DOCUMENT)).status_code == 202
            await until(lambda: owner.served.index.n_documents == one.served.index.n_documents == two.served.index.n_documents == 13)
            assert one.versions.versions() == owner.versions.versions(), "a reader publishes nothing"

    play(scenario)


def test_a_reader_takes_no_documents_and_says_who_does(home: FakeHome):
    async def scenario() -> None:
        async with opened(home, reader=True) as (_, asking):
            for answer in (await asking.post("/documents", json=DOCUMENT), await asking.delete("/documents/d1")):
                assert answer.status_code == 503 and "search-ingest" in answer.json()["detail"]
            assert (await asking.get("/info")).json()["ingest"] is None
            assert "ingest_lag_seconds" not in (await asking.get("/metrics")).text, "what it does not know is not reported as 0"

    play(scenario)


def test_ready_means_this_model_and_this_release(home: FakeHome):
    first, other = home.model("first"), home.model("other")

    async def scenario() -> None:
        async with opened(home, reader=True) as (service, asking):

            async def ready(**asked: str) -> int:
                return (await asking.get("/ready", params=asked)).status_code

            file = release_of(home)
            assert await ready() == await ready(champion=first, release=file) == 200
            assert await ready(champion=other, release=file) == 503
            assert await ready(champion=first, release="0" * 64) == 503
            home.release(other)
            await until(lambda: service.follower.current.champion.digest == other)
            assert await ready(champion=first) == 503 and await ready(champion=other, release=release_of(home)) == 200
            home.release("sha256:" + "0" * 64)
            await until(lambda: service.follower.error is not None)
            assert await ready(champion=other) == 200, "it goes on to serve"
            assert await ready(champion=other, release=file) == 503

    play(scenario)


def test_a_reader_waits_for_the_index_that_its_release_names(home: FakeHome):
    first = home.model("first")
    builds = IndexBuilds(home.path / "service" / "builds")
    note = IndexBuild(name="wide", embedder="fake", embedder_folder=None, documents=12, last_seq=0, set_aside={}, created_at=utc_now())
    builds.add(FakeIndex(DOCUMENTS[:6]), note)
    home.release(first, index={"build": "wide"})

    async def scenario() -> None:
        async with opened(home, reader=True) as (one, asking):
            waiting = await asking.get("/ready", params={"champion": first, "release": release_of(home)})
            assert waiting.status_code == 503 and "index build first serves, wide is expected" in waiting.json()["detail"]
            async with opened(home, reader=False):
                await until(lambda: one.served.build == "wide")
            assert (await asking.get("/ready", params={"champion": first, "release": release_of(home)})).status_code == 200

    play(scenario)


def test_a_reader_does_not_try_a_candidate_s_own_index(home: FakeHome):
    first, second = home.model("first"), home.model("second", behaviour="reverse")

    async def scenario() -> None:
        async with opened(home, reader=True) as (service, _):
            home.release(first, second, 0.2, index={"build": "first", "candidateBuild": "wide"})
            await until(lambda: service.follower.error is not None)
            assert "cannot be tried by a process that only answers" in str(service.follower.error)
            assert service.follower.current.candidate is None

    play(scenario)
