"""Monitor and trial against the real HTTP service: what it writes is what they read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import polars as pl
import pytest

from predator_si.experiment import judge_ab
from predator_si.monitor import PriceTable, measure_window, probe
from predator_si.records import Verdict, utc_now
from predator_si.search.events import read_events
from predator_si_tests.support.search_fakes import FakeHome, fake_home
from predator_si_tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.live


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[str, FakeHome, str, str]]:
    home = fake_home(tmp_path)
    champion, candidate = home.model("keep"), home.model("turned", "raise")
    home.release(champion, candidate, 0.3, depth=12)
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "predator_si_tests.support.search_fakes", str(tmp_path), str(port)])
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, "the service ended"
        try:
            return httpx.get(f"{url}/ready", timeout=2, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_until(ready, 60, "readiness of the search service")
        yield url, home, champion, candidate
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_the_services_own_events_make_the_snapshot_and_the_verdict(service):
    url, home, champion, candidate = service
    began = utc_now()
    queries = pl.DataFrame({"query_id": ["a", "b"], "text": ["even numbers", "odd numbers"]})
    judgments = pl.DataFrame({"query_id": ["a", "b"], "doc_id": ["d0", "d11"], "relevance": [1.0, 1.0]})
    with httpx.Client(base_url=url, trust_env=False) as client:
        for i in range(240):
            answer = client.post("/search", json={"query": f"number {i}", "client_id": f"c{i}", "simulated": True}).raise_for_status().json()
            if i % 2:
                click = {
                    "query_id": answer["query_id"],
                    "action_name": "click",
                    "object_id": answer["results"][0]["object_id"],
                    "position": 1,
                    "simulated": True,
                }
                client.post("/events", json={"events": [click]}).raise_for_status()
        probes = probe(url, queries, judgments, variant="champion")
        client.post("/flush").raise_for_status()
        ingest = client.get("/info").json()["ingest"]
    ended = utc_now() + timedelta(seconds=1)

    assert probes.failed == 0 and probes.digests == {champion}
    assert probes.per_query["recall_at_20"].to_list() == [1.0, 1.0] and probes.per_query["ndcg_at_10"].to_list() == [1.0, 0.0]
    assert probes.per_query["candidate_ids"].to_list()[0] == [f"d{i}" for i in range(12)]

    events = read_events(home.events, began, ended)
    snapshot = measure_window(
        events, began, ended, utc_now(), champion=champion, contour="local", probes=probes, prices=PriceTable(usd_per_vcpu_hour=0.04), ingest=ingest
    )
    metrics = snapshot.metrics
    assert snapshot.lost_events == 0 and metrics["ndcg_at_10"].value == 0.5
    assert metrics["avg_latency_ms"].n == events.search.filter((pl.col("model_digest") == champion) & ~pl.col("probe")).height < 240
    for name in ("p95_latency_ms", "cost_per_1k_requests", "ndcg_at_10_clicks", "etl_lag_seconds", "index_throughput", "index_errors"):
        assert metrics[name].value is not None, metrics[name].reason
    assert metrics["error_rate"].value == 0.0 and metrics["index_errors"].value == 0.0

    trial = judge_ab(events, champion, candidate, cycle_id="si_2026_11_22_001", window_start=began, window_end=ended, now=utc_now(), split=0.3)
    assert trial.verdict is Verdict.REJECT and "error_rate" in trial.reason and trial.requests["other"] == 0
    assert trial.arms["challenger"]["error_rate"].value == 1.0, "a degraded answer is an error of its variant"
