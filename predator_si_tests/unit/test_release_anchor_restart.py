"""A ledger from an older copy is not believed until the loss is written down; anchors count only with the signatures that are asked for."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from predator_si.control import Control
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import permission
from predator_si.orchestration.steps.anchor import accept_ledger, anchor_if_due, anchors_of, compare
from predator_si.orchestration.steps.tell import collect
from predator_si.orchestration.trust import distrust
from predator_si.release.anchors import Anchor, LedgerAnchors, OlderLedger, anchor_problems, standing
from predator_si.release.git import GitAccess
from predator_si.release.gitops import GitOpsRepo
from predator_si.settings import Settings, load_settings
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.platform import prepare

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def loop(settings: Settings) -> Loop:
    found = Loop(settings)
    GitOpsRepo.init_bare(found.home.gitops_bare, {"release-local.yaml": "a: 1\n"})
    for number in range(3):
        found.control.append("watch_check", "loop", None, f"number {number}", {"n": number})
    return found


def last_weeks(loop: Loop) -> Loop:
    """The home after somebody put an older copy of the control database back: three records, of the six that were anchored."""
    old = loop.home.path / "old.db"
    shutil.copy(loop.home.control_db, old)
    for name in ("-wal", "-shm"):
        if (beside := Path(f"{loop.home.control_db}{name}")).exists():
            shutil.copy(beside, f"{old}{name}")
    Control(old)  # the log beside it goes into the copy
    loop.control.set_kill_switch("local", True, "cli:ann", "freeze")
    for number in range(2):
        loop.control.append("rollback", "loop", None, "x", {"n": number})
    assert anchor_if_due(loop, NOON) is not None
    for path in loop.home.path.glob("control.db*"):
        path.unlink()
    for path in loop.home.path.glob("old.db*"):
        path.rename(loop.home.path / path.name.replace("old", "control"))
    return Loop(loop.settings)


def test_a_ledger_that_holds_its_anchors_is_believed(loop: Loop) -> None:
    assert distrust(loop.home, "local", loop.control) is None, "nothing was anchored yet"
    anchor_if_due(loop, NOON)
    loop.control.append("watch_check", "loop", None, "x", {})
    assert distrust(loop.home, "local", loop.control) is None
    assert accept_ledger(loop, "cli:ann", "nothing is lost") is None and len(loop.control.records()) == 4


def test_an_older_copy_lifts_no_switch(loop: Loop) -> None:
    again = last_weeks(loop)
    assert not again.control.kill_switch("local"), "the older copy does not know that it was pressed"
    why = distrust(again.home, "local", again.control)
    assert why is not None and "its newest record is 3, and record 6" in why and "audit accept" in why
    prepare(again, "sha256:" + "a" * 64)
    for action in ("train", "promote", "spend"):
        refused = permission.ruling(again, action, approved=True)
        assert (refused.answer, refused.rule) == ("deny", "ledger") and "audit accept" in refused.reason
    assert permission.ruling(again, "rollback").answer == "allow", "a release must be able to go back"
    assert [event.kind for event in collect(again, NOON) if event.severity == "critical"] == ["ledger"]
    accept_ledger(again, "cli:ann", "the disk is gone")
    assert permission.ruling(again, "train").answer == "allow"


def test_a_lost_database_is_not_a_new_one(loop: Loop) -> None:
    anchor_if_due(loop, NOON)
    for path in loop.home.path.glob("control.db*"):
        path.unlink()
    again = Loop(loop.settings)
    assert "its newest record is none" in str(distrust(again.home, "local", None))
    assert "its newest record is none" in str(distrust(again.home, "local", again.control))
    with pytest.raises(OlderLedger):
        again.control.append("x", "y")
        anchors_of(again).write(again.control.head() or (0, ""), NOON)


def test_the_loss_is_accepted_by_a_record_and_an_anchor(loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anchor_if_due(loop, NOON - timedelta(hours=2))
    again = last_weeks(loop)
    cli = CommandLine(again.home.path, capsys)
    found = cli("audit", "verify", "--json")
    assert found.code == 1 and "record 6" in found.json["problems"][0]
    assert cli("audit", "accept").code == 2 and cli("audit", "accept", "--reason", " ").code == 2
    accepted = cli("audit", "accept", "--reason", "the disk is gone", "--json")
    assert accepted.code == 0 and accepted.json["anchor"]["restarted_after"] == 3
    (record,) = again.control.records_of("ledger_accepted")
    assert record.payload["lost_from"] == 4 and record.payload["lost_to"] == 6 and record.reason == "the disk is gone"
    whole = cli("audit", "verify", "--json")
    assert (whole.code, whole.json["anchors"]) == (0, 3)
    assert cli("audit", "accept", "--reason", "again").code == 1
    assert distrust(again.home, "local", again.control) is None
    for number in range(4):  # past the numbers that were lost
        again.control.append("rollback", "loop", None, "x", {"n": number})
        assert anchor_if_due(again, NOON + timedelta(days=1)) is not None
    assert compare(again.control, anchors_of(again).read()) == []
    other = LedgerAnchors(again.home.gitops_bare, tmp_path / "elsewhere", "local").read()
    assert compare(again.control, other) == [] and any(anchor.restarted_after == 3 for anchor in other)


def test_what_was_lost_is_asked_for_no_more_and_what_was_kept_is() -> None:
    def anchor(seq: int, after: int | None = None) -> Anchor:
        return Anchor(seq=seq, hash=f"{seq:064x}", at=NOON, commit="c" * 40, restarted_after=after)

    anchors = [anchor(9), anchor(4, 2), anchor(8), anchor(5, 3), anchor(6), anchor(3), anchor(2), anchor(1)]
    assert [one.seq for one in standing(anchors)] == [9, 4, 2, 1]
    holds = {seq: f"{seq:064x}" for seq in (1, 4, 9)}
    (problem,) = anchor_problems(anchors, holds.get)
    assert problem.startswith("record 2,")


def test_a_clock_that_went_ahead_and_back_does_not_stop_the_anchors(loop: Loop) -> None:
    anchor_if_due(loop, NOON + timedelta(days=365))
    loop.control.append("watch_check", "loop", None, "x", {})
    assert anchor_if_due(loop, NOON) is not None
    loop.control.append("watch_check", "loop", None, "x", {})
    assert anchor_if_due(loop, NOON + timedelta(minutes=1)) is None


def test_a_restore_names_what_the_remote_anchors_know_and_it_does_not(loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remote, values = tmp_path / "remote.git", tmp_path / "values.yaml"
    GitOpsRepo.init_bare(remote, {"release-local.yaml": "a: 1\n"})
    values.write_text(f"selfImprovement: {{gitops: {{url: {remote}}}}}\n")
    mine = CommandLine(loop.home.path, capsys)
    nightly = mine("--values", values, "backup", "create", tmp_path / "store", "--json").json
    there = Loop(load_settings("local", loop.home.path, values, env={}))
    there.control.append("rollback", "loop", None, "after the backup", {})
    hourly = anchor_if_due(there)
    assert hourly is not None and hourly.seq > nightly["ledger_seq"]
    again = CommandLine(tmp_path / "again", capsys)
    restored = again("--values", values, "backup", "restore", nightly["backup"], "--json")
    assert restored.json["lost"] == [nightly["ledger_seq"] + 1, hourly.seq]
    verified = again("--values", values, "audit", "verify", "--json")
    assert (verified.code, verified.json["anchors"]) == (0, 2)
    assert mine("--values", values, "audit", "verify", "--json").code == 1, "the home that was left behind is not the one that goes on"


# --------------------------------------------------------------------------- signatures


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for name in ("loop", "stranger"):
        made[name] = tmp_path / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(made[name])], check=True)
    (tmp_path / "signers").write_text(f"loop@example.org {made['loop'].with_suffix('.pub').read_text()}")
    return made | {"signers": tmp_path / "signers"}


def test_an_anchor_counts_with_a_signature_that_is_asked_for(loop: Loop, tmp_path: Path, keys: dict[str, Path]) -> None:
    def anchors(key: str | None) -> LedgerAnchors:
        access = GitAccess(signing_key=keys[key]) if key else GitAccess()
        return LedgerAnchors(loop.home.gitops_bare, tmp_path / f"by {key}", "local", access, keys["signers"])

    def problems() -> list[str]:
        reader = anchors("loop")
        return reader.signature_problems(reader.read())

    anchors(None).write((1, "a" * 64), NOON)
    (first,) = problems()
    assert "record 1," in first and "not signed" in first, "the newest anchor must be signed"
    anchors("loop").write((2, "b" * 64), NOON)
    assert problems() == [], "one from before the key may be unsigned"
    anchors("stranger").write((3, "c" * 64), NOON)
    (stranger,) = problems()
    assert "record 3," in stranger
    anchors(None).write((4, "d" * 64), NOON)
    assert len(problems()) == 2
    plain = LedgerAnchors(loop.home.gitops_bare, tmp_path / "plain", "local")
    assert plain.signature_problems(plain.read()) == [], "nobody asked for signatures"


def test_audit_verify_asks_for_signatures_where_the_contour_does(loop: Loop, tmp_path: Path, keys: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    anchor_if_due(loop, NOON)
    values = tmp_path / "values.yaml"
    values.write_text(f"selfImprovement:\n  gitops:\n    signingKey: {keys['loop']}\n    allowedSigners: {keys['signers']}\n")
    cli = CommandLine(loop.home.path, capsys)
    unsigned = cli("--values", values, "audit", "verify", "--json")
    assert unsigned.code == 1 and "is not signed by anybody" in unsigned.json["problems"][0]
    assert cli("audit", "verify", "--json").code == 0
