"""The ledger's head in Git: whoever rewrites the chain and its head row, cuts its tail, or rewrites the branch, is found."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from predator_si.control import Control, ledger_hash
from predator_si.control.ledger import GENESIS
from predator_si.errors import Unavailable
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.anchor import anchor_if_due, anchors_of, compare
from predator_si.release.anchors import LedgerAnchors, RewrittenAnchors
from predator_si.release.git import clean_environment
from predator_si.release.gitops import GitOpsRepo
from predator_si.settings import Settings
from predator_si_tests.support.command_line import CommandLine

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def loop(settings: Settings) -> Loop:
    found = Loop(settings)
    GitOpsRepo.init_bare(found.home.gitops_bare, {"release-local.yaml": "a: 1\n"})
    for number in range(3):
        found.control.append("watch_check", "loop", None, f"number {number}", {"n": number})
    return found


def rewrite(control: Control, from_seq: int) -> None:
    """What an attacker with write access does: change a record, and give all later ones and the head row hashes that fit again."""
    with sa.create_engine(f"sqlite:///{control._database.name}").begin() as database:
        for (name,) in database.execute(sa.text("select name from sqlite_master where type = 'trigger'")).all():
            database.execute(sa.text(f"drop trigger {name}"))
        previous = GENESIS
        for record in control.records(100):
            if record.seq >= from_seq:
                changed = record.model_copy(update={"previous_hash": previous, "reason": "nothing happened here"})
                changed = changed.model_copy(update={"hash": ledger_hash(changed)})
                told = {"reason": changed.reason, "previous": previous, "hash": changed.hash, "seq": record.seq}
                database.execute(sa.text("update ledger set reason = :reason, previous_hash = :previous, hash = :hash where seq = :seq"), told)
                record = changed
            previous = record.hash
        database.execute(sa.text("update ledger_head set hash = :hash"), {"hash": previous})


def test_a_rewritten_chain_looks_whole_and_is_found_by_its_anchors(loop: Loop):
    assert anchor_if_due(loop, NOON) is not None
    loop.control.append("watch_check", "loop", None, "number 3", {})
    anchors = anchors_of(loop).read()
    assert compare(loop.control, anchors) == []
    rewrite(loop.control, 2)
    assert loop.control.verify() == [], "the chain alone cannot tell"
    (problem,) = compare(loop.control, anchors_of(loop).read())
    assert "record 3, anchored at 2026-11-23 12:00:00 UTC" in problem and "rewritten" in problem


def test_an_older_copy_put_back_is_found(loop: Loop, tmp_path: Path):
    old = Path(loop.control._database.name)
    with sa.create_engine(f"sqlite:///{old}").begin() as database:
        database.execute(sa.text(f"vacuum into '{tmp_path / 'old.db'}'"))
    loop.control.append("rollback", "loop", None, "what somebody wants to hide", {})
    anchor_if_due(loop, NOON)
    (problem,) = compare(Control(tmp_path / "old.db"), anchors_of(loop).read())
    assert "record 4" in problem and "older copy" in problem


def test_by_the_hour_and_at_once_after_a_release(loop: Loop):
    assert anchor_if_due(loop, NOON) is not None
    assert anchor_if_due(loop, NOON + timedelta(hours=3)) is None, "nothing new"
    loop.control.append("watch_check", "loop", None, "x", {})
    assert anchor_if_due(loop, NOON + timedelta(minutes=59)) is None
    loop.control.append("rollback", "loop", None, "x", {})
    at_once = anchor_if_due(loop, NOON + timedelta(minutes=59))
    assert at_once is not None and at_once.seq == 5
    loop.control.append("watch_check", "loop", None, "x", {})
    hourly = anchor_if_due(loop, NOON + timedelta(hours=2))
    assert hourly is not None and hourly.seq == 6
    assert [anchor.seq for anchor in anchors_of(loop).read()] == [6, 5, 3]
    assert loop.repo.sync() == loop.repo.head(), "the branch of releases is another one"
    assert set(loop.repo.files()) == {"release-local.yaml"}


def test_a_branch_that_was_rewritten_is_found(loop: Loop, tmp_path: Path):
    anchor_if_due(loop, NOON)
    loop.control.append("rollback", "loop", None, "x", {})
    anchor_if_due(loop, NOON)
    subprocess.run(
        ["git", "update-ref", "refs/heads/ledger-local", "refs/heads/ledger-local~1"], cwd=loop.home.gitops_bare, check=True, env=clean_environment()
    )
    with pytest.raises(RewrittenAnchors, match="was rewritten"):
        anchors_of(loop).read()
    assert len(LedgerAnchors(loop.home.gitops_bare, tmp_path / "another", "local").read()) == 1, "a clone that never saw it cannot tell"


def test_two_writers_make_one_line_of_anchors_and_a_repository_away_is_said(loop: Loop, tmp_path: Path):
    one, other = (LedgerAnchors(loop.home.gitops_bare, tmp_path / name, "local") for name in ("one", "other"))
    assert one.write((1, "a" * 64), NOON) is not None
    assert other.write((1, "a" * 64), NOON) is None
    assert other.write((2, "b" * 64), NOON) is not None
    assert one.write((3, "c" * 64), NOON) is not None
    assert [anchor.seq for anchor in other.read()] == [3, 2, 1]
    with pytest.raises(Unavailable, match="cannot be read"):
        LedgerAnchors(tmp_path / "nowhere.git", tmp_path / "third", "local").read()


def test_a_signing_key_signs_the_anchor(loop: Loop, tmp_path: Path):
    from predator_si.release.git import GitAccess

    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    found = LedgerAnchors(loop.home.gitops_bare, tmp_path / "signed", "local", GitAccess(signing_key=key)).write((1, "a" * 64), NOON)
    assert found is not None
    raw = subprocess.run(["git", "cat-file", "commit", found.commit], cwd=loop.home.gitops_bare, capture_output=True, text=True, check=True).stdout
    assert "gpgsig -----BEGIN SSH SIGNATURE-----" in raw


def test_the_command_line_compares_them_and_exports(loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cli = CommandLine(loop.home.path, capsys)
    assert cli("audit", "verify", "--json").json["anchors_reason"] == "nothing was anchored yet"
    anchor_if_due(loop, NOON)
    whole = cli("audit", "verify", "--json")
    assert (whole.code, whole.json["anchors"], whole.json["anchors_reason"]) == (0, 1, None)
    assert cli("audit", "export", tmp_path / "ledger.jsonl").code == 0
    assert cli("audit", "export", tmp_path / "ledger.parquet", "--json").json["records"] == 3
    assert cli("audit", "export", tmp_path / "ledger.csv").code == 2
    rewrite(loop.control, 1)
    found = cli("audit", "verify", "--json")
    assert found.code == 1 and "rewritten" in found.json["problems"][0]
