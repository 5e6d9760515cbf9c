"""Champion history: the table follows releases and rollbacks, and Git puts it right where it does not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import dagster as dg
import pytest

from predator_si.errors import Refused
from predator_si.orchestration.assets.observe import _champions
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import permission
from predator_si.orchestration.steps.champions import history, note_champion
from predator_si.records import CycleState
from predator_si.release.deploy import commit_changes
from predator_si.settings import Settings
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.platform import fake_model, open_cycle, prepare, write_snapshot


@pytest.fixture
def loop(settings: Settings) -> Loop:
    found = Loop(settings)
    return prepare(found, fake_model(found, "first"))


def serve(loop: Loop, digest: str, cycle_id: str, stage: str = "promote") -> str:
    commit = commit_changes(loop.repo, loop.release_name, {"reranker.champion": digest}, f"{stage}: {digest[7:19]}", cycle_id, stage)
    assert commit is not None
    return commit


def test_a_release_and_a_rollback_are_in_the_table_and_the_first_champion_is_read_from_git(loop: Loop) -> None:
    first, second = loop.serving().model, fake_model(loop, "second")
    cycle_id = open_cycle(loop.control).cycle_id
    commit = serve(loop, second, cycle_id)
    assert note_champion(loop, cycle_id, "released: better", commit) and not note_champion(loop, cycle_id, "released: better", commit)
    back = serve(loop, first, cycle_id, "rollback")
    assert note_champion(loop, cycle_id, "rolled back: worse", back)
    told = [(span.digest, span.why, span.commit) for span in history(loop)]
    assert told[:2] == [(first, "rolled back: worse", back), (second, "released: better", commit)]
    assert told[2][:2] == (first, "seed: the machine-owned files") and len(told) == 3
    assert [span.until is None for span in history(loop)] == [True, False, False]


def test_a_lost_table_and_one_that_missed_a_person_s_commit_are_derived_from_git(loop: Loop) -> None:
    first, second, third = loop.serving().model, fake_model(loop, "second"), fake_model(loop, "third")
    cycle_id = open_cycle(loop.control).cycle_id
    serve(loop, second, cycle_id)
    commit_changes(loop.repo, loop.release_name, {"reranker.depth": 3}, "a person: less depth", cycle_id, "settled")  # the champion stays
    found = history(loop)
    assert [(span.digest, span.cycle_id) for span in found] == [(second, cycle_id), (first, None)]
    assert loop.control.champions("local") == found and loop.control.records()[-1].action == "champions_restored"
    before = len(loop.control.records(1000))
    assert history(loop) == found and len(loop.control.records(1000)) == before, "a table that agrees is left alone"
    serve(loop, third, open_id := "si_2026_11_23_900")
    assert [(span.digest, span.cycle_id) for span in history(loop)] == [(third, open_id), (second, cycle_id), (first, None)]


def test_a_tick_shows_who_was_champion_a_person_s_commit_included_and_writes_nothing(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown() -> list[str]:
        found = _champions(loop, dg.build_asset_context())
        return [str(record.data["model"]) for record in found["champions"].records] if found else []

    first, second, third = loop.serving().model[:19], fake_model(loop, "second"), fake_model(loop, "third")
    assert shown() == [first], "an empty table: Git knows"
    note_champion(loop, "si_2026_11_23_900", "arrived from edge-oracle", serve(loop, second, "si_2026_11_23_900"))
    assert shown() == [second[:19], first]
    loop.repo.change(lambda files: {loop.release_name: files[loop.release_name].replace(second, third)}, "by hand")
    records = len(loop.control.records(1000))
    assert shown() == [third[:19], second[:19], first]
    assert len(loop.control.records(1000)) == records and loop.control.champions("local")[0].digest == second
    loop.repo.change(lambda files: {loop.release_name: "reranker: ["}, "by hand")
    assert shown() == [], "what cannot be read is left out; a tick goes on"


def test_a_commit_that_cannot_be_read_begins_no_span(loop: Loop, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git = ["git", "-c", "user.name=ann", "-c", "user.email=ann@example.invalid"]
    subprocess.run([*git, "clone", "-q", str(loop.home.gitops_bare), str(clone)], check=True, capture_output=True)
    (clone / loop.release_name).write_text("reranker: [broken\n")
    subprocess.run([*git, "-C", str(clone), "commit", "-qam", "oops"], check=True, capture_output=True)
    subprocess.run([*git, "-C", str(clone), "push", "-q"], check=True, capture_output=True)
    assert [span.why for span in history(loop)] == ["seed: the machine-owned files"]


def test_the_commands_tell_champions_the_queue_and_why_nothing_starts(loop: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    cli, _ = CommandLine(loop.home.path, capsys), loop.control
    answer = cli("champions", "--json")
    assert answer.code == 0 and answer.json[0]["digest"] == loop.serving().model
    assert cli("cycle", "queue").code == 0
    write_snapshot(loop, loop.serving().model)
    free = cli("cycle", "why-not", "--json")
    assert free.code == 0 and {row["answer"] for row in free.json if row["action"] == "train"} == {"allow"}
    assert cli("flag", "train", "off", "--reason", "no GPU today").code == 0 and cli("flag", "moon", "off", "--reason", "x").code == 2
    assert {row["rule"] for row in cli("cycle", "why-not", "--json").json if row["action"] == "train"} == {"flag"}
    cycle = open_cycle(loop.control)
    loop.control.transition(cycle.cycle_id, CycleState.REJECTED, "not better", "loop")
    told = cli("cycle", "why-not", "--json")
    rows = {row["action"]: row for row in told.json}
    assert told.code == 1 and rows["start_cycle (ndcg_at_10_down)"]["rule"] == "cycle_interval" and rows["start_cycle (ndcg_at_10_down)"]["retry_at"]


def test_sensor_command_and_assets_hear_the_same_answer(loop: Loop) -> None:
    """The flag that a person turned stops the sensor's cycle, a forced one, and the patch of a trial alike."""
    from predator_si.monitor import Skip
    from predator_si.orchestration.steps import begin, decide, observe
    from predator_si_tests.support.platform import write_baseline

    champion = loop.serving().model
    write_baseline(loop, champion)
    write_snapshot(loop, champion, values={"ndcg_at_10": 0.4})
    for flag in ("start_cycle", "trial"):
        loop.control.set_feature_flag("local", flag, False, "api:ann", "freeze")
    reason = permission.ruling(loop, "start_cycle", trigger="ndcg_at_10_down").reason
    skipped = observe.next_step(loop)
    assert isinstance(skipped, Skip) and reason in skipped.reason
    with pytest.raises(Refused, match="a person switched start_cycle off"):
        begin.open_or_resume(loop, "api:ann", "ndcg_at_10_down", "I insist", force=True)
    cycle_id = open_cycle(loop.control).cycle_id
    with pytest.raises(Refused, match="a person switched trial off"):
        decide.commit(loop, cycle_id, "trial")
