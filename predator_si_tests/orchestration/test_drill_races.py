"""What the race drill found, step by step: a release that somebody takes back while the service is still asked for it is over, whoever is first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from predator_si.control import Control, schema
from predator_si.errors import Refused
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import decide, improve, keep
from predator_si.orchestration.tracking import MlflowTracker
from predator_si.proof.drill import effects, invariants, lane
from predator_si.proof.drill.race import at_once
from predator_si.proof.prepare import build_first_index
from predator_si.records import CycleState, Deployment, utc_now
from predator_si.release.deny import DENY_FILE, parse_deny
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.patch import load_patch
from predator_si.settings import Settings
from predator_si.train.tracking import NullTracker
from predator_si_tests.support.platform import load_word_reranker, machines, on_free_port, prepare, tiny_scale, word_model


@pytest.fixture
def loop(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Loop]:
    """A home whose champion knows the word, and its machines."""
    monkeypatch.setattr(improve, "load_reranker", load_word_reranker)
    monkeypatch.setattr(Loop, "confirm_seconds", 20.0)
    made = Loop(on_free_port(settings))
    prepare(made, word_model(made, "champion", 4.0), tiny_scale())
    build_first_index(made, part=None)
    with machines(made, embedder=made.plan.embedder, load_reranker=load_word_reranker):
        yield made


def decided(loop: Loop, name: str) -> str:
    """A drill whose release is committed, and whose deployment nobody waited for yet."""
    cycle_id = lane.open_drill(loop, word_model(loop, name, -4.0))
    decide.decide(loop, cycle_id, "promote", drill=True)
    decide.commit(loop, cycle_id, "promote", allow_drill=True)
    assert loop.control.cycle(cycle_id).state is CycleState.DECIDED
    return cycle_id


def holds(loop: Loop, old: str) -> None:
    assert loop.serving().model == old
    assert invariants.violations(invariants.observe(loop)) == []


def test_taken_back_before_the_deployment_was_looked_at(loop: Loop) -> None:
    old, cycle_id = loop.serving().model, decided(loop, "damaged")
    back = keep.take_back(loop, cycle_id, "a person changed their mind")
    assert back.verified and loop.control.cycle(cycle_id).state is CycleState.ROLLED_BACK
    with pytest.raises(Refused):
        decide.commit(loop, cycle_id, "promote", allow_drill=True)
    assert len(parse_deny(loop.repo.show(DENY_FILE))) == 1
    holds(loop, old)


def test_taken_back_between_the_services_word_and_the_cycles_state(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    old, cycle_id = loop.serving().model, decided(loop, "damaged")
    ask = decide.bring_into_force
    moved: list[str] = []

    def then_taken_back(*arguments: Any, **named: Any) -> Any:
        answer = ask(*arguments, **named)
        if not moved:
            moved.append(cycle_id)
            keep.take_back(Loop(loop.settings), cycle_id, "a person takes it back at this very moment")
        return answer

    monkeypatch.setattr(decide, "bring_into_force", then_taken_back)
    with pytest.raises(Refused):
        decide.deploy(loop, cycle_id, "promote", NullTracker())
    assert moved and loop.control.cycle(cycle_id).state is CycleState.ROLLED_BACK
    holds(loop, old)


def test_the_commit_of_the_way_back_is_there_and_its_process_died(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git has the way back, the cycle does not know it yet: a release that goes on meanwhile is refused by Git's word."""
    old, cycle_id = loop.serving().model, decided(loop, "damaged")

    class Died(Exception):
        pass

    def die(*_: Any, **__: Any) -> Any:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(keep, "bring_into_force", die)
        with pytest.raises(Died):
            keep.take_back(loop, cycle_id, "a person changed their mind")
    assert loop.repo.find_commit(cycle_id, "rollback") is not None and loop.control.cycle(cycle_id).state is CycleState.DECIDED
    with monkeypatch.context() as patched:
        told = {"expected_digest": old, "served_digest": old, "confirmed": True, "seconds": 0.0, "reason": "the service reports it"}
        said = Deployment(cycle_id=cycle_id, stage="promote", commit="0" * 40, created_at=utc_now(), **told)
        patched.setattr(decide, "bring_into_force", lambda *_, **__: said)
        with pytest.raises(Refused, match="was taken back while the service was asked for it"):
            decide.deploy(loop, cycle_id, "promote", NullTracker())
    assert loop.control.cycle(cycle_id).state is CycleState.DECIDED
    assert keep.take_back(loop, cycle_id, "once more").verified
    assert loop.control.cycle(cycle_id).state is CycleState.ROLLED_BACK
    holds(loop, old)


