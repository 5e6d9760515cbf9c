"""While a person thinks: the queue with its evidence, expiry, a degrade that cancels, and who may answer. Real jobs, repository, reconciler and service."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from predator_si.errors import Refused
from predator_si.orchestration.steps import approve
from predator_si.orchestration.steps import decide as deciding
from predator_si.records import CycleState, Verdict, utc_now
from predator_si.settings import Settings, load_settings
from predator_si_tests.support.platform import write_snapshot
from predator_si_tests.support.stage import GOOD, Stage, failure
from predator_si_tests.support.stage import corpus as corpus
from predator_si_tests.support.stage import instance as instance
from predator_si_tests.support.stage import start as start
from predator_si_tests.support.stage import storage as storage


@pytest.fixture
def asked(start: Callable[[Settings], Stage], settings: Settings, tmp_path: Path) -> tuple[Stage, str]:
    """A home where a person approves, and a cycle that waits for them with its trial on."""
    file = tmp_path / "careful.yaml"
    file.write_text("selfImprovement:\n  manualApprovalRequired: true\n  approval: {expiresIn: 2h}\n")
    stage = start(load_settings("local", home=settings.home, values_file=file, env={}))
    write_snapshot(stage.loop, stage.old)
    cycle_id = stage.on_trial(GOOD)
    for _ in range(5):  # on a loaded machine one look cannot always say that the challenger is not slower
        stage.traffic(100)
        assert stage.run("cycle_judge_job", cycle_id).success
        if stage.state(cycle_id) is CycleState.DECIDED:
            break
    result = stage.run("cycle_release_job", cycle_id)
    assert result.success, failure(result)
    assert stage.state(cycle_id) is CycleState.AWAITING_APPROVAL
    return stage, cycle_id


def test_the_queue_shows_what_a_person_decides_by_and_waits_while_all_is_well(asked: tuple[Stage, str]) -> None:
    stage, cycle_id = asked
    (question,) = stage.loop.control.approvals("local", waiting=True)
    shown = question.evidence
    assert question.expires_at - question.asked_at == timedelta(hours=2)
    assert shown["verdict"] == "promote" and shown["numbers"]["ndcg_difference"][1] > 0 and shown["numbers"]["requests"]
    assert {"ndcg_superior", "p95_kept"} <= {gate["name"] for gate in shown["gates"]} and shown["links"]
    stage.traffic(20)
    look = approve.judge_while_waiting(stage.loop)
    assert look is not None and (look.answer, look.trial, look.failing) == ("waits", Verdict.PROMOTE, ())
    assert sum(look.requests.values()) > sum(shown["numbers"]["requests"].values()), "the trial is judged over the new traffic as well"
    assert stage.loop.control.approval(cycle_id) == question

    # somebody who bent a gate since: in contour local it is recorded, anywhere else refused
    stage.loop.control.override_gate("local", "error_rate", 0.5, "cli:olena", "noise", old=0.01)
    with pytest.raises(Refused, match="overrode the gate of error_rate"):
        stage.loop.control.decide_approval(cycle_id, "approved", "api:olena", "yes")
    deciding.give_approval(stage.loop, cycle_id, "cli:olena", "the numbers convince me")
    assert stage.loop.control.records(1)[0].payload["overrode"] == ["error_rate"]
    assert approve.judge_while_waiting(stage.loop) is None, "an approval is the release job's"
    assert stage.run("cycle_release_job", cycle_id).success and stage.state(cycle_id) is CycleState.RELEASED


def test_flagger_1801_a_degrade_while_a_person_thinks_cancels_and_takes_the_challenger_off(asked: tuple[Stage, str]) -> None:
    stage, cycle_id = asked
    write_snapshot(stage.loop, stage.old, values={"error_rate": 0.2, "ndcg_at_10": 0.1})
    look = approve.judge_while_waiting(stage.loop)
    assert look is not None and look.answer == "cancelled" and look.failing == ("error_rate_max",), "the cycle's own trigger is no news"
    cycle = stage.loop.control.cycle(cycle_id)
    assert cycle.state is CycleState.CANCELLED and "a gate fails that did not when a person was asked: error_rate_max" in cycle.reason
    assert stage.served() == stage.by_git() == (stage.old, None)
    with pytest.raises(Refused, match="waits for nobody's approval"):
        deciding.give_approval(stage.loop, cycle_id, "cli:olena", "too late")
    assert stage.loop.control.approval(cycle_id).decision == "cancelled"  # type: ignore[union-attr]


def test_a_question_that_nobody_answers_expires(asked: tuple[Stage, str]) -> None:
    stage, cycle_id = asked
    later = utc_now() + timedelta(hours=3)
    look = approve.judge_while_waiting(stage.loop, later)
    assert look is not None and look.answer == "expired"
    assert stage.state(cycle_id) is CycleState.EXPIRED and stage.by_git() == (stage.old, None)
    assert {"approval_expired", "trial_ended", "cycle_expired"} <= set(stage.actions(cycle_id))
    assert approve.judge_while_waiting(stage.loop, later) is None


def test_a_process_that_died_after_an_answer_is_finished_at_the_next_tick(asked: tuple[Stage, str]) -> None:
    stage, cycle_id = asked
    stage.loop.control.decide_approval(cycle_id, "rejected", "cli:olena", "not before the freeze")
    assert stage.state(cycle_id) is CycleState.AWAITING_APPROVAL
    assert approve.judge_while_waiting(stage.loop) is None
    assert stage.state(cycle_id) is CycleState.REJECTED and stage.by_git() == (stage.old, None)
