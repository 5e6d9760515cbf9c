"""Evidence that somebody wrote: what a forged verdict, a forged check and each forged file of a cycle come to, through the real jobs."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from predator_si.errors import Refused
from predator_si.orchestration.steps import decide as deciding
from predator_si.records import CycleState, Decision, Evaluation, ServingConfig, Verdict
from predator_si.release.decide import decide_trial
from predator_si.release.deny import DENY_FILE
from predator_si.release.recompute import collect_evidence
from predator_si.statistics import candidate_level
from predator_si.statistics.design import DEFAULT_DESIGN
from predator_si_tests.support.stage import GOOD, SAME, Stage, failure
from predator_si_tests.support.stage import corpus as corpus
from predator_si_tests.support.stage import instance as instance
from predator_si_tests.support.stage import stage as stage
from predator_si_tests.support.stage import start as start
from predator_si_tests.support.stage import storage as storage


def promote(folder: Path, stage: str) -> None:
    """Write ``promote`` over a decision's verdict."""
    path = folder / f"decision-{stage}.json"
    decision = Decision.read(path)
    path.write_text(decision.model_copy(update={"verdict": Verdict.PROMOTE}).to_json())


def forge_check(stage: Stage, cycle_id: str, asset: str) -> None:
    """Write a passed check by hand, as anybody with GraphQL can."""
    key = dg.AssetKey(["cycle", asset])
    stage.instance.report_runless_asset_event(dg.AssetCheckEvaluation(asset_key=key, check_name="ndcg_superior", passed=True, partition=cycle_id))


def test_a_forged_verdict_and_a_forged_check_commit_nothing(stage: Stage) -> None:
    cycle_id, head = stage.evaluated(SAME), stage.head()
    folder = stage.folder(cycle_id)
    evaluation = Evaluation.read(folder / "evaluation.json")
    honest = decide_trial(evaluation, trigger="ndcg_at_10_down", policy="full", evidence=collect_evidence(folder, "trial"))
    assert honest.verdict is not Verdict.PROMOTE
    stage.loop.save(cycle_id, "decision-trial.json", honest)
    promote(folder, "trial")
    forge_check(stage, cycle_id, "trial_decision")
    result = stage.alone("trial_patch", cycle_id)
    assert not result.success and "the stored trial verdict is promote, its evidence gives inconclusive" in failure(result)
    assert (stage.head(), stage.served()) == (head, (stage.old, None))
    assert stage.state(cycle_id) is CycleState.EVALUATED


def test_an_opening_that_the_ledger_does_not_know_proves_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    cycle_id, head = stage.evaluated(GOOD), stage.head()
    decision = deciding.decide(stage.loop, cycle_id, "trial")
    (claim,) = [gate for gate in decision.gates if gate.criterion.name == "ndcg_significant"]
    holdout = Evaluation.read(stage.folder(cycle_id) / "evaluation.json").holdout
    assert decision.verdict is Verdict.PROMOTE and holdout is not None
    assert claim.limit == holdout.level == 2 * candidate_level(holdout.opening.candidate, DEFAULT_DESIGN.promotion_alpha_per_month)
    assert decision.given == {"trigger": "ndcg_at_10_down", "latency_target_ms": deciding.latency_target_ms(stage.loop), "level": claim.limit, "margin": 0.01}
    (noted,) = [record for record in stage.loop.control.records(500, cycle_id=cycle_id) if record.action == "decision_trial"]
    assert noted.payload["given"] == decision.given, "the ledger knows what it was given: a record that says something else was edited"
    monkeypatch.setattr(stage.loop.control, "sealed_opening", lambda *_: None)
    with pytest.raises(Refused, match="its evidence gives inconclusive"):
        deciding.commit(stage.loop, cycle_id, "trial")
    assert stage.head() == head


def edit_evaluation(folder: Path) -> None:
    path = folder / "evaluation.json"
    found = json.loads(path.read_text())
    found["ndcg_difference"] |= {"estimate": 0.2, "low": 0.1, "high": 0.3, "p_value": 0.001}
    path.write_text(json.dumps(found))


