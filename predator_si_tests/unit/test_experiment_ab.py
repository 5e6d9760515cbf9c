"""The A/B verdict: invalid before anything else, harm rejects, only what is shown promotes, and all of it with numbers."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from predator_si.errors import BadInput
from predator_si.experiment import Guardrail, default_guardrails, judge_ab
from predator_si.records import Answer, Criterion, ExperimentResult, Verdict
from predator_si_tests.support.windows import CHALLENGER, CHAMPION, START, action, frames, search

END = START + timedelta(hours=1)


def trial(n=1000, share=0.2, *, slow=1.0, quality=1.0, errors=0.0, champion_errors=0.0, seed=0, tail=(), per_client=1, drop=0.0):
    """A simulated trial: every client sticks to one side; ``slow``, ``quality`` and ``errors`` are the challenger's."""
    rng = np.random.default_rng(seed)
    rows, clicks = [], []
    for i in range(n):
        client = i // per_client
        theirs = bool(np.random.default_rng([seed, client]).random() < share)
        if theirs and rng.random() < drop:
            continue
        failed = rng.random() < (errors if theirs else champion_errors)
        model = {"variant": "candidate", "model_digest": CHALLENGER} if theirs else {}
        latency = float(rng.lognormal(np.log(100.0 * (slow if theirs else 1.0)), 0.4))
        rows.append(search(i, client_id=f"c{client}", latency_ms=latency, simulated=True, status=503 if failed else 200, **model))
        if not failed and rng.random() < 0.6 * (quality if theirs else 1.0):
            clicks.append(action(f"r{i}", object_id=f"d{int(rng.integers(0, 3))}", simulated=True))
    return frames([*rows, *tail], clicks)


def judged(events, **more):
    fields = {"cycle_id": "si_2026_11_22_001", "window_start": START, "window_end": END, "now": END}
    return judge_ab(events, CHAMPION, CHALLENGER, **(fields | more))


def gate(result, metric):
    return next(found for found in result.guardrails if found.criterion.metric == metric)


def test_a_good_challenger_is_promoted_with_all_numbers():
    result = judged(trial(slow=0.3, quality=1.1))
    assert result.verdict is Verdict.PROMOTE and result.simulated and result.sample_ratio_p > 0.001
    assert result.requests["champion"] + result.requests["challenger"] == 1000 and result.requests["other"] == 0
    assert {found.answer for found in result.guardrails} == {Answer.PASS}
    latency = gate(result, "p95_latency_ms")
    assert latency.value == pytest.approx(-0.7, abs=0.1) and "within the margin" in latency.reason
    assert "cannot prove" in gate(result, "error_rate").reason or "within the margin" in gate(result, "error_rate").reason
    assert result.arms["challenger"]["p95_latency_ms"].value < 0.5 * result.arms["champion"]["p95_latency_ms"].value
    assert "simulated" in result.arms["champion"]["ndcg_at_10_clicks"].source
    assert ExperimentResult.model_validate_json(result.to_json()).verdict is Verdict.PROMOTE


@pytest.mark.parametrize(
    ("harm", "metric"),
    [({"slow": 1.6}, "avg_latency_ms"), ({"quality": 0.4}, "click_through"), ({"quality": 0.4}, "ndcg_at_10_clicks"), ({"errors": 0.1}, "error_rate")],
)
def test_harm_is_rejected_and_named(harm, metric):
    result = judged(trial(**harm))
    assert result.verdict is Verdict.REJECT and gate(result, metric).answer is Answer.FAIL and metric in result.reason


def test_an_equal_challenger_is_rarely_rejected_and_a_worse_one_nearly_always():
    rejected = sum(judged(trial(n=400, seed=seed)).verdict is Verdict.REJECT for seed in range(12))
    assert rejected <= 1  # .001 for each of five guardrails and once more for the slices: P(more than 1 of 12) is below .3%
    caught = sum(judged(trial(n=400, seed=seed, quality=0.4)).verdict is Verdict.REJECT for seed in range(4))
    assert caught >= 3


def test_a_broken_split_is_invalid_whatever_the_metrics_say():
    result = judged(trial(share=0.35, slow=0.3))
    assert result.verdict is Verdict.INCONCLUSIVE and result.reason.startswith("invalid") and result.sample_ratio_p < 0.001
    # The challenger's slow requests never get recorded: its survivors look fine, the ratio does not.
    result = judged(trial(drop=0.5, slow=0.3))
    assert result.verdict is Verdict.INCONCLUSIVE and "sample-ratio" in result.reason


def test_clients_on_both_sides_and_a_third_model_are_invalid():
    mixed = [search(2000 + i, client_id=f"c{i}", variant="candidate", model_digest=CHALLENGER) for i in range(0, 200, 5)]
    assert "not sticky" in judged(trial(share=0.16, tail=mixed)).reason
    other = [search(2000 + i, model_digest="sha256:" + "c" * 64) for i in range(60)]
    result = judged(trial(tail=other))
    assert result.verdict is Verdict.INCONCLUSIVE and result.requests["other"] == 60 and "third model" in result.reason


def test_probes_are_left_out():
    tail = [search(2000 + i, probe=True, latency_ms=1e6, status=500, variant="candidate", model_digest=CHALLENGER) for i in range(50)]
    result = judged(trial(slow=0.3, tail=tail))
    assert result.verdict is Verdict.PROMOTE and result.requests["probes"] == 50


