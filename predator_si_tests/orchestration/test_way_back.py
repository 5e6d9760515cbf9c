"""A release is taken back while the next cycle is on trial, or waits for a person; and a rollback that the service confirms only later. The real repository,
reconciler and service.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from predator_si.errors import Refused
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.partitions import add_cycle
from predator_si.orchestration.steps import decide, improve, keep, way_back
from predator_si.orchestration.steps.follow_up import follow_up
from predator_si.proof.drill import race
from predator_si.proof.prepare import build_first_index
from predator_si.records import CycleState, Decision, HelmPatch, Rollback, ServingConfig, Verdict, utc_now
from predator_si.release.deploy import commit_patch
from predator_si.release.patch import make_patch, promote_changes, save_patch, trial_changes
from predator_si.release.release_file import parse_release
from predator_si.settings import Settings
from predator_si.train.tracking import NullTracker
from predator_si_tests.support.platform import load_word_reranker, machines, on_free_port, open_cycle, prepare, tiny_scale, word_model
from predator_si_tests.support.stage import GOOD, SAME, Died, Stage, failure
from predator_si_tests.support.stage import corpus as corpus
from predator_si_tests.support.stage import instance as instance
from predator_si_tests.support.stage import stage as stage
from predator_si_tests.support.stage import start as start
from predator_si_tests.support.stage import storage as storage
from predator_si_tests.support.waiting import wait_until


@pytest.fixture
def loop(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    monkeypatch.setattr(improve, "load_reranker", load_word_reranker)
    monkeypatch.setattr(Loop, "confirm_seconds", 20.0)
    made = Loop(on_free_port(settings))
    prepare(made, word_model(made, "champion", 4.0), tiny_scale())
    build_first_index(made, part=None)
    with machines(made, embedder=made.plan.embedder, load_reranker=load_word_reranker):
        yield made


def committed(loop: Loop, cycle_id: str, stage: Any, changes: dict[str, Any]) -> HelmPatch:
    patch = commit_patch(loop.repo, make_patch(loop.release_text(), changes, cycle_id=cycle_id, stage=stage, file=loop.release_name), f"{stage}: a test")
    save_patch(loop.artifacts(cycle_id), patch)
    return patch


def on_trial(loop: Loop, name: str, likes: float = 3.0) -> str:
    """A cycle whose challenger is on trial by Git."""
    cycle_id, before = open_cycle(loop.control).cycle_id, loop.serving()
    challenger = before.model_copy(update={"model": word_model(loop, name, likes)})
    said = {"verdict": Verdict.PROMOTE, "gates": [], "policy": "full", "approval_required": False, "reason": "better", "created_at": utc_now()}
    for of in ("trial", "promote"):
        loop.save(cycle_id, f"decision-{of}.json", Decision(cycle_id=cycle_id, stage=of, champion=before, challenger=challenger, **said))
    loop.save(cycle_id, "challenger.json", challenger)
    committed(loop, cycle_id, "trial", trial_changes(challenger))
    loop.control.transition(cycle_id, CycleState.ON_TRIAL, "a test says so", "loop")
    return cycle_id


def stable(loop: Loop, name: str, likes: float = 3.0, **config: Any) -> str:
    """A release that went through a trial and was watched to its end."""
    cycle_id = on_trial(loop, name, likes)
    challenger = ServingConfig.read(loop.artifacts(cycle_id) / "challenger.json").model_copy(update=config)
    committed(loop, cycle_id, "promote", promote_changes(challenger))
    for state in (CycleState.RELEASED, CycleState.STABLE):
        loop.control.transition(cycle_id, state, "a test says so", "loop")
    return cycle_id


def by_git(loop: Loop) -> tuple[str, str | None, float]:
    found = parse_release(loop.release_text(), loop.release_name).reranker
    return found.champion, found.candidate, found.candidate_weight


def count(loop: Loop, action: str) -> int:
    return sum(record.action == action for record in loop.control.records(500))


def edit(loop: Loop, old: str, new: str) -> None:
    assert loop.repo.change(lambda files: {loop.release_name: files[loop.release_name].replace(old, new)}, "by hand")


# --------------------------------------------------------------------------- the next cycle stands in the road


def test_a_person_takes_a_stable_release_back_while_the_next_one_is_on_trial(stage: Stage) -> None:
    """By the jobs: what the API accepts, rollback_job does."""
    loop, old = stage.loop, stage.old
    first = stable(loop, "first guess", likes=SAME)
    add_cycle(stage.instance, first)
    second = stage.on_trial(GOOD)
    keep.order_rollback(loop, first, "api:anna", "users complain")
    result = stage.run("rollback_job", first)
    assert result.success, failure(result)
    assert (stage.state(first), stage.state(second)) == (CycleState.ROLLED_BACK, CycleState.CANCELLED)
    assert stage.by_git() == stage.served() == (old, None) and by_git(loop)[2] == 0.0
    assert f"{first}, which it was compared with, is taken back: api:anna: users complain" in loop.control.cycle(second).reason
    assert stage.commits(second) == ["trial", "rollback"] and [entry.cycle for entry in loop.denied()] == [first], "nothing is said against the next one"
    assert loop.control.active_cycle("local") is None and loop.control.verify() == []
    assert stage.tracker.aliases()["champion"] == old and "challenger" not in stage.tracker.aliases()


def test_the_next_cycle_waits_for_an_approval(loop: Loop) -> None:
    old, first, second = loop.serving().model, stable(loop, "first"), on_trial(loop, "second")
    loop.control.ask_approval(second, "promote", "local", "evidence", {}, timedelta(hours=1))
    loop.control.transition(second, CycleState.AWAITING_APPROVAL, "a person is asked", "loop")
    back = keep.take_back(loop, first, "a person wants it")
    assert back.verified and by_git(loop) == (old, None, 0.0)
    assert loop.control.cycle(second).state is CycleState.CANCELLED
    assert loop.control.approval(second).decision == "cancelled"  # type: ignore[union-attr]


@pytest.mark.parametrize("at", ["close_approval", "transition"])
def test_killed_between_the_end_of_the_trial_and_the_way_back(loop: Loop, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, first, second = loop.serving().model, stable(loop, "first"), on_trial(loop, "second")
    do = getattr(type(loop.control), at)

    def die(*arguments: Any, **named: Any) -> Any:
        if at == "transition":
            do(*arguments, **named)  # right after it: the next cycle has ended, nothing is reversed
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(type(loop.control), at, die)
        with pytest.raises(Died):
            keep.take_back(loop, first, "a person wants it")
    assert by_git(loop)[:2] != (old, None) and loop.control.cycle(first).state is CycleState.STABLE
    with pytest.raises(Refused, match="taken back while the commit was prepared"):
        decide._last_word(loop, second)  # its release job, which may run on
    assert keep.take_back(loop, first, "a person wants it").verified
    assert by_git(loop) == (old, None, 0.0)
    assert (loop.control.cycle(first).state, loop.control.cycle(second).state) == (CycleState.ROLLED_BACK, CycleState.CANCELLED)
    assert loop.control.verify() == []


@pytest.mark.parametrize(("before", "theirs"), [("candidateWeight: 0.2", "candidateWeight: 0.4"), ("depth: 9", "depth: 12")])
def test_a_persons_edit_is_not_lost_and_then_nothing_happens(loop: Loop, before: str, theirs: str) -> None:
    """They changed the trial's share, or a key that the release had changed: refused with both values, the trial goes on."""
    first = stable(loop, "first", depth=9)
    second = on_trial(loop, "second")
    edit(loop, before, theirs)
    head, text = loop.repo.sync(), loop.release_text()
    assert theirs in text
    with pytest.raises(Refused, match="somebody changed it meanwhile"):
        keep.take_back(loop, first, "a person wants it")
    assert (loop.repo.sync(), loop.release_text()) == (head, text) and loop.control.cycle(second).state is CycleState.ON_TRIAL


