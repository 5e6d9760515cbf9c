"""Every verdict of a cycle comes out the same again from what is stored, and what was touched is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from predator_si.errors import Missing, Refused
from predator_si.records import Decision, ExperimentResult, Verdict, WatchResult
from predator_si.release.recompute import collect_evidence
from predator_si.release.replay import analysis_of, first_difference, replay_cycle
from predator_si.release.watch import WatchCheck, WatchPlan, judge_watch
from predator_si_tests.support.trials import CYCLE, stored_trial
from predator_si_tests.unit.test_release_decide import NEW, NOW, _again, _artifacts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole cycle: evaluation, trial, both decisions, watch."""
    folder = tmp_path_factory.mktemp("cycle")
    _artifacts(folder)
    result = stored_trial(folder)
    _artifacts(folder, experiment=result, stage="promote")
    plan = WatchPlan(cycle_id=CYCLE, released_digest=NEW.model, planned_checks=2, min_requests=50)
    probes = {f"q{i}": 0.05 - 0.01 * (i % 9) for i in range(40)}
    checks = [WatchCheck(at=NOW + timedelta(minutes=i), requests=60, failures=0, slow=i, served_digest=NEW.model, probes=probes) for i in range(2)]
    (folder / "watch.json").write_text(judge_watch(plan, checks, NOW).to_json())
    return folder


@pytest.fixture
def cycle(made: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made, tmp_path / CYCLE))


def replayed(folder: Path) -> dict[str, str | None]:
    return {one.name: one.difference for one in replay_cycle(folder)}


def test_a_whole_cycle_comes_out_the_same(cycle: Path) -> None:
    found = replayed(cycle)
    assert list(found) == ["evaluation.json", "decision-trial.json", "trial/1-ab/result.json", "ab_test_results.json", "decision-promote.json", "watch.json"]
    assert set(found.values()) == {None}
    assert Decision.read(cycle / "decision-promote.json").verdict is Verdict.PROMOTE
    assert _again(cycle, "promote").verdict is Verdict.PROMOTE


def edit(name: str, *keys: Any, value: Any) -> Callable[[Path], None]:
    def done(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        target = content
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = value
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")

    return done


def slow_down(folder: Path) -> None:
    path = folder / "trial" / "1-ab" / "experiment_search.parquet"
    pl.read_parquet(path).with_columns(latency_ms=pl.col("latency_ms") * 2).write_parquet(path)


@pytest.mark.parametrize(
    ("touch", "name", "word"),
    [
        (edit("ab_test_results.json", "guardrails", 1, "value", value=-0.9), "ab_test_results.json", "guardrails[1].value: stored -0.9, recomputed"),
        (edit("ab_test_results.json", "verdict", value="reject"), "ab_test_results.json", 'verdict: stored "reject", recomputed "promote"'),
        (edit("ab_test_results.json", "inputs", "split", value=0.5), "ab_test_results.json", "guardrails"),
        (edit("watch.json", "checks", 1, "failures", value=30), "watch.json", "failed_requests: stored 0, recomputed 30"),
        (edit("watch.json", "answer", value="rollback"), "watch.json", 'answer: stored "rollback", recomputed "keep"'),
        (edit("decision-promote.json", "reason", value="because"), "decision-promote.json", 'reason: stored "because"'),
        (edit("evaluation.json", "ndcg_champion", value=0.1), "evaluation.json", "Evaluate again"),
        (slow_down, "ab_test_results.json", "its sha256 differs"),
        (lambda folder: (folder / "trial/1-ab/experiment_action.parquet").unlink(), "ab_test_results.json", "evidence of a verdict"),
    ],
)
def test_what_was_touched_is_named(cycle: Path, touch: Callable[[Path], None], name: str, word: str) -> None:
    touch(cycle)
    found = replayed(cycle)
    assert found[name] is not None and word in str(found[name]), found[name]


def test_a_release_is_not_committed_on_a_trial_that_says_something_else(cycle: Path) -> None:
    """Even where somebody rewrote the decision with the new sha256."""
    edit("ab_test_results.json", "requests", "challenger", value=4000)(cycle)
    again = json.loads((cycle / "decision-promote.json").read_text())
    again["evidence"] = collect_evidence(cycle, "promote")
    (cycle / "decision-promote.json").write_text(json.dumps(again))
    with pytest.raises(Refused, match=r"the trial judged again from its events says something else \(requests.challenger: stored 4000"):
        _again(cycle, "promote")


def test_what_a_rollouts_analysis_is_told(cycle: Path) -> None:
    found = replay_cycle(cycle)
    decision, result, watch = (
        Decision.read(cycle / "decision-promote.json"),
        ExperimentResult.read(cycle / "ab_test_results.json"),
        WatchResult.read(cycle / "watch.json"),
    )
    kept = analysis_of(found, decision, result, watch)
    assert (kept["verdict"], kept["value"], kept["stage"], kept["reproducible"], kept["failed_gates"]) == ("promote", 1.0, "watch", True, [])
    assert analysis_of(found, None, result, None)["stage"] == "experiment" and analysis_of([], None, None, None)["verdict"] == "inconclusive"
    tried = Decision.read(cycle / "decision-trial.json")
    assert tried.verdict is Verdict.PROMOTE
    before, during, worse = (analysis_of(found, tried, trial, None) for trial in (None, result, result.model_copy(update={"verdict": Verdict.REJECT})))
    assert (before["verdict"], before["stage"]) == ("inconclusive", "trial"), "what may be tried is not released"
    assert (during["verdict"], during["stage"]) == ("inconclusive", "experiment"), "a step without harm is not a release"
    assert (worse["verdict"], worse["stage"]) == ("reject", "experiment"), "harm counts, whatever let it be tried"
    assert analysis_of(found, tried.model_copy(update={"verdict": Verdict.REJECT}), None, None)["verdict"] == "reject"
    asked = decision.model_copy(update={"approval_required": True})
    waits, approved = (analysis_of(found, one, result, None) for one in (asked, asked.model_copy(update={"approved_by": "ann"})))
    assert (waits["verdict"], waits["value"], waits["stage"]) == ("inconclusive", 0.5, "promote") and "a person's approval" in waits["reason"]
    assert approved["verdict"] == analysis_of(found, decision, result, None)["verdict"] == "promote"
    back = judge_watch(WatchPlan.model_validate(watch.plan), [WatchCheck.model_validate({**watch.checks[0], "served_digest": "sha256:" + "9" * 64})], NOW)
    rejected = analysis_of(found, decision, result, back)
    assert (rejected["verdict"], rejected["value"], rejected["failed_gates"]) == ("reject", 0.0, ["digest"])
    edit("watch.json", "answer", value="rollback")(cycle)
    broken = analysis_of(replay_cycle(cycle), decision, result, WatchResult.read(cycle / "watch.json"))
    assert (broken["verdict"], broken["value"], broken["reproducible"]) == ("inconclusive", 0.5, False) and "watch.json" in broken["reason"]


def test_differences_are_found_where_they_are() -> None:
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "a[1].b: stored 2, recomputed 3"
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == "b is only in the recomputed record"
    assert first_difference([1], [1, 2], "x") == "x has 1 entries, recomputed 2"
    assert first_difference(1, True, "x") is not None and first_difference({"a": None}, {"a": None}) is None


def test_an_empty_folder_holds_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="no verdict to judge again"):
        replay_cycle(tmp_path)
