"""The baseline is robust, knows the week when it has seen two, says what it stands on, and never invents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.monitor import cold_start, evaluate_gate, expected, healthy_windows, update_baseline
from predator_si.monitor.baseline import hour_of_week, weighted_median
from predator_si.records import Answer, Baseline, Criterion, Metric, MetricsSnapshot
from predator_si_tests.support.windows import CHAMPION

MONDAY = datetime(2026, 11, 2, 0, 0, tzinfo=UTC)


def window(i, values, *, n=200, half=0.02, minutes=60, created=0, **changes):
    start = MONDAY + timedelta(minutes=minutes * i)
    metrics = {name: Metric(name=name, value=value, n=n, ci_low=value - half, ci_high=value + half) for name, value in values.items()}
    fields = {
        "snapshot_id": f"s{i}-{created}", "contour": "edge-oracle", "created_at": start + timedelta(minutes=minutes + created), "window_start": start,
        "window_end": start + timedelta(minutes=minutes), "champion": CHAMPION, "metrics": metrics,
    }  # fmt: skip
    return MetricsSnapshot(**(fields | changes))


def latency(values, **more):
    return [window(i, {"p95_latency_ms": value}, half=5.0, **more) for i, value in enumerate(values)]


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_equal_weights_give_the_plain_median(values):
    assert weighted_median(np.array(values), np.ones(len(values))) == pytest.approx(float(np.median(values)))


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 5)), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_a_weight_is_a_repetition(pairs):
    values, weights = np.array([value for value, _ in pairs]), np.array([weight for _, weight in pairs])
    assert weighted_median(values, weights.astype(float)) == pytest.approx(float(np.median(np.repeat(values, weights))))


def test_centre_and_spread_survive_two_windows_in_five_gone_wild():
    """Breakdown: 40% of the windows at ten times the latency move neither beyond what the good ones span."""
    rng = np.random.default_rng(0)
    good = rng.normal(100, 5, 60)
    clean, dirty = (update_baseline(latency(values), CHAMPION).references["p95_latency_ms"] for values in (good, np.concatenate([good, np.full(40, 1000.0)])))
    assert good.min() <= dirty.centre <= good.max() and dirty.spread < 20 and clean.spread == pytest.approx(5, rel=0.3)
    assert np.std(np.concatenate([good, np.full(40, 1000.0)])) > 400  # what a plain deviation says


def test_one_flood_of_traffic_is_not_the_reference_alone():
    windows = [*latency([100.0, 101.0, 102.0, 103.0]), window(4, {"p95_latency_ms": 400.0}, n=1_000_000, half=1.0)]
    assert update_baseline(windows, CHAMPION).values["p95_latency_ms"] == 102.5


def test_a_busy_window_counts_for_more():
    quiet = [window(i, {"p95_latency_ms": 100.0}, n=50, half=5.0) for i in range(3)]
    busy = [window(i + 3, {"p95_latency_ms": 120.0}, n=150, half=5.0) for i in range(2)]
    assert update_baseline(quiet + busy, CHAMPION).values["p95_latency_ms"] == 120.0


def weeks(n, amplitude, *, noise=2.0, seed=0):
    """Hourly windows; latency is higher by ``amplitude`` from 9 to 17 UTC on weekdays."""
    rng = np.random.default_rng(seed)
    times = [MONDAY + timedelta(hours=i) for i in range(n)]
    return latency([100.0 + amplitude * (9 <= t.hour < 17 and t.weekday() < 5) + rng.normal(0, noise) for t in times])


def test_two_weeks_teach_the_season_and_less_does_not():
    busy, night = MONDAY + timedelta(weeks=5, hours=11, minutes=30), MONDAY + timedelta(weeks=5, hours=3)
    short = update_baseline(weeks(7 * 24 + 50, 40.0), CHAMPION)
    assert not short.references["p95_latency_ms"].season and "a season needs 2 weeks" in short.references["p95_latency_ms"].reason
    long = update_baseline(weeks(3 * 7 * 24, 40.0), CHAMPION)
    assert expected(long, "p95_latency_ms", busy) == pytest.approx(140.0, abs=3.0) and expected(long, "p95_latency_ms", night) == pytest.approx(100.0, abs=3.0)
    assert long.references["p95_latency_ms"].spread < 5.0  # what is left when the season is taken out
    assert Baseline.model_validate_json(long.to_json()) == long


def test_noise_makes_no_season():
    """Shrinkage: three weeks without any season, and what is learned is a small part of the noise of an hour's median (10 / sqrt 3 = 5.8)."""
    learned = []
    for seed in range(8):
        season = update_baseline(weeks(3 * 7 * 24, 0.0, noise=10.0, seed=seed), CHAMPION).references["p95_latency_ms"].season
        learned.append(np.sqrt(np.mean(np.square(list(season.values()) or [0.0]))))
    assert np.mean(learned) < 2.0


