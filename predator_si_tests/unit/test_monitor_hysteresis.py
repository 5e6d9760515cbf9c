"""Gates that remember do not flap, units are checked, what has no source does not apply, and evidence alone starts nothing."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from predator_si.contour import ContourValues
from predator_si.monitor import GateState, Skip, Start, decide, default_criteria, evaluate_gate, evaluate_gates, hold, quality_gates_status, remember, weigh
from predator_si.records import (
    AnomalyReport,
    Answer,
    Baseline,
    ChangeAlarm,
    ChangeWatch,
    Criterion,
    DriftItem,
    DriftReport,
    GateMemory,
    Hysteresis,
    Metric,
    MetricsSnapshot,
)
from predator_si_tests.support.windows import CHALLENGER, CHAMPION, START

READY = GateState(enabled=True, kill_switch=False)


def snapshot(i, *metrics, champion=CHAMPION, **changes):
    end = START + timedelta(minutes=15 * (i + 1))
    fields = {"snapshot_id": f"s{i:04}", "contour": "local", "created_at": end, "window_start": end - timedelta(minutes=15), "window_end": end}
    return MetricsSnapshot(**(fields | {"champion": champion, "metrics": {one.name: one for one in metrics}} | changes))


def latency(i, value, **changes):
    return snapshot(i, Metric(name="p95_latency_ms", value=value, n=200, unit="ms", age_seconds=1.0), **changes)


def gate(fail_after=1, clear_after=1, margin=None, **changes):
    rule = Hysteresis(fail_after=fail_after, clear_after=clear_after, margin=margin)
    return Criterion(name="p95_latency_ms_max", metric="p95_latency_ms", direction="max", threshold=800.0, unit="ms", hysteresis=rule).model_copy(
        update=changes
    )


def run(rule, values):
    """The gate's result in each of the windows."""
    memory, found = None, []
    for i, value in enumerate(values):
        shot = latency(i, value)
        own = [evaluate_gate(rule, shot, None, shot.created_at)]
        memory = remember(own, shot, memory)
        found += hold(own, memory)
    return found


def letters(rule, values):
    return "".join({Answer.PASS: "p", Answer.FAIL: "r" if one.recovering else "F", Answer.UNKNOWN: "?"}[one.answer] for one in run(rule, values))


def test_a_gate_fails_and_clears_after_so_many_windows_in_a_row():
    bad, good = 900.0, 700.0
    assert letters(gate(), [good, bad, good, bad, good]) == "pFpFp"
    assert letters(gate(clear_after=2), [good, bad, good, bad, good, good, good]) == "pFrFrpp"
    assert letters(gate(fail_after=2), [good, bad, good, bad, bad, bad, good]) == "p?p?FFp"


def test_a_margin_clears_at_once():
    assert letters(gate(clear_after=3, margin=0.1), [900.0, 790.0, 721.0, 720.0, 790.0]) == "Frrpp"


def test_reasons_say_what_is_held_and_how_long():
    held = run(gate(fail_after=2, clear_after=3, margin=0.1), [700.0, 900.0, 900.0, 790.0])
    assert held[1].doubt == "pending" and "in 1 of 2 windows in a row" in held[1].reason
    assert "failing since 2026-11-22 12:45 UTC" in held[3].reason and "in 1 of 3 windows" in held[3].reason and "once by 10% of it" in held[3].reason


def test_a_window_counts_once_and_an_unknown_one_not_at_all():
    rule, memory = gate(clear_after=2), None
    for shot in (latency(0, 900.0), latency(1, 700.0), latency(1, 700.0), latency(0, 700.0)):
        own = [evaluate_gate(rule, shot, None, shot.created_at)]
        memory = remember(own, shot, memory)
    assert memory.gates[rule.name].answer is Answer.FAIL and memory.gates[rule.name].against == 1
    unknown = latency(2, None)
    memory = remember([evaluate_gate(rule, unknown, None, unknown.created_at)], unknown, memory)
    assert memory.gates[rule.name].against == 1 and GateMemory.model_validate_json(memory.to_json()) == memory
    good = latency(3, 700.0)
    assert remember([evaluate_gate(rule, good, None, good.created_at)], good, memory).gates[rule.name].answer is Answer.PASS


def test_another_champion_starts_with_a_clean_memory():
    shot = latency(0, 900.0)
    memory = remember([evaluate_gate(gate(clear_after=9), shot, None, shot.created_at)], shot, None)
    new = latency(1, 700.0, champion=CHALLENGER)
    own = [evaluate_gate(gate(clear_after=9), new, None, new.created_at)]
    assert hold(own, remember(own, new, memory))[0].answer is Answer.PASS


