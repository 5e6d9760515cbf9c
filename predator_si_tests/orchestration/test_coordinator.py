"""Every launch passes the coordinator: by GraphQL as the UI does it, by the instance as the daemon does it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import InProcessTestWorkspaceLoadTarget
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster_graphql.test.utils import execute_dagster_graphql

from predator_si.control import Control
from predator_si.home import Home
from predator_si.orchestration.coordinator import PredatorRunCoordinator
from predator_si.orchestration.partitions import add_cycle, cycles
from predator_si.release.anchors import LedgerAnchors
from predator_si.release.gitops import GitOpsRepo

CYCLE = "si_2026_01_31_001"


def _asset(name: str, **more: Any) -> dg.AssetsDefinition:
    @dg.asset(key=name.split("/"), **more)
    def made() -> None: ...

    return made


def _cycle_asset(name: str) -> dg.AssetsDefinition:
    return _asset(f"cycle/{name}", partitions_def=cycles)


def _job(name: str, *assets: str, tags: Mapping[str, str] | None = None) -> Any:
    return dg.define_asset_job(name, selection=[dg.AssetKey(asset.split("/")) for asset in assets], tags=tags)


@dg.asset_check(asset=dg.AssetKey(["cycle", "helm_patch"]), name="verdict")
def _verdict() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@dg.op
def _nothing() -> None: ...


@dg.job
def plain_job() -> None:
    _nothing()


defs = dg.Definitions(
    assets=[
        _asset("observe/metrics_snapshot"),
        *map(_cycle_asset, ("synthetic_dataset", "reranker_model", "optimized_reranker", "helm_patch", "watch", "rollback")),
    ],
    asset_checks=[_verdict],
    jobs=[
        _job("snapshot_job", "observe/metrics_snapshot"),
        _job("cycle_prepare_job", "cycle/synthetic_dataset"),
        _job("cycle_train_job", "cycle/reranker_model", "cycle/optimized_reranker"),
        _job("watch_job", "cycle/watch"),
        _job("rollback_job", "cycle/rollback"),
        plain_job,
    ],
)

LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { id status } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on InvalidSubsetError { message }
  }
}"""
HERE = {"repositoryLocationName": "here", "repositoryName": "__repository__"}


