"""A home is copied while it is written to, and comes back whole, elsewhere, or not at all."""

from __future__ import annotations

import io
import json
import sqlite3
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from predator_si.backup import create_backup, read_manifest, restore_backup
from predator_si.control import Control
from predator_si.errors import BadInput, Missing, PredatorError, Refused
from predator_si.home import Home
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.anchor import anchor_if_due
from predator_si.release.git import clean_environment
from predator_si.settings import Settings
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.platform import fake_model, open_cycle, prepare


@pytest.fixture
def loop(settings: Settings) -> Loop:
    """A home with what a real one has: ledger, Git, models, artifacts with a link, MLflow's absolute paths, a vault, caches."""
    found = Loop(settings)
    prepare(found, fake_model(found, "champion"))
    cycle = open_cycle(found.control).cycle_id
    run = found.artifacts(cycle) / "mlflow_run_1"
    run.mkdir()
    (run / "model").symlink_to(f"../../../models/{next(found.home.models.iterdir()).name}")
    found.repo.sync()
    anchor_if_due(found)
    with sqlite3.connect(found.home.mlflow / "mlflow.db") as database:
        database.execute("create table runs (artifact_uri varchar(200), n integer)")
        database.execute("insert into runs values (?, 1)", (f"file://{found.home.mlflow}/artifacts/1",))
    found.vault()
    (found.home.logs / "search.log").write_text("x")
    (found.home.path / "pair_scores.db").write_bytes(b"SQLite format 3\x00")
    return found


def test_it_comes_back_elsewhere_and_audit_verify_passes(loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = CommandLine(loop.home.path, capsys)("backup", "create", tmp_path / "store", "--json")
    assert made.code == 0, made.err
    target = tmp_path / "elsewhere" / "home"
    cli = CommandLine(target, capsys)
    back = cli("backup", "restore", made.json["backup"], "--json")
    assert back.code == 0 and back.json["missing"] == [], back.err
    verified = cli("audit", "verify", "--json")
    assert (verified.code, verified.json["anchors"], verified.json["records"]) == (0, 1, made.json["ledger_seq"] + 1)
    again = Loop(loop.settings.model_copy(update={"home": target}))
    assert again.serving() == loop.serving() and again.plan.embedder.is_relative_to(target) and again.plan.embedder.is_dir()
    assert [one.name for one in again.models.cards()] == [one.name for one in loop.models.cards()]
    cycle = again.control.cycles()[0].cycle_id
    assert (target / "artifacts" / cycle / "mlflow_run_1" / "model").resolve().parent == target / "models"
    with sqlite3.connect(target / "mlflow" / "mlflow.db") as database:
        assert database.execute("select artifact_uri from runs").fetchone() == (f"file://{target}/mlflow/artifacts/1",)
    assert subprocess.run(["git", "fsck", "--full"], cwd=target / "gitops.git", capture_output=True, env=clean_environment(), check=False).returncode == 0
    for name in ("privacy", "logs/search.log", "pair_scores.db", "gitops"):
        assert not (target / name).exists() or name == "gitops"
    assert [record.action for record in again.control.records(2)] == ["cycle_opened", "home_restored"]
    assert [record.action for record in loop.control.records(1)] == ["backup_created"]


def test_the_keys_are_in_no_part(loop: Loop, tmp_path: Path):
    assert loop.home.vault.is_file()
    url, _ = create_backup(loop.home, str(tmp_path / "store"), "local")
    names: list[str] = []
    for part in Path(url).glob("*.tar.gz"):
        with tarfile.open(part) as tar:
            names += tar.getnames()
    assert names and not [name for name in names if name.startswith(("privacy", "logs", "reconcile", "warehouse"))]


def test_a_ledger_that_is_written_to_meanwhile_is_copied_whole(loop: Loop, tmp_path: Path):
    stop = threading.Event()

    def write() -> None:
        control = Control(loop.home.control_db)
        while not stop.is_set():
            control.append("watch_check", "loop", None, "x", {})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        url, manifest = create_backup(loop.home, str(tmp_path / "store"), "local")
    finally:
        stop.set()
        writer.join()
    home = Home(tmp_path / "back")
    restore_backup(url, home, actor="test")
    control = Control(home.control_db)
    assert control.verify() == [] and control.head()[0] == manifest.ledger_seq + 1  # type: ignore[index]


def test_to_and_from_another_file_system(loop: Loop, tmp_path: Path):
    url, manifest = create_backup(loop.home, "memory://backups", "local")
    assert url.startswith("memory://") and read_manifest(url) == manifest
    assert restore_backup(url, Home(tmp_path / "back"), actor="test").entries == sum(part.entries for part in manifest.parts)


def test_what_is_changed_cut_short_or_not_a_backup_is_refused_and_leaves_nothing(loop: Loop, tmp_path: Path):
    url, _ = create_backup(loop.home, str(tmp_path / "store"), "local")
    target = Home(tmp_path / "back" / "home")
    part = Path(url) / "databases.tar.gz"
    whole = part.read_bytes()
    for content in (whole[:-1], whole[:500] + b"\x00" + whole[501:]):
        part.write_bytes(content)
        with pytest.raises(BadInput, match="was changed or cut short"):
            restore_backup(url, target, actor="test")
    part.unlink()
    with pytest.raises(BadInput, match="is gone"):
        restore_backup(url, target, actor="test")
    (Path(url) / "manifest.json").unlink()
    with pytest.raises(Missing, match="cut short"):
        restore_backup(url, target, actor="test")
    assert list((tmp_path / "back").iterdir()) == []


def test_a_backup_whose_ledger_was_edited_or_that_leads_out_of_its_folder_is_refused(loop: Loop, tmp_path: Path):
    import hashlib

    url, manifest = create_backup(loop.home, str(tmp_path / "store"), "local")

    def replaced(name: str, change: dict[str, bytes]) -> None:
        with tarfile.open(Path(url) / name, "w:gz") as tar:
            for member, content in change.items():
                about = tarfile.TarInfo(member)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
        told = json.loads((Path(url) / "manifest.json").read_text())
        (which,) = [one for one in told["parts"] if one["name"] == name]
        which["sha256"] = hashlib.sha256((Path(url) / name).read_bytes()).hexdigest()
        (Path(url) / "manifest.json").write_text(json.dumps(told))

    other = Control(tmp_path / "other.db")
    other.append("x", "y")
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("pragma wal_checkpoint(truncate)")
    replaced("databases.tar.gz", {"control.db": (tmp_path / "other.db").read_bytes()})
    with pytest.raises(BadInput, match="not whole"):
        restore_backup(url, Home(tmp_path / "back"), actor="test")
    replaced("files.tar.gz", {"../outside": b"x"})
    with pytest.raises(PredatorError):
        restore_backup(url, Home(tmp_path / "back"), actor="test")
    assert not (tmp_path / "outside").exists() and not (tmp_path / "back").exists() and manifest.form == 1


def test_a_home_is_never_written_over_and_an_empty_one_is_not_copied(loop: Loop, tmp_path: Path):
    url, _ = create_backup(loop.home, str(tmp_path / "store"), "local")
    with pytest.raises(Refused, match="is not empty"):
        restore_backup(url, loop.home, actor="test")
    with pytest.raises(Missing):
        create_backup(Home(tmp_path / "nothing"), str(tmp_path / "store"), "local")
    with pytest.raises(BadInput):
        create_backup(loop.home, "nosuch://place", "local")
