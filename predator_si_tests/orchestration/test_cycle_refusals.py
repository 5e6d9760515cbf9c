"""A cycle from its evaluation on, through the real jobs, the real repository, reconciler and service; only the rerankers are simple: each knows one word.

What is tried here is to get a model past its gates, and to say no to one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from predator_si.errors import Refused
from predator_si.orchestration import delivery
from predator_si.orchestration.steps import decide as deciding
from predator_si.records import CycleState, Decision, Evaluation, Rollback, ServingConfig, Verdict, WatchResult, utc_now
from predator_si.release.decide import decide_trial
from predator_si.release.deny import DENY_FILE, parse_deny
from predator_si.release.recompute import collect_evidence
from predator_si.settings import Settings, load_settings
from predator_si_tests.support.platform import word_model
from predator_si_tests.support.stage import BAD, DRILL, GOOD, SAME, Stage, failure, metadata
from predator_si_tests.support.stage import corpus as corpus
from predator_si_tests.support.stage import few_probes as few_probes
from predator_si_tests.support.stage import instance as instance
from predator_si_tests.support.stage import stage as stage
from predator_si_tests.support.stage import start as start
from predator_si_tests.support.stage import storage as storage

# --------------------------------------------------------------------------- the gates


def test_a_better_model_goes_all_the_way(stage: Stage) -> None:
    cycle_id = stage.released()
    new = ServingConfig.read(stage.folder(cycle_id) / "challenger.json").model
    assert stage.by_git() == stage.served() == (new, None)
    assert stage.commits(cycle_id) == ["trial", "promote"]
    assert stage.tracker.alias("champion") == new
    for _ in range(2):
        stage.traffic(20)
        watched = stage.run("watch_job", cycle_id)
        assert watched.success
    pages = f"http://127.0.0.1:{stage.loop.settings.ports.api}"
    told = {name: value for name, value in metadata(watched, "watch").items() if str(value).startswith("http")}
    commits = {
        f"{step}_commit": f"{pages}/operations/commits/{stage.loop.repo.find_commit(cycle_id, name)}"
        for step, name in (("trial", "trial"), ("release", "promote"))
    }
    assert told == {
        "operations_page": f"{pages}/operations/cycles/{cycle_id}",
        "report": f"{pages}/cycles/{cycle_id}",
        "trial_page": f"{pages}/cycles/{cycle_id}/trial",
        **commits,
    }
    assert stage.state(cycle_id) is CycleState.STABLE, WatchResult.read(stage.folder(cycle_id) / "watch.json").reason
    states = [record.payload["to"] for record in stage.loop.control.records(500, cycle_id=cycle_id) if record.action.startswith("cycle_")]
    assert states == ["opened", "evaluated", "on_trial", "decided", "released", "watching", "stable"]
    assert stage.loop.control.verify() == []


def test_a_model_that_is_not_better_ends_before_anything_is_committed(stage: Stage) -> None:
    """The blocking check stops the patch inside the run; the patch asset alone commits nothing afterwards."""
    cycle_id, head = stage.evaluated(SAME), stage.head()
    result = stage.run("cycle_trial_job", cycle_id)
    assert not result.success
    assert "cycle__trial_patch" not in {event.step_key for event in result.all_events if event.event_type_value == "STEP_START"}
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["ndcg_superior"].passed and checks["ndcg_superior"].severity is dg.AssetCheckSeverity.ERROR
    assert stage.state(cycle_id) is CycleState.REJECTED
    for asset in ("trial_patch", "helm_patch"):
        alone = stage.alone(asset, cycle_id)
        if alone.success:
            assert metadata(alone, asset)["committed"] is False
    deployed = stage.alone("deployment", cycle_id)
    assert deployed.success and metadata(deployed, "deployment")["deployed"] is False
    assert (stage.head(), stage.by_git(), stage.served()) == (head, (stage.old, None), (stage.old, None))
    assert stage.commits(cycle_id) == []


def test_a_worse_model_is_rejected_with_its_numbers(stage: Stage) -> None:
    cycle_id = stage.evaluated(BAD)
    assert not stage.run("cycle_trial_job", cycle_id).success
    cycle = stage.loop.control.cycle(cycle_id)
    assert cycle.state is CycleState.REJECTED and cycle.reason.startswith("rejected: proven worse: ndcg_not_worse")


def test_a_trial_is_not_judged_before_its_traffic(stage: Stage) -> None:
    cycle_id = stage.on_trial()
    stage.traffic(30)
    result = stage.run("cycle_judge_job", cycle_id)
    assert not result.success and f"trial of {cycle_id}: the trial has 30 of 100 requests" in failure(result)
    assert stage.state(cycle_id) is CycleState.ON_TRIAL


def test_a_held_challenger_is_taken_off_the_trial(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inconclusive trial: the challenger may not go on serving to people."""
    cycle_id = stage.judged()
    path = stage.folder(cycle_id) / "ab_test_results.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"verdict": "inconclusive", "reason": "too few clicks"}))
    stage.run("cycle_release_job", cycle_id)
    assert stage.state(cycle_id) is CycleState.REJECTED
    assert stage.by_git() == stage.served() == (stage.old, None)
    assert stage.commits(cycle_id) == ["trial", "rollback"]
    assert "trial_ended" in stage.actions(cycle_id)
    assert parse_deny(stage.loop.repo.show(DENY_FILE)) == [], "held is not denied: it may come back with more data"


