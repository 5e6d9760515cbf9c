import asyncio
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predator_si.errors import Missing
from predator_si.search.app import BODY_LIMIT, create_app
from predator_si_tests.support.search_client import Client, run
from predator_si_tests.support.search_client import home as home
from predator_si_tests.support.search_fakes import POISON, FakeHome, FakeReranker, load_fake_index, load_fake_reranker

ORDER = [f"d{i}" for i in range(12)]


def test_an_answer_says_what_made_it_and_the_event_says_the_same(home: FakeHome) -> None:
    home.release(home.model("first"), depth=4)

    async def scenario(client: Client) -> None:
        answer = await client.search(query="  how to count  ", k=3, client_id="c", session_id="s", simulated=True)
        assert [r["object_id"] for r in answer["results"]] == ["d0", "d1", "d2"]
        assert answer["results"][1] == {"object_id": "d1", "score": -1.0, "first_stage_score": 1 / 62, "rerank_score": -1.0, "title": "Title 1"}
        assert answer["model_digest"] == home.model("first") and answer["variant"] == "champion" and answer["depth"] == 4
        assert 0 <= answer["rerank_ms"] <= answer["took_ms"] and answer["retrieve_ms"] >= 0 and not answer["degraded"]
        event = client.events().search.row(0, named=True)
        assert event["user_query"] == "how to count"
        assert {key: event[key] for key in ("query_id", "variant", "model_digest", "depth", "retrieve_ms", "rerank_ms", "queue_ms")} == {
            key: answer[key] for key in ("query_id", "variant", "model_digest", "depth", "retrieve_ms", "rerank_ms", "queue_ms")
        }
        names = client.service.vault.client_hash("c"), client.service.vault.session_hash("s")
        assert (event["status"], event["client_id"], event["session_id"], event["simulated"], event["probe"]) == (200, *names, True, False)
        assert [r["object_id"] for r in event["results"]] == ["d0", "d1", "d2"]
        assert event["latency_ms"] == answer["took_ms"] and 0 <= event["cpu_seconds"] < 1

    run(home, scenario)


def test_the_first_stage_alone_answers_no_person_and_is_counted_nowhere(home: FakeHome) -> None:
    champion = home.model("reverse", "reverse")
    home.release(champion, depth=12)

    async def scenario(client: Client) -> None:
        assert (await client.search(simulated=True))["results"][0]["object_id"] == "d11"
        answer = await client.search(simulated=True, first_stage=True, k=4)
        assert [r["object_id"] for r in answer["results"]] == ORDER[:4] and [r["rerank_score"] for r in answer["results"]] == [None] * 4
        assert (answer["model_digest"], answer["stands_for"], answer["rerank_ms"], answer["degraded"]) == ("first-stage", champion, None, False)
        assert "probes and simulated requests" in str(await client.search(422, first_stage=True))
        reranked, alone = client.events().search.sort("timestamp").iter_rows(named=True)
        assert reranked["stands_for"] is None and (alone["stands_for"], alone["model_digest"]) == (champion, "first-stage")
        assert await client.metric("search_stage_seconds_count", stage="total", variant="champion") == 1

    run(home, scenario)


def test_reranking_depth_fusion_ties_and_the_tail(home: FakeHome) -> None:
    reverse, same = home.model("reverse", "reverse"), home.model("same", "same")

    async def order(client: Client, **release: Any) -> list[str]:
        swaps = client.service.follower.swaps
        home.release(**release)
        await client.until(lambda: client.service.follower.swaps > swaps)
        answer = await client.search(k=6)
        scores = [r["score"] for r in answer["results"]]
        assert scores == sorted(scores, reverse=True)
        return [r["object_id"] for r in answer["results"]]

    async def scenario(client: Client) -> None:
        assert await order(client, champion=reverse, depth=4) == ["d3", "d2", "d1", "d0", "d4", "d5"]
        assert await order(client, champion=reverse, depth=0) == ORDER[:6]
        assert await order(client, champion=same, depth=12) == ORDER[:6]
        assert await order(client, champion=reverse, depth=12) == ORDER[:5:-1]
        first_stage_alone = {"fusion": {"weights": {"rerank": 0.0, "firstStage": 1.0}}}
        assert await order(client, champion=reverse, depth=12, **first_stage_alone) == ORDER[:6]

    run(home, scenario)


