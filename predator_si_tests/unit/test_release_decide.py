"""Decisions: three answers from criteria as data, the trial's say, approval, and the recomputation that a patch waits for."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput, Missing, Refused
from predator_si.records import Answer, Criterion, Decision, Evaluation, ExperimentResult, GateResult, Interval, Metric, ModelCard, ServingConfig, Verdict
from predator_si.release.criteria import PROMOTION_CRITERIA, REJECTION_CRITERIA, UNSPLIT
from predator_si.release.decide import approve, decide_promote, decide_trial, is_tried, signal_of
from predator_si.release.deny import DenyEntry
from predator_si.release.latency import summarise_latency
from predator_si.release.recompute import collect_evidence, decision_name, recall_metric, recompute_decision
from predator_si.statistics import judge_difference, paired_interval, power_sentence, resolvable_effect
from predator_si_tests.support.trials import stored_trial

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CYCLE = "si_2026_11_22_001"
OLD, NEW = ServingConfig(model="sha256:" + "a" * 64, depth=20), ServingConfig(model="sha256:" + "b" * 64, depth=20)
FAST = {"champion": {"p95_ms": 800.0, "n": 200}, "challenger": {"p95_ms": 200.0, "n": 200}, "p95_change": {"low": -0.8, "high": -0.7, "n": 400}}
EQUAL = {"champion": {"p95_ms": 200.0, "n": 200}, "challenger": {"p95_ms": 204.0, "n": 200}, "p95_change": {"low": -0.1, "high": 0.15, "n": 400}}
SLOW = {"champion": {"p95_ms": 200.0, "n": 200}, "challenger": {"p95_ms": 400.0, "n": 200}, "p95_change": {"low": 0.8, "high": 1.2, "n": 400}}


def _evaluation(low: float, high: float, p: float = 0.001, latency: dict[str, Any] | None = None, n: int = 400) -> Evaluation:
    middle = (low + high) / 2
    difference = Interval(estimate=middle, low=low, high=high, p_value=p, n=n, sd=0.3)
    return Evaluation(
        cycle_id=CYCLE, champion=OLD, challenger=NEW, corpus="c", split="test", n_queries=n, ndcg_champion=0.5, ndcg_challenger=0.5 + middle,
        ndcg_difference=difference, latency=latency or {}, created_at=NOW,
    )  # fmt: skip


def _experiment(verdict: Verdict = Verdict.PROMOTE, guard: Answer = Answer.PASS, ratio: float | None = 0.4, **more: Any) -> ExperimentResult:
    rule = Criterion(name="error_rate", metric="error_rate", direction="max", threshold=0.01)
    gate = GateResult(criterion=rule, answer=guard, value=0.0, n=200, reason="0 of 200 failed")
    fields: dict[str, Any] = {
        "cycle_id": CYCLE, "mode": "ab", "started_at": NOW, "ended_at": NOW, "requests": {"champion": 160, "challenger": 40}, "simulated": True,
        "arms": {}, "guardrails": [gate], "sample_ratio_p": ratio, "verdict": verdict, "reason": "as the guardrails say",
    }  # fmt: skip
    return ExperimentResult(**{**fields, **more})


def _trial(evaluation: Evaluation, trigger: str = "ndcg_at_10_down", **more: Any) -> Decision:
    return decide_trial(evaluation, trigger=trigger, policy="full", **more)


def _promote(evaluation: Evaluation, experiment: ExperimentResult | None, trigger: str = "ndcg_at_10_down", **more: Any) -> Decision:
    return decide_promote(evaluation, experiment, trigger=trigger, policy="full", **more)


@pytest.mark.parametrize(
    ("trigger", "low", "high", "p", "latency", "verdict"),
    [
        ("ndcg_at_10_down", 0.02, 0.06, 0.001, EQUAL, Verdict.PROMOTE),
        ("ndcg_at_10_down", 0.02, 0.06, 0.2, EQUAL, Verdict.INCONCLUSIVE),  # both procedures must agree
        ("ndcg_at_10_down", -0.001, 0.06, 0.04, EQUAL, Verdict.INCONCLUSIVE),
        ("ndcg_at_10_down", 0.0, 0.0, 1.0, EQUAL, Verdict.INCONCLUSIVE),  # the same model again
        ("ndcg_at_10_down", -0.06, -0.02, 0.001, EQUAL, Verdict.REJECT),
        ("ndcg_at_10_down", 0.02, 0.06, 0.001, SLOW, Verdict.REJECT),  # better, and proven far slower
        ("p95_latency_ms_up", -0.009, 0.01, 0.9, FAST, Verdict.PROMOTE),
        ("p95_latency_ms_up", -0.011, 0.01, 0.9, FAST, Verdict.INCONCLUSIVE),
        ("p95_latency_ms_up", -0.009, 0.01, 0.9, EQUAL, Verdict.INCONCLUSIVE),  # not faster
        ("p95_latency_ms_up", -0.05, -0.011, 0.001, FAST, Verdict.REJECT),
        ("p95_latency_ms_up", -0.05, -0.009, 0.001, FAST, Verdict.INCONCLUSIVE),  # worse, but perhaps within the margin
        ("p95_latency_ms_up", 0.02, 0.06, 0.001, SLOW, Verdict.REJECT),
        ("user_satisfaction_down", 0.001, 0.02, 0.01, EQUAL, Verdict.PROMOTE),
        ("cost_per_1k_requests_up", -0.009, 0.01, 0.9, EQUAL, Verdict.INCONCLUSIVE),  # nobody measured the cost
    ],
)
def test_the_verdict_of_each_row(trigger: str, low: float, high: float, p: float, latency: dict[str, Any], verdict: Verdict) -> None:
    evaluation = _evaluation(low, high, p, latency)
    for decision in (_trial(evaluation, trigger), _promote(evaluation, _experiment(), trigger)):
        assert decision.verdict is verdict, decision.reason
        assert decision.allows_patch == (verdict is Verdict.PROMOTE)
        signal = signal_of(trigger)
        names = [gate.criterion.name for gate in decision.gates]
        assert names[: len(PROMOTION_CRITERIA[signal])] == [criterion.name for criterion in PROMOTION_CRITERIA[signal]]
        assert {criterion.name for criterion in REJECTION_CRITERIA[signal]} <= set(names)
        assert all(gate.reason for gate in decision.gates)


def test_superiority_is_claimed_at_the_candidates_share_of_the_months_error() -> None:
    evaluation = _evaluation(0.02, 0.06, 0.001, EQUAL)
    for decision in (_trial(evaluation, level=0.0005), _promote(evaluation, _experiment(), level=0.0005)):
        assert decision.verdict is Verdict.INCONCLUSIVE and "ndcg_p_value 0.001 misses <= 0.0005" in decision.reason
    assert _trial(_evaluation(0.02, 0.06, 0.0004, EQUAL), level=0.0005).verdict is Verdict.PROMOTE
    assert _trial(_evaluation(0.02, 0.06, 0.0, EQUAL), level=0.0).verdict is Verdict.PROMOTE  # only a p-value of 0, which no sign-flip test gives
    assert _trial(_evaluation(-0.009, 0.01, 0.9, EQUAL), "user_satisfaction_down", level=0.0005).verdict is Verdict.PROMOTE  # guardrails keep theirs


@pytest.mark.parametrize("mean", [-0.03, 0.0, 0.02, 0.05, 0.08])
def test_the_decision_is_what_simulations_judge(mean: float) -> None:
    """``predator-si simulate`` judges candidates by ``judge_difference``: the same scores give the same answer here."""
    differences = np.random.default_rng(5).normal(0.0, 0.2, 150)
    differences += mean - differences.mean()
    found = paired_interval(differences, n_boot=2000)
    evaluation = _evaluation(0.0, 0.0, latency=EQUAL, n=150).model_copy(update={"ndcg_difference": found})
    for share in (0.0001, 0.002, 0.02):
        standing = judge_difference(differences, alpha=share, resamples=2000).standing
        assert (_trial(evaluation, level=2 * share).verdict is Verdict.PROMOTE) == (standing == "superior")


def test_more_recall_is_claimed_like_more_relevance() -> None:
    def judged(p: float | None, **more: Any) -> Verdict:
        found = {"recall_difference_low": 0.02} | ({"recall_p_value": p} if p is not None else {})
        extra = {name: Metric(name=name, value=value, n=400) for name, value in found.items()}
        return _trial(_evaluation(-0.005, 0.02, latency=EQUAL), "recall_at_20_down", extra=extra, **more).verdict

    assert (judged(0.001), judged(0.2), judged(None)) == (Verdict.PROMOTE, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)
    assert judged(0.001, level=0.0005) is Verdict.INCONCLUSIVE


def test_differences_that_are_all_equal_prove_nothing() -> None:
    evaluation = _evaluation(0.05, 0.05, 0.0001, EQUAL)
    constant = evaluation.model_copy(update={"ndcg_difference": evaluation.ndcg_difference.model_copy(update={"sd": 0.0})})
    decision = _trial(constant)
    assert decision.verdict is Verdict.INCONCLUSIVE and "all 400 differences are +0.0500" in decision.reason


def test_what_is_not_worse_is_not_shipped_until_something_is_shown_to_be_better() -> None:
    equal = _evaluation(-0.009, 0.01, 0.9, EQUAL)
    assert _trial(equal, "user_satisfaction_down").verdict is Verdict.PROMOTE, "a trial may find out"
    held = _promote(equal, _experiment(), "user_satisfaction_down")
    assert held.verdict is Verdict.INCONCLUSIVE and "nothing is shown to be better" in held.reason
    rule = Criterion(name="click_through_better", metric="click_through", direction="min", kind="relative", threshold=0.0)
    clicked = GateResult(criterion=rule, answer=Answer.PASS, value=0.1, n=900, reason="click_through +10%: shown to be better")
    assert _promote(equal, _experiment(success=[clicked]), "user_satisfaction_down").verdict is Verdict.PROMOTE


def test_cost_is_judged_once_somebody_measures_it() -> None:
    cheaper = {"cost_change_high": Metric(name="cost_change_high", value=-0.3, n=200)}
    assert _trial(_evaluation(-0.005, 0.01, latency=EQUAL), "cost_per_1k_requests_up", extra=cheaper).verdict is Verdict.PROMOTE


def test_a_target_in_the_contour_forgives_a_slower_model_that_is_fast_enough() -> None:
    assert _trial(_evaluation(0.02, 0.06, latency=SLOW), latency_target_ms=800.0).verdict is Verdict.PROMOTE


def test_latency_may_be_unknown_before_the_trial_and_must_be_known_after_it() -> None:
    evaluation = _evaluation(-0.005, 0.01)
    assert _trial(evaluation, "p95_latency_ms_up").verdict is Verdict.PROMOTE
    assert _promote(evaluation, _experiment(), "p95_latency_ms_up").verdict is Verdict.INCONCLUSIVE
    assert _promote(evaluation, _experiment(), "p95_latency_ms_up", latency=FAST).verdict is Verdict.PROMOTE
    arms = {side: {"p95_latency_ms": Metric(name="p95_latency_ms", value=value, n=100)} for side, value in (("champion", 200.0), ("challenger", 190.0))}
    assert _promote(_evaluation(0.02, 0.06), _experiment(arms=arms)).verdict is Verdict.PROMOTE


def test_a_small_sample_proves_nothing() -> None:
    assert _trial(_evaluation(0.2, 0.6, n=20, latency=EQUAL)).verdict is Verdict.INCONCLUSIVE
    assert _trial(_evaluation(-0.6, -0.2, n=20, latency=EQUAL)).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("experiment", "verdict", "said"),
    [
        (None, Verdict.INCONCLUSIVE, "no trial"),
        (_experiment(Verdict.REJECT, Answer.FAIL), Verdict.REJECT, "shows harm"),
        (_experiment(Verdict.PROMOTE, Answer.FAIL), Verdict.REJECT, "shows harm"),
        (_experiment(Verdict.INCONCLUSIVE, Answer.FAIL), Verdict.INCONCLUSIVE, "inconclusive"),
        (_experiment(Verdict.INCONCLUSIVE), Verdict.INCONCLUSIVE, "inconclusive"),
        (_experiment(Verdict.PROMOTE, Answer.UNKNOWN), Verdict.INCONCLUSIVE, "leaves open"),
        (_experiment(ratio=0.0001), Verdict.INCONCLUSIVE, "sample_ratio"),
        (_experiment(ratio=None), Verdict.INCONCLUSIVE, "sample_ratio"),
        (_experiment(ratio=None, mode="shadow"), Verdict.PROMOTE, "trial:"),
        (_experiment(), Verdict.PROMOTE, "trial:"),
    ],
)
def test_what_the_trial_adds(experiment: ExperimentResult | None, verdict: Verdict, said: str) -> None:
    decision = _promote(_evaluation(0.02, 0.06, latency=EQUAL), experiment)
    assert decision.verdict is verdict
    assert said in decision.reason


def test_a_contour_without_trials_and_a_trial_of_another_cycle() -> None:
    assert _promote(_evaluation(0.02, 0.06, latency=EQUAL), None, trial_required=False).verdict is Verdict.PROMOTE
    with pytest.raises(BadInput, match="belongs to cycle"):
        _promote(_evaluation(0.02, 0.06), _experiment(cycle_id="si_2026_11_22_002"))
    with pytest.raises(BadInput, match="no promotion criteria for trigger 'gpu_utilization_up'"):
        _trial(_evaluation(0.02, 0.06), "gpu_utilization_up")


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-0.2, 0.2),
    st.floats(0, 0.2),
    st.floats(0, 1),
    st.sampled_from([FAST, EQUAL, SLOW, {}]),
    st.sampled_from(sorted(set(PROMOTION_CRITERIA) - UNSPLIT)),
)
def test_what_is_promoted_was_never_proven_worse(low: float, width: float, p: float, latency: dict[str, Any], trigger: str) -> None:
    evaluation = _evaluation(low, low + width, p, latency)
    decision = _promote(evaluation, _experiment(), trigger)
    if decision.verdict is Verdict.PROMOTE:
        assert evaluation.ndcg_difference.low >= -0.01
        assert latency is not SLOW
        assert all(gate.answer in (Answer.PASS, Answer.NOT_APPLICABLE) for gate in decision.gates if gate.criterion.critical)
    if evaluation.ndcg_difference.high < -0.01:
        assert decision.verdict is Verdict.REJECT
    assert Decision.model_validate_json(decision.to_json()) == decision


def test_a_cycle_that_brings_the_service_back_is_not_tried_and_not_asked_about_ranking() -> None:
    assert not is_tried("error_rate_up") and not is_tried("etl_lag_seconds_up") and is_tried("schedule") and is_tried("p95_latency_ms_up")
    worse = _evaluation(-0.3, -0.2, latency={})
    decision = _promote(worse, None, "error_rate_up", trial_required=False)
    assert decision.verdict is Verdict.PROMOTE and decision.gates == [] and "brought back" in decision.reason
    assert _promote(worse, None, "ndcg_at_10_down", trial_required=False).verdict is Verdict.REJECT
    assert _promote(_evaluation(0.02, 0.06, latency=EQUAL), _experiment(), "schedule").verdict is Verdict.PROMOTE
    assert _promote(_evaluation(-0.005, 0.005, latency=EQUAL), _experiment(), "schedule").verdict is Verdict.INCONCLUSIVE, "as after a drop of relevance"


def test_a_cheaper_model_needs_a_measured_cost_below_the_champions() -> None:
    cheaper = summarise_latency([10.0] * 60, [10.0] * 60, cpu_seconds=([0.10, 0.12] * 30, [0.05, 0.06] * 30))
    dearer = summarise_latency([10.0] * 60, [10.0] * 60, cpu_seconds=([0.05, 0.06] * 30, [0.10, 0.12] * 30))
    assert cheaper["cost_change"]["estimate"] == pytest.approx(-0.5) and cheaper["cost_change"]["high"] < 0 < dearer["cost_change"]["low"]
    assert "cost_change" not in summarise_latency([10.0] * 60, [10.0] * 60, cpu_seconds=([0.1] * 29, [0.1] * 29))
    for latency, verdict in ((cheaper, Verdict.PROMOTE), (dearer, Verdict.INCONCLUSIVE), (EQUAL, Verdict.INCONCLUSIVE)):
        assert _promote(_evaluation(-0.005, 0.005, latency=latency), _experiment(), "cost_per_1k_requests_up").verdict is verdict
    before = _trial(_evaluation(-0.005, 0.005, latency={}), "cost_per_1k_requests_up")
    assert before.verdict is Verdict.PROMOTE, "a trial is where the cost is measured"


def test_approval_by_somebody_who_may() -> None:
    waiting = _trial(_evaluation(0.02, 0.06, latency=EQUAL), approval_required=True)
    assert not waiting.allows_patch
    with pytest.raises(Refused, match="taras overrode a gate"):
        approve(waiting, "taras", overridden_by={"taras"})
    approved = approve(waiting, "olena", overridden_by={"taras"}, now=NOW)
    assert (approved.allows_patch, approved.approved_by, approved.approved_at) == (True, "olena", NOW)
    assert approve(approved, "olena") == approved
    with pytest.raises(Refused, match="was approved by olena"):
        approve(approved, "ivan")
    with pytest.raises(Refused, match="nothing to approve"):
        approve(_trial(_evaluation(-0.06, -0.02)), "olena")
    with pytest.raises(BadInput):
        approve(waiting, " ")


def test_latency_is_summarised_with_the_interval_that_the_criteria_ask_for() -> None:
    rng = np.random.default_rng(1)
    summary = summarise_latency(rng.gamma(20, 40, 200), rng.gamma(20, 10, 200))
    assert summary["challenger"]["n"] == 200
    assert summary["p95_change"]["low"] < summary["challenger"]["p95_ms"] / summary["champion"]["p95_ms"] - 1 < summary["p95_change"]["high"] < -0.5
    assert _promote(_evaluation(-0.005, 0.01, latency=summary), _experiment(), "p95_latency_ms_up").verdict is Verdict.PROMOTE


# --------------------------------------------------------------------------- recomputed from evidence


def _artifacts(folder: Path, shift: float = 0.05, experiment: ExperimentResult | None = None, stage: Any = "trial", **decision: Any) -> Decision:
    rng = np.random.default_rng(0)
    champion = rng.uniform(0, 0.9, 120)
    challenger = np.clip(champion + shift + rng.normal(0, 0.05, 120), 0, 1)
    scores = pl.DataFrame({"query_id": [f"q{i}" for i in range(120)], "ndcg_champion": champion, "ndcg_challenger": challenger})
    scores = scores.with_columns(recall_difference=pl.lit(0.0))
    folder.mkdir(parents=True, exist_ok=True)
    scores.write_parquet(folder / "evaluation_per_query.parquet")
    found = paired_interval(challenger - champion)
    evaluation = _evaluation(found.low, found.high, n=120, latency=EQUAL).model_copy(
        update={
            "ndcg_difference": found, "ndcg_champion": float(champion.mean()), "ndcg_challenger": float(challenger.mean()),
            "resolvable": resolvable_effect(120, found.sd or 0.0), "power": power_sentence(120, found.sd),
        }
    )  # fmt: skip
    (folder / "evaluation.json").write_text(evaluation.to_json())
    if experiment is not None:
        (folder / "ab_test_results.json").write_text(experiment.to_json())
    common: dict[str, Any] = {"trigger": "ndcg_at_10_down", "policy": "full", "evidence": collect_evidence(folder, stage), **decision}
    made = decide_trial(evaluation, **common) if stage == "trial" else decide_promote(evaluation, experiment, **common)
    (folder / decision_name(stage)).write_text(made.to_json())
    return made


def _again(folder: Path, stage: Any = "trial", **more: Any) -> Decision:
    return recompute_decision(folder, stage, **{"trigger": "ndcg_at_10_down", "kill_switch": lambda: False, "denied": [], **more})


def _rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "decision-trial.json"
    path.write_text(Decision.read(path).model_copy(update=changes).to_json())


def test_a_sound_decision_is_confirmed(tmp_path: Path) -> None:
    assert _artifacts(tmp_path) == _again(tmp_path)
    promotion = _artifacts(tmp_path, experiment=stored_trial(tmp_path), stage="promote")
    assert set(promotion.evidence) == {"evaluation.json", "evaluation_per_query.parquet", "ab_test_results.json"}
    assert _again(tmp_path, "promote") == promotion
    assert recall_metric(pl.read_parquet(tmp_path / "evaluation_per_query.parquet"))["recall_difference_low"].value == 0.0
    with pytest.raises(Refused, match="stored trial verdict is promote, its evidence gives inconclusive"):
        _again(tmp_path, level=0.0)  # the ledger's level is believed, not the file's


def test_a_forged_verdict_is_refused(tmp_path: Path) -> None:
    _artifacts(tmp_path, shift=-0.05)
    _rewrite(tmp_path, verdict=Verdict.PROMOTE, gates=[])
    with pytest.raises(Refused, match="stored trial verdict is promote, its evidence gives reject"):
        _again(tmp_path)


def test_a_forged_evaluation_is_refused_even_with_its_new_sha256(tmp_path: Path) -> None:
    _artifacts(tmp_path, shift=-0.05)
    evaluation = Evaluation.read(tmp_path / "evaluation.json")
    better = evaluation.model_copy(update={"ndcg_difference": Interval(estimate=0.05, low=0.04, high=0.06, p_value=0.001, n=120)})
    (tmp_path / "evaluation.json").write_text(better.to_json())
    with pytest.raises(Refused, match="sha256 differs"):
        _again(tmp_path)
    _rewrite(tmp_path, verdict=Verdict.PROMOTE, evidence=collect_evidence(tmp_path, "trial"))
    with pytest.raises(Refused, match=r"says difference estimate 0\.05, its per-query scores give -0\.0"):
        _again(tmp_path)


def test_changed_scores_are_refused(tmp_path: Path) -> None:
    _artifacts(tmp_path)
    path = tmp_path / "evaluation_per_query.parquet"
    scores = pl.read_parquet(path)
    scores.with_columns(ndcg_challenger=pl.col("ndcg_challenger") + 0.001).write_parquet(path)
    with pytest.raises(Refused, match="sha256 differs"):
        _again(tmp_path)
    for bad, said in ((scores.drop("ndcg_champion"), "ndcg_champion is missing"), (pl.concat([scores, scores[:1]]), "occurs twice")):
        bad.write_parquet(path)
        _rewrite(tmp_path, evidence=collect_evidence(tmp_path, "trial"))
        with pytest.raises((Refused, BadInput), match=said):
            _again(tmp_path)
    path.write_bytes(b"PAR1 not really")
    _rewrite(tmp_path, evidence=collect_evidence(tmp_path, "trial"))
    with pytest.raises(BadInput, match="cannot be read as Parquet"):
        _again(tmp_path)


def test_evidence_that_is_missing_or_elsewhere_is_refused(tmp_path: Path) -> None:
    made = _artifacts(tmp_path)
    _rewrite(tmp_path, evidence={})
    with pytest.raises(Refused, match=r"names no sha256 for evaluation\.json"):
        _again(tmp_path)
    _rewrite(tmp_path, evidence={**made.evidence, "../../etc/passwd": "0"})
    with pytest.raises(Refused, match="not the name of an artifact"):
        _again(tmp_path)
    _rewrite(tmp_path, evidence=made.evidence)
    (tmp_path / "evaluation_per_query.parquet").unlink()
    with pytest.raises(Missing, match="it is evidence of a decision"):
        _again(tmp_path)


def test_models_other_than_those_evaluated_are_refused(tmp_path: Path) -> None:
    _artifacts(tmp_path)
    _rewrite(tmp_path, challenger=ServingConfig(model="sha256:" + "c" * 64, depth=20))
    with pytest.raises(Refused, match="about other models"):
        _again(tmp_path)


def test_a_denied_model_or_one_from_denied_weights_is_refused(tmp_path: Path) -> None:
    _artifacts(tmp_path)
    weights = "sha256:" + "d" * 64
    card = ModelCard(name="m", digest=NEW.model, backend="onnx-int8", max_length=256, source_digest=weights)
    for digest in (NEW.model, weights):
        entry = DenyEntry(digest=digest, reason="it was bad", at=NOW)
        with pytest.raises(Refused, match=r"deny list.*it was bad"):
            _again(tmp_path, denied=[entry], card_of=lambda _: card)
    assert _again(tmp_path, denied=[DenyEntry(digest=OLD.model, reason="other", at=NOW)], card_of=lambda _: card)


def test_the_kill_switch_an_open_approval_and_a_hold_stop_the_patch(tmp_path: Path) -> None:
    _artifacts(tmp_path)
    with pytest.raises(Refused, match="kill switch is on"):
        _again(tmp_path, kill_switch=lambda: True)
    waiting = _artifacts(tmp_path, approval_required=True)
    with pytest.raises(Refused, match="waits for an approval"):
        _again(tmp_path)
    (tmp_path / "decision-trial.json").write_text(approve(waiting, "olena").to_json())
    assert _again(tmp_path).approved_by == "olena"
    _artifacts(tmp_path, shift=0.0)
    with pytest.raises(Refused, match="verdict is inconclusive; no patch"):
        _again(tmp_path)


def test_a_drill_passes_only_where_a_drill_is_on_and_never_the_kill_switch(tmp_path: Path) -> None:
    drill = _artifacts(tmp_path, shift=-0.05, drill=True)
    assert drill.verdict is Verdict.REJECT
    with pytest.raises(Refused, match="no drill is going on"):
        _again(tmp_path)
    assert _again(tmp_path, allow_drill=True) == drill
    with pytest.raises(Refused, match="kill switch"):
        _again(tmp_path, allow_drill=True, kill_switch=lambda: True)


def test_a_decision_of_another_stage_is_refused(tmp_path: Path) -> None:
    made = _artifacts(tmp_path)
    (tmp_path / "decision-promote.json").write_text(made.to_json())
    with pytest.raises(Refused, match="is a decision for trial"):
        _again(tmp_path, "promote")


def test_a_latency_file_of_its_own_is_evidence_too(tmp_path: Path) -> None:
    (tmp_path / "latency.json").write_text(
        '{"champion": {"p95_ms": 200, "n": 99}, "challenger": {"p95_ms": 900, "n": 99}, "p95_change": {"low": 3, "high": 4}}'
    )
    made = _artifacts(tmp_path)  # decided without looking at it
    assert "latency.json" in made.evidence
    with pytest.raises(Refused, match="evidence gives reject"):
        _again(tmp_path)