def test_too_small_a_trial_holds_unless_errors_are_beyond_doubt():
    result = judged(trial(n=150, slow=3.0))
    assert result.verdict is Verdict.INCONCLUSIVE and "needs 200" in result.reason
    assert judged(trial(n=150, errors=1.0)).verdict is Verdict.REJECT
    assert judged(trial(n=60, errors=1.0, seed=1)).verdict is Verdict.REJECT
    assert judged(trial(n=150, errors=0.05)).verdict is Verdict.INCONCLUSIVE


def test_a_failed_request_that_names_only_its_variant_counts_for_that_arm():
    tail = [
        search(2000 + i, variant="candidate", model_digest=None, status=503, client_id=f"c{i}")
        for i in range(1000)
        if np.random.default_rng([0, i]).random() < 0.2
    ]
    result = judged(trial(tail=tail))
    assert result.verdict is Verdict.REJECT and result.arms["challenger"]["error_rate"].value == pytest.approx(0.5, abs=0.01)


def test_non_inferiority_must_be_proven_elsewhere():
    result = judged(trial(n=1500), contour="edge-oracle")
    assert result.verdict is Verdict.INCONCLUSIVE and gate(result, "error_rate").answer is Answer.UNKNOWN
    assert "not yet proven" in result.reason
    few = judged(trial(n=400), contour="edge-oracle")
    assert "each arm needs 200" in gate(few, "avg_latency_ms").reason


def test_p95_without_enough_requests_cannot_be_bounded_but_harm_can_be_seen():
    fine = judged(trial(n=220, slow=0.5))
    found = gate(fine, "p95_latency_ms")
    assert fine.requests["challenger"] < 60 and found.answer is Answer.PASS and "unbounded" in found.reason and "cannot prove" in found.reason
    assert gate(judged(trial(n=220, slow=3.0)), "p95_latency_ms").answer is Answer.FAIL


def test_no_clicks_at_all_is_unknown():
    events = trial(slow=0.3)
    result = judged(frames(events.search.to_dicts()))
    assert result.verdict is Verdict.INCONCLUSIVE and "are clicks recorded" in result.reason


def test_dependent_requests_of_few_clients_do_not_look_like_many():
    # Forty clients ask 25 times each; one half always clicks, the other never: the evidence is forty clients, not a thousand requests.
    rows = [search(i, client_id=f"c{i // 25}", **({"variant": "candidate", "model_digest": CHALLENGER} if i // 25 % 5 == 0 else {})) for i in range(1000)]
    events = frames(rows, [action(f"r{i}") for i in range(1000) if (i // 25) % 2])
    result = judged(events)
    rate = result.arms["champion"]["click_through"]
    naive = 2 * 1.96 * np.sqrt(rate.value * (1 - rate.value) / rate.n)
    assert rate.n == 800 and rate.ci_high - rate.ci_low > 4 * naive
    assert gate(result, "click_through").answer is not Answer.FAIL


def test_an_empty_window_holds():
    result = judged(frames([]))
    assert result.verdict is Verdict.INCONCLUSIVE and result.sample_ratio_p is None and "no request" in result.reason


def test_a_guardrail_needs_a_metric_and_a_margin_that_make_sense():
    def rule(metric, direction, kind, threshold):
        return Guardrail(Criterion(name="x", metric=metric, direction=direction, kind=kind, threshold=threshold))

    for wrong in [("etl_lag_seconds", "max", "relative", 0.1), ("avg_latency_ms", "max", "relative", -0.1), ("click_through", "min", "absolute", -0.1)]:
        with pytest.raises(BadInput):
            rule(*wrong)
    assert {found.proof for found in default_guardrails("edge-oracle")} == {"non_inferior"}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: judge_ab(frames([]), CHAMPION, CHAMPION, cycle_id="x", window_start=START, window_end=END, now=END), "against itself"),
        (lambda: judged(frames([]), split=1.0), "between 0 and 1"),
        (lambda: judged(frames([]), guardrails=[]), "could only pass"),
        (lambda: judged(frames([]), window_end=START), "must end after"),
    ],
)
def test_refusals(call, said):
    with pytest.raises(BadInput, match=said):
        call()


def test_one_model_with_other_settings_is_told_apart_by_the_variant():
    two = trial(slow=0.3, quality=1.1)
    one = frames([row | {"model_digest": CHAMPION} for row in two.search.to_dicts()], two.actions.to_dicts())
    fields = {"cycle_id": "si_2026_11_22_001", "window_start": START, "window_end": END, "now": END}
    same, other = judge_ab(one, CHAMPION, CHAMPION, same_model=True, **fields), judged(two)
    assert same.requests == other.requests and same.verdict is other.verdict is Verdict.PROMOTE
    assert [found.value for found in same.guardrails] == [found.value for found in other.guardrails]
    with pytest.raises(BadInput, match="two models"):
        judge_ab(two, CHAMPION, CHALLENGER, same_model=True, **fields)
    others = [search(1200 + i, model_digest=CHALLENGER) for i in range(60)]
    third = judge_ab(frames([*one.search.to_dicts(), *others], one.actions.to_dicts()), CHAMPION, CHAMPION, same_model=True, **fields)
    assert third.verdict is Verdict.INCONCLUSIVE and third.requests["other"] == 60 and "third model" in third.reason