def test_a_client_stays_with_its_variant_and_a_probe_may_choose(home: FakeHome) -> None:
    champion, candidate = home.model("first"), home.model("second")
    home.release(champion, candidate, 0.3)

    async def scenario(client: Client) -> None:
        names = {c: (await client.search(client_id=c))["variant"] for c in map(str, range(120))}
        assert set(names.values()) == {"champion", "candidate"}
        for c, name in names.items():
            answer = await client.search(client_id=c)
            assert (answer["variant"], answer["model_digest"]) == (name, champion if name == "champion" else candidate)
        assert {(await client.search())["variant"] for _ in range(80)} == {"champion", "candidate"}  # without a client the query decides
        for name in ("champion", "candidate"):
            assert (await client.search(variant=name, probe=True))["variant"] == name
        assert "probe" in (await client.search(422, variant="candidate"))["detail"]
        served = client.events().search["variant"].to_list().count("candidate")
        assert await client.metric("search_requests_total", variant="candidate", status="200") == served > 40

    run(home, scenario)


def test_pinning_a_candidate_that_is_not_there_is_a_conflict(home: FakeHome) -> None:
    async def scenario(client: Client) -> None:
        assert "candidate" in (await client.search(409, variant="candidate", probe=True))["detail"]
        assert len(client.events().search) == 0

    run(home, scenario)


def test_no_request_fails_during_swaps_and_each_is_answered_by_one_whole_state(home: FakeHome) -> None:
    first, second = home.model("first", seconds=0.002), home.model("second", "reverse", seconds=0.002, load_seconds=0.1)
    home.release(first)
    expected = {first: ORDER[:5], second: ORDER[4::-1]}

    async def scenario(client: Client) -> None:
        done = asyncio.Event()
        answers: list[dict[str, Any]] = []

        async def ask(name: str) -> None:
            while not done.is_set():
                answers.append(await client.search(k=5, client_id=name))

        askers = [asyncio.create_task(ask(f"c{i}")) for i in range(6)]
        for digest in (second, first, second):
            swaps = client.service.follower.swaps
            home.release(digest)
            await client.until(lambda swaps=swaps: client.service.follower.swaps > swaps)
            await asyncio.sleep(0.05)
        done.set()
        await asyncio.gather(*askers)
        assert {a["model_digest"] for a in answers} == {first, second}
        for answer in answers:
            assert [r["object_id"] for r in answer["results"]] == expected[answer["model_digest"]]
        assert len(client.events().search) == len(answers) and set(client.events().search["status"]) == {200}
        # Loading shares the processor with searching, so what it overlaps has no cost of its own.
        cpu = client.events().search["cpu_seconds"]
        assert 0 < cpu.null_count() < len(cpu)

    run(home, scenario)


def test_all_scoring_happens_in_one_thread_and_waiting_is_measured(home: FakeHome) -> None:
    home.release(home.model("slow", seconds=0.05))

    async def scenario(client: Client) -> None:
        answers = await asyncio.gather(*(client.search() for _ in range(4)))
        model = client.service.follower.current.champion
        assert isinstance(model, FakeReranker)
        assert {name for name in model.threads if name.startswith("rerank")} == {"rerank_0"} and len(model.threads) == 2  # the other one warmed it up
        waits = sorted(a["queue_ms"] for a in answers)
        assert waits[0] < 40 and waits[3] > 140
        client.service._max_waiting = 2
        refused = [r.status_code for r in await asyncio.gather(*(client.http.post("/search", json={"query": "x"}) for _ in range(4)))]
        assert sorted(refused) == [200, 200, 503, 503]
        assert sorted(client.events().search["status"])[-2:] == [503, 503]

    run(home, scenario)


