"""The platform as Dagster sees it: it loads, it is the graph that was agreed on, its lanes and its GPU are where they belong."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from predator_si.build import build_defs
from predator_si.contour import Resources
from predator_si.orchestration.jobs import NEXT_JOB, jobs
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.op_tags import GPU_K8S_CONFIG, GPU_POOL, K8S_CONFIG, LANE, Lane, gpu_k8s_config, lane_of
from predator_si.records import CycleState
from predator_si.settings import Settings, load_settings
from predator_si.train.tracking import NullTracker
from predator_si_tests.orchestration.asset_graph import SNAPSHOT, as_text, describe

HEAVY = (
    "torch", "transformers", "sentence_transformers", "evidently", "mlflow", "openvino", "sklearn", "matplotlib", "scipy", "onnxruntime", "pandas",
)  # fmt: skip


@pytest.fixture(scope="module")
def graph() -> dict[str, Any]:
    return describe(load_settings("local", env={}))


def test_the_definitions_load(settings: Settings) -> None:
    dg.Definitions.validate_loadable(build_defs(settings))


def test_the_graph_is_the_one_that_was_agreed_on(graph: dict[str, Any]) -> None:
    """Whoever changes an asset, a check, a job or a sensor sees it here and says so: `python -m predator_si_tests.orchestration.asset_graph`."""
    agreed, found = SNAPSHOT.read_text(encoding="utf-8"), as_text(graph)
    changes = "".join(difflib.unified_diff(agreed.splitlines(True), found.splitlines(True), "agreed", "found"))
    assert found == agreed, f"the graph changed:\n{changes}"


@pytest.mark.parametrize("contour", ["local", "dev-mac", "edge-oracle", "compute-nvidia"])
def test_every_contour_loads_and_has_the_same_cycle(contour: str, tmp_path: Path, graph: dict[str, Any]) -> None:
    settings = load_settings(contour, home=tmp_path, env={})
    found = describe(settings)
    dg.Definitions.validate_loadable(build_defs(settings))
    cycle = {key: asset for key, asset in graph["assets"].items() if key.startswith("cycle/")}
    assert {key: asset for key, asset in found["assets"].items() if key.startswith("cycle/")} == cycle
    assert _without_gpus(found["jobs"]) == _without_gpus(graph["jobs"])
    running = {"RUNNING" if settings.enabled else "STOPPED"}
    calendar = found["schedules"].pop("training_schedule")["status"]
    assert calendar == ("RUNNING" if settings.enabled and settings.values.training.schedule is not None else "STOPPED")
    kept = settings.values.backup.enabled and settings.values.backup.destination is not None
    assert found["schedules"].pop("backup_schedule")["status"] == ("RUNNING" if settings.enabled and kept else "STOPPED")
    assert {sensor["status"] for sensor in found["sensors"].values()} | {schedule["status"] for schedule in found["schedules"].values()} == running
    gates = {check["name"] for check in found["assets"]["observe/metrics_snapshot"]["checks"]}
    assert gates == {gate.name for gate in settings.quality_gates} | {"anomalies"}


def _without_gpus(found: dict[str, Any]) -> dict[str, Any]:
    return {name: {**job, "tags": {key: value for key, value in job["tags"].items() if key != K8S_CONFIG}} for name, job in found.items()}


def test_only_the_training_job_asks_for_gpus_and_only_where_the_contour_has_them(graph: dict[str, Any]) -> None:
    assert not [name for name, job in graph["jobs"].items() if K8S_CONFIG in job["tags"]]  # contour local: its pod would wait for a node for ever
    for count in (1, 2):
        asked = {job.name: job.tags for job in jobs(Resources.model_validate({"gpu": True, "gpuCount": count, "gpuType": "nvidia"}))}
        assert [name for name, tags in asked.items() if K8S_CONFIG in (tags or {})] == ["cycle_train_job"]
        assert json.loads(asked["cycle_train_job"][K8S_CONFIG]) == (GPU_K8S_CONFIG if count == 1 else gpu_k8s_config(2))
    assert [key for key, asset in graph["assets"].items() if asset["pool"] == GPU_POOL] == ["cycle/reranker_model"]


def test_every_job_has_its_lane(graph: dict[str, Any]) -> None:
    """The run queue counts lanes: a job without one would run beside another cycle's."""
    lanes = {name: job["tags"][LANE] for name, job in graph["jobs"].items()}
    made = {name: [dg.AssetKey.from_user_string(key) for key in job["assets"]] for name, job in graph["jobs"].items()}
    assert lanes == {name: lane_of(assets) for name, assets in made.items()}, "the coordinator gives a run of these assets another lane than its job's"
    assert lanes.pop("observe_job") == Lane.OBSERVE
    for name in ("warehouse_job", "aa_replay_job", "weekly_report_job", "backup_job", "retention_job"):
        assert lanes.pop(name) == Lane.UPKEEP
    assert lanes.pop("cycle_train_job") == Lane.TRAIN
    assert lanes.pop("watch_job") == Lane.WATCH
    assert lanes.pop("rollback_job") == Lane.ROLLBACK
    assert set(lanes.values()) == {Lane.CYCLE}