def test_the_kill_switch_pressed_while_the_repository_takes_its_time(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look at the switch comes right before the commit, not before the repository was asked."""
    cycle_id = lane.open_drill(loop, word_model(loop, "damaged", -4.0))
    decide.decide(loop, cycle_id, "promote", drill=True)
    write, head = decide.commit_patch, loop.repo.sync()

    def slowly(*arguments: Any, **named: Any) -> Any:
        loop.control.set_kill_switch(loop.contour, True, "ann", "stop")
        return write(*arguments, **named)

    monkeypatch.setattr(decide, "commit_patch", slowly)
    with pytest.raises(Refused, match="nothing was committed"):
        decide.commit(loop, cycle_id, "promote", allow_drill=True)
    assert loop.repo.sync() == head and loop.control.cycle(cycle_id).state is CycleState.DECIDED


def test_two_runs_release_one_cycle_and_the_way_back_stays_open(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other run pushes after this one had looked for its commit: the stored reverse still leads back to the old model."""
    cycle_id, old = lane.open_drill(loop, word_model(loop, "damaged", -4.0)), loop.serving().model
    decide.decide(loop, cycle_id, "promote", drill=True)
    read, pushed = loop.release_text, list[str]()

    def later() -> str:
        if not pushed:
            pushed.append(decide.commit(Loop(loop.settings), cycle_id, "promote", allow_drill=True).commit or "")
        return read()

    monkeypatch.setattr(loop, "release_text", later)
    patch = decide.commit(loop, cycle_id, "promote", allow_drill=True)
    assert patch.commit == pushed[0] and patch.reverse["reranker.champion"] == old
    assert load_patch(loop.artifacts(cycle_id), "promote").reverse["reranker.champion"] == old
    monkeypatch.undo()
    monkeypatch.setattr(improve, "load_reranker", load_word_reranker)
    assert keep.take_back(loop, cycle_id, "it is damaged").to_digest == old
    holds(loop, old)


def test_two_runs_write_one_artifact(loop: Loop) -> None:
    cycle_id = lane.open_drill(loop, word_model(loop, "damaged", -4.0))
    found = at_once(*[lambda: [Loop(loop.settings).save(cycle_id, "seen.json", {"n": number}) for number in range(200)]] * 3)
    assert [one for one in found if isinstance(one, Exception)] == []
    assert json.loads((loop.artifacts(cycle_id) / "seen.json").read_text()) == {"n": 199}
    assert list(loop.artifacts(cycle_id).glob(".*")) == []


def test_side_effects_are_told_before_and_after_and_keep_their_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for owner, name in ((GitOpsRepo, "_push"), (schema.Database, "writing"), (Path, "replace")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back afterwards
    for name in ("register", "start", "end", "set_alias", "clear_alias"):
        monkeypatch.setattr(MlflowTracker, name, getattr(MlflowTracker, name))
    control = Control(tmp_path / "control.db")
    GitOpsRepo.init_bare(tmp_path / "bare.git", {"release-local.yaml": "reranker: 1\n", "deny.yaml": "denied: []\n"})
    repo = GitOpsRepo(tmp_path / "bare.git", tmp_path / "clone")
    told: list[str] = []
    effects.install(told.append, tmp_path)
    control.append("seeded", "drill", None, "", {})
    assert control.set_kill_switch("local", True, "drill", "") is True
    commit = repo.change(lambda files: {"release-local.yaml": "reranker: 2\n"}, "another")
    assert commit == repo.head()
    folder = tmp_path / "artifacts" / "si_2026_11_22_001"
    folder.mkdir(parents=True)
    (folder / ".watch.json.partial").write_text("{}")
    (folder / ".watch.json.partial").replace(folder / "watch.json")
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "elsewhere").replace(tmp_path / "there")
    names = ["control append", "control set_kill_switch", "git push", "file watch.json"]
    assert told == [f"{moment} {name}" for name in names for moment in ("before", "after")]
    assert sorted(record.action for record in control.records(10)) == ["kill_switch_on", "seeded"]