def test_a_malformed_release_is_shown_and_does_no_harm(home: FakeHome) -> None:
    async def scenario(client: Client) -> None:
        before = (await client.http.get("/info")).json()
        home.write("release-local.yaml", "reranker: [")
        await client.until(lambda: client.service.follower.error is not None)
        info = (await client.http.get("/info")).json()
        assert "release-local.yaml, line 1" in info["release"].pop("error") and before["release"].pop("error") is None
        assert info == before
        assert await client.metric("release_error") == 1 and await client.metric("release_refused_total") == 1
        assert (await client.http.get("/ready")).json()["status"] == "degraded"
        await client.search()
        home.release(home.model("first"), depth=7, ingest={"workers": 3})
        await client.until(lambda: client.service.follower.error is None)
        info = (await client.http.get("/info")).json()
        assert info["release"]["error"] is None and info["depth"] == 7 and info["ingest"]["workers"] == 3
        assert (await client.http.get("/ready")).json() == {"status": "ready", "problems": []}

    run(home, scenario)


@pytest.mark.parametrize("behaviour", ["raise", "nan"])
def test_a_failing_reranker_degrades_the_answer_and_counts_against_its_variant(home: FakeHome, behaviour: str) -> None:
    home.release(home.model("first"), home.model("bad", behaviour), 0.5)

    async def scenario(client: Client) -> None:
        bad = await client.search(variant="candidate", probe=True)
        good = await client.search(variant="champion", probe=True)
        assert bad["degraded"] and [r["object_id"] for r in bad["results"]] == ORDER[:10]
        assert all(r["rerank_score"] is None and r["score"] == r["first_stage_score"] for r in bad["results"])
        assert not good["degraded"]
        assert client.events().search.sort("seq").select("status", "degraded").rows() == [(200, True), (200, False)]
        assert await client.metric("search_degraded_total", variant="candidate") == 1
        assert await client.metric("search_degraded_total", variant="champion") is None

    run(home, scenario)


def test_a_failing_retrieval_is_a_500_without_a_stack_trace_and_an_event(home: FakeHome) -> None:
    async def scenario(client: Client) -> None:
        client.service.served.index.broken = True
        body = await client.search(500)
        assert body["status"] == 500 and "Traceback" not in json.dumps(body) and "broken" not in json.dumps(body)
        event = client.events().search.row(0, named=True)
        assert (event["status"], event["variant"], event["results"]) == (500, "champion", [])
        assert await client.metric("search_requests_total", variant="champion", status="500") == 1

    run(home, scenario)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/search", {"query": "   "}, "query"),
        ("/search", {"query": "x" * 1001}, "query"),
        ("/search", {"query": 7}, "query"),
        ("/search", {"query": "a\x00b"}, "query"),
        ("/search", {}, "query"),
        ("/search", {"query": "x", "k": 0}, "k"),
        ("/search", {"query": "x", "k": 101}, "k"),
        ("/search", {"query": "x", "k": "10"}, "k"),
        ("/search", {"query": "x", "client_id": ""}, "client_id"),
        ("/search", {"query": "x", "client_id": "c" * 201}, "client_id"),
        ("/search", {"query": "x", "variant": "third", "probe": True}, "variant"),
        ("/search", {"query": "x", "variant": "champion"}, "variant"),
        ("/search", {"query": "x", "tenant": "y"}, "tenant"),
        ("/search", [], "body"),
        ("/events", {"query_id": "q", "action_name": "purchase"}, "action_name"),
        ("/events", {"query_id": "q", "action_name": "rating", "value": 6}, "value"),
        ("/events", {"query_id": "q", "action_name": "rating"}, "value"),
        ("/events", {"query_id": "q", "action_name": "dwell", "object_id": "d", "value": -1}, "value"),
        ("/events", {"query_id": "q", "action_name": "click"}, "object_id"),
        ("/events", {"query_id": "q", "action_name": "click", "object_id": "d", "position": 0}, "position"),
        ("/events", {"query_id": "q", "action_name": "click", "object_id": "d", "timestamp": "2999-01-01T00:00:00Z"}, "timestamp"),
        ("/events", {"query_id": "q", "action_name": "click", "object_id": "d", "timestamp": "2020-01-01T00:00:00"}, "timestamp"),
        ("/events", {"query_id": "q", "action_name": "click", "object_id": "d", "timestamp": "2020-01-01T00:00:00Z"}, "timestamp"),
        ("/events", {"events": []}, "events"),
        ("/events", {"events": [{"query_id": "q", "action_name": "rating", "value": 9}]}, "events.0.value"),
        ("/documents", {"documents": [{"doc_id": "", "text": "x"}]}, "documents.0.doc_id"),
        ("/documents", {"documents": [{"doc_id": "a"}]}, "documents.0.text"),
        ("/documents", {"documents": []}, "documents"),
        ("/rerank", {"query": "x"}, "documents"),
        ("/rerank", {"query": "x", "texts": ["a"], "documents": ["a"]}, "documents"),
        ("/rerank", {"query": "x", "texts": []}, "texts"),
        ("/rerank", {"query": "x", "documents": ["a"], "top_n": 0}, "top_n"),
    ],
)
def test_bad_input_is_refused_by_name(home: FakeHome, path: str, body: Any, field: str) -> None:
    async def scenario(client: Client) -> None:
        response = await client.http.post(path, json=body)
        assert response.status_code == 422 and response.headers["content-type"] == "application/problem+json"
        found = response.json()
        assert [error["field"] for error in found["errors"]] == [field], found
        assert len(client.events().search) == 0

    run(home, scenario)