def test_what_was_compared_with_another_champion_is_not_committed(stage: Stage) -> None:
    """A person put another model into production meanwhile: better than the old one says nothing about this one."""
    cycle_id, other = stage.evaluated(GOOD), word_model(stage.loop, "by hand", SAME)
    name = stage.loop.release_name
    commit = stage.loop.repo.change(lambda files: {name: files[name].replace(stage.old, other)}, "by hand")
    result = stage.run("cycle_trial_job", cycle_id)
    assert not result.success and f"it was compared with {stage.old}, and {other} is the champion now" in failure(result)
    assert stage.head() == commit and stage.commits(cycle_id) == []


# --------------------------------------------------------------------------- kill switch


def test_the_kill_switch_stops_patches_and_work(stage: Stage) -> None:
    cycle_id, head = stage.evaluated(GOOD), stage.head()
    stage.loop.control.set_kill_switch("local", True, "anna", "stop")
    result = stage.run("cycle_trial_job", cycle_id)
    assert not result.success and "the kill switch is on, nothing is released" in failure(result)
    assert stage.loop.should_stop(cycle_id)()
    assert stage.head() == head
    stage.loop.control.set_kill_switch("local", False, "anna", "go on")
    assert stage.run("cycle_trial_job", cycle_id).success, "the same cycle goes on"
    assert stage.state(cycle_id) is CycleState.ON_TRIAL


def test_the_kill_switch_stops_a_release_and_never_watch_or_rollback(stage: Stage) -> None:
    cycle_id = stage.judged()
    stage.loop.control.set_kill_switch("local", True, "anna", "stop")
    result = stage.run("cycle_release_job", cycle_id)
    assert not result.success and "the kill switch is on" in failure(result) and stage.by_git()[0] == stage.old
    stage.loop.control.set_kill_switch("local", False, "anna", "go on")
    assert stage.run("cycle_release_job", cycle_id).success
    stage.loop.control.set_kill_switch("local", True, "anna", "stop again")
    degrade(stage, cycle_id)
    assert stage.run("watch_job", cycle_id).success
    back = stage.run("rollback_job", cycle_id)
    assert back.success, failure(back)
    assert stage.state(cycle_id) is CycleState.ROLLED_BACK and stage.served() == (stage.old, None)


def degrade(stage: Stage, cycle_id: str) -> None:
    """Somebody releases another model behind the loop's back: the service does not serve what was released."""
    stage.loop.repo.sync()
    stage.traffic(20)
    new = ServingConfig.read(stage.folder(cycle_id) / "challenger.json").model
    other = word_model(stage.loop, "somebody-elses", SAME)
    text = stage.loop.release_text()
    stage.loop.repo.change(lambda files: {stage.loop.release_name: text.replace(new, other)}, "by hand")
    delivery.confirm(f"{stage.loop.search_url}/info", other, "champion", 20.0, cycle_id=cycle_id, stage="promote", commit="x")
    stage.run("watch_job", cycle_id)
    stage.loop.repo.change(lambda files: {stage.loop.release_name: text}, "and back")
    delivery.confirm(f"{stage.loop.search_url}/info", new, "champion", 20.0, cycle_id=cycle_id, stage="promote", commit="x")


