"""What a decision asks beyond one number: a share of the month's error, the contour's margin, the wins of an earlier step, and no slice left worse."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from predator_si.errors import BadInput
from predator_si.records import Answer, Criterion, GateResult, Metric, Verdict
from predator_si.release.decide import decide_promote
from predator_si.release.slices import slice_metric
from predator_si.statistics import holm, sign_flip_test
from predator_si_tests.unit.test_release_decide import EQUAL, _evaluation, _experiment, _promote, _trial


def won(metric: str, answer: Answer = Answer.PASS) -> GateResult:
    rule = Criterion(name=f"{metric}_better", metric=metric, direction="min", threshold=0.0)
    return GateResult(criterion=rule, answer=answer, value=0.1, n=900, reason=f"{metric}: shown to be better")


@pytest.mark.parametrize(("p", "level", "verdict"), [(0.01, None, Verdict.PROMOTE), (0.01, 0.0009, Verdict.INCONCLUSIVE), (0.0004, 0.0009, Verdict.PROMOTE)])
def test_judged_queries_are_a_success_at_the_candidates_share_of_the_month_only(p: float, level: float | None, verdict: Verdict) -> None:
    """An interval above zero alone would let 2.5% of equal candidates pass, each month eighteen times."""
    found = _promote(_evaluation(0.001, 0.03, p, EQUAL), _experiment(), "user_satisfaction_down", level=level)
    assert found.verdict is verdict, found.reason


def test_the_wins_of_an_interleaved_step_count_though_the_trial_went_on() -> None:
    equal = _evaluation(-0.009, 0.01, 0.9, EQUAL)
    merged = _experiment(mode="interleave", success=[won("interleaving_wins")])
    shadow = _experiment(mode="shadow", success=[won("latency_ratio")])

    def after(*earlier: Any) -> Verdict:
        return _promote(equal, _experiment(), "user_satisfaction_down", earlier=earlier).verdict

    assert (after(), after(shadow), after(shadow, merged)) == (Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, Verdict.PROMOTE)
    lost = merged.model_copy(update={"success": [won("interleaving_wins", Answer.UNKNOWN)]})
    assert after(lost) is Verdict.INCONCLUSIVE
    with pytest.raises(BadInput, match="belongs to cycle si_2020_01_01_001"):
        after(merged.model_copy(update={"cycle_id": "si_2020_01_01_001"}))


@pytest.mark.parametrize(
    ("margin", "low", "high", "verdict"),
    [(0.01, -0.015, 0.01, Verdict.INCONCLUSIVE), (0.02, -0.015, 0.01, Verdict.PROMOTE), (0.02, -0.05, -0.015, Verdict.INCONCLUSIVE),
     (0.01, -0.05, -0.015, Verdict.REJECT)],
)  # fmt: skip
def test_how_much_worse_still_counts_as_not_worse_is_the_contours(margin: float, low: float, high: float, verdict: Verdict) -> None:
    found = _trial(_evaluation(low, high, 0.01, EQUAL), "cost_per_1k_requests_up", margin=margin, extra={"cost_change_high": cheaper()})
    assert found.verdict is verdict, found.reason
    assert found.given == {"trigger": "cost_per_1k_requests_up", "latency_target_ms": None, "level": None, "margin": margin}


def cheaper() -> Metric:
    return Metric(name="cost_change_high", value=-0.2, n=200)


def scores(parts: dict[str, tuple[int, float]], seed: int = 0) -> pl.DataFrame:
    """Per query: slice name -> queries and mean difference."""
    rng = np.random.default_rng(seed)
    rows = [(name, float(value)) for name, (n, mean) in parts.items() for value in rng.normal(mean, 0.1, n)]
    return pl.DataFrame(
        {
            "query_id": [f"q{i}" for i in range(len(rows))],
            "ndcg_champion": [0.5] * len(rows),
            "ndcg_challenger": [0.5 + value for _, value in rows],
            "slices": [[name] for name, _ in rows],
        }
    )


def test_a_slice_that_is_proven_worse_rejects_what_is_better_as_a_whole() -> None:
    found = slice_metric(scores({"asyncio": (400, 0.08), "sqlite3": (80, -0.09), "tiny": (29, -0.3)}), 0.01)
    evaluation = _evaluation(0.02, 0.06, 0.0001, EQUAL)
    decision = _trial(evaluation, extra=found)
    assert decision.verdict is Verdict.REJECT and "slice_worse_p (worst of 2 slices: sqlite3, NDCG@10 -0.0" in decision.reason
    assert decide_promote(evaluation, _experiment(), trigger="ndcg_at_10_down", policy="full", extra=found).verdict is Verdict.REJECT
    kept = slice_metric(scores({"asyncio": (400, 0.08), "sqlite3": (80, -0.005), "tiny": (29, -0.3)}), 0.01)
    assert _trial(evaluation, extra=kept).verdict is Verdict.PROMOTE, "within the margin, and 29 queries say nothing"
    (gate,) = [gate for gate in _trial(evaluation).gates if gate.criterion.name == "slices_not_worse"]
    assert gate.answer is Answer.NOT_APPLICABLE, "no slice has enough queries"


def test_the_worst_slice_is_corrected_for_how_many_were_asked() -> None:
    parts = {f"s{k}": (40, 0.0) for k in range(9)} | {"worse": (40, -0.04)}
    frame = scores(parts, seed=3)
    alone = slice_metric(frame.filter(pl.col("slices").list.contains("worse")), 0.0)["slice_worse_p"]
    among = slice_metric(frame, 0.0)["slice_worse_p"]
    by_hand = []
    for name in sorted(parts):
        values = (frame["ndcg_challenger"] - frame["ndcg_champion"]).filter(frame["slices"].list.contains(name)).to_numpy()
        by_hand.append(1.0 if values.mean() >= 0 else sign_flip_test(values))
    assert among.value == pytest.approx(min(holm(by_hand))) and among.n == 40
    assert alone.value is not None and among.value is not None and among.value > 2 * alone.value
    overlapping = frame.with_columns(slices=pl.concat_list("slices", pl.lit(["all"])))
    assert "worst of 11 slices" in slice_metric(overlapping, 0.0)["slice_worse_p"].source, "a query may be in several"
    assert slice_metric(frame.drop("slices"), 0.0) == {}


def test_equal_models_are_seldom_called_worse_in_any_slice() -> None:
    """2.5% is promised; of 200 equal candidates with ten slices each at most 12 may be called worse (probability of more: below .3%)."""
    parts = {f"s{k}": (35, 0.0) for k in range(10)}
    called = sum((slice_metric(scores(parts, seed), 0.0, n_flips=400)["slice_worse_p"].value or 0.0) < 0.05 for seed in range(200))
    assert called <= 12