def test_bodies_that_are_no_json_no_unicode_or_too_large(home: FakeHome) -> None:
    async def scenario(client: Client) -> None:
        for content in (b"{", b"\xff\xfe", b'{"query": "\\ud800"}', b'{"query": "x", "k": NaN}', b"[" * 5000):
            response = await client.http.post("/search", content=content, headers={"content-type": "application/json"})
            assert response.status_code in (400, 422), (content[:20], response.text)
            assert response.headers["content-type"] == "application/problem+json"
        large = b'{"query": "' + b"x" * BODY_LIMIT + b'"}'
        assert (await client.http.post("/search", content=large)).status_code == 413

        async def in_parts() -> AsyncIterator[bytes]:
            for start in range(0, len(large), 65536):
                yield large[start : start + 65536]

        assert (await client.http.post("/search", content=in_parts())).status_code == 413
        missing = await client.http.get("/nothing")
        assert missing.status_code == 404 and missing.headers["content-type"] == "application/problem+json"
        await client.search()

    run(home, scenario)


def test_rerank_speaks_both_dialects(home: FakeHome) -> None:
    champion, candidate = home.model("first", "reverse"), home.model("second", "keep")
    home.release(champion, candidate, 0.0)

    async def scenario(client: Client) -> None:
        async def ask(**body: Any) -> tuple[Any, str]:
            response = await client.http.post("/rerank", json={"query": "x", **body})
            assert response.status_code == 200, response.text
            return response.json(), response.headers["x-model-digest"]

        tei, digest = await ask(texts=["a", "b", "c"], truncate=True)
        assert digest == champion and [row["index"] for row in tei] == [2, 1, 0]
        assert tei[0] == {"index": 2, "score": pytest.approx(1 / (1 + math.exp(-2)))}
        raw, _ = await ask(texts=["a", "b"], raw_scores=True, return_text=True)
        assert raw == [{"index": 1, "score": 1.0, "text": "b"}, {"index": 0, "score": 0.0, "text": "a"}]
        cohere, _ = await ask(model="rerank-v3.5", documents=["a", "b", "c"], top_n=2)
        assert cohere["id"] and [row["index"] for row in cohere["results"]] == [2, 1]
        assert set(cohere["results"][0]) == {"index", "relevance_score"}
        other, digest = await ask(model="candidate", documents=["a", "b"])
        assert digest == candidate and other["results"][0]["index"] == 0

    run(home, scenario)


