"""The platform in a fake cluster: ``deploy/k8s/dagster.yaml`` as it stands, its launcher and coordinator, and the daemon's own iterations in this process.

Changed for a test is only what a machine without a cluster cannot have: the address of the API server, folders below the test's own, and SQLite where
PostgreSQL's programs are missing.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import yaml
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import InProcessTestWorkspaceLoadTarget
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext

from predator_si.quiet import quiet_environment
from predator_si_tests.support.fake_cluster import RESTRICTED, FakeCluster
from predator_si_tests.support.kube_location import TRAINER_IMAGE
from predator_si_tests.support.kube_store import Key, Object, dig
from predator_si_tests.support.postgres_server import PostgresServer, postgres_is_here, postgres_server
from predator_si_tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
DAGSTER_YAML = ROOT / "deploy" / "k8s" / "dagster.yaml"
SPACE, LAUNCHER = "predator-si", "predator-si-launcher"
IMAGE = "registry.test/predator-si@sha256:" + "1" * 64
CHART = ROOT / "deploy" / "helm" / "predator-umbrella"


def role_rules(name: str) -> list[dict[str, Any]]:
    """The rules of a Role in the chart, by the end of its name. They are plain YAML between the template's braces."""
    for document in (CHART / "templates" / "accounts.yaml").read_text().split("\n---\n"):
        if "kind: Role\n" in document and f"}}}}-{name}\n" in document:
            return list(yaml.safe_load("rules:" + document.partition("\nrules:")[2].partition("\n{{-")[0])["rules"])
    raise AssertionError(f"the chart has no Role {name}")


