"""From one contour to the next: two contours' files in one repository, the next contour's service on loopback, each step a commit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from predator_si.errors import Refused, Unavailable
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import approve, onward, settled
from predator_si.records import CycleState, Decision, ServingConfig
from predator_si.release.deny import SEED_DENY
from predator_si.release.deploy import commit_changes
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.release_file import DENY_FILE, parse_release, seed_release
from predator_si.settings import Settings
from predator_si_tests.support.platform import fake_model, prepare
from predator_si_tests.support.promotion import NEXT, NextService, stable_release


@pytest.fixture
def home(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Loop, NextService, str]]:
    """An edge whose newest release is stable, a next contour with an older champion, and its service."""
    loop = Loop(settings)
    old, new = fake_model(loop, "old"), fake_model(loop, "new")
    other = seed_release(ServingConfig(model=old, depth=7, fusion_weight=0.1), NEXT)
    mine = seed_release(ServingConfig(model=old, depth=8, fusion_weight=0.2), "local")
    GitOpsRepo.init_bare(loop.home.gitops_bare, {loop.release_name: mine, f"release-{NEXT}.yaml": other, DENY_FILE: SEED_DENY})
    prepare(loop, old)
    with NextService(loop) as peer:
        said = settings.values.promotion.model_copy(update={"to": NEXT, "search": peer.url, "store": str(tmp_path / "shared")})
        loop = Loop(settings.model_copy(update={"values": settings.values.model_copy(update={"promotion": said})}))
        monkeypatch.setattr(Loop, "confirm_seconds", 3.0)
        yield loop, peer, stable_release(loop, old, new)


def by_git(loop: Loop) -> tuple[ServingConfig, ServingConfig]:
    loop.repo.sync()
    mine, other = loop.release_name, f"release-{NEXT}.yaml"
    return parse_release(loop.repo.show(mine), mine).serving, parse_release(loop.repo.show(other), other).serving


def test_a_stable_release_is_asked_committed_confirmed_and_taken_back_without_touching_the_first_contour(home: tuple[Loop, NextService, str]) -> None:
    loop, _, source = home
    here, there = by_git(loop)
    onward.propose_where_wanted(loop, source)
    promotion = onward.waiting(loop)
    assert promotion is not None and (promotion.contour, promotion.state) == (NEXT, CycleState.AWAITING_APPROVAL)
    assert onward.propose(loop, source).cycle_id == promotion.cycle_id, "it is proposed once"
    (question,) = loop.control.approvals(NEXT, waiting=True)
    assert question.evidence["promotes"] == source and question.evidence["watch"] == "all checks passed" and question.evidence["replaces"]["depth"] == 7
    assert "a person is asked until" in (onward.advance_waiting(loop) or "") and by_git(loop) == (here, there)

    approve.give_approval(loop, promotion.cycle_id, "cli:olena", "it held a week at the edge")
    assert "serves in compute-nvidia" in onward.advance(loop, promotion.cycle_id)
    assert by_git(loop) == (here, here), "model, depth and fusion of the first contour, in a commit of its own"
    assert loop.control.cycle(promotion.cycle_id).state is CycleState.STABLE and onward.waiting(loop) is None
    assert [span.digest for span in loop.control.champions(NEXT)] == [here.model] and loop.control.champions(loop.contour) == []
    log = loop.repo._git("log", "-1", "--format=%s%n%(trailers:only)", loop.repo.head())
    assert f"Predator-Source: {source}" in log and "Predator-Approved-By: cli:olena" in log and f"Predator-Cycle: {promotion.cycle_id}" in log

    back = onward.take_back(loop, promotion.cycle_id, "cli:olena", "slower on their hardware")
    assert back.verified and by_git(loop) == (here, there) and back.denied == []
    assert loop.repo.show(DENY_FILE) == SEED_DENY, "what serves here must stay allowed"
    assert loop.control.cycle(source).state is CycleState.STABLE and loop.control.cycle(promotion.cycle_id).state is CycleState.ROLLED_BACK
    with pytest.raises(Refused, match="was rolled_back in contour compute-nvidia"):
        onward.propose(loop, source)
    assert loop.control.verify() == []


def test_a_service_that_does_not_follow_gets_its_commit_taken_back(home: tuple[Loop, NextService, str]) -> None:
    loop, peer, source = home
    here, there = by_git(loop)
    cycle_id = onward.propose(loop, source).cycle_id
    approve.give_approval(loop, cycle_id, "cli:olena", "yes")
    peer.stuck_on = there.model
    with pytest.raises(Refused, match="The commit was taken back"):
        onward.advance(loop, cycle_id)
    assert by_git(loop) == (here, there) and loop.control.cycle(cycle_id).state is CycleState.FAILED


def test_what_was_approved_is_what_is_committed(home: tuple[Loop, NextService, str]) -> None:
    loop, _, source = home
    before = by_git(loop)
    cycle_id = onward.propose(loop, source).cycle_id
    approve.give_approval(loop, cycle_id, "cli:olena", "yes")
    watch = loop.artifacts(source) / "watch.json"
    kept = watch.read_text()
    watch.write_text(kept.replace("all checks passed", "all checks passed, twice"))
    with pytest.raises(Refused, match="not what was approved"):
        onward.advance(loop, cycle_id)
    watch.write_text(kept)
    loop.control.set_kill_switch(loop.contour, True, "cli:olena", "freeze")
    with pytest.raises(Refused, match="kill switch"):
        onward.advance(loop, cycle_id)
    loop.control.set_kill_switch(loop.contour, False, "cli:olena", "over")
    path = loop.artifacts(cycle_id) / "decision-promote.json"
    path.write_text(Decision.read(path).model_copy(update={"approved_by": "cli:eve"}).to_json())
    with pytest.raises(Refused, match="holds no approval of this decision"):
        onward.advance(loop, cycle_id)
    assert by_git(loop) == before


def test_a_promotion_ends_when_nobody_answers_or_its_source_is_taken_back(home: tuple[Loop, NextService, str], monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _, source = home
    cycle_id = onward.propose(loop, source).cycle_id
    loop.control.transition(source, CycleState.ROLLED_BACK, "worse after all", "loop")
    assert onward.advance(loop, cycle_id) == "cancelled: its source was taken back"
    assert loop.control.cycle(cycle_id).state is CycleState.CANCELLED
    with pytest.raises(Refused, match="only a stable release"):
        onward.propose(loop, source)


def test_without_an_address_of_the_next_service_nothing_is_proposed(home: tuple[Loop, NextService, str]) -> None:
    loop, _, source = home
    values = loop.settings.values.model_copy(update={"promotion": loop.settings.values.promotion.model_copy(update={"search": None})})
    blind = Loop(loop.settings.model_copy(update={"values": values}))
    onward.propose_where_wanted(blind, source)
    record = blind.control.records()[-1]
    assert record.action == "promotion_not_proposed" and "nobody could say what it serves" in record.reason


def test_without_a_place_for_the_bytes_nothing_is_proposed_and_one_that_cannot_be_written_is_said(home: tuple[Loop, NextService, str], tmp_path: Path) -> None:
    loop, _, source = home
    said = loop.settings.values.promotion

    def with_store(store: str | None) -> Loop:
        values = loop.settings.values.model_copy(update={"promotion": said.model_copy(update={"store": store})})
        return Loop(loop.settings.model_copy(update={"values": values}))

    with pytest.raises(Refused, match=r"promotion\.store names no place"):
        onward.propose(with_store(None), source)
    cycle_id = onward.propose(loop, source).cycle_id
    approve.give_approval(loop, cycle_id, "cli:olena", "yes")
    before = by_git(loop)
    (tmp_path / "a file").write_text("in the way")
    with pytest.raises(Unavailable, match="could not be copied"):
        onward.advance(with_store(str(tmp_path / "a file")), cycle_id)
    assert by_git(loop) == before and loop.control.cycle(cycle_id).state is CycleState.AWAITING_APPROVAL, "the next tick tries again"
    assert "serves in" in onward.advance(loop, cycle_id)


def test_a_trial_that_is_on_in_the_next_contour_is_not_ended_by_a_promotion(home: tuple[Loop, NextService, str]) -> None:
    loop, _, source = home
    file = f"release-{NEXT}.yaml"
    theirs = {"reranker.candidate": loop.serving().model, "reranker.candidateWeight": 0.2}
    commit_changes(loop.repo, file, theirs, "trial: theirs", "si_2026_11_22_001", "trial")
    with pytest.raises(Refused, match="is on trial in compute-nvidia"):
        onward.propose(loop, source)


def test_a_proposal_that_was_cut_short_is_ended_and_made_again(home: tuple[Loop, NextService, str], monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _, source = home

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            onward.propose(loop, source)
    assert onward.waiting(loop) is None and loop.control.active_cycle(NEXT) is not None, "somebody may be proposing just now"
    monkeypatch.setattr(onward, "_CUT_SHORT", timedelta(0))
    assert onward.waiting(loop) is None and loop.control.active_cycle(NEXT) is None
    assert settled.make_up(loop) is not None
    promotion = onward.waiting(loop)
    assert promotion is not None and promotion.state is CycleState.AWAITING_APPROVAL
    assert settled.make_up(loop) is None, "owed once"