def test_a_gate_compares_with_the_same_hour_of_other_weeks():
    base = update_baseline(weeks(3 * 7 * 24, 40.0), CHAMPION)
    rule = Criterion(name="x", metric="p95_latency_ms", direction="max", kind="relative", threshold=0.15)
    at_noon, at_night = (window(3 * 7 * 24 + hour, {"p95_latency_ms": 141.0}, half=5.0) for hour in (11, 3))
    assert evaluate_gate(rule, at_noon, base, at_noon.created_at).answer is Answer.PASS
    assert evaluate_gate(rule, at_night, base, at_night.created_at).answer is Answer.FAIL


def test_a_slow_decline_never_becomes_the_norm():
    """A point of NDCG in a hundred windows: the reference stops following once the decline is beyond what is tolerated."""
    falling = [window(i, {"ndcg_at_10": 0.60 - 0.0001 * i}, minutes=15) for i in range(2000)]
    base = update_baseline(falling, CHAMPION)
    assert base.values["ndcg_at_10"] > 0.575 and base.left_out["ndcg_at_10 had fallen"] > 1000
    rule = Criterion(name="x", metric="ndcg_at_10", direction="min", kind="relative", threshold=-0.03)
    assert evaluate_gate(rule, falling[-1], base, falling[-1].created_at).answer is Answer.FAIL


def test_the_last_revision_of_a_window_counts():
    first = [window(i, {"ndcg_at_10": 0.5}) for i in range(4)]
    corrected = window(3, {"ndcg_at_10": 0.8}, created=30)
    base = update_baseline([corrected, *first], CHAMPION)
    assert base.windows == 4 and base.references["ndcg_at_10"].windows == 4 and base.values["ndcg_at_10"] == 0.5
    assert max(one.metrics["ndcg_at_10"].value for one in healthy_windows([corrected, *first], CHAMPION)[0]) == 0.8


def test_cold_start_says_how_many_windows_and_why_others_do_not_count():
    history = [window(0, {"ndcg_at_10": 0.5}), window(1, {"ndcg_at_10": 0.5}), window(2, {"ndcg_at_10": 0.5}, lost_events=3), window(3, {"ndcg_at_10": 0.4})]
    assert update_baseline(history, CHAMPION) is None
    said = "no baseline yet: 2 of 4 healthy windows of the champion; 1 left out: events were lost; 1 left out: ndcg_at_10 had fallen"
    assert cold_start(history, CHAMPION) == said
    assert "0 healthy windows" in cold_start([], CHAMPION)
    assert cold_start([window(i, {"ndcg_at_10": 0.5}) for i in range(4)], CHAMPION) is None


def test_few_windows_fall_back_on_their_own_sampling_error():
    one = update_baseline([window(0, {"ndcg_at_10": 0.5}, half=0.0392)], CHAMPION, min_windows=1).references["ndcg_at_10"]
    assert one.spread is None and one.noise == pytest.approx(0.02, rel=1e-3) and one.error == pytest.approx(0.02, rel=1e-3)


def test_an_old_baseline_says_so():
    base = update_baseline([window(i, {"ndcg_at_10": 0.5}) for i in range(4)], CHAMPION)
    late = window(24 * 30, {"ndcg_at_10": 0.5})
    rule = Criterion(name="x", metric="ndcg_at_10", direction="min", kind="relative", threshold=-0.03)
    assert "newest healthy window is 30 days old" in evaluate_gate(rule, late, base, late.created_at).reason
    assert "days old" not in evaluate_gate(rule, window(5, {"ndcg_at_10": 0.5}), base, MONDAY + timedelta(days=1)).reason


def test_hours_of_the_week_are_utc():
    assert hour_of_week(MONDAY) == 0 and hour_of_week(MONDAY - timedelta(minutes=1)) == 167
    assert hour_of_week(datetime.fromisoformat("2026-11-02T01:30:00+02:00")) == 167
