"""Simulated trials: they are production's own, a loose level shows in them, and a contour's chain is what they run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from predator_si.proof.simulate import agreement
from predator_si.proof.simulate.agreement import trial_agreement
from predator_si.proof.simulate.plan import trial_plan_of
from predator_si.proof.simulate.trying import Challenger, TrialPlan, ask, champions, harmless_trials, passed_at_limit, time_to_pass, trial_plan
from predator_si.proof.simulate.world import Clock, Population, clock, populations, read_tables
from predator_si.settings import load_settings
from predator_si.statistics.design import DEFAULT_DESIGN
from predator_si_tests.unit.test_proof_simulate import written


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Population], Clock]:
    tables = read_tables(written(tmp_path_factory.mktemp("tables")))
    return champions(populations(tables, 0.0)), clock(tables)


def test_judge_ab_gives_the_same_answers_on_the_same_events(drawn: tuple[list[Population], Clock], monkeypatch: pytest.MonkeyPatch) -> None:
    agreed = trial_agreement(TrialPlan(), *drawn, lives=5, seed=3)
    assert agreed["differences"] == 0 and agreed["gates"] == 30
    assert agreed["failed"] >= 2 and agreed["passed"] >= 5, "both answers must occur, or nothing was compared"
    real = agreement.mean_proofs
    monkeypatch.setattr(agreement, "mean_proofs", lambda means, errors, sizes, margin, up, levels: real(means, errors, sizes, margin, not up, levels))
    assert trial_agreement(TrialPlan(), *drawn, lives=2, seed=3)["differences"] > 0, "another way of judging would be noticed"


def test_a_draw_is_split_slowed_and_clicked_as_asked(drawn: tuple[list[Population], Clock]) -> None:
    found, at = drawn
    asked = ask(Challenger(factor=2.0, error_rate=0.1, clicks=0.5), 0.3, found[0], at, np.random.default_rng(0), 40, 1_000)
    theirs, clicked = asked.theirs, asked.position > 0
    assert theirs.mean() == pytest.approx(0.3, abs=0.01) and asked.failed[theirs].mean() == pytest.approx(0.1, abs=0.01)
    assert asked.failed[~theirs].mean() == pytest.approx(0.005, abs=0.002) and not clicked[asked.failed].any()
    assert asked.ms[theirs].mean() / asked.ms[~theirs].mean() == pytest.approx(2.0, rel=0.03)
    assert clicked[theirs & ~asked.failed].mean() / clicked[~theirs].mean() == pytest.approx(0.5, rel=0.05)


def test_a_loose_level_shows_as_harmless_trials_that_are_ended(drawn: tuple[list[Population], Clock]) -> None:
    loose = TrialPlan(design=DEFAULT_DESIGN.replaced({"harm_alpha": 0.2, "superiority_alpha": 0.4}))
    many, few = (harmless_trials(plan, *drawn, lives=60, requests=300, seed=1) for plan in (loose, TrialPlan()))
    assert many["lower"] > 0.02 > few["lower"] and many["spent"] == pytest.approx(6 * 0.2 + 0.001)
    assert many["better"]["lower"] > 0.01 > few["better"]["lower"], "so does a loose level of calling an equal challenger better"
    assert set(few["questions"]) == {"error_rate", "p95_latency_ms", "avg_latency_ms", "ndcg_at_10_clicks", "click_through", "sample_ratio"}
    assert [step["mode"] for step in few["steps"]] == ["ab"] and few["events"] <= sum(row["events"] for row in few["questions"].values())


def test_what_is_worse_by_the_margin_passes_as_rarely_as_the_level_says(drawn: tuple[list[Population], Clock]) -> None:
    loose = DEFAULT_DESIGN.replaced({"non_inferiority_alpha": 0.4})
    by_metric = [
        {row["metric"]: row for row in passed_at_limit(TrialPlan(design=design), *drawn, lives=60, requests=400, seed=2)} for design in (DEFAULT_DESIGN, loose)
    ]
    assert by_metric[1]["avg_latency_ms"]["lower"] > 0.05, "a loose level is seen"
    assert all(row["lower"] < 0.05 for row in by_metric[0].values())
    assert [metric for metric, row in by_metric[0].items() if row["asked"]] == ["avg_latency_ms"], "in local no other proof is asked for"


def test_a_faster_challenger_is_through_sooner(drawn: tuple[list[Population], Clock]) -> None:
    plan = TrialPlan()
    equal, faster = (time_to_pass(plan, truth, *drawn, lives=20, requests=1_500, seed=0) for truth in (Challenger(), Challenger(factor=0.5)))
    assert faster["probability"] == 1.0 and faster["median"] <= equal["median"] and faster["slowest"] == {"avg_latency_ms": 1.0}
    assert faster["median"] >= plan.last.min_samples


def test_the_plan_is_the_contours_chain(tmp_path: Path) -> None:
    edge = trial_plan_of(load_settings("edge-oracle", home=tmp_path, env={}))
    assert [(step.mode, step.share) for step in edge.steps] == [("shadow", 0.1), ("interleave", 0.2), ("ab", 0.05), ("ab", 0.2)]
    assert edge.last.min_samples == 1000 and edge.spent == pytest.approx(2 * 0.002 + 2 * 0.007) and edge.spent < 0.02
    assert all(rule.proof == "non_inferior" for rule in edge.guardrails)
    assert trial_plan_of(load_settings("local", home=tmp_path, env={})).spent == pytest.approx(0.007)
    assert [step.mode for step in trial_plan("local", ("shadow",), DEFAULT_DESIGN, split=0.2, min_samples=200).steps] == ["shadow", "ab"]
