"""A window's metrics: the champion's only, with interval, source and age, and null with a reason where they cannot be known."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from predator_si.errors import BadInput
from predator_si.monitor import PriceTable, ProbeResult, click_quality, measure_window
from predator_si.search.clicks import ClickModel
from predator_si_tests.support.windows import CHALLENGER, CHAMPION, START, action, frames, search

END = START + timedelta(minutes=15)
NOW = END + timedelta(seconds=60)


def measured(events, **more):
    return measure_window(events, START, END, NOW, **({"champion": CHAMPION, "contour": "local"} | more))


def probes(scores, *, failed=0, digests=(CHAMPION,), k=20):
    n = len(scores) + failed
    frame = pl.DataFrame(
        {
            "query_id": [f"q{i}" for i in range(n)],
            "ndcg_at_10": [*scores, *[None] * failed],
            "recall_at_20": [*scores, *[None] * failed],
            "rr_at_10": [*scores, *[None] * failed],
            "error": [*[None] * len(scores), *["HTTP 500"] * failed],
        },
        schema_overrides={"error": pl.String, "ndcg_at_10": pl.Float64, "recall_at_20": pl.Float64, "rr_at_10": pl.Float64},
    )
    return ProbeResult("http://127.0.0.1:1", "champion", k, frame, failed, frozenset(digests), START, END)


def test_latency_errors_and_cost_count_the_champions_requests_only():
    rows = [search(i, latency_ms=100.0 + i, cpu_seconds=0.2) for i in range(100)]
    rows += [search(200 + i, model_digest=CHALLENGER, variant="candidate", latency_ms=9000.0, status=500) for i in range(30)]
    rows += [search(300 + i, probe=True, latency_ms=9000.0, status=500) for i in range(30)]
    rows += [search(400, status=400, latency_ms=1.0)]  # the caller's mistake: neither an error of the service nor a latency
    snapshot = measured(frames(rows), prices=PriceTable(usd_per_vcpu_hour=0.036))
    metrics = snapshot.metrics
    assert metrics["avg_latency_ms"].value == pytest.approx(149.5) and metrics["avg_latency_ms"].n == 100
    assert metrics["p95_latency_ms"].value == pytest.approx(np.quantile(np.arange(100.0, 200.0), 0.95))
    assert metrics["p99_latency_ms"].ci_high is None
    assert metrics["error_rate"].value == 0.0 and 0.0 < metrics["error_rate"].ci_high < 0.05
    # 0.2 CPU seconds at 0.036 USD per 3600 s = 2e-6 USD a request
    assert metrics["cost_per_1k_requests"].value == pytest.approx(0.002)
    assert metrics["cost_per_1k_requests"].source.startswith("estimated")
    assert metrics["avg_latency_ms"].age_seconds == pytest.approx((NOW - START).total_seconds() - 99)
    assert metrics["avg_latency_ms"].window_start == START


def test_failures_without_a_model_degraded_answers_and_shed_requests_are_errors():
    rows = [search(i) for i in range(96)]
    rows += [search(100, status=503, model_digest=None, variant=None, results=[])]
    rows += [search(101, status=503, model_digest=None, variant="candidate", results=[])]  # the candidate's, not ours
    rows += [search(102, status=429, model_digest=None, results=[]), search(103, degraded=True), search(104, status=500)]
    rate = measured(frames(rows)).metrics["error_rate"]
    assert (rate.n, rate.value) == (100, 0.04)
    assert rate.ci_low < 0.04 < rate.ci_high


def test_an_empty_window_makes_everything_unknown_with_a_reason():
    snapshot = measured(frames([]), prices=PriceTable(usd_per_vcpu_hour=0.04))
    for metric in snapshot.metrics.values():
        assert metric.value is None and metric.reason, metric.name
    assert {"ndcg_at_10", "recall_at_20", "avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms", "error_rate", "cost_per_1k_requests"} <= set(
        snapshot.metrics
    )
    assert {"ndcg_at_10_clicks", "etl_lag_seconds", "index_throughput", "index_errors", "gpu_utilization", "user_satisfaction", "nps"} <= set(snapshot.metrics)


def test_traffic_answered_by_another_model_is_unknown_not_the_champions():
    metric = measured(frames([search(i, model_digest=CHALLENGER) for i in range(60)])).metrics["avg_latency_ms"]
    assert metric.value is None and "60 by other models" in metric.reason


def test_requests_outside_the_window_do_not_count():
    rows = [search(0), search(899), search(900), search(-1)]
    assert measured(frames(rows)).metrics["avg_latency_ms"].n == 2


def test_a_search_whose_latency_was_not_measured_counts_in_everything_but_latency():
    half = measured(frames([search(i, latency_ms=None if i % 2 else 80.0) for i in range(10)])).metrics
    assert (half["avg_latency_ms"].value, half["avg_latency_ms"].n, half["p95_latency_ms"].n, half["error_rate"].n) == (80.0, 5, 5, 10)
    none = measured(frames([search(i, latency_ms=None) for i in range(10)])).metrics
    assert none["p95_latency_ms"].value is None and none["avg_latency_ms"].reason == "none of 10 answered requests carries its latency"


def test_lost_and_quarantined_are_counted():
    snapshot = measured(frames([search(0)], lost=3, quarantined=2))
    assert (snapshot.lost_events, snapshot.quarantined) == (3, 2)


def test_judged_quality_has_its_interval():
    scores = np.random.default_rng(0).beta(1, 1, 200)
    metric = measured(frames([]), probes=probes(list(scores), failed=4)).metrics["ndcg_at_10"]
    assert metric.value == pytest.approx(scores.mean()) and metric.n == 200
    assert metric.ci_low < metric.value < metric.ci_high and metric.ci_high - metric.ci_low == pytest.approx(4 * scores.std() / np.sqrt(200), rel=0.1)
    assert metric.age_seconds == 60.0 and "4 of 204 failed" in metric.source


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (probes([0.5] * 90, failed=10), "10 of 100 probes failed"),
        (probes([0.5] * 100, digests=(CHAMPION, CHALLENGER)), "2 models"),
        (probes([0.5] * 100, digests=(CHALLENGER,)), "not by the champion"),
        (None, "no judged probes"),
    ],
)
def test_quality_is_unknown_when_the_probes_cannot_say(result, said):
    metric = measured(frames([]), probes=result).metrics["ndcg_at_10"]
    assert metric.value is None and said in metric.reason


def test_recall_at_20_needs_20_results():
    metrics = measured(frames([]), probes=probes([0.5] * 100, k=10)).metrics
    assert metrics["recall_at_20"].value is None and metrics["ndcg_at_10"].value == 0.5


def test_ratings_give_satisfaction_and_net_promoters():
    rows = [search(i) for i in range(10)] + [search(20, model_digest=CHALLENGER)]
    ratings = [action(f"r{i}", "rating", value=value) for i, value in enumerate([5, 5, 4, 3, 1])]
    ratings += [action("r6", "rating", value=9.0), action("r20", "rating", value=1.0)]
    metrics = measured(frames(rows, ratings)).metrics
    assert metrics["user_satisfaction"].value == pytest.approx(3.6) and metrics["user_satisfaction"].n == 5
    assert metrics["nps"].value == pytest.approx(0.0)  # two promoters, two detractors
    assert "1 outside 1..5" in metrics["user_satisfaction"].source


def test_click_quality_by_hand():
    rows = [search(0), search(1), search(2, results=[]), search(3)]
    clicks = [action("r0"), action("r0"), action("r1", object_id="d2", position=1), action("r1", object_id="never shown"), action("r3", "dwell", value=40.0)]
    events = frames(rows, clicks)
    values = click_quality(events.search, events.actions)["value"].to_list()
    # r0: position 1, propensity 1; r1: shown at position 3 whatever the client says, weight 3 over log2(4)
    assert values == pytest.approx([1.0, 3 / 2, 0.0, 0.0])


def test_click_quality_recovers_ndcg_of_a_position_based_user():
    model, rng = ClickModel(attraction_floor=0.0, attraction_ceiling=1.0), np.random.default_rng(1)
    relevant = rng.integers(0, 14, 6000)  # positions 10..13 are beyond what is shown
    rows = [search(i) for i in range(6000)]
    clicks = [
        action(f"r{i}", object_id=click.object_id)
        for i, at in enumerate(relevant)
        for click in model.clicks([f"d{rank}" for rank in range(10)], {f"d{at}": 1.0}, rng)
    ]
    events = frames(rows, clicks)
    estimate = click_quality(events.search, events.actions)["value"]
    truth = np.where(relevant < 10, 1 / np.log2(relevant + 2.0), 0.0).mean()
    assert estimate.mean() == pytest.approx(truth, abs=4 * estimate.std() / np.sqrt(6000))


def test_clicks_say_when_they_are_simulated_and_when_there_are_none():
    rows = [search(i, simulated=True) for i in range(30)]
    metric = measured(frames(rows, [action("r1", simulated=True)])).metrics["ndcg_at_10_clicks"]
    assert "simulated" in metric.source and metric.value == pytest.approx(1 / 30)
    metric = measured(frames(rows)).metrics["ndcg_at_10_clicks"]
    assert metric.value is None and "none of 30" in metric.reason


def test_ingest_and_gpu():
    ingest = {"lag_seconds": 70.0, "documents_per_second": 12.5, "dead_letters": 0, "observed_at": (NOW - timedelta(seconds=5)).isoformat()}
    metrics = measured(frames([]), ingest=ingest, gpu_utilization=0.5).metrics
    assert (metrics["etl_lag_seconds"].value, metrics["index_throughput"].value, metrics["index_errors"].value) == (70.0, 12.5, 0.0)
    assert metrics["etl_lag_seconds"].age_seconds == 5.0 and metrics["gpu_utilization"].value == 0.5
    broken = measured(frames([]), ingest={"lag_seconds": None, "dead_letters": float("nan")}).metrics
    assert all(broken[name].value is None and broken[name].reason for name in ("etl_lag_seconds", "index_throughput", "index_errors"))


def test_a_window_needs_time_zones_and_length():
    with pytest.raises(BadInput, match="time zones"):
        measure_window(frames([]), END, START, NOW, champion=None, contour="local")
