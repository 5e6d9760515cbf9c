"""Models in shadow, shared lists and a failing candidate, through the service in this process: what people get, and what is written down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from predator_si.records import ShadowEvent
from predator_si.search.answer import Arm
from predator_si.search.app import create_app
from predator_si.search.events import EventFrames, read_events
from predator_si.search.interleave import team_draft
from predator_si.search.service import SearchService
from predator_si.search.shadow import InThread, ShadowJob, ShadowQueue
from predator_si_tests.support.search_fakes import ASKED, DOCUMENTS, FakeHome, FakeIndex, fake_home, load_fake_index, load_fake_reranker
from predator_si_tests.support.waiting import wait_until

FORWARDS = [f"d{i}" for i in range(10)]
BACKWARDS = [f"d{i}" for i in range(11, 1, -1)]


@pytest.fixture
def home(tmp_path: Path) -> FakeHome:
    return fake_home(tmp_path)


def put(home: FakeHome, mode: str, weight: float, candidate: str = "reverse", champion: str = "keep", **more: Any) -> tuple[str, str]:
    """A trial at depth 12, and the digests of its two models."""
    first, second = home.model("first", champion), home.model("second", candidate)
    keys = {"champion": first, "candidate": second, "candidateWeight": weight, "candidateMode": mode, "depth": 12, **more}
    home.release(first, reranker=keys)
    return first, second


class Client:
    def __init__(self, service: SearchService, http: httpx.AsyncClient) -> None:
        self.service, self.http = service, http

    async def search(self, **body: Any) -> dict[str, Any]:
        response = await self.http.post("/search", json={"query": "a question", **body})
        assert response.status_code == 200, response.text
        return response.json()

    async def info(self) -> dict[str, Any]:
        return (await self.http.get("/info")).json()

    async def shadowed(self, n: int) -> EventFrames:
        """Events once so many requests have been through the shadow."""
        await asyncio.to_thread(wait_until, lambda: sum(self._counts()) >= n, 20, f"{n} shadow events")
        return self.events()

    def _counts(self) -> tuple[int, int, int]:
        state = self.service.shadow.state()
        return state.scored, state.dropped, state.failed

    def events(self) -> EventFrames:
        self.service.spool.flush()
        now = datetime.now(UTC)
        return read_events(self.service.spool.folder, now - timedelta(hours=1), now + timedelta(hours=1))


def run(home: FakeHome, scenario: Callable[[Client], Awaitable[None]]) -> None:
    @asynccontextmanager
    async def opened():  # type: ignore[no-untyped-def]
        app = create_app(home.path, load_index=load_fake_index, load_reranker=load_fake_reranker, poll_seconds=0.02, flush_seconds=0.05)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://search") as http:
            yield Client(app.state.service, http)

    async def play() -> None:
        async with opened() as client:
            await scenario(client)

    asyncio.run(play())


def shown(answer: dict[str, Any]) -> list[str]:
    return [result["object_id"] for result in answer["results"]]


def test_a_candidate_in_shadow_answers_nobody_and_scores_the_same_candidates(home: FakeHome) -> None:
    champion, candidate = put(home, "shadow", 1.0)

    async def scenario(client: Client) -> None:
        answers = [await client.search(client_id=f"c{i}", simulated=True) for i in range(6)]
        assert {(a["variant"], a["model_digest"], a["answered_by"]) for a in answers} == {("champion", champion, champion)}
        assert {tuple(shown(a)) for a in answers} == {tuple(FORWARDS)}
        frames = await client.shadowed(6)
        assert frames.shadows.select("role", "status", "served_digest", "shadow_digest", "simulated").unique().rows() == [
            ("candidate", "scored", champion, candidate, True)
        ]
        assert sorted(frames.shadows["query_id"]) == sorted(frames.search["query_id"]) == sorted(frames.exposures["query_id"])
        assert {tuple(one["object_id"] for one in results) for results in frames.shadows["results"]} == {tuple(BACKWARDS)}
        times = frames.shadows.select("served_ms", "shadow_ms", "served_cpu_seconds", "shadow_cpu_seconds", "waited_ms")
        assert times.null_count().row(0) == (0,) * 5 and min(times.min().row(0)) >= 0
        assert set(frames.exposures["mode"]) == {"shadow"} and set(frames.exposures["variant"]) == {"champion"}
        info = await client.info()
        assert info["mode"] == "shadow" and (info["shadow"]["scored"], info["shadow"]["dropped"]) == (6, 0)
        assert "predator_si_search_shadow_scored_total 6.0" in (await client.http.get("/metrics")).text

    run(home, scenario)


def test_a_share_of_the_requests_is_shadowed_by_their_ids_and_a_probe_may_ask_for_it(home: FakeHome) -> None:
    previous = home.model("previous", "reverse")
    first = home.model("first")
    home.release(first, reranker={"champion": first, "depth": 12, "shadow": previous, "shadowShare": 0.0, "shadowDepth": 4})

    async def scenario(client: Client) -> None:
        for _ in range(5):
            await client.search()
        answer = await client.search(probe=True, shadow=True, k=3)
        pinned = await client.search(probe=True, variant="shadow", k=3)
        assert (shown(answer), shown(pinned), pinned["model_digest"]) == (["d0", "d1", "d2"], ["d3", "d2", "d1"], previous)
        frames = await client.shadowed(1)
        event = frames.shadows.row(0, named=True)
        assert frames.shadows.height == 1 and (event["query_id"], event["role"], event["depth"]) == (answer["query_id"], "previous", 4)
        assert [one["object_id"] for one in event["results"]] == ["d3", "d2", "d1"], "with the settings that it served with"
        assert (await client.http.post("/search", json={"query": "x", "shadow": True})).status_code == 422
        assert (await client.info())["variants"]["shadow"]["model_sha"] == previous
        variants = client.service.follower.current
        ids = [f"query {i}" for i in range(4000)]
        for share in (0.1, 0.3):
            one = variants.__class__(variants.release.model_copy(update={"shadow_share": share}), variants.champion, None, previous=variants.previous)
            drawn = [bool(one.shadowed(query_id)) for query_id in ids]
            assert drawn == [bool(one.shadowed(query_id)) for query_id in ids]
            assert abs(sum(drawn) / len(ids) - share) < 4.5 * (share * (1 - share) / len(ids)) ** 0.5

    run(home, scenario)


@pytest.mark.parametrize("behaviour", ["raise", "nan"])
def test_a_shadow_that_fails_is_counted_and_nobody_notices(home: FakeHome, behaviour: str) -> None:
    put(home, "shadow", 1.0, candidate=behaviour)

    async def scenario(client: Client) -> None:
        answer = await client.search()
        assert shown(answer) == FORWARDS and not answer["degraded"]
        frames = await client.shadowed(1)
        assert frames.shadows["status"].to_list() == ["failed"] and frames.shadows["results"].to_list() == [[]]
        assert (await client.info())["shadow"]["error"] and "search_shadow_failed_total 1.0" in (await client.http.get("/metrics")).text

    run(home, scenario)


@pytest.mark.parametrize("why", ["missing", "denied"])
def test_a_previous_champion_that_is_not_there_is_said_and_keeps_no_release_out(home: FakeHome, why: str) -> None:
    first, previous = home.model("first"), home.model("previous") if why == "denied" else f"sha256:{'0' * 64}"
    home.deny(previous)
    home.release(first, reranker={"champion": first, "shadow": previous, "shadowShare": 1.0})

    async def scenario(client: Client) -> None:
        assert shown(await client.search())
        info = await client.info()
        assert info["variants"]["shadow"] is None and info["shadow"]["error"] and info["release"]["error"] is None
        assert "shadow: " in str((await client.http.get("/ready")).json()["problems"])
        assert client.events().exposures.is_empty() and client.events().shadows.is_empty()

    run(home, scenario)


class Blocked:
    """A scorer that waits until it is let go."""

    priority = "normal"

    def __init__(self) -> None:
        self.asked, self.go, self.closed = threading.Event(), threading.Event(), 0

    def ask(self, job: Any) -> dict[str, Any]:
        self.asked.set()
        assert self.go.wait(20)
        arm = {"ms": 1.0, "cpu_seconds": 0.001, "scored": 2, "failed": False}
        return {"served": arm, "shadow": arm, "results": [["d0", 1.0, 0.5, 1.0]]}

    def close(self) -> None:
        self.closed += 1
        self.go.set()


def jobs(home: FakeHome, n: int) -> list[ShadowJob]:
    model = load_fake_reranker(home.store.path(home.model("first")))
    index = FakeIndex(DOCUMENTS)
    arm, found = Arm(index, model, 5, 0.0), index.candidates(["x"], 10)[0]
    now = datetime.now(UTC)
    return [ShadowJob(f"q{i}", now, "previous", "r", "x", 3, arm, arm, found, "served") for i in range(n)]


def test_a_full_queue_drops_and_never_waits_and_the_end_drops_the_rest(home: FakeHome) -> None:
    scorer, found = Blocked(), list[ShadowEvent]()
    ticks = iter([5.0, 4.0, *[1.0] * 50])  # a clock that goes backwards
    waiting = ShadowQueue(scorer, found.append, size=2, clock=lambda: next(ticks))
    waiting.start()
    first, *others = jobs(home, 6)
    assert waiting.offer(first)
    assert scorer.asked.wait(10)
    assert [waiting.offer(job) for job in others] == [True, True, False, False, False]
    assert (waiting.state().dropped, waiting.state().queued) == (3, 3) and [event.status for event in found] == ["dropped"] * 3
    waiting.stop()
    assert scorer.closed and len(found) == 6
    assert sorted(event.query_id for event in found) == [f"q{i}" for i in range(6)]
    scored = next(event for event in found if event.status == "scored")
    assert scored.query_id == "q0" and scored.waited_ms == 0.0, "no negative time"


def test_bytes_that_changed_under_a_digest_are_not_scored(home: FakeHome) -> None:
    other, found = load_fake_reranker(home.store.path(home.model("other"))), list[ShadowEvent]()
    waiting = ShadowQueue(InThread(lambda digest: other), found.append)
    waiting.start()
    assert waiting.offer(jobs(home, 1)[0])
    wait_until(lambda: len(found) == 1, 10, "the event")
    waiting.stop()
    assert found[0].status == "failed" and waiting.state().error == "ValueError"


def test_a_shared_list_is_drafted_from_both_and_can_be_made_again(home: FakeHome) -> None:
    champion, candidate = put(home, "interleave", 1.0)

    async def scenario(client: Client) -> None:
        answers = [await client.search(session_id=f"s{i % 4}", client_id=f"c{i}") for i in range(12)]
        assert {(a["variant"], a["model_digest"], a["degraded"]) for a in answers} == {("interleaved", None, False)}
        lists = [tuple(shown(a)) for a in answers]
        assert lists[:4] == lists[4:8] == lists[8:], "the same session and words see the same list"
        frames = client.events()
        exposures = {row["query_id"]: row for row in frames.exposures.iter_rows(named=True)}
        for answer in answers:
            row = exposures[answer["query_id"]]
            assert (row["champion_ids"], row["candidate_ids"]) == (FORWARDS, BACKWARDS)
            again = team_draft(row["champion_ids"], row["candidate_ids"], 10, row["draft_seed"])
            assert (list(again.ids), list(again.teams)) == (shown(answer), row["teams"])
            assert (row["champion_digest"], row["candidate_digest"], row["mode"]) == (champion, candidate, "interleave")
            assert row["champion_ms"] >= 0 and row["candidate_ms"] >= 0 and row["scored_first"] in ("champion", "candidate")
        assert set(frames.search["variant"]) == {"interleaved"} and frames.search["model_digest"].null_count() == 12
        assert frames.search["results"].list.eval(pl.element().struct.field("score")).explode().null_count() == 120, "two scales: no score orders a shared list"
        fast = await client.search(simulated=True, fast=True)
        assert fast["variant"] == "champion" and shown(fast) == FORWARDS

    run(home, scenario)


@pytest.mark.parametrize(("champion", "candidate", "order"), [("keep", "raise", FORWARDS), ("raise", "reverse", BACKWARDS), ("raise", "nan", FORWARDS)])
def test_of_two_models_that_share_a_list_one_may_fail(home: FakeHome, champion: str, candidate: str, order: list[str]) -> None:
    digests = put(home, "interleave", 1.0, candidate, champion)

    async def scenario(client: Client) -> None:
        answer = await client.search()
        assert shown(answer) == order and answer["degraded"]
        by = {"keep": digests[0], "reverse": digests[1]}.get(champion if champion == "keep" else candidate)
        assert answer["answered_by"] == by
        row = client.events().exposures.row(0, named=True)
        assert (row["fell_back"], row["teams"], row["answered_by"], row["draft_seed"]) == (True, [], by, None)

    run(home, scenario)


def test_a_candidate_that_fails_costs_nobody_an_answer_but_counts_as_its_error(home: FakeHome) -> None:
    champion, candidate = put(home, "ab", 1.0, candidate="raise")

    async def scenario(client: Client) -> None:
        answer = await client.search(client_id="c")
        assert (answer["variant"], answer["model_digest"], answer["answered_by"], answer["degraded"]) == ("candidate", candidate, champion, True)
        assert shown(answer) == FORWARDS and all(result["rerank_score"] is not None for result in answer["results"])
        probe = await client.search(probe=True, variant="candidate")
        assert probe["degraded"] and probe["answered_by"] is None, "a probe asks what that model does"
        frames = client.events()
        assert frames.search["degraded"].to_list() == [True, True] and set(frames.search["model_digest"]) == {candidate}
        assert frames.exposures.select("answered_by", "fell_back", "pinned").rows() == [(champion, True, False), (None, True, True)]
        assert 'search_fallbacks_total{variant="candidate"} 1.0' in (await client.http.get("/metrics")).text

    run(home, scenario)


def test_events_say_who_was_assigned_what_under_which_release_through_a_ramp(home: FakeHome) -> None:
    champion, candidate = put(home, "ab", 0.1)

    async def scenario(client: Client) -> None:
        for weight in (0.1, 0.5):
            put(home, "ab", weight)
            await asyncio.to_thread(wait_until, lambda weight=weight: client.service.follower.current.candidate_weight == weight, 10, "the ramp's step")
            for i in range(40):
                await client.search(client_id=f"client-{i}")
        await client.search()
        rows = client.events().exposures
        ramp = rows.filter(rows["unit"] == "client")
        assert ramp.group_by("weight").len().sort("weight").rows() == [(0.1, 40), (0.5, 40)] and ramp["release"].n_unique() == 2
        for row in ramp.iter_rows(named=True):
            assert (row["variant"] == "candidate") == (row["bucket"] < row["weight"] * 10_000), "the bucket alone decides"
            assert row["answered_by"] == (candidate if row["variant"] == "candidate" else champion)
        low, high = (set(ramp.filter((ramp["weight"] == w) & (ramp["variant"] == "candidate"))["bucket"]) for w in (0.1, 0.5))
        assert low <= high and len(high) > len(low), "a raised weight only moves clients to the candidate"
        assert rows.filter(rows["unit"] == "query").height == 1
        assert (await client.info())["release"]["sha256"] == rows["release"][-1]

    run(home, scenario)


def test_a_request_that_began_before_the_candidate_was_taken_off_ends_as_it_began(home: FakeHome) -> None:
    first, second = home.model("first"), home.model("slow", "reverse", seconds=0.4)
    home.release(first, reranker={"champion": first, "candidate": second, "candidateWeight": 1.0, "depth": 12})

    async def scenario(client: Client) -> None:
        running = asyncio.create_task(client.search(query="one that began earlier", client_id="c"))
        await asyncio.to_thread(wait_until, lambda: "one that began earlier" in ASKED, 10, "the candidate at work")
        home.release(first)
        await asyncio.to_thread(wait_until, lambda: client.service.follower.current.candidate is None, 10, "the end of the trial")
        answer = await running
        assert (answer["variant"], answer["model_digest"], shown(answer)) == ("candidate", second, BACKWARDS)
        row = client.events().exposures.row(0, named=True)
        assert (row["variant"], row["candidate_digest"], row["mode"]) == ("candidate", second, "ab")

    run(home, scenario)