def test_every_state_that_waits_for_work_has_its_job_and_every_cycle_asset_one_job(graph: dict[str, Any]) -> None:
    assert set(NEXT_JOB.values()) <= {job.name for job in jobs(Resources())}
    ended = {CycleState.STABLE, CycleState.REJECTED, CycleState.ROLLED_BACK, CycleState.CANCELLED, CycleState.EXPIRED, CycleState.FAILED}
    assert set(CycleState) - set(NEXT_JOB) - ended == {CycleState.AWAITING_APPROVAL}  # a person's turn; the release job afterwards
    others = ("observe_job", "warehouse_job", "aa_replay_job", "weekly_report_job", "backup_job", "retention_job")
    makers = [asset for name, job in graph["jobs"].items() if name not in others for asset in job["assets"]]
    assert makers.count("cycle/diagnostic_report") == 2  # before an action, and before training
    makers.remove("cycle/diagnostic_report")
    assert sorted(makers) == sorted(key for key in graph["assets"] if key.startswith("cycle/"))


def test_a_failed_gate_stands_in_the_way_of_each_patch(graph: dict[str, Any]) -> None:
    """A decision and its patch run in one job, and the decision's critical criteria block: checks hold only inside one run."""
    for decision, patch, job in (("trial_decision", "trial_patch", "cycle_trial_job"), ("release_decision", "helm_patch", "cycle_release_job")):
        assert {f"cycle/{decision}", f"cycle/{patch}"} <= set(graph["jobs"][job]["assets"])
        assert graph["assets"][f"cycle/{patch}"]["deps"] == [f"cycle/{decision}"]
        blocking = {check["name"]: check["blocking"] for check in graph["assets"][f"cycle/{decision}"]["checks"]}
        assert blocking["ndcg_superior"] and blocking["ndcg_non_inferior"] and blocking["p95_kept"]
        assert not blocking["ndcg_target"]  # shown, does not decide
    assert all(check["partitions"] == "cycles" for asset in graph["assets"].values() for check in asset["checks"] if asset["group"] == "cycle")


def test_resources_can_be_replaced(settings: Settings) -> None:
    tracker = NullTracker()
    definitions = build_defs(settings, loop=Loop(settings), tracker=tracker)
    with dg.build_resources(definitions.resources or {}) as resources:
        assert resources.tracker is tracker
        assert resources.loop.home.path == settings.home


def test_loading_the_platform_loads_no_heavy_library(tmp_path: Path) -> None:
    """A sensor process and a code server import this: torch and its like would cost each of them 15 s and 0.9 GB."""
    code = f"import sys, json; import predator_si.definitions as d; d.defs.resolve_all_job_defs(); print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))"
    environment = {**os.environ, "PREDATOR_SI_HOME": str(tmp_path / "home")}
    answer = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert json.loads(answer.stdout.splitlines()[-1]) == []
    assert not (tmp_path / "home").exists(), "loading the definitions must not make a home folder"
