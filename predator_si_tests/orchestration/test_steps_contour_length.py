"""Watches and trials are as long as the contour says, in every home but one where a demo runs, and stay what they were when they began."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import decide, keep, trial
from predator_si.proof.prepare import take_time
from predator_si.records import CycleState, Decision, Deployment, SealedOpening, ServingConfig, Verdict, utc_now
from predator_si.release.watch import WatchCheck, judge_watch
from predator_si.settings import DEMO_SCALES, load_settings
from predator_si_tests.support.platform import fake_model, open_cycle, prepare

FULL = DEMO_SCALES["full"]


def home_of(folder: Path, contour: str, values: str | None = None, **scale: Any) -> Loop:
    file = folder / "values.yaml"
    file.write_text(f"selfImprovement: {values or '{}'}\n")
    loop = Loop(load_settings(contour, home=folder / "home", values_file=file, env={}))
    loop.home.ensure()
    return prepare(loop, fake_model(loop, "old"), FULL.model_copy(update=scale))


def released(loop: Loop, **changes: Any) -> str:
    """A cycle with a decision to release another model."""
    cycle_id = open_cycle(loop.control).cycle_id
    champion = ServingConfig(model=fake_model(loop, "old"), depth=20)
    facts: dict[str, Any] = {"stage": "promote", "verdict": Verdict.PROMOTE, "gates": [], "policy": "full", "approval_required": False, "reason": "better"}
    models = {"champion": champion, "challenger": champion.model_copy(update={"model": fake_model(loop, "new")})}
    decision = Decision(cycle_id=cycle_id, created_at=utc_now(), **facts | models | changes)
    loop.artifacts(cycle_id).mkdir(parents=True, exist_ok=True)
    loop.save(cycle_id, "decision-promote.json", decision)
    return cycle_id


def test_a_cluster_contour_is_watched_and_tried_as_long_as_its_values_say(tmp_path: Path) -> None:
    loop = home_of(tmp_path, "edge-oracle")
    steps, plan = trial.trial_steps(loop), keep.watch_plan(loop, released(loop))
    assert [step.mode for step in steps] == ["shadow", "interleave", "ab", "ab"] and steps[-1].min_samples == loop.settings.experiment.min_samples == 1000
    assert plan.planned_checks == 12 and plan.min_requests == FULL.watch_requests == 200 and plan.shadow_expected


def test_local_does_what_its_contour_says_and_a_demo_is_shorter_only_while_it_runs(tmp_path: Path) -> None:
    loop = home_of(tmp_path, "local", "{experiment: {minSamples: 300}}", hurries=True)
    cycle_id = released(loop)
    hurried = keep.watch_plan(loop, cycle_id)
    assert (hurried.planned_checks, hurried.min_requests, trial.trial_steps(loop)[-1].min_samples) == (2, 200, 200)
    take_time(loop)
    calm = Loop(loop.settings)
    plan = keep.watch_plan(calm, cycle_id)
    assert (plan.planned_checks, plan.min_requests, trial.trial_steps(calm)[-1].min_samples) == (4, 4 * 60, 300)
    assert not plan.shadow_expected, "local lets the old champion go at once, so nobody waits for its times"


@pytest.mark.parametrize(
    ("changes", "trigger", "expected"),
    [
        ({}, "ndcg_at_10_down", True),
        ({"challenger": None}, "ndcg_at_10_down", False),  # the same model with other settings: it is no shadow of itself
        ({}, "error_rate_up", False),  # a repair: nothing is asked about its times
    ],
)
def test_times_of_both_models_are_waited_for_where_the_release_commits_a_shadow(tmp_path: Path, changes: dict[str, Any], trigger: str, expected: bool) -> None:
    loop = home_of(tmp_path, "local", "{watch: {shadowShare: 0.2}}")
    if "challenger" in changes:
        changes = {"challenger": ServingConfig(model=fake_model(loop, "old"), depth=5)}
    cycle_id = released(loop, **changes)
    loop.judged_as = lambda _: trigger  # type: ignore[method-assign]
    plan = keep.watch_plan(loop, cycle_id)
    assert plan.shadow_expected is expected
    checks = [WatchCheck(at=utc_now(), requests=100, failures=0, slow=0, served_digest=plan.released_digest, probes=dict.fromkeys(map(str, range(40)), 0.01))]
    slower = next(gate for gate in judge_watch(plan, checks).gates if gate.criterion.name == "slower")
    assert slower.answer == ("unknown" if expected else "not_applicable"), "a shadow that is dead keeps the release from being called stable"


def test_a_watch_and_a_trial_keep_the_design_that_they_began_with(tmp_path: Path) -> None:
    loop = home_of(tmp_path, "local", "{experiment: {design: {errors_alpha: 0.001, harm_alpha: 0.002}}}")
    cycle_id = released(loop)
    began = keep.watch_plan(loop, cycle_id)
    bad = WatchCheck(at=utc_now(), requests=300, failures=14, slow=0, served_digest=began.released_digest)
    degraded = judge_watch(began, [bad])
    assert began.design.errors_alpha == 0.001 and degraded.answer == "rollback", degraded.reason
    loop.save(cycle_id, "watch.json", degraded)
    loop.save(cycle_id, "deployment-trial.json", Deployment(cycle_id=cycle_id, stage="trial", commit="c", expected_digest="d", served_digest="d",
                                                           confirmed=True, seconds=0.1, reason="asked", created_at=utc_now()))  # fmt: skip
    trial.begin_trial(loop, cycle_id, utc_now() - timedelta(minutes=1))
    (tmp_path / "values.yaml").write_text("selfImprovement: {experiment: {design: {errors_alpha: 0.0000001}}, watch: {checks: 9}}\n")
    edited = Loop(load_settings("local", home=loop.home.path, values_file=tmp_path / "values.yaml", env={}))
    assert trial.design_of(edited).errors_alpha == 1e-7
    assert keep.watch_plan(edited, cycle_id) == began
    assert trial.open_trial(edited, cycle_id).plan.design.harm_alpha == 0.002
    (edited.artifacts(cycle_id) / "watch.json").unlink()
    strict = keep.watch_plan(edited, cycle_id)
    assert strict.planned_checks == 9 and judge_watch(strict, [bad]).answer == "continue", "what the edited design would have said of the same check"
    loop.save(cycle_id, "watch.json", degraded)
    taken: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keep, "take_back", lambda _, of, reason, **__: taken.append(reason))
        keep.roll_back_degraded(edited, cycle_id)
    assert len(taken) == 1 and "14 of 300 requests failed" in taken[0]


def test_the_margin_of_a_loss_is_the_contours_and_relevance_may_lose_nothing(tmp_path: Path) -> None:
    loop = home_of(tmp_path, "local", "{experiment: {margin: 0.02}}")
    cycle_id = released(loop)
    assert keep.watch_plan(loop, cycle_id).ndcg_margin == 0.0, "a cycle for relevance"
    loop.control.transition(cycle_id, CycleState.CANCELLED, "a test", "test")
    faster = open_cycle(loop.control, type="p95_latency_ms_up", metric="p95_latency_ms").cycle_id
    loop.artifacts(faster).mkdir(parents=True, exist_ok=True)
    decision = Decision.read(loop.artifacts(cycle_id) / "decision-promote.json")
    loop.save(faster, "decision-promote.json", decision.model_copy(update={"cycle_id": faster}))
    assert keep.watch_plan(loop, faster).ndcg_margin == 0.02


def test_a_claim_of_superiority_spends_the_contours_share_of_the_month(tmp_path: Path) -> None:
    loop = home_of(tmp_path, "local", "{experiment: {design: {promotion_alpha_per_month: 0.004}}}")
    cycle_id = open_cycle(loop.control).cycle_id
    loop.control.sealed_opening = lambda *_: SealedOpening(period="2026-11", opening=1, candidate=1, rotation=0)  # type: ignore[method-assign]
    strict = decide.promotion_level_of(loop, cycle_id)
    other = Loop(load_settings("local", home=loop.home.path, env={}))
    other.control.sealed_opening = loop.control.sealed_opening  # type: ignore[method-assign]
    usual = decide.promotion_level_of(other, cycle_id)
    assert strict is not None and usual is not None and strict == pytest.approx(usual / 2)
    assert loop.control.cycle(cycle_id).state is CycleState.OPENED
