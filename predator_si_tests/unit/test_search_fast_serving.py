"""The service with its score cache and with early exit: the answers stay, the work does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from predator_si.search.adaptive_depth import DepthRule, keep_rule
from predator_si.search.app import create_app
from predator_si_tests.support.search_fakes import FakeHome, FakeReranker, fake_home, load_fake_index, load_fake_reranker

DEPTH = 40
Scenario = Callable[[Any, httpx.AsyncClient], Awaitable[None]]


class ByText(FakeReranker):
    """Scores a text by the number in it, lower numbers first; ``steep`` says how far apart they are. Counts the texts that it scored."""

    def __init__(self, real: FakeReranker, steep: float = 1.0) -> None:
        super().__init__(real.digest, real.card, real.behaviour)
        self.steep, self.texts = steep, 0

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        self.texts += len(texts) if query != "warm up" else 0
        sign = -1.0 if self.behaviour == "keep" else 1.0
        return np.array([sign * self.steep * float(text.split()[1]) if text.startswith("Title") else 0.0 for text in texts], np.float32)


@pytest.fixture
def home(tmp_path: Path) -> FakeHome:
    from predator_si.search.index_versions import IndexVersions
    from predator_si_tests.support.search_fakes import FakeIndex

    found = fake_home(tmp_path)
    IndexVersions(tmp_path / "service" / "index").publish(FakeIndex([(f"d{i}", f"Title {i}", "body") for i in range(DEPTH)]))
    return found


def play(home: FakeHome, scenario: Scenario, **options: Any) -> None:
    async def run() -> None:
        app = create_app(
            home.path,
            load_index=load_fake_index,
            load_reranker=lambda folder: ByText(load_fake_reranker(folder)),
            poll_seconds=0.02,
            flush_seconds=0.05,
            **options,
        )
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://search") as http:
            await scenario(app.state.service, http)

    asyncio.run(run())


async def search(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await http.post("/search", json={"query": "a question", "k": 10, **body})
    assert response.status_code == 200, response.text
    return response.json()


async def metric(http: httpx.AsyncClient, name: str, **labels: str) -> float:
    families = text_string_to_metric_families((await http.get("/metrics")).text)
    return next(s.value for family in families for s in family.samples if s.name == f"predator_si_{name}" and s.labels == labels)


async def released(service: Any, home: FakeHome, **release: Any) -> None:
    swaps = service.follower.swaps
    home.release(**release)
    async with asyncio.timeout(5):
        while service.follower.swaps == swaps:
            await asyncio.sleep(0.01)


def scored(service: Any) -> int:
    return int(service.follower.current.champion.texts)


def test_a_query_that_comes_again_costs_nothing_until_the_model_is_swapped(home: FakeHome) -> None:
    one, other = home.model("one"), home.model("other", "reverse")
    home.release(one, depth=20)

    async def scenario(service: Any, http: httpx.AsyncClient) -> None:
        first = await search(http)
        again = await search(http)
        assert scored(service) == 20 and [r["object_id"] for r in again["results"]] == [r["object_id"] for r in first["results"]]
        assert [r["rerank_score"] for r in again["results"]] == [r["rerank_score"] for r in first["results"]]
        await search(http, query="another question")
        assert scored(service) == 40
        await search(http, probe=True)
        assert scored(service) == 60, "a probe is scored anew: its latency is the model's"
        assert (await metric(http, "score_cache_hits_total"), await metric(http, "score_cache_misses_total")) == (20, 40)
        await released(service, home, champion=other, depth=20)
        assert await metric(http, "score_cache_entries") == 0
        swapped = await search(http)
        assert swapped["results"][0]["object_id"] == "d19" and scored(service) == 20, "the new model's own scores"
        await released(service, home, champion=one, depth=20)
        assert (await search(http))["results"][0]["object_id"] == "d0"
        assert (await http.get("/info")).json()["score_cache"] == 1_000

    play(home, scenario, score_cache=1_000)


def test_without_being_asked_for_there_is_no_cache(home: FakeHome) -> None:
    home.release(home.model("one"), depth=20)

    async def scenario(service: Any, http: httpx.AsyncClient) -> None:
        await search(http)
        await search(http)
        assert scored(service) == 40 and await metric(http, "score_cache_entries") == 0

    play(home, scenario)


def rule_for(digest: str, **more: Any) -> DepthRule:
    known: dict[str, Any] = {"model": digest, "depth": DEPTH, "fusion_weight": 0.0, "steps": (20, 30), "threshold": 0.1, "limit": 0.05, "confidence": 0.95}
    return DepthRule(**{**known, "n_queries": 100, "changed": 0, "mean_depth": 20.0, **more})


def test_scoring_stops_early_only_where_the_release_wants_it_and_the_rule_fits(home: FakeHome) -> None:
    model = home.model("one")
    keep_rule(home.store.path(model), rule_for(model))
    home.release(model, depth=DEPTH)

    async def scenario(service: Any, http: httpx.AsyncClient) -> None:
        full = await search(http)
        assert full["scored"] == DEPTH and (await http.get("/info")).json()["early_exit"] == {}
        early = {"champion": model, "candidate": None, "candidateWeight": 0.0, "earlyExit": True}
        await released(service, home, champion=model, reranker={**early, "depth": DEPTH})
        short = await search(http)
        assert short["scored"] == 20 and [r["object_id"] for r in short["results"]] == [r["object_id"] for r in full["results"]]
        assert (await http.get("/info")).json()["early_exit"][model]["threshold"] == 0.1
        assert (await search(http, k=11))["scored"] == DEPTH, "the rule promises ten, not eleven"
        assert await metric(http, "search_pairs_scored_total", variant="champion") == DEPTH + 20 + DEPTH
        await released(service, home, champion=model, reranker={**early, "depth": 30})
        assert (await search(http))["scored"] == 30, "a rule for another depth promises nothing"

    play(home, scenario)


def test_a_query_that_is_not_settled_is_scored_to_the_end(home: FakeHome) -> None:
    model = home.model("reverse", "reverse")
    keep_rule(home.store.path(model), rule_for(model))
    home.release(model, reranker={"champion": model, "depth": DEPTH, "earlyExit": True})

    async def scenario(service: Any, http: httpx.AsyncClient) -> None:
        found = await search(http)
        assert found["scored"] == DEPTH and found["results"][0]["object_id"] == f"d{DEPTH - 1}"

    play(home, scenario)


def test_the_fast_twin_stops_where_the_model_it_stands_for_would(home: FakeHome) -> None:
    model, twin = home.model("one"), home.model("twin")
    home.store.set_twin(model, twin, {"same": True})
    keep_rule(home.store.path(model), rule_for(model))
    home.release(model, reranker={"champion": model, "depth": DEPTH, "earlyExit": True})

    async def scenario(service: Any, http: httpx.AsyncClient) -> None:
        found = await search(http, simulated=True, fast=True)
        assert (found["model_digest"], found["stands_for"], found["scored"]) == (twin, model, 20)

    play(home, scenario)