def test_documents_are_found_after_an_atomic_reindex_and_gone_after_a_delete(home: FakeHome) -> None:
    async def scenario(client: Client) -> None:
        before = client.service.served
        documents = [{"doc_id": "new/one", "title": "Fresh", "text": "hello"}, {"doc_id": "bad", "text": POISON}]
        response = await client.http.post("/documents", json={"documents": documents})
        assert response.status_code == 202 and response.json()["accepted"] == 2
        await client.until(lambda: client.service.ingest.state().queued == 0)
        assert "Fresh" in [r["title"] for r in (await client.search(k=20))["results"]]
        assert before.index.n_documents == 12 and client.service.served.index.n_documents == 13
        assert await client.metric("ingest_dead_letters_total") == 1 and await client.metric("index_documents") == 13
        assert (await client.http.delete("/documents/new/one")).status_code == 202
        await client.until(lambda: client.service.ingest.state().queued == 0)
        assert "Fresh" not in [r["title"] for r in (await client.search(k=20))["results"]]
        info = (await client.http.get("/info")).json()
        assert info["index"]["version"] == client.service.versions.current() > before.version and info["ingest"]["dead_letters"] == 1

    run(home, scenario)
    assert load_fake_index(home.path / "service" / "index" / (home.path / "service" / "index" / "current").read_text().strip()).n_documents == 12


def test_info_and_metrics_name_what_is_loaded(home: FakeHome) -> None:
    champion, candidate = home.model("first"), home.model("second", source_digest="sha256:" + "5" * 64)
    home.release(champion, candidate, 0.25, depth=9)

    async def scenario(client: Client) -> None:
        info = (await client.http.get("/info")).json()
        assert (info["model_id"], info["model_sha"], info["candidate_weight"], info["depth"], info["fusion_weight"]) == ("first", champion, 0.25, 9, 0.0)
        assert info["variants"]["candidate"] == {
            "model_id": "second", "model_sha": candidate, "backend": "torch-fp32", "max_length": 128, "source_digest": "sha256:" + "5" * 64,
            "depth": 9, "fusion_weight": 0.0, "early_exit": False, "index_build": "first",
        }  # fmt: skip
        assert info["index"]["documents"] == 12 and info["index"]["version"] == 1
        assert await client.metric("model_info", variant="champion", digest=champion, name="first", backend="torch-fp32") == 1
        assert await client.metric("candidate_weight") == 0.25
        await client.search(variant="champion", probe=True)
        for stage in ("queue", "retrieve", "rerank", "total"):
            assert await client.metric("search_stage_seconds_count", stage=stage, variant="champion") == 1
        assert (await client.http.get("/health")).json() == {"status": "ok"}

    run(home, scenario)


def test_a_home_without_an_index_or_a_release_is_refused(tmp_path: Path, home: FakeHome) -> None:
    with pytest.raises(Missing, match="no index"):
        create_app(tmp_path / "nothing", load_index=load_fake_index, load_reranker=load_fake_reranker)
    with pytest.raises(Missing, match="release-edge"):
        create_app(home.path, contour="edge", load_index=load_fake_index, load_reranker=load_fake_reranker)
    with pytest.raises(Missing, match="embedder"):
        create_app(home.path)


def test_scores_keep_their_order_whatever_k_asks_beyond_depth(home: FakeHome) -> None:
    home.release(home.model("reverse", "reverse"), depth=3)

    async def scenario(client: Client) -> None:
        results = (await client.search(k=100))["results"]
        assert [r["object_id"] for r in results] == ["d2", "d1", "d0", *ORDER[3:]]
        assert np.all(np.diff([r["score"] for r in results]) < 0)
        assert [r["rerank_score"] is None for r in results] == [False] * 3 + [True] * 9

    run(home, scenario)
