"""The home folder, the Dagster instance in it, and the switches that silence libraries."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

from predator_si.errors import BadInput, Unavailable
from predator_si.home import DAGSTER_INSTANCE, DAGSTER_WORKSPACE, Home
from predator_si.quiet import be_quiet, quiet_environment

ROOT = Path(__file__).resolve().parents[2]


def test_ensure_makes_the_folders_and_may_be_repeated(tmp_path: Path):
    home = Home(tmp_path / "a" / "b").ensure()
    assert all(folder.is_dir() for folder in (home.dagster, home.mlflow, home.applied, home.models, home.index, home.events, home.artifacts, home.logs))
    (home.dagster / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    Home(home.path).ensure()
    assert (home.dagster / "dagster.yaml").read_text(encoding="utf-8") == "telemetry: {enabled: false}\n", "an edited instance file is the user's"
    assert not [path for path in home.path.rglob(".*") if path.is_file()], "no trace of the write check"


def test_a_file_in_the_way_is_bad_input(tmp_path: Path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(BadInput, match=r"file: is a file, a folder is needed"):
        Home(tmp_path / "file").ensure()
    with pytest.raises(BadInput, match="is a file"):
        Home(tmp_path / "file" / "below").ensure()


def test_an_unwritable_folder_is_named():
    with pytest.raises(Unavailable, match=r"/proc/predator: cannot be written to"):
        Home(Path("/proc/predator")).ensure()


def test_the_files_of_a_checkout_are_those_of_a_new_home(tmp_path: Path):
    assert (ROOT / "dagster.yaml").read_text(encoding="utf-8") == DAGSTER_INSTANCE
    assert (ROOT / "workspace.yaml").read_text(encoding="utf-8") == DAGSTER_WORKSPACE
    home = Home(tmp_path).ensure()
    assert yaml.safe_load((home.dagster / "dagster.yaml").read_text(encoding="utf-8"))["run_monitoring"]["max_resume_run_attempts"] == 0


def test_dagster_accepts_the_instance_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from dagster import DagsterInstance
    from dagster._core.run_coordinator import QueuedRunCoordinator

    # A stand-in under the configured name: this test is about the file, the coordinator has its own.
    coordinator = types.ModuleType("predator_si.orchestration.coordinator")
    coordinator.PredatorRunCoordinator = type("PredatorRunCoordinator", (QueuedRunCoordinator,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, coordinator.__name__, coordinator)
    home = Home(tmp_path).ensure()
    for name, value in quiet_environment().items():
        monkeypatch.setenv(name, value)
    with DagsterInstance.from_config(str(home.dagster)) as instance:
        assert instance.get_settings("telemetry") == {"enabled": False}
        assert instance.run_monitoring_max_resume_run_attempts == 0
        concurrency = instance.get_concurrency_config()
        assert concurrency.pool_config.default_pool_limit == 1
        assert str(concurrency.pool_config.pool_granularity).lower().endswith("run")
        limits = concurrency.run_queue_config.tag_concurrency_limits
        assert {"key": "predator/lane", "value": "train", "limit": 1} in limits


def test_a_hushed_process_prints_errors_only_although_a_library_logs_through_the_root_logger():
    said = (
        "import logging; from predator_si.quiet import hush; hush(); logging.info('a library'); ours = logging.getLogger('AutoOptimizer')\n"
        "ours.setLevel(logging.INFO); ours.info('a transition'); logging.error('what matters')"
    )
    found = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("", "what matters\n")


def test_quiet_environment_respects_what_is_set_already():
    environment = {"DO_NOT_TRACK": "0"}
    be_quiet(environment)
    assert environment["DO_NOT_TRACK"] == "0" and environment["DAGSTER_DISABLE_TELEMETRY"] == "1" and "HF_HUB_OFFLINE" not in environment
    be_quiet(environment, offline=True)
    assert environment["HF_HUB_OFFLINE"] == "1"