def test_a_noisy_series_at_the_limit_flaps_without_memory_and_hardly_with_it():
    """2,000 windows whose mean is the limit itself: changes of the answer, without and with the contour's default, and with a margin."""
    values = np.random.default_rng(0).normal(800.0, 20.0, 2000).tolist()

    def changes(rule):
        states = ["F" if letter in "Fr" else "p" for letter in letters(rule, values)]
        return sum(a != b for a, b in pairwise(states))

    plain, default, banded = changes(gate()), changes(gate(clear_after=2)), changes(gate(fail_after=3, clear_after=12, margin=0.1))
    assert plain > 900 and default < 0.75 * plain and banded < 0.01 * plain


@given(st.lists(st.sampled_from([600.0, 790.0, 810.0, 1000.0]), min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 4), st.sampled_from([None, 0.1]))
@settings(max_examples=80, deadline=None)
def test_memory_never_makes_a_failure_of_a_good_window_nor_a_pass_of_a_bad_one(values, fail_after, clear_after, margin):
    for value, result in zip(values, run(gate(fail_after, clear_after, margin), values), strict=True):
        if value > 800.0:
            assert result.answer in (Answer.FAIL, Answer.UNKNOWN) and not result.recovering
        else:
            assert result.answer is Answer.PASS or result.recovering


@given(st.floats(0, 2000), st.floats(0, 500))
@settings(max_examples=80, deadline=None)
def test_an_absolute_gate_is_monotone_in_its_value(value, worse):
    order = {Answer.PASS: 0, Answer.FAIL: 1}
    answers = [order[evaluate_gate(gate(), latency(0, each), None, START + timedelta(minutes=16)).answer] for each in (value, value + worse)]
    assert answers == sorted(answers)


@given(st.floats(0.01, 1.0), st.floats(0.0, 0.5), st.floats(0.0, 0.3))
@settings(max_examples=80, deadline=None)
def test_a_relative_gate_never_gets_better_with_a_worse_value(value, half, worse):
    rule = Criterion(name="x", metric="ndcg_at_10", direction="min", kind="relative", threshold=-0.03)
    base = Baseline(champion=CHAMPION, created_at=START, windows=4, values={"ndcg_at_10": 0.5})
    order = {Answer.PASS: 0, Answer.UNKNOWN: 1, Answer.FAIL: 2}
    answers = []
    for each in (value, value - worse):
        shot = snapshot(0, Metric(name="ndcg_at_10", value=each, n=200, ci_low=each - half, ci_high=each + half))
        answers.append(order[evaluate_gate(rule, shot, base, shot.created_at).answer])
    assert answers == sorted(answers)


METRIC = st.sampled_from(["ndcg_at_10", "recall_at_20", "p95_latency_ms", "error_rate", "etl_lag_seconds", "user_satisfaction"])


@given(st.dictionaries(METRIC, st.tuples(st.one_of(st.none(), st.floats(0, 2000)), st.integers(0, 300), st.booleans()), max_size=6))
@settings(max_examples=80, deadline=None)
def test_unknown_never_starts_a_cycle(given_metrics):
    metrics = [
        Metric(
            name=name, value=value, n=n, age_seconds=1.0 if fresh else 1e9, ci_low=value, ci_high=value, reason=None if value is not None else "nobody knows"
        )
        for name, (value, n, fresh) in given_metrics.items()
    ]
    shot = snapshot(0, *metrics)
    own = evaluate_gates(default_criteria("edge-oracle"), shot, None, shot.created_at)
    held = hold(own, remember(own, shot, None))
    answer = decide(shot, held, READY, shot.created_at)
    proven = [one for one in held if one.answer is Answer.FAIL and one.value is not None and not one.recovering]
    assert isinstance(answer, Skip) or any(one.criterion.metric == answer.trigger.metric for one in proven)
    if not proven:
        assert isinstance(answer, Skip)


def test_a_recovering_gate_starts_nothing_and_says_so():
    shots = [latency(0, 900.0), latency(1, 700.0)]
    memory, held = None, []
    for shot in shots:
        own = [evaluate_gate(gate(clear_after=2), shot, None, shot.created_at)]
        memory = remember(own, shot, memory)
        held = hold(own, memory)
        if shot is shots[0]:
            assert isinstance(decide(shot, held, READY, shot.created_at), Start)
    answer = decide(shots[1], held, READY, shots[1].created_at)
    assert isinstance(answer, Skip) and "in 1 of 2 windows in a row that clear it" in answer.reason and quality_gates_status(held) == "failing"


# --------------------------------------------------------------------------- units, sources


def test_a_metric_in_another_unit_is_unknown_and_a_limit_in_another_unit_is_refused():
    seconds = snapshot(0, Metric(name="p95_latency_ms", value=0.9, n=200, unit="s", age_seconds=1.0))
    result = evaluate_gate(gate(), seconds, None, seconds.created_at)
    assert result.answer is Answer.UNKNOWN and result.doubt == "unit" and "given in s, the gate's limit is in ms" in result.reason
    percent = snapshot(0, Metric(name="error_rate", value=0.5, n=200, unit="%", age_seconds=1.0))
    rule = next(one for one in default_criteria("local") if one.metric == "error_rate")
    assert evaluate_gate(rule, percent, None, percent.created_at).doubt == "unit"
    with pytest.raises(ValidationError, match="given in 's', the metric is in ms"):
        ContourValues.model_validate({"qualityGates": {"p95_latency": {"max": 0.8, "unit": "s"}}})
    assert ContourValues.model_validate({"qualityGates": {"p95_latency": {"max": 800.0, "unit": "ms"}}}).criteria()[0].unit == "ms"


