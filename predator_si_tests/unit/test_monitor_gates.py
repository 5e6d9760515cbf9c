"""Gates answer pass, fail, unknown or not applicable; triggers start a cycle only from a real failure, and every skip says why."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predator_si.contour import ContourValues
from predator_si.monitor import TRIGGERS, GateState, Skip, Start, decide, default_criteria, evaluate_gate, evaluate_gates, quality_gates_status, update_baseline
from predator_si.records import Answer, Baseline, Criterion, Cycle, CycleState, Metric, MetricsSnapshot, Trigger
from predator_si_tests.support.windows import CHALLENGER, CHAMPION, START

NOW = START + timedelta(minutes=16)


def metric(name, value, *, n=200, low=None, high=None, age=30.0, **more):
    return Metric(name=name, value=value, n=n, ci_low=low, ci_high=high, age_seconds=age, **more)


def snapshot(*metrics, minutes=15, **changes):
    end = START + timedelta(minutes=minutes)
    fields = {
        "snapshot_id": f"s{minutes}",
        "contour": "local",
        "created_at": end,
        "window_start": end - timedelta(minutes=15),
        "window_end": end,
        "champion": CHAMPION,
        "metrics": {one.name: one for one in metrics},
    }
    return MetricsSnapshot(**(fields | changes))


def baseline(**values):
    return Baseline(champion=CHAMPION, created_at=START, windows=3, values=values)


RELATIVE = Criterion(name="ndcg_at_10_relative", metric="ndcg_at_10", direction="min", kind="relative", threshold=-0.03, min_sample=50, max_age_seconds=3600)
ABSOLUTE = Criterion(name="p95_latency_ms_max", metric="p95_latency_ms", direction="max", threshold=800, min_sample=50)


def answer(criterion, shot, base=None, now=NOW):
    return evaluate_gate(criterion, shot, base, now).answer


def test_absolute_gate_meets_its_limit_exactly():
    assert answer(ABSOLUTE, snapshot(metric("p95_latency_ms", 800.0))) is Answer.PASS
    assert answer(ABSOLUTE, snapshot(metric("p95_latency_ms", 800.1))) is Answer.FAIL


def test_relative_gate_fails_only_when_the_interval_excludes_the_baseline():
    base = baseline(ndcg_at_10=0.50)
    assert answer(RELATIVE, snapshot(metric("ndcg_at_10", 0.49, low=0.47, high=0.51)), base) is Answer.PASS
    sure = evaluate_gate(RELATIVE, snapshot(metric("ndcg_at_10", 0.45, low=0.42, high=0.48)), base, NOW)
    assert sure.answer is Answer.FAIL and sure.limit == pytest.approx(0.485) and sure.reference == 0.50 and sure.n == 200
    noisy = evaluate_gate(RELATIVE, snapshot(metric("ndcg_at_10", 0.45, low=0.38, high=0.52)), base, NOW)
    assert noisy.answer is Answer.UNKNOWN and "still holds the baseline" in noisy.reason
    assert answer(RELATIVE, snapshot(metric("ndcg_at_10", 0.45)), base) is Answer.UNKNOWN


def test_relative_gate_of_a_metric_that_should_be_low():
    rule = Criterion(name="x", metric="p95_latency_ms", direction="max", kind="relative", threshold=0.15)
    base = baseline(p95_latency_ms=100.0)
    assert answer(rule, snapshot(metric("p95_latency_ms", 130.0, low=118.0, high=150.0)), base) is Answer.FAIL
    assert answer(rule, snapshot(metric("p95_latency_ms", 130.0, low=95.0, high=150.0)), base) is Answer.UNKNOWN
    assert answer(rule, snapshot(metric("p95_latency_ms", 114.0, low=105.0, high=150.0)), base) is Answer.PASS


@pytest.mark.parametrize(
    ("shot", "base", "said"),
    [
        (None, baseline(ndcg_at_10=0.5), "no snapshot"),
        (snapshot(), baseline(ndcg_at_10=0.5), "lacks it"),
        (snapshot(metric("ndcg_at_10", None, reason="every probe failed")), baseline(ndcg_at_10=0.5), "every probe failed"),
        (snapshot(metric("ndcg_at_10", 0.3, age=3541.0)), baseline(ndcg_at_10=0.5), "stale"),
        (snapshot(metric("ndcg_at_10", 0.3, age=None)), baseline(ndcg_at_10=0.5), "how old"),
        (snapshot(metric("ndcg_at_10", 0.3, n=49)), baseline(ndcg_at_10=0.5), "needs 50"),
        (snapshot(metric("ndcg_at_10", 0.3)), None, "no baseline yet"),
        (snapshot(metric("ndcg_at_10", 0.3)), baseline(recall_at_20=0.5), "no value for it"),
        (snapshot(metric("ndcg_at_10", 0.3), champion=CHALLENGER), baseline(ndcg_at_10=0.5), "belongs to"),
    ],
)
def test_unknown_says_why(shot, base, said):
    result = evaluate_gate(RELATIVE, shot, base, NOW)
    assert result.answer is Answer.UNKNOWN and said in result.reason
    strict = evaluate_gate(RELATIVE.model_copy(update={"no_data": "fail"}), shot, base, NOW)
    assert strict.answer is Answer.FAIL and strict.value is None


def test_not_applicable_excuses_a_missing_metric_but_not_a_stale_one():
    rule = Criterion(name="gpu", metric="gpu_utilization", direction="max", threshold=0.85, no_data="not_applicable", max_age_seconds=60)
    assert answer(rule, snapshot(metric("gpu_utilization", None, reason="no GPU"))) is Answer.NOT_APPLICABLE
    assert answer(rule, snapshot(metric("gpu_utilization", 0.2, age=300.0))) is Answer.UNKNOWN


def test_a_few_failures_in_a_few_requests_fail_without_the_minimum_sample():
    rule = Criterion(name="error_rate_max", metric="error_rate", direction="max", threshold=0.01, min_sample=50)
    assert answer(rule, snapshot(metric("error_rate", 1.0, n=4, low=0.51, high=1.0))) is Answer.FAIL
    assert answer(rule, snapshot(metric("error_rate", 0.1, n=10, low=0.0051, high=0.4))) is Answer.UNKNOWN


@given(st.floats(0.0, 1.0), st.floats(0.0, 0.3), st.floats(0.05, 1.0), st.floats(-0.5, 0.0))
def test_a_failed_relative_gate_is_always_a_drop_beyond_noise(value, half, base, threshold):
    rule = RELATIVE.model_copy(update={"threshold": threshold})
    result = evaluate_gate(rule, snapshot(metric("ndcg_at_10", value, low=value - half, high=value + half)), baseline(ndcg_at_10=base), NOW)
    if result.answer is Answer.FAIL:
        assert value < base * (1 + threshold) and value + half < base
    if result.answer is Answer.PASS:
        assert value >= base * (1 + threshold)


def test_status_counts_unknown_as_warning_and_ignores_what_does_not_apply():
    criteria = [RELATIVE, ABSOLUTE, Criterion(name="gpu", metric="gpu_utilization", direction="max", threshold=0.85, no_data="not_applicable")]
    good = snapshot(metric("ndcg_at_10", 0.5, low=0.45, high=0.55), metric("p95_latency_ms", 100.0))
    assert quality_gates_status(evaluate_gates(criteria, good, baseline(ndcg_at_10=0.5), NOW)) == "passing"
    assert quality_gates_status(evaluate_gates(criteria, good, None, NOW)) == "warning"
    slow = snapshot(metric("ndcg_at_10", 0.5), metric("p95_latency_ms", 900.0))
    assert quality_gates_status(evaluate_gates(criteria, slow, None, NOW)) == "failing"
    assert quality_gates_status([]) == "warning"


def test_default_criteria_of_local_are_the_contours_own():
    ours = {criterion.name: criterion for criterion in default_criteria("local")}
    for criterion in ContourValues().criteria():
        assert ours[criterion.name] == criterion
    assert "ndcg_at_10_min" not in ours and ours["index_errors_max"].threshold == 3
    assert {criterion.name: criterion.threshold for criterion in default_criteria("edge-oracle")}["ndcg_at_10_min"] == 0.75


# --------------------------------------------------------------------------- decide

GATES = default_criteria("local")
BASE = baseline(ndcg_at_10=0.5, recall_at_20=0.8)
BAD_NDCG = metric("ndcg_at_10", 0.40, low=0.36, high=0.44)
SLOW = metric("p95_latency_ms", 1200.0)
FINE = (metric("recall_at_20", 0.8, low=0.7, high=0.9), metric("error_rate", 0.0, low=0.0, high=0.02))
READY = GateState(enabled=True, kill_switch=False)


def decided(*metrics, state=READY, base=BASE, now=NOW, **more):
    shot = snapshot(*metrics)
    return decide(shot, evaluate_gates(GATES, shot, base, now), state, now, **more)


def cycle(kind, state, minutes_ago, n=1):
    at = NOW - timedelta(minutes=minutes_ago)
    cause = Trigger(type=kind, metric="ndcg_at_10", value=0.4, baseline=0.5, delta=-0.1, actions=(), reason="")
    return Cycle(cycle_id=f"si_2026_11_22_{n:03d}", contour="local", state=state, trigger=cause, opened_at=at, updated_at=at)


def test_a_quality_drop_starts_a_cycle_and_names_what_else_fails():
    found = decided(BAD_NDCG, SLOW, *FINE)
    assert isinstance(found, Start)
    assert found.trigger.type == "ndcg_at_10_down" and found.trigger.actions == ("diagnose", "augment", "retrain_reranker")
    assert (found.trigger.value, found.trigger.baseline) == (0.40, 0.5) and found.trigger.delta == pytest.approx(-0.1)
    assert [gate.criterion.name for gate in found.also_failing] == ["p95_latency_ms_max"] and "p95_latency_ms_max" in found.reason


def test_a_broken_service_comes_first():
    found = decided(BAD_NDCG, SLOW, metric("error_rate", 0.2, low=0.15, high=0.26))
    assert isinstance(found, Start) and found.trigger.type == "error_rate_up" and len(found.also_failing) == 2


def test_latency_alone_starts_its_own_cycle_and_keeps_the_p95_number():
    found = decided(SLOW, metric("avg_latency_ms", 700.0), *FINE)
    assert isinstance(found, Start) and (found.trigger.type, found.trigger.metric, found.trigger.value) == ("p95_latency_ms_up", "p95_latency_ms", 1200.0)


def test_unknown_never_starts_a_cycle():
    found = decided(metric("ndcg_at_10", 0.40, low=0.3, high=0.55), metric("p95_latency_ms", 5000.0, age=9999.0))
    assert isinstance(found, Skip) and "stale" in found.reason and "still holds the baseline" in found.reason


def test_a_gate_that_fails_for_lack_of_data_never_starts_a_cycle():
    strict = [criterion.model_copy(update={"no_data": "fail"}) for criterion in GATES]
    shot = snapshot(metric("p95_latency_ms", 5000.0, age=9999.0))
    gates = evaluate_gates(strict, shot, None, NOW)
    assert {gate.answer for gate in gates} == {Answer.FAIL}
    assert isinstance(decide(shot, gates, READY, NOW), Skip)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (GateState(enabled=True, kill_switch=True), "kill switch"),
        (GateState(enabled=False, kill_switch=False), "enabled is false"),
        (GateState(enabled=True, kill_switch=False, cycles=[cycle("x", CycleState.ON_TRIAL, 300)]), "one cycle at a time"),
        (GateState(enabled=True, kill_switch=False, cycles=[cycle("x", CycleState.STABLE, 30)]), "the interval is"),
        (GateState(enabled=True, kill_switch=False, max_cycles_per_day=1, cycles=[cycle("x", CycleState.STABLE, 200)]), "the limit is 1"),
    ],
)
def test_a_refusal_by_policy_is_explained_with_what_waits(state, said):
    found = decided(BAD_NDCG, SLOW, state=state)
    assert isinstance(found, Skip) and said in found.reason and "p95_latency_ms_up waits as well" in found.reason


def test_cool_down_of_one_trigger_lets_the_next_failing_row_through():
    state = GateState(enabled=True, kill_switch=False, cycles=[cycle("ndcg_at_10_down", CycleState.REJECTED, 90)], cool_down=timedelta(hours=6))
    found = decided(BAD_NDCG, SLOW, state=state)
    assert isinstance(found, Start) and found.trigger.type == "p95_latency_ms_up"
    found = decided(BAD_NDCG, state=state)
    assert isinstance(found, Skip) and "cool-down" in found.reason and found.retry_at == NOW + timedelta(hours=4, minutes=30)
    assert isinstance(decided(BAD_NDCG, state=state, force=True), Start)


def test_cost_starts_a_cycle_only_where_the_contour_says_so():
    dear, told = metric("cost_per_1k_requests", 2.0), GateState(enabled=True, kill_switch=False, cost_optimization=False)
    found = decided(dear, *FINE)
    assert isinstance(found, Start) and found.trigger.type == "cost_per_1k_requests_up"
    found = decided(dear, *FINE, state=told)
    assert isinstance(found, Skip) and "only tells people (kubecost.costOptimization is false): cost_per_1k_requests 2 " in found.reason
    assert isinstance(decided(dear, *FINE, state=told, force=True), Start), "a person asks for it"
    found = decided(dear, BAD_NDCG, state=told)
    assert isinstance(found, Start) and found.trigger.type == "ndcg_at_10_down" and not found.also_failing


def test_force_does_not_make_up_a_trigger_nor_pass_the_kill_switch():
    assert isinstance(decided(*FINE, force=True), Skip)
    assert isinstance(decided(BAD_NDCG, state=GateState(enabled=True, kill_switch=True), force=True), Skip)


def test_no_old_missing_or_mock_snapshot_is_acted_upon():
    assert isinstance(decide(None, [], READY, NOW), Skip)
    assert "s old" in decided(BAD_NDCG, now=NOW + timedelta(hours=1)).reason
    shot = snapshot(BAD_NDCG, mock=True)
    gates = evaluate_gates(GATES, shot, BASE, NOW)
    assert "mock" in decide(shot, gates, READY, NOW).reason
    assert isinstance(decide(shot, gates, GateState(enabled=True, kill_switch=False, mock_signals=True), NOW), Start)


def test_healthy_is_said_so():
    found = decided(metric("ndcg_at_10", 0.5, low=0.45, high=0.55), *FINE)
    assert isinstance(found, Skip) and "no gate asks for a cycle" in found.reason


def test_the_table_covers_every_row_with_its_limits():
    rows = {rule.type: rule for rule in TRIGGERS}
    assert {name: rule.react_within_seconds for name, rule in rows.items()} == {
        "error_rate_up": 300,
        "index_errors_up": 180,
        "ndcg_at_10_down": 3600,
        "recall_at_20_down": 7200,
        "p95_latency_ms_up": 300,
        "etl_lag_seconds_up": 600,
        "user_satisfaction_down": 86400,
        "cost_per_1k_requests_up": 1800,
    }
    assert rows["p95_latency_ms_up"].rollback.threshold == 1000 and rows["recall_at_20_down"].rollback.threshold == -0.02
    assert {rule.type for rule in TRIGGERS if rule.watched_each_minute} == {"error_rate_up", "index_errors_up", "p95_latency_ms_up", "etl_lag_seconds_up"}


# --------------------------------------------------------------------------- baseline


def window(i, ndcg, *, error_rate=0.0, **changes):
    return snapshot(metric("ndcg_at_10", ndcg), metric("error_rate", error_rate), metric("etl_lag_seconds", 2.0, n=1), minutes=15 * (i + 1), **changes)


def test_baseline_is_the_median_of_healthy_windows():
    found = update_baseline([window(2, 0.52), window(0, 0.50), window(1, 0.51)], CHAMPION)
    assert found.values["ndcg_at_10"] == 0.51 and found.values["etl_lag_seconds"] == 2.0 and found.windows == 3


def test_a_drop_never_enters_its_own_reference():
    history = [window(0, 0.50), *(window(i, 0.42) for i in range(1, 20))]
    assert update_baseline(history, CHAMPION).values["ndcg_at_10"] == 0.50


def test_faulty_lossy_mock_small_and_foreign_windows_do_not_count():
    history = [
        window(0, 0.50),
        window(1, 0.90, error_rate=0.05),
        window(2, 0.90, lost_events=1),
        window(3, 0.90, mock=True),
        window(4, 0.90, champion=CHALLENGER),
        snapshot(metric("ndcg_at_10", 0.90, n=5), minutes=200),
    ]
    found = update_baseline(history, CHAMPION)
    assert found.windows == 1 and found.values["ndcg_at_10"] == 0.50


def test_cold_start_depends_on_the_contour():
    assert update_baseline([], CHAMPION) is None
    edge = [window(i, 0.5, contour="edge-oracle") for i in range(4)]
    assert update_baseline(edge[:3], CHAMPION) is None
    assert update_baseline(edge, CHAMPION).windows == 4
    assert update_baseline(edge[:3], CHAMPION, min_windows=2).windows == 3
    assert update_baseline([window(0, 0.5)], CHAMPION, min_windows=2) is None