# --------------------------------------------------------------------------- drill, watch, rollback

HALF = {"ops": {"cycle__release_decision": {"config": {"drill": True}}}}


@pytest.mark.parametrize("config", [None, HALF], ids=["none", "half"])
def test_a_drill_needs_to_be_said_to_both(stage: Stage, config: dict[str, Any] | None) -> None:
    head = stage.head()
    cycle_id, result = stage.drilled(config)
    assert not result.success
    assert stage.head() == head and stage.served() == (stage.old, None)
    if config is HALF:
        assert "is a drill, and no drill is going on" in failure(result)
        assert stage.state(cycle_id) is CycleState.DECIDED
    else:
        assert stage.state(cycle_id) is CycleState.REJECTED


def test_a_cycle_that_is_no_drill_cannot_be_called_one(stage: Stage) -> None:
    """Whoever may launch a job may write ``drill: true`` into its configuration; the ledger says what was opened as a drill, and with which model."""
    cycle_id = stage.evaluated(BAD)
    head = stage.head()
    result = stage.run("cycle_release_job", cycle_id, DRILL)
    assert not result.success and "was not opened as a drill" in failure(result)
    forged = decide_trial(Evaluation.read(stage.folder(cycle_id) / "evaluation.json"), trigger="ndcg_at_10_down", policy="full", drill=True)
    evidence = collect_evidence(stage.folder(cycle_id), "promote")
    stage.loop.save(cycle_id, "decision-promote.json", forged.model_copy(update={"stage": "promote", "evidence": evidence}))
    stage.loop.control.transition(cycle_id, CycleState.DECIDED, "forged", "test")
    result = stage.alone("helm_patch", cycle_id, {"ops": {"cycle__helm_patch": {"config": {"drill": True}}}})
    assert not result.success and "was not opened as a drill" in failure(result)
    assert stage.head() == head and stage.served() == (stage.old, None)


def test_a_drill_releases_its_own_model_only(stage: Stage) -> None:
    cycle_id, result = stage.drilled(None)
    assert not result.success
    evaluation = Evaluation.read(stage.folder(cycle_id) / "evaluation.json")
    other = word_model(stage.loop, "somebody-elses", BAD)
    stage.loop.save(cycle_id, "evaluation.json", evaluation.model_copy(update={"challenger": evaluation.challenger.model_copy(update={"model": other})}))
    with pytest.raises(Refused, match="is not the model of this drill"):
        deciding.decide(stage.loop, cycle_id, "promote", drill=True)


@pytest.mark.usefixtures("few_probes")
def test_a_drill_is_released_watched_and_taken_back(stage: Stage) -> None:
    cycle_id, result = stage.drilled(DRILL)
    assert result.success, failure(result)
    bad = ServingConfig.read(stage.folder(cycle_id) / "challenger.json").model
    assert (stage.served() == (bad, None) and stage.tracker.alias("champion") != bad) or stage.served() == (bad, None)
    decision = Decision.read(stage.folder(cycle_id) / "decision-promote.json")
    assert decision.drill and decision.reason.startswith("DRILL, pushed past the gates") and decision.verdict is not Verdict.PROMOTE
    assert stage.loop.control.sealed_openings("toy") == 0, "an exercise does not break the seal"
    stage.traffic(20)
    watched = stage.run("watch_job", cycle_id)
    assert watched.success
    failed = [check for check in watched.get_asset_check_evaluations() if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR]
    assert [check.check_name for check in failed] == ["ndcg"]
    back = stage.run("rollback_job", cycle_id)
    assert back.success, failure(back)
    record = Rollback.read(stage.folder(cycle_id) / "rollback.json")
    assert record.verified and (record.from_digest, record.to_digest) == (bad, stage.old) and record.denied[0] == bad
    assert stage.by_git() == stage.served() == (stage.old, None)
    assert [entry.digest for entry in parse_deny(stage.loop.repo.show(DENY_FILE))] == [bad]
    assert stage.commits(cycle_id) == ["promote", "rollback"]
    assert stage.tracker.alias("champion") == stage.old
    assert stage.state(cycle_id) is CycleState.ROLLED_BACK
    assert (stage.folder(cycle_id) / "report.html").is_file() and (stage.folder(cycle_id) / "manifest.json").is_file()
    # once more: nothing is committed twice, and the verdict stays
    head = stage.head()
    assert stage.run("rollback_job", cycle_id).success and stage.head() == head