@pytest.mark.parametrize(
    "told", [{"source": "none", "reason": "no such thing here"}, {"source": "prometheus", "reason": "not applicable: no GPU in this contour"}]
)
def test_what_a_contour_has_no_source_for_does_not_apply(told):
    shot = snapshot(0, Metric(name="gpu_utilization", value=None, **told))
    rule = Criterion(name="gpu", metric="gpu_utilization", direction="max", threshold=0.85)
    result = evaluate_gate(rule, shot, None, shot.created_at)
    assert result.answer is Answer.NOT_APPLICABLE and result.reason.startswith("not applicable: ") and result.doubt is None
    good = evaluate_gate(gate(), latency(0, 1.0), None, START + timedelta(minutes=16))
    assert quality_gates_status([result, good]) == "passing"
    strict = evaluate_gate(rule.model_copy(update={"no_data": "fail"}), shot, None, shot.created_at)
    assert strict.answer is Answer.FAIL and strict.value is None


def test_values_may_set_hysteresis():
    values = ContourValues.model_validate({"qualityGates": {"p95_latency": {"max": 800.0, "hysteresis": {"failAfter": 2, "clearAfter": 3, "margin": "5%"}}}})
    assert values.criteria()[0].hysteresis == Hysteresis(fail_after=2, clear_after=3, margin=0.05)
    assert ContourValues().criteria()[0].hysteresis == Hysteresis(fail_after=1, clear_after=2)


# --------------------------------------------------------------------------- drift and change alarms

RULE = Criterion(name="ndcg_at_10_relative", metric="ndcg_at_10", direction="min", kind="relative", threshold=-0.03)
BASE = Baseline(champion=CHAMPION, created_at=START, windows=4, values={"ndcg_at_10": 0.5})


def quality(value, half):
    return snapshot(0, Metric(name="ndcg_at_10", value=value, n=200, ci_low=value - half, ci_high=value + half))


def drift(champion=CHAMPION, drifted=True):
    item = DriftItem(name="query_domain", statistic=0.9, drifted=drifted, reason="told apart")
    times = dict.fromkeys(("created_at", "reference_start", "reference_end", "window_start", "window_end"), START)
    return DriftReport(snapshot_id="s", champion=champion, alpha=0.01, items=[item], **times)


def alarm(metric="ndcg_at_10", active=True):
    last = ChangeAlarm(window_end=START, windows=9, observations=900, holds=20)
    watch = ChangeWatch(
        stream=metric, metric=metric, looks_for="a fall", run_length=8640, log_wealth=[], last=last, active=active, reason="a change was called"
    )
    return AnomalyReport(snapshot_id="s", champion=CHAMPION, window_end=START, false_alarms_per_month=1, scores=[], changes=[watch])


def judged(shot, anomalies=None, moved=None, confirms=()):
    own = weigh([evaluate_gate(RULE, shot, BASE, shot.created_at)], anomalies, moved, CHAMPION, confirms)
    return own[0], decide(shot, own, READY, shot.created_at)


def test_drift_and_alarms_without_an_estimated_loss_start_nothing_whatever_the_contour_says():
    result, answer = judged(quality(0.5, 0.1), alarm(), drift(), ("change", "drift"))
    assert result.answer is Answer.PASS and isinstance(answer, Skip)
    result, answer = judged(quality(0.486, 0.1), alarm(), drift(), ("change", "drift"))  # below the baseline, but within what is tolerated
    assert result.answer is Answer.PASS and isinstance(answer, Skip)


def test_an_estimated_loss_is_confirmed_only_where_the_contour_says_so():
    unsure = quality(0.45, 0.1)
    assert judged(unsure)[0].doubt == "interval"
    shown, answer = judged(unsure, alarm(), drift())
    assert shown.answer is Answer.UNKNOWN and "a change was called" in shown.reason and "drifted: query_domain" in shown.reason and isinstance(answer, Skip)
    for evidence in ({"anomalies": alarm(), "confirms": ("change",)}, {"moved": drift(), "confirms": ("drift",)}):
        result, answer = judged(unsure, **evidence)
        assert result.answer is Answer.FAIL and isinstance(answer, Start) and "takes them for a failure" in answer.trigger.reason
    for weak in ({"anomalies": alarm(active=False)}, {"anomalies": alarm("recall_at_20")}, {"moved": drift(drifted=False)}, {"moved": drift(CHALLENGER)}):
        assert isinstance(judged(unsure, **weak, confirms=("change", "drift"))[1], Skip)