_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { id } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on InvalidSubsetError { message }
  }
}"""
_AGAIN = """
mutation Again($params: ReexecutionParams!) {
  launchRunReexecution(reexecutionParams: $params) { __typename ... on LaunchRunSuccess { run { id } } ... on PythonError { message } }
}"""
_BACKFILL = """
mutation Backfill($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) { __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } }
}"""


class KubePlatform:
    """A Dagster instance whose runs become Jobs of a fake cluster."""

    def __init__(self, cluster: FakeCluster, folder: Path, environment: Mapping[str, str]) -> None:
        self.cluster, self.environment = cluster, dict(environment)
        self.instance = dg.DagsterInstance.from_config(str(folder))
        self._contexts: dict[str, WorkspaceProcessContext] = {}

    def context(self, location: str) -> WorkspaceProcessContext:
        """The workspace with one location of ``kube_location``."""
        if location not in self._contexts:
            origin = InProcessCodeLocationOrigin(
                LoadableTargetOrigin(executable_path=sys.executable, module_name="predator_si_tests.support.kube_location", attribute=location),
                location_name="predator_si",
            )
            self._contexts[location] = WorkspaceProcessContext(self.instance, InProcessTestWorkspaceLoadTarget(origin))
        return self._contexts[location]

    def reload(self, location: str) -> None:
        """Let a location be loaded again, by other settings."""
        if (context := self._contexts.pop(location, None)) is not None:
            context.__exit__(None, None, None)

    # ----------------------------------------------------------------- ways to launch

    def graphql(self, location: str, document: str, variables: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Any:
        """What the webserver does with a request."""
        from dagster_graphql.test.utils import execute_dagster_graphql

        request = self.context(location).create_request_context(source=SimpleNamespace(headers=dict(headers or {})))
        answer = execute_dagster_graphql(request, document, variables=dict(variables))
        assert answer.data is not None, answer.errors
        return answer.data

    def launch(self, location: str, job: str, assets: Sequence[str] = (), tags: Mapping[str, str] | None = None) -> str:
        """``launchRun``: a job, or a selection of assets as the page's Materialize sends it. The run's id."""
        selector: dict[str, Any] = {"repositoryLocationName": "predator_si", "repositoryName": "__repository__", "pipelineName": job}
        if assets:
            selector |= {"assetSelection": [{"path": asset.split("/")} for asset in assets], "assetCheckSelection": []}
        pairs = [{"key": key, "value": value} for key, value in (tags or {}).items()]
        params = {"selector": selector, "mode": "default", "executionMetadata": {"tags": pairs}}
        answer = self.graphql(location, _LAUNCH, {"params": params})["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["id"])

    def again(self, location: str, run_id: str) -> str:
        """Re-execute a run that has ended, as the page's button does; the new run's id."""
        answer = self.graphql(location, _AGAIN, {"params": {"parentRunId": run_id, "strategy": "ALL_STEPS"}})["launchRunReexecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["id"])

    def backfill(self, location: str, asset: str, partition: str) -> list[str]:
        """A backfill of one partition, and the daemon's iterations until it has asked for runs; their ids."""
        from dagster._daemon.backfill import execute_backfill_iteration

        params = {"assetSelection": [{"path": asset.split("/")}], "partitionNames": [partition], "title": "a test"}
        answer = self.graphql(location, _BACKFILL, {"params": params})["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        mine = dg.RunsFilter(tags={"dagster/backfill": answer["backfillId"]})

        def asked() -> bool:
            errors = [error for error in execute_backfill_iteration(self.context(location), logging.getLogger("backfill")) if error]
            assert not errors, errors
            return bool(self.instance.get_runs(mine))

        wait_until(asked, 60, "runs of the backfill")
        return [run.run_id for run in self.instance.get_runs(mine)]

    def tick(self, location: str, sensor: str) -> list[str]:
        """One tick of a sensor by the daemon's code; ids of the runs it asked for."""
        from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, InstigatorType, SensorInstigatorData
        from dagster._daemon.sensor import execute_sensor_iteration

        context = self.context(location)
        (repository,) = context.create_request_context().get_code_location("predator_si").get_repositories().values()
        for remote in repository.get_sensors():
            status = InstigatorStatus.RUNNING if remote.name == sensor else InstigatorStatus.STOPPED
            data = SensorInstigatorData(min_interval=remote.min_interval_seconds, sensor_type=remote.sensor_type)
            self.instance.add_instigator_state(InstigatorState(remote.get_remote_origin(), InstigatorType.SENSOR, status, data))
        errors = [error for error in execute_sensor_iteration(context, logging.getLogger("sensors"), None, None) if error]
        assert not errors, errors
        return [run.run_id for run in self.instance.get_runs(dg.RunsFilter(tags={"dagster/sensor_name": sensor}))]

    # ----------------------------------------------------------------- what the daemon does

    def dequeue(self, location: str) -> None:
        """One iteration of the queue: runs that may start become Jobs."""
        from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

        with QueuedRunCoordinatorDaemon(interval_seconds=5) as daemon:
            errors = [error for error in daemon.run_iteration(self.context(location)) if error]
        assert not errors, errors

    def monitor(self, location: str) -> None:
        """One iteration of run monitoring."""
        from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration

        errors = [error for error in execute_run_monitoring_iteration(self.context(location), logging.getLogger("monitoring")) if error]
        assert not errors, errors

    # ----------------------------------------------------------------- what came of it

    def run(self, run_id: str) -> dg.DagsterRun:
        """A run as it is stored."""
        found = self.instance.get_run_by_id(run_id)
        assert found is not None
        return found

    def job(self, run_id: str) -> Object:
        """The Job of a run."""
        (found,) = self.cluster.jobs(SPACE, f"dagster/run-id={run_id}")
        return found

    def pod(self, run_id: str, seconds: float = 120, phase: str = "Running") -> Object:
        """The pod of a run, once it is in a phase."""

        def mine(pod: Object) -> bool:
            return bool(dig(pod, "metadata.labels.dagster/run-id") == run_id and dig(pod, "status.phase") == phase)

        return self.cluster.wait_for_pod(SPACE, mine, seconds, f"pod of {run_id} {phase}")

    def ended(self, run_id: str, seconds: float) -> dg.DagsterRun:
        """The run, once it has ended."""
        wait_until(lambda: self.run(run_id).is_finished, seconds, f"the end of run {run_id}")
        return self.run(run_id)

    def messages(self, run_id: str) -> str:
        """All that a run's events say."""
        entries = self.instance.all_logs(run_id)
        return "\n".join(f"{entry.message} {entry.dagster_event.event_specific_data if entry.dagster_event else ''}" for entry in entries)

    def clear(self) -> None:
        """End what is left of a test: its Jobs with their pods, its runs."""
        for job in self.cluster.jobs(SPACE):
            self.cluster.controllers.delete_job(Key("batch/v1", "jobs", SPACE, job["metadata"]["name"]), "Background")
        wait_until(lambda: not self.cluster.pods(SPACE), 60, "pods are gone")
        for run in self.instance.get_runs():
            if not run.is_finished:
                self.instance.report_run_canceled(run)

    def close(self) -> None:
        """Close the workspaces and the instance."""
        for context in self._contexts.values():
            context.__exit__(None, None, None)
        self.instance.dispose()


def gpu_of(job: Object) -> dict[str, Any]:
    """What a training pod must carry, out of a Job as the API server keeps it."""
    pod = job["spec"]["template"]["spec"]
    return {
        "limits": pod["containers"][0]["resources"]["limits"],
        "nodeSelector": pod.get("nodeSelector"),
        "tolerations": pod.get("tolerations"),
        "deadline": job["spec"].get("activeDeadlineSeconds"),
        "ttl": job["spec"].get("ttlSecondsAfterFinished"),
        "backoff": job["spec"].get("backoffLimit"),
    }


@contextmanager
def kube_platform(folder: Path, settings: Mapping[str, str]) -> Iterator[KubePlatform]:
    """The cluster, the database and the instance, for as long as the block lasts.

    Parameters
    ----------
    settings
        ``PREDATOR_SI_*`` variables of webserver, daemon and runs alike.
    """
    saved = dict(os.environ)
    with FakeCluster(folder / "cluster", {IMAGE: _image_environment(), TRAINER_IMAGE: _image_environment()}) as cluster:
        cluster.add_namespace(SPACE, RESTRICTED)
        cluster.add_node("plain")
        launcher = cluster.add_service_account(SPACE, LAUNCHER, role_rules("launcher"))
        run = cluster.add_service_account(SPACE, "predator-si-run", role_rules("run"))
        with postgres_server() if postgres_is_here() else nullcontext() as server:
            secret = _database(server)
            plain = {
                **settings, "PREDATOR_SI_NAMESPACE": SPACE, "PREDATOR_SI_IMAGE": IMAGE, "PREDATOR_SI_CHART": str(cluster.root / "values"),
                "PREDATOR_SI_COMPUTE_LOGS": (folder / "store").as_uri(), "RUN_KUBECONFIG": str(run), "PREDATOR_SI_HOME_CLAIM": "predator-si-home",
            }  # fmt: skip
            text = _instance_file(folder, cluster.root, launcher, server is not None)
            values = {path.name: path.read_text() for path in CHART.glob("values*.yaml")}
            (cluster.root / "values").mkdir()
            for name, content in values.items():
                (cluster.root / "values" / name).write_text(content)
            for name, data in (("env", plain), ("dagster", {"dagster.yaml": text}), ("settings", values)):
                cluster.add({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"predator-si-{name}", "namespace": SPACE}, "data": data})
            cluster.add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "predator-si-postgresql", "namespace": SPACE}, "stringData": secret})
            environment = {**plain, **secret}
            os.environ.update(environment)
            try:
                made = KubePlatform(cluster, folder / "instance", environment)
                try:
                    yield made
                finally:
                    made.close()
            finally:
                os.environ.clear()
                os.environ.update(saved)