def test_a_forged_watch_takes_nothing_back(stage: Stage) -> None:
    cycle_id = stage.released()
    stage.traffic(20)
    assert stage.run("watch_job", cycle_id).success
    path = stage.folder(cycle_id) / "watch.json"
    path.write_text(WatchResult.read(path).model_copy(update={"answer": "rollback", "reason": "I want my old model back"}).to_json())
    head = stage.head()
    result = stage.run("rollback_job", cycle_id)
    assert not result.success and "the watch's own numbers say continue" in failure(result)
    assert stage.head() == head and stage.state(cycle_id) is CycleState.WATCHING


# --------------------------------------------------------------------------- approval


@pytest.fixture
def careful(start: Callable[[Settings], Stage], settings: Settings, tmp_path: Path) -> Stage:
    """Contour ``local`` where a person approves."""
    file = tmp_path / "careful.yaml"
    file.write_text("selfImprovement:\n  manualApprovalRequired: true\n")
    return start(load_settings("local", home=settings.home, values_file=file, env={}))


def test_a_release_waits_for_its_approval_and_keeps_it(careful: Stage) -> None:
    cycle_id = careful.judged()
    head = careful.head()
    result = careful.run("cycle_release_job", cycle_id)
    assert result.success, failure(result)
    assert metadata(result, "helm_patch").items() >= {"committed": False, "reason": "the release waits for a person's approval"}.items()
    assert metadata(result, "deployment")["deployed"] is False
    assert careful.state(cycle_id) is CycleState.AWAITING_APPROVAL and careful.head() == head
    assert careful.run("cycle_release_job", cycle_id).success and careful.head() == head, "asking again is no approval"
    deciding.give_approval(careful.loop, cycle_id, "olena", "the numbers convince me")
    result = careful.run("cycle_release_job", cycle_id)
    assert result.success, failure(result)
    assert careful.state(cycle_id) is CycleState.RELEASED and careful.served()[0] != careful.old
    decision = Decision.read(careful.folder(cycle_id) / "decision-promote.json")
    assert (decision.approved_by, decision.approval_required) == ("olena", True)


def test_a_person_may_say_no(careful: Stage) -> None:
    cycle_id = careful.judged()
    with pytest.raises(Refused, match="waits for nobody's approval"):
        deciding.refuse_approval(careful.loop, cycle_id, "olena", "too early")
    with pytest.raises(Refused, match="waits for nobody's approval"):
        deciding.give_approval(careful.loop, cycle_id, "olena", "too early")
    assert careful.run("cycle_release_job", cycle_id).success
    deciding.refuse_approval(careful.loop, cycle_id, "olena", "not before the freeze")
    assert careful.state(cycle_id) is CycleState.REJECTED and careful.served() == careful.by_git() == (careful.old, None)
    assert "olena refused the release: not before the freeze" in careful.loop.control.cycle(cycle_id).reason
    assert "approval_rejected" in careful.actions(cycle_id)


def test_an_approval_that_nobody_gave_is_refused(careful: Stage) -> None:
    """Neither by writing a name into the decision nor by writing that none is needed: the ledger knows who approved."""
    cycle_id = careful.judged()
    assert careful.run("cycle_release_job", cycle_id).success
    path, head = careful.folder(cycle_id) / "decision-promote.json", careful.head()
    honest = Decision.read(path)
    for forged in ({"approved_by": "olena", "approved_at": utc_now()}, {"approval_required": False, "approved_by": "olena"}):
        path.write_text(honest.model_copy(update=forged).to_json())
        result = careful.alone("helm_patch", cycle_id)
        assert not result.success and "approval" in failure(result), forged
        assert careful.head() == head
    path.write_text(honest.to_json())
    assert metadata(careful.alone("helm_patch", cycle_id), "helm_patch")["committed"] is False
