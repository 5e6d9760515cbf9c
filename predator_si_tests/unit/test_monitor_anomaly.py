"""Scores and sequential tests raise as few false alarms as was chosen, on windows that are not Gaussian, and see what changes."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from predator_si.monitor import find_anomalies, probe_reference_of, update_baseline
from predator_si.monitor.anomaly import WINDOWS_PER_MONTH, score_window
from predator_si.records import AnomalyReport, Metric, MetricsSnapshot
from predator_si_tests.support.windows import CHALLENGER, CHAMPION, START

QUERIES = 100


def snapshot(i, *metrics, champion=CHAMPION):
    end = START + timedelta(minutes=15 * (i + 1))
    return MetricsSnapshot(
        snapshot_id=f"s{i:05}",
        contour="local",
        created_at=end,
        window_start=end - timedelta(minutes=15),
        window_end=end,
        champion=champion,
        metrics={one.name: one for one in metrics},
    )


def latency(i, value, half=20.0, n=200):
    return snapshot(i, Metric(name="p95_latency_ms", value=value, n=n, ci_low=value - half, ci_high=value + half))


def scored(shot, base, rate):
    return score_window(shot.metrics["p95_latency_ms"], shot, base, rate)


@pytest.mark.parametrize(
    ("draw", "what"),
    [
        (lambda rng, n: rng.lognormal(5, 0.3, n), "lognormal"),
        (lambda rng, n: 100 + 10 * rng.laplace(size=n), "Laplace"),
        (lambda rng, n: rng.normal(100, 10, n), "normal"),
    ],
)
def test_outlier_scores_keep_the_chosen_rate(draw, what):
    """300 healthy windows, then 20,000 more of the same kind, at one false alarm in 500: what is raised stays within three times the choice."""
    rng = np.random.default_rng(5)
    base = update_baseline([latency(i, value) for i, value in enumerate(draw(rng, 300))], CHAMPION)
    probe = latency(1000, 100.0)
    found = scored(probe, base, 1 / 500)
    values = draw(rng, 20_000)
    alarms = float((np.abs(values - found.expected) / found.scale > found.threshold).mean())
    assert alarms < 3 / 500, what
    assert abs((probe.metrics["p95_latency_ms"].value - found.expected) / found.scale) == pytest.approx(abs(found.z))


def test_an_outlier_is_called_and_says_why_and_a_usual_window_is_not():
    base = update_baseline([latency(i, value) for i, value in enumerate(np.random.default_rng(1).normal(100, 5, 50))], CHAMPION)
    wild, usual = (scored(latency(60, value), base, 1e-4) for value in (200.0, 104.0))
    assert wild.anomalous and "above the usual" in wild.reason and "50 healthy windows" in wild.reason and not usual.anomalous


def test_what_cannot_be_scored_is_unknown_with_a_reason():
    cold = update_baseline([latency(0, 100.0)], CHAMPION, min_windows=1)
    assert scored(latency(1, 500.0), None, 1e-4).anomalous is None
    assert "1 of 3 healthy windows" in scored(latency(1, 500.0), cold, 1e-4).reason
    same = update_baseline([snapshot(i, Metric(name="etl_lag_seconds", value=0.0, n=1)) for i in range(9)], CHAMPION)
    lag = snapshot(9, Metric(name="etl_lag_seconds", value=5.0, n=1))
    assert "have not differed" in score_window(lag.metrics["etl_lag_seconds"], lag, same, 1e-4).reason
    missing = snapshot(9, Metric(name="p95_latency_ms", value=None, reason="nobody asked"))
    assert "nobody asked" in scored(missing, same, 1e-4).reason


def test_a_frozen_set_of_probes_is_judged_by_how_its_windows_really_stray():
    """The interval of 100 queries is wide, but the same queries give nearly the same mean in every window: twelve windows show it."""
    rng = np.random.default_rng(2)
    history = [snapshot(i, Metric(name="ndcg_at_10", value=v, n=100, ci_low=v - 0.08, ci_high=v + 0.08)) for i, v in enumerate(rng.normal(0.6, 0.002, 40))]
    base = update_baseline(history, CHAMPION)
    fallen = snapshot(50, Metric(name="ndcg_at_10", value=0.57, n=100, ci_low=0.49, ci_high=0.65))
    assert score_window(fallen.metrics["ndcg_at_10"], fallen, base, 1e-4).anomalous


# --------------------------------------------------------------------------- sequential tests


def probes(rng, drop=0.0, lose=0.0):
    """One window of the same 100 queries: each has its own NDCG, some of them waver, and ``lose`` of them fall by ``drop`` and more."""
    usual = np.linspace(0, 1, QUERIES)
    wavering = rng.random(QUERIES) < 0.3
    values = np.where(wavering, usual + rng.choice([-0.13, 0.13], QUERIES), usual)
    fallen = rng.random(QUERIES) < lose
    values = np.where(fallen, values - drop, values).clip(0, 1)
    return pl.DataFrame({"query_id": [f"q{i}" for i in range(QUERIES)], "ndcg_at_10": values, "recall_at_20": (values > 0.2) * 1.0})


def steps(rng, n, reference, report=None, *, start=0, errors=0.0, **change):
    shots = []
    base = update_baseline([snapshot(i, Metric(name="error_rate", value=0.0, n=500), Metric(name="ndcg_at_10", value=0.5, n=100)) for i in range(8)], CHAMPION)
    for i in range(start, start + n):
        rate = rng.binomial(200, errors) / 200
        shot = snapshot(i, Metric(name="error_rate", value=float(rate), n=200), Metric(name="ndcg_at_10", value=0.5, n=100))
        report = find_anomalies(shot, base, probes=probes(rng, **change), probe_reference=reference, before=report)
        shots.append(report)
    return shots


def stream(report, name="ndcg_at_10 by query"):
    return next(one for one in report.changes if one.stream == name)


@pytest.fixture(scope="module")
def reference():
    rng = np.random.default_rng(7)
    return probe_reference_of([probes(rng) for _ in range(8)])


def test_300_healthy_windows_raise_no_change(reference):
    """One false alarm a month of 2,880 windows over three streams was chosen: the chance of any in 300 windows is about a tenth at most."""
    reports = steps(np.random.default_rng(8), 300, reference)
    assert sum(one.alarms for one in reports[-1].changes) == 0
    assert stream(reports[-1]).run_length == 3 * WINDOWS_PER_MONTH and stream(reports[-1]).observations == 300 * QUERIES


@pytest.mark.parametrize(("lose", "drop", "at_most"), [(0.06, 0.4, 60), (0.15, 0.4, 14), (0.3, 0.4, 6)])
def test_a_fall_is_called_soon_and_stands(reference, lose, drop, at_most):
    """Mean falls of about .02, .05 and .10: no single window of 100 queries proves the first two (their interval is .06 wide)."""
    delays = []
    for seed in range(5):
        reports = steps(np.random.default_rng(seed), at_most * 2, reference, drop=drop, lose=lose)
        delays.append(next((i + 1 for i, one in enumerate(reports) if stream(one).active), 999))
    assert np.median(delays) <= at_most
    last = stream(reports[-1])
    assert last.active and "a change was called" in last.reason and last.last.observations == last.last.windows * QUERIES


def test_an_alarm_ends_when_the_change_is_gone(reference):
    rng = np.random.default_rng(3)
    fallen = steps(rng, 6, reference, drop=0.4, lose=0.4)
    assert stream(fallen[-1]).active
    healed = steps(rng, 40, reference, fallen[-1], start=6)
    assert not stream(healed[-1]).active and stream(healed[-1]).alarms == stream(fallen[-1]).alarms


def test_errors_are_watched_and_a_burst_is_called_at_once(reference):
    rng = np.random.default_rng(4)
    calm = steps(rng, 20, reference)
    assert not stream(calm[-1], "errors").active
    burst = steps(rng, 1, reference, calm[-1], start=20, errors=0.2)
    assert stream(burst[-1], "errors").active and any("errors: a change was called" in one for one in burst[-1].alarms)


def test_state_survives_being_stored_counts_a_window_once_and_starts_anew_for_another_champion(reference):
    rng = np.random.default_rng(5)
    report = steps(rng, 3, reference)[-1]
    assert AnomalyReport.model_validate_json(report.to_json()) == report
    again = find_anomalies(snapshot(2), None, probes=probes(rng), probe_reference=reference, before=report)
    assert stream(again) == stream(report)
    other = find_anomalies(snapshot(3, champion=CHALLENGER), None, probes=probes(rng), probe_reference=reference, before=report)
    assert stream(other).windows == 1


def test_without_probes_or_earlier_windows_the_test_waits_and_says_so(reference):
    rng = np.random.default_rng(6)
    assert "no judged probes" in stream(find_anomalies(snapshot(0), None)).reason
    young = probe_reference_of([probes(rng), probes(rng)])
    report = find_anomalies(snapshot(0), None, probes=probes(rng), probe_reference=young)
    assert "2 of 3 earlier healthy windows" in stream(report).reason and stream(report).windows == 0
    other = probes(rng).with_columns(query_id=pl.col("query_id") + "x")
    assert "none of 100 probed queries" in stream(find_anomalies(snapshot(0), None, probes=other, probe_reference=reference)).reason