def _image_environment() -> dict[str, str]:
    return {**quiet_environment(offline=True), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def _database(server: PostgresServer | None) -> dict[str, str]:
    if server is None:
        return {"DAGSTER_PG_HOST": "none"}
    names = {"HOST": "127.0.0.1", "PORT": str(server.port), "DB": server.database, "USERNAME": server.user, "PASSWORD": server.password}
    return {f"DAGSTER_PG_{name}": value for name, value in names.items()}


def _instance_file(folder: Path, root: Path, kubeconfig: Path, postgres: bool) -> str:
    """``deploy/k8s/dagster.yaml`` with the folders and the client of this test; also written where the instance is opened."""
    text = DAGSTER_YAML.read_text().replace("/opt/dagster/home", str(root / "dagster")).replace("/etc/predator-si/values", str(root / "values"))
    found = yaml.safe_load(text)
    found["run_launcher"]["config"] |= {"load_incluster_config": False, "kubeconfig_file": str(kubeconfig)}
    found["compute_logs"]["config"]["local_dir"] = str(folder / "captured")
    if not postgres:
        found["storage"] = {"sqlite": {"base_dir": str(folder / "sqlite")}}
    text = yaml.safe_dump(found, sort_keys=False)
    (folder / "instance").mkdir(parents=True, exist_ok=True)
    (folder / "instance" / "dagster.yaml").write_text(text)
    return text