def test_taken_back_already_it_leaves_the_next_trial_alone(loop: Loop) -> None:
    first = stable(loop, "first")
    assert keep.take_back(loop, first, "a person wants it").verified
    second = on_trial(loop, "second")
    assert keep.take_back(loop, first, "once more, by a run that had died").verified
    assert loop.control.cycle(second).state is CycleState.ON_TRIAL and by_git(loop)[1] is not None


def test_the_next_release_got_in_first(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its release job pushed between the look and the end of its trial: the older release is not taken back under it, and no cycle is ended."""
    first, second = stable(loop, "first"), on_trial(loop, "second")
    end = decide.end_trial

    def released_first(*arguments: Any, **named: Any) -> None:
        committed(loop, second, "promote", promote_changes(ServingConfig.read(loop.artifacts(second) / "challenger.json")))
        end(*arguments, **named)

    monkeypatch.setattr(decide, "end_trial", released_first)
    with pytest.raises(Refused, match="was released over"):
        keep.take_back(loop, first, "a person wants it")
    assert loop.control.cycle(second).state is CycleState.ON_TRIAL and loop.control.cycle(first).state is CycleState.STABLE


def test_the_race_of_the_drill(loop: Loop) -> None:
    """Two people at once, on a stand-in for the drill's ground."""

    class Ground:
        settings, tracker, new_tracker = loop.settings, NullTracker(), NullTracker

        def damaged(self, seed: int) -> str:
            return word_model(loop, f"damaged {seed}", -4.0)

    ground: Any = Ground()
    ground.loop, old = loop, loop.serving().model
    assert race.rollback_under_a_trial(ground, None, 1) == []  # type: ignore[arg-type]
    assert by_git(loop) == (old, None, 0.0) and count(loop, "cycle_cancelled") == 1 and loop.control.verify() == []


# --------------------------------------------------------------------------- the service says so later


def unverified(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> str:
    """A release that was taken back, and the service did not say so in time."""
    cycle_id = stable(loop, "first")
    with monkeypatch.context() as patched:
        asked = {"cycle_id": cycle_id, "stage": "rollback"}
        patched.setattr(keep, "bring_into_force", lambda _, digest, *__, commit, **___: decide.not_asked(digest, commit=commit, **asked))
        assert not keep.take_back(loop, cycle_id, "a person wants it").verified
    return cycle_id


def stored(loop: Loop, cycle_id: str) -> Rollback:
    return Rollback.read(loop.artifacts(cycle_id) / "rollback.json")


def test_a_rollback_is_confirmed_by_a_later_tick_and_once(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    old, tracker = loop.serving().model, NullTracker()
    cycle_id = unverified(loop, monkeypatch)
    first, before = stored(loop, cycle_id), count(loop, "rollback")
    with monkeypatch.context() as patched:
        patched.setattr(loop, "search_url", "http://127.0.0.1:9")
        told = [follow_up(loop)[0] for _ in range(2)]
        assert told == [f"the rollback of {cycle_id} is still not confirmed by the service"] * 2
    assert stored(loop, cycle_id) == first and count(loop, "rollback_confirmed") == 0, "asked each tick, written down not once"
    found = []

    def served() -> bool:
        found.append(way_back.confirm_again(loop, tracker))
        return found[-1].verified

    wait_until(served, 30, "the service's word")
    kept = stored(loop, cycle_id)
    assert kept == found[-1] and kept.verified and kept.to_digest == old and kept.seconds >= first.seconds
    assert tracker.aliases()["champion"] == old
    assert way_back.confirm_again(loop, tracker) is None and (count(loop, "rollback_confirmed"), count(loop, "rollback")) == (1, before)


def test_killed_after_the_record_it_is_not_written_twice(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    cycle_id = unverified(loop, monkeypatch)
    wait_until(lambda: loop.info()["variants"]["champion"]["model_sha"] == loop.serving().model, 30, "the old model")

    def die(*_: Any, **__: Any) -> None:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(loop, "save", die)
        with pytest.raises(Died):
            way_back.confirm_again(loop, NullTracker())
    assert count(loop, "rollback_confirmed") == 1 and not stored(loop, cycle_id).verified
    assert way_back.confirm_again(loop, NullTracker()).verified and count(loop, "rollback_confirmed") == 1  # type: ignore[union-attr]


def test_what_was_released_since_is_no_rollback_to_confirm(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    cycle_id = unverified(loop, monkeypatch)
    stable(loop, "second")
    assert way_back.confirm_again(loop, NullTracker()) is None and not stored(loop, cycle_id).verified


def test_the_next_trial_does_not_stand_in_the_way_of_a_confirmation(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    unverified(loop, monkeypatch)
    second = on_trial(loop, "second")
    wait_until(lambda: getattr(way_back.confirm_again(loop, NullTracker()), "verified", False), 30, "the service's word")
    assert loop.control.cycle(second).state is CycleState.ON_TRIAL and by_git(loop)[1] is not None
