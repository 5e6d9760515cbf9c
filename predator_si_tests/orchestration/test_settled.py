"""A watch that dies right after its release became stable: gold and the proposal are made up for. And a rejected challenger is not judged twice."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from predator_si.errors import Unavailable
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import again, aliases, settled
from predator_si.records import CycleState, Evaluation, Holdout, SealedOpening, ServingConfig, utc_now
from predator_si.settings import Settings
from predator_si.train.tracking import NullTracker
from predator_si_tests.support.platform import fake_model, open_cycle, prepare
from predator_si_tests.support.promotion import stable_release


@pytest.fixture
def stable(settings: Settings) -> tuple[Loop, str]:
    """A home whose newest release is stable, and whose watch died before it did anything more."""
    loop = Loop(settings)
    old, new = fake_model(loop, "old"), fake_model(loop, "new")
    prepare(loop, old)
    return loop, stable_release(loop, old, new)


def recorded(loop: Loop, action: str) -> int:
    return sum(record.action == action for record in loop.control.records(500))


def test_gold_that_a_killed_watch_left_out_is_set_by_the_next_tick_and_once(stable: tuple[Loop, str]) -> None:
    loop, cycle_id = stable
    tracker, digest = NullTracker(), loop.serving().model
    assert settled.give_what_is_owed(loop, cycle_id, tracker) == [f"{cycle_id} is gold-1"]
    assert tracker.aliases() == {"gold-1": digest} and recorded(loop, "gold_set") == 1
    assert settled.give_what_is_owed(loop, cycle_id, tracker) == [] and recorded(loop, "gold_set") == 1


def test_killed_between_the_alias_and_its_record_it_keeps_its_alias(stable: tuple[Loop, str], monkeypatch: pytest.MonkeyPatch) -> None:
    loop, cycle_id = stable
    tracker = NullTracker()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(loop.control), "append", killed)
        with pytest.raises(KeyboardInterrupt):
            aliases.keep_gold(loop, tracker, cycle_id)
    assert list(tracker.aliases()) == ["gold-1"] and recorded(loop, "gold_set") == 0
    settled.give_what_is_owed(loop, cycle_id, tracker)
    assert list(tracker.aliases()) == ["gold-1"] and recorded(loop, "gold_set") == 1


def test_a_registry_that_is_away_is_told_once_and_asked_each_tick(stable: tuple[Loop, str]) -> None:
    loop, cycle_id = stable

    class Away(NullTracker):
        def aliases(self) -> dict[str, str]:
            raise Unavailable("the registry does not answer. Start it.")

    for _ in range(3):
        assert settled.give_what_is_owed(loop, cycle_id, Away()) == []
    assert recorded(loop, "gold_not_set") == 1
    assert settled.give_what_is_owed(loop, cycle_id, NullTracker()) != []


def test_what_does_not_serve_any_more_is_owed_nothing(stable: tuple[Loop, str]) -> None:
    loop, cycle_id = stable
    serves, other = loop.serving().model, fake_model(loop, "other")
    loop.repo.change(lambda files: {loop.release_name: files[loop.release_name].replace(serves, other)}, "by hand")
    assert settled.give_what_is_owed(loop, cycle_id, NullTracker()) == []


# --------------------------------------------------------------------------- the same challenger again


def judged(loop: Loop, challenger: ServingConfig, *, period: str, blocks: int = 12, state: CycleState = CycleState.REJECTED) -> str:
    """A cycle that judged a challenger on the sealed queries of a month, and how it ended."""
    cycle_id, source = open_cycle(loop.control).cycle_id, loop.control.cycles(50, loop.contour)[-1].cycle_id
    known = Evaluation.read(loop.artifacts(source) / "evaluation.json")
    opening = SealedOpening(opening=1, period=period, candidate=1, rotation=0)
    sealed = Holdout(opening=opening, block=0, blocks=blocks, pool=60, level=0.001, told=0.5, rose=False)
    facts: dict[str, Any] = {"cycle_id": cycle_id, "challenger": challenger, "champion": loop.serving(), "holdout": sealed, "corpus": loop.corpus.name}
    loop.save(cycle_id, "evaluation.json", known.model_copy(update=facts))
    loop.save(cycle_id, "challenger.json", challenger)
    loop.control.transition(cycle_id, CycleState.EVALUATED, "judged", "loop")
    loop.control.transition(cycle_id, state, "not better", "loop")
    return cycle_id


def test_a_rejected_challenger_ends_at_once_without_breaking_the_seal_again(stable: tuple[Loop, str]) -> None:
    loop, _ = stable
    challenger = ServingConfig(model=fake_model(loop, "third"), depth=8, fusion_weight=0.2)
    before = judged(loop, challenger, period=utc_now().strftime("%Y-%m"))
    cycle_id = open_cycle(loop.control).cycle_id
    loop.save(cycle_id, "challenger.json", challenger)
    loop.control.transition(cycle_id, CycleState.TRAINED, "the same weights again", "loop")
    assert f"rejected before by the same evidence: {before}" in (again.end_if_rejected_before(loop, cycle_id) or "")
    assert loop.control.cycle(cycle_id).state is CycleState.REJECTED and loop.control.sealed_openings(loop.corpus.name) == 0


@pytest.mark.parametrize(
    ("changes", "judged_again"),
    [
        ({}, False),
        ({"depth": 12}, True),  # another challenger
        ({"period": "2020-01"}, True),  # other sealed queries
        ({"period": "2020-01", "blocks": 1}, False),  # a pool too small to rotate: the same queries each month
        ({"state": CycleState.CANCELLED}, True),  # nobody rejected it
    ],
)
def test_only_the_same_challenger_by_the_same_evidence_is_turned_away(stable: tuple[Loop, str], changes: dict[str, Any], judged_again: bool) -> None:
    loop, _ = stable
    now = datetime.fromisoformat("2026-11-23T12:00:00+00:00")
    said = {"period": "2026-11", **changes}
    challenger = ServingConfig(model=fake_model(loop, "third"), depth=8, fusion_weight=0.2)
    depth = said.pop("depth", 8)
    judged(loop, challenger, **said)
    cycle_id = open_cycle(loop.control).cycle_id
    loop.save(cycle_id, "challenger.json", challenger.model_copy(update={"depth": depth}))
    assert (again.rejected_before(loop, cycle_id, now) is None) is judged_again