def edit_scores(folder: Path) -> None:
    path = folder / Evaluation.read(folder / "evaluation.json").per_query
    pl.read_parquet(path).with_columns(ndcg_challenger=pl.lit(1.0)).write_parquet(path)


def edit_trial(folder: Path) -> None:
    path = folder / "ab_test_results.json"
    path.write_text(path.read_text().replace('"simulated": true', '"simulated": false'))


def edit_latency(folder: Path) -> None:
    path = folder / "latency.json"
    found = json.loads(path.read_text())
    found["challenger"]["p95_ms"] = 0.1
    path.write_text(json.dumps(found))


def drop_scores(folder: Path) -> None:
    (folder / Evaluation.read(folder / "evaluation.json").per_query).unlink()


def forget_evidence(folder: Path) -> None:
    path = folder / "decision-promote.json"
    path.write_text(Decision.read(path).model_copy(update={"evidence": {}}).to_json())


def rename_challenger(folder: Path) -> None:
    path = folder / "decision-promote.json"
    decision = Decision.read(path)
    path.write_text(decision.model_copy(update={"challenger": decision.challenger.model_copy(update={"depth": 1})}).to_json())


def call_it_a_drill(folder: Path) -> None:
    path = folder / "decision-promote.json"
    path.write_text(Decision.read(path).model_copy(update={"drill": True}).to_json())


def another_stage(folder: Path) -> None:
    (folder / "decision-promote.json").write_text((folder / "decision-trial.json").read_text())


def edit_and_rehash(folder: Path) -> None:
    """The evaluation's numbers, with its sha256 in the decision put right: the scores still tell."""
    edit_evaluation(folder)
    path = folder / "decision-promote.json"
    path.write_text(Decision.read(path).model_copy(update={"evidence": collect_evidence(folder, "promote")}).to_json())


FORGERIES = [
    (edit_evaluation, "evaluation.json is not the file that cycle"),
    (edit_scores, "is not the file that cycle"),
    (edit_trial, "ab_test_results.json is not the file that cycle"),
    (edit_latency, "latency.json is not the file that cycle"),
    (drop_scores, "cannot be read"),
    (forget_evidence, "names no sha256 for evaluation.json"),
    (rename_challenger, "the decision is about other models than its evaluation"),
    (call_it_a_drill, "is a drill, and no drill is going on"),
    (another_stage, "is a decision for trial, not for promote"),
    (edit_and_rehash, "its per-query scores give"),
]


def test_each_forged_file_is_refused_and_the_honest_ones_are_not(stage: Stage) -> None:
    """One cycle, decided; each forgery is tried on its files alone, then they are put back, and the release goes through."""
    cycle_id = stage.judged()
    deciding.decide(stage.loop, cycle_id, "promote")
    folder, head = stage.folder(cycle_id), stage.head()
    kept = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for forge, words in FORGERIES:
        forge(folder)
        result = stage.alone("helm_patch", cycle_id)
        assert not result.success, forge.__name__
        assert words in failure(result), (forge.__name__, failure(result))
        assert stage.head() == head, forge.__name__
        for path, data in kept.items():
            path.write_bytes(data)
    assert stage.alone("helm_patch", cycle_id).success
    assert stage.alone("deployment", cycle_id).success
    assert stage.state(cycle_id) is CycleState.RELEASED and stage.served()[0] != stage.old


def test_a_denied_model_is_not_released(stage: Stage) -> None:
    cycle_id = stage.judged()
    new = ServingConfig.read(stage.folder(cycle_id) / "challenger.json").model
    entry = f'denied:\n- {{digest: "{new}", sourceDigest: null, cycle: si_2026_01_01_001, reason: it was worse, at: "2026-01-01T00:00:00+00:00"}}\n'
    stage.loop.repo.sync()
    stage.loop.repo.change(lambda files: {DENY_FILE: entry}, "deny it by hand")
    result = stage.run("cycle_release_job", cycle_id)
    assert not result.success and "deny list" in failure(result)
    assert stage.by_git()[0] == stage.old
