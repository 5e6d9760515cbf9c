"""Steps that die, and a service that does not follow: the next run finishes them, and a commit is made once."""

from __future__ import annotations

from typing import Any

import pytest

from predator_si.orchestration import delivery
from predator_si.records import CycleState, Deployment, ServingConfig
from predator_si.release.deny import DENY_FILE, parse_deny
from predator_si_tests.support.stage import DRILL, GOOD, Stage, failure, killed
from predator_si_tests.support.stage import corpus as corpus
from predator_si_tests.support.stage import few_probes as few_probes
from predator_si_tests.support.stage import instance as instance
from predator_si_tests.support.stage import stage as stage
from predator_si_tests.support.stage import start as start
from predator_si_tests.support.stage import storage as storage


def test_steps_that_die_are_finished_by_the_next_run(stage: Stage) -> None:
    """One cycle that dies again and again, each time a little later; between a push and its record too, the same commit is found and there is one."""
    cycle_id = stage.evaluated(GOOD)
    for action in ("patch_trial", "deployment_trial", "cycle_on_trial"):
        killed(stage, "cycle_trial_job", cycle_id, action)
        assert stage.state(cycle_id) is CycleState.EVALUATED
    assert stage.run("cycle_trial_job", cycle_id).success
    assert stage.state(cycle_id) is CycleState.ON_TRIAL and stage.commits(cycle_id) == ["trial"]
    stage.traffic(100)
    killed(stage, "cycle_judge_job", cycle_id, "cycle_decided")
    assert stage.run("cycle_judge_job", cycle_id).success
    for action in ("decision_promote", "patch_promote", "deployment_promote", "cycle_released"):
        killed(stage, "cycle_release_job", cycle_id, action)
        assert stage.state(cycle_id) is CycleState.DECIDED
    result = stage.run("cycle_release_job", cycle_id)
    assert result.success, failure(result)
    new = ServingConfig.read(stage.folder(cycle_id) / "challenger.json").model
    assert stage.state(cycle_id) is CycleState.RELEASED and stage.by_git() == stage.served() == (new, None)
    assert stage.commits(cycle_id) == ["trial", "promote"]
    assert stage.loop.control.verify() == []


@pytest.mark.usefixtures("few_probes")
def test_a_rollback_that_died_is_finished_and_commits_once(stage: Stage) -> None:
    cycle_id, result = stage.drilled(DRILL)
    assert result.success
    stage.traffic(20)
    assert stage.run("watch_job", cycle_id).success
    for action in ("rollback", "cycle_rolled_back"):
        killed(stage, "rollback_job", cycle_id, action)
        assert stage.state(cycle_id) is CycleState.WATCHING
    assert stage.run("rollback_job", cycle_id).success
    assert stage.state(cycle_id) is CycleState.ROLLED_BACK and stage.commits(cycle_id) == ["promote", "rollback"]
    assert stage.served() == (stage.old, None)


@pytest.mark.parametrize("which", ["trial", "promote"])
def test_a_model_that_the_service_cannot_load_is_taken_back(stage: Stage, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """The service's word counts: a commit that it does not follow is reversed, and the cycle is not released."""
    cycle_id = stage.evaluated(GOOD) if which == "trial" else stage.judged()

    def another(url: str, digest: str, variant: str, seconds: float, **more: Any) -> Deployment:
        forward = more["stage"] != "rollback"
        return _confirm(url, "sha256:" + "9" * 64 if forward else digest, variant, 1.0 if forward else seconds, **more)

    monkeypatch.setattr(delivery, "confirm", another)
    result = stage.run("cycle_trial_job" if which == "trial" else "cycle_release_job", cycle_id)
    assert not result.success and "The commit was taken back" in failure(result)
    assert stage.by_git() == stage.served() == (stage.old, None)
    assert stage.commits(cycle_id)[-1] == "rollback"
    assert stage.state(cycle_id) is CycleState.FAILED and stage.loop.control.active_cycle("local") is None
    assert parse_deny(stage.loop.repo.show(DENY_FILE)) == [], "the service failed, not the model"
    assert stage.loop.control.verify() == []


_confirm = delivery.confirm