class Platform:
    """A Dagster instance with the coordinator, the code location above, and no daemon: what is queued stays queued."""

    home: Home
    control: Control

    def __init__(self, home: Home) -> None:
        self.instance = dg.DagsterInstance.from_config(str(home.dagster))
        origin = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name=__name__, attribute="defs"), location_name="here")
        self._process = WorkspaceProcessContext(self.instance, InProcessTestWorkspaceLoadTarget(origin))

    def launch(
        self,
        job: str,
        assets: tuple[str, ...] = (),
        checks: tuple[str, ...] = (),
        tags: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dg.DagsterRun:
        """Launch as the webserver does for a request with ``headers``."""
        selector: dict[str, Any] = {**HERE, "pipelineName": job}
        if assets or checks:
            selector |= {"assetSelection": [{"path": asset.split("/")} for asset in assets]}
            selector |= {"assetCheckSelection": [{"assetKey": {"path": check.split(":")[0].split("/")}, "name": check.split(":")[1]} for check in checks]}
        pairs = [{"key": key, "value": value} for key, value in (tags or {}).items()]
        source = SimpleNamespace(headers=headers or {})
        context = self._process.create_request_context(source=source)
        params = {"selector": selector, "mode": "default", "executionMetadata": {"tags": pairs}}
        answer = execute_dagster_graphql(context, LAUNCH, variables={"params": params}).data["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return self._stored(answer["run"]["id"])

    def submit(self, job: str, tags: Mapping[str, str] | None = None, parent: dg.DagsterRun | None = None, source: Any = None) -> dg.DagsterRun:
        """Create and submit a run as the daemon does for a sensor or a schedule: no request (``source``) behind it."""
        context = self._process.create_request_context(source=source)
        location = context.get_code_location("here")
        remote = location.get_repository("__repository__").get_full_job(job)
        plan = location.get_execution_plan(remote, {}, None, None, self.instance)
        run = self.instance.create_run(
            job_name=job,
            run_id=None,
            run_config={},
            resolved_op_selection=None,
            step_keys_to_execute=None,
            status=None,
            op_selection=None,
            root_run_id=parent.run_id if parent else None,
            parent_run_id=parent.run_id if parent else None,
            tags={**remote.tags, **(tags or {})},
            job_snapshot=remote.job_snapshot,
            execution_plan_snapshot=plan.execution_plan_snapshot,
            parent_job_snapshot=remote.parent_job_snapshot,
            remote_job_origin=remote.get_remote_origin(),
            job_code_origin=remote.get_python_origin(),
            asset_selection=None,
            asset_check_selection=None,
            asset_graph=context.asset_graph,
        )
        return self._stored(self.instance.submit_run(run.run_id, context).run_id)

    def _stored(self, run_id: str) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def messages(self, run: dg.DagsterRun) -> str:
        return "\n".join(entry.message for entry in self.instance.all_logs(run.run_id))

    def close(self) -> None:
        self._process.__exit__(None, None, None)
        self.instance.dispose()


@pytest.fixture(scope="module")
def instance_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One instance for the module; a new one takes a second."""
    made = Platform(Home(tmp_path_factory.mktemp("coordinator") / "home").ensure())
    add_cycle(made.instance, CYCLE)
    yield made
    made.close()


@pytest.fixture
def platform(instance_platform: Platform, home: Home, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """The instance, with a control database of the test's own behind it."""
    monkeypatch.setenv("PREDATOR_SI_HOME", str(home.path))
    instance_platform.home, instance_platform.control = home, Control(home.control_db)
    return instance_platform


def stop(platform: Platform) -> None:
    platform.control.set_kill_switch("local", True, "tester", "a drill")


PARTITION = {"dagster/partition": CYCLE}


def test_a_ledger_that_is_older_than_its_anchor_lets_only_watch_and_rollback_run(platform: Platform, tmp_path: Path):
    bare = platform.home.path / "gitops.git"
    GitOpsRepo.init_bare(bare, {"release-local.yaml": "a: 1\n"})
    platform.control.append("note", "test")
    LedgerAnchors(bare, platform.home.path / "anchors.git", "local").write((9, "a" * 64))
    run = platform.launch("__ASSET_JOB", ("cycle/helm_patch",), tags=PARTITION)
    assert run.status is dg.DagsterRunStatus.CANCELED and "is not the one that was anchored" in run.tags["predator/refused"]
    assert platform.launch("rollback_job", tags=PARTITION).status is dg.DagsterRunStatus.QUEUED


def test_the_instance_file_of_a_home_names_the_coordinator(platform: Platform):
    coordinator = platform.instance.run_coordinator
    assert type(coordinator) is PredatorRunCoordinator
    assert coordinator.inst_data is not None and coordinator.inst_data.class_name == "PredatorRunCoordinator"
    queue = platform.instance.get_concurrency_config().run_queue_config
    assert queue is not None and queue.max_concurrent_runs == 7


def test_a_launch_from_the_page_is_queued_with_its_user_lane_and_cycle(platform: Platform):
    run = platform.launch("__ASSET_JOB", ("cycle/helm_patch",), tags=PARTITION, headers={"X-Forwarded-User": " olena\n"})
    assert run.status is dg.DagsterRunStatus.QUEUED
    assert {key: value for key, value in run.tags.items() if key.startswith("predator/")} == {
        "predator/actor": "olena",
        "predator/lane": "cycle",
        "predator/cycle": CYCLE,
    }


@pytest.mark.parametrize(
    ("tags", "actor"),
    [
        ({"dagster/sensor_name": "quality_gate_sensor"}, "sensor:quality_gate_sensor"),
        ({"dagster/schedule_name": "snapshot_schedule"}, "schedule:snapshot_schedule"),
        ({"dagster/backfill": "abc"}, "backfill:abc"),
        ({"dagster/from_automation_condition": "true"}, "automation"),
        ({"dagster/sensor_name": "x", "predator/actor": "loop"}, "loop"),
        ({}, "cli"),
    ],
)
def test_who_asked_when_there_is_no_request(platform: Platform, tags: dict[str, str], actor: str):
    assert platform.submit("snapshot_job", tags).tags["predator/actor"] == actor


def test_who_asked_over_http(platform: Platform):
    assert platform.launch("snapshot_job").tags["predator/actor"] == "ui"
    assert platform.launch("snapshot_job", tags={"predator/actor": "api:petro"}).tags["predator/actor"] == "api:petro"
    claimed = platform.launch("snapshot_job", tags={"predator/actor": "olena"}, headers={"X-Forwarded-User": "mallory"})
    assert claimed.tags["predator/actor"] == "mallory"
    assert len(platform.launch("snapshot_job", headers={"X-Forwarded-User": "x" * 5000}).tags["predator/actor"]) == 128


def test_a_repeated_run_is_not_attributed_to_whom_it_was_copied_from(platform: Platform):
    first = platform.submit("snapshot_job", {"predator/actor": "olena"})
    assert platform.submit("snapshot_job", {"predator/actor": "olena"}, parent=first).tags["predator/actor"] == "olena"  # nobody else is known
    tick = {"predator/actor": "olena", "dagster/sensor_name": "retry_sensor"}
    assert platform.submit("snapshot_job", tick, parent=first).tags["predator/actor"] == "sensor:retry_sensor"
    page = SimpleNamespace(headers={})
    assert platform.submit("snapshot_job", tick, parent=first, source=page).tags["predator/actor"] == "ui"


def test_the_lane_does_not_depend_on_what_a_launcher_writes(platform: Platform):
    run = platform.launch("cycle_train_job", tags={**PARTITION, "predator/lane": "observe"})
    assert run.tags["predator/lane"] == "train"
    assert platform.launch("snapshot_job").tags["predator/lane"] == "observe"
    assert platform.launch("snapshot_job", tags={"predator/lane": "rollback"}).tags["predator/lane"] == "observe"
    assert [platform.launch("plain_job", tags=tags).tags["predator/lane"] for tags in ({}, {"predator/lane": "none"})] == ["upkeep", "upkeep"]


@pytest.mark.parametrize(
    ("job", "assets"), [("cycle_train_job", ()), ("__ASSET_JOB", ("cycle/reranker_model",)), ("__ASSET_JOB", ("cycle/watch", "cycle/reranker_model"))]
)
def test_whoever_trains_gets_a_gpu_where_the_contour_has_one(platform: Platform, monkeypatch: pytest.MonkeyPatch, job: str, assets: tuple[str, ...]):
    monkeypatch.setenv("PREDATOR_SI_CONTOUR", "compute-nvidia")
    own = {"dagster-k8s/config": json.dumps({"container_config": {"resources": {"limits": {"memory": "8Gi"}}}})}
    config = json.loads(platform.launch(job, assets, tags={**PARTITION, **own}).tags["dagster-k8s/config"])
    assert config["container_config"]["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": "1"}


def test_nobody_else_gets_a_gpu(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    assert "dagster-k8s/config" not in platform.launch("cycle_train_job", tags=PARTITION).tags  # contour local has none
    monkeypatch.setenv("PREDATOR_SI_CONTOUR", "compute-nvidia")
    assert "dagster-k8s/config" not in platform.launch("cycle_prepare_job", tags=PARTITION).tags
    assert "dagster-k8s/config" not in platform.launch("__ASSET_JOB", ("cycle/optimized_reranker",), tags=PARTITION).tags


@pytest.mark.parametrize(
    ("job", "assets", "checks"),
    [
        ("cycle_prepare_job", (), ()),
        ("cycle_train_job", (), ()),
        ("__ASSET_JOB", ("cycle/helm_patch",), ()),
        ("__ASSET_JOB", ("cycle/watch", "cycle/helm_patch"), ()),
        ("__ASSET_JOB", (), ("cycle/helm_patch:verdict",)),
        ("plain_job", (), ()),
    ],
)
def test_the_kill_switch_cancels_with_its_reason(platform: Platform, job: str, assets: tuple[str, ...], checks: tuple[str, ...]):
    stop(platform)
    forged = {"predator/lane": "watch", **({} if job == "plain_job" or checks else PARTITION)}
    run = platform.launch(job, assets, checks, tags=forged, headers={"X-Forwarded-User": "olena"})
    assert run.status is dg.DagsterRunStatus.CANCELED
    assert "kill switch of contour local is on" in run.tags["predator/refused"]
    assert run.tags["predator/actor"] == "olena"
    assert "Refused: the kill switch of contour local is on" in platform.messages(run)
    assert "Enqueued" not in platform.messages(run)


@pytest.mark.parametrize(
    ("job", "assets"), [("watch_job", ()), ("rollback_job", ()), ("snapshot_job", ()), ("__ASSET_JOB", ("cycle/watch",)), ("__ASSET_JOB", ("cycle/rollback",))]
)
def test_the_kill_switch_never_stops_watch_rollback_and_observation(platform: Platform, job: str, assets: tuple[str, ...]):
    stop(platform)
    run = platform.launch(job, assets, tags={} if job == "snapshot_job" else PARTITION)
    assert run.status is dg.DagsterRunStatus.QUEUED


def test_a_sensors_run_is_refused_without_an_error(platform: Platform):
    stop(platform)
    assert platform.submit("cycle_prepare_job", {**PARTITION, "dagster/sensor_name": "s"}).status is dg.DagsterRunStatus.CANCELED


def test_the_switch_of_another_contour_does_not_matter_and_lifting_helps(platform: Platform):
    platform.control.set_kill_switch("edge-oracle", True, "tester", "elsewhere")
    assert platform.launch("cycle_prepare_job", tags=PARTITION).status is dg.DagsterRunStatus.QUEUED
    stop(platform)
    platform.control.set_kill_switch("local", False, "tester", "over")
    assert platform.launch("cycle_prepare_job", tags=PARTITION).status is dg.DagsterRunStatus.QUEUED


def test_the_values_own_switch_counts(platform: Platform, tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    values = tmp_path / "frozen.yaml"
    values.write_text("selfImprovement:\n  killSwitch: true\n")
    monkeypatch.setenv("PREDATOR_SI_VALUES", str(values))
    assert "killSwitch" in platform.launch("cycle_prepare_job", tags=PARTITION).tags["predator/refused"]


def test_what_cannot_be_known_is_refused_except_the_way_back(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    for leftover in platform.home.path.glob("control.db*"):
        leftover.unlink()
    platform.home.control_db.write_bytes(b"not a database, and long enough to be looked at by sqlite" * 40)
    run = platform.launch("cycle_prepare_job", tags=PARTITION)
    assert run.status is dg.DagsterRunStatus.CANCELED
    assert "cannot be known" in platform.messages(run) and "not a usable control database" in platform.messages(run)
    assert platform.launch("rollback_job", tags=PARTITION).status is dg.DagsterRunStatus.QUEUED
    monkeypatch.setenv("PREDATOR_SI_CONTOUR", "nowhere")
    assert "no values file" in platform.launch("cycle_prepare_job", tags=PARTITION).tags["predator/refused"]
    assert platform.launch("watch_job", tags=PARTITION).status is dg.DagsterRunStatus.QUEUED


def test_a_malformed_gpu_tag_is_named(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREDATOR_SI_CONTOUR", "compute-nvidia")
    run = platform.launch("cycle_train_job", tags={**PARTITION, "dagster-k8s/config": "{half"})
    assert run.status is dg.DagsterRunStatus.CANCELED
    assert "dagster-k8s/config is not JSON" in run.tags["predator/refused"]


def test_a_home_without_a_control_database_has_no_switch_and_gets_no_file(platform: Platform, home: Home, monkeypatch: pytest.MonkeyPatch):
    empty = home.path.parent / "empty"
    monkeypatch.setenv("PREDATOR_SI_HOME", str(empty))
    assert platform.launch("cycle_prepare_job", tags=PARTITION).status is dg.DagsterRunStatus.QUEUED
    assert not os.path.lexists(empty)
