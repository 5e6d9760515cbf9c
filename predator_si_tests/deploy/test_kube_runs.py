"""Runs as Jobs, end to end: Dagster's queue, dagster-k8s' launcher, a Job, its pod, a real training, and what happens when any of them fails.

Everything is real but the cluster (``support/fake_cluster.py``): settings and instance file are mounted from ConfigMaps, the pod's process is
``dagster api execute_run``, runs share PostgreSQL where its programs are here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

pytest.importorskip("dagster_k8s", reason="could not import 'dagster_k8s")

from dagster._core.launcher.base import WorkerStatus
from dagster._core.storage.compute_log_manager import ComputeIOType

from predator_si.orchestration.loop import Loop
from predator_si.orchestration.partitions import add_cycle
from predator_si.records import CycleState
from predator_si.settings import load_settings
from predator_si_tests.orchestration.test_steps_recipes import examples, home
from predator_si_tests.support.kube_access import pod_security_violations
from predator_si_tests.support.kube_location import TRAINER_IMAGE
from predator_si_tests.support.kube_platform import LAUNCHER, SPACE, KubePlatform, gpu_of, kube_platform
from predator_si_tests.support.kube_store import Key, dig
from predator_si_tests.support.platform import open_cycle
from predator_si_tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.live]
PATIENCE = 500.0
"""Seconds: a machine that also does other things starts an interpreter slowly."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubePlatform]:
    folder = tmp_path_factory.mktemp("runs")
    values = folder / "gpu.yaml"
    values.write_text("selfImprovement:\n  resources: {gpu: true, gpuCount: 1, gpuType: nvidia}\n")
    with kube_platform(folder, {"PREDATOR_SI_HOME": str(folder / "home"), "PREDATOR_SI_CONTOUR": "local", "PREDATOR_SI_VALUES": str(values)}) as platform:
        platform.cluster.add_node("gpu-1", gpus=1)
        yield platform


@pytest.fixture
def kube(made: KubePlatform, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubePlatform]:
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.clear()


def cycle_with_data() -> tuple[Loop, str]:
    """A home with a champion, and a cycle whose training data are there."""
    loop = home(load_settings())
    cycle_id = open_cycle(loop.control).cycle_id
    examples(loop).write_parquet(loop.artifacts(cycle_id) / "augmented_dataset.parquet")
    (loop.artifacts(cycle_id) / "dataset_manifest.yaml").write_text("dataset_id: aug_2026_11_23_001\n")
    loop.control.transition(cycle_id, CycleState.PREPARED, "a test", "test")
    return loop, cycle_id


def test_a_cycles_training_runs_as_a_job_on_the_gpu_node(kube: KubePlatform) -> None:
    loop, cycle_id = cycle_with_data()
    (run_id,) = kube.tick("platform", "cycle_advance_sensor")
    kube.dequeue("platform")
    gpu = gpu_of(kube.job(run_id))
    assert gpu["limits"]["nvidia.com/gpu"] == "1" and gpu["nodeSelector"] == {"nvidia.com/gpu.present": "true"} and gpu["deadline"] == 14_400
    assert kube.pod(run_id, 60)["spec"]["nodeName"] == "gpu-1"
    run = kube.ended(run_id, PATIENCE)
    assert run.status is dg.DagsterRunStatus.SUCCESS, kube.messages(run_id)[-4000:] + kube.cluster.log(kube.cluster.pods(SPACE)[0])[-2000:]
    for name in ("reranker_model", "optimized_reranker"):
        event = kube.instance.get_latest_materialization_event(dg.AssetKey(["cycle", name]))
        assert event is not None and event.run_id == run_id and event.asset_materialization is not None
        assert event.asset_materialization.partition == cycle_id
    training = json.loads((loop.artifacts(cycle_id) / "training.json").read_text())
    assert training["digest"] in loop.models and training["digest"] != loop.serving().model
    assert loop.control.cycle(cycle_id).state is CycleState.TRAINED
    wait_until(lambda: bool(dig(kube.job(run_id), "status.succeeded")), 60, "the Job is complete")
    assert kube.instance.run_launcher.check_run_worker_health(kube.run(run_id)).status is WorkerStatus.SUCCESS
    keys = kube.instance.compute_log_manager.get_log_keys_for_log_key_prefix([run_id, "compute_logs"], ComputeIOType.STDERR)
    assert keys, "what the pod wrote is in the object store when the pod is gone"


def started(kube: KubePlatform) -> str:
    """A light training that is under way on the GPU node; its run."""
    add_cycle(kube.instance, "si_2026_02_01_001")
    run_id = kube.launch("light", "cycle_train_job", tags={"dagster/partition": "si_2026_02_01_001"})
    kube.dequeue("light")
    assert kube.pod(run_id, 60)["spec"]["nodeName"] == "gpu-1"
    wait_until(lambda: "Started execution of step" in kube.messages(run_id), PATIENCE, "training")
    return run_id


def test_a_terminated_run_stops_and_frees_its_gpu(kube: KubePlatform) -> None:
    run_id = started(kube)
    assert kube.instance.run_launcher.terminate(run_id) is True
    assert kube.ended(run_id, PATIENCE).status is dg.DagsterRunStatus.CANCELED
    wait_until(lambda: not kube.cluster.pods(SPACE), 60, "its pod is gone")
    assert not kube.cluster.jobs(SPACE)
    assert not kube.cluster.access.denied.get(f"system:serviceaccount:{SPACE}:{LAUNCHER}"), "the chart's Role allows what termination needs"


@pytest.mark.parametrize("how", ["kill", "evict"])
def test_a_worker_that_dies_is_noticed(kube: KubePlatform, how: str) -> None:
    """Evicted pods left runs STARTED for ever (dagster #3705): monitoring is on, and does not try to resume."""
    run_id = started(kube)
    getattr(kube.cluster, how)(kube.pod(run_id))
    wait_until(lambda: bool(dig(kube.job(run_id), "status.failed")), 60, "the Job has failed")
    launcher = kube.instance.run_launcher
    assert "Debug information for pod" in (launcher.get_run_worker_debug_info(kube.run(run_id)) or "")
    reads = {(one.resource, one.verb) for one in kube.cluster.access.used[f"system:serviceaccount:{SPACE}:{LAUNCHER}"]}
    assert ("pods/log", "get") in reads and not kube.cluster.access.denied.get(f"system:serviceaccount:{SPACE}:{LAUNCHER}")
    health = launcher.check_run_worker_health(kube.run(run_id))
    assert health.status is WorkerStatus.FAILED
    kube.monitor("light")
    assert kube.run(run_id).status is dg.DagsterRunStatus.FAILURE and "no active pods" in kube.messages(run_id)
    assert len(kube.cluster.jobs(SPACE)) == 1, "nobody started it a second time"


def test_the_clusters_own_deadline_ends_a_training_when_the_daemon_is_dead(kube: KubePlatform) -> None:
    run_id = started(kube)
    job = kube.job(run_id)
    assert job["spec"]["activeDeadlineSeconds"] == 14_400
    key = Key("batch/v1", "jobs", SPACE, job["metadata"]["name"])
    kube.cluster.store.update(key, lambda found: found["spec"].update(activeDeadlineSeconds=1))  # four hours later
    wait_until(lambda: any(one["reason"] == "DeadlineExceeded" for one in dig(kube.job(run_id), "status.conditions") or []), 60, "the deadline")
    wait_until(lambda: not kube.cluster.pods(SPACE), 90, "its pod is gone")
    assert kube.ended(run_id, 60).status is dg.DagsterRunStatus.FAILURE, "the worker was told by SIGTERM, and said so"


def test_a_cycles_training_in_a_pod_of_its_own(kube: KubePlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform's own asset with trainer ``pod``: the run asks for no GPU, its pod does, holds nothing of the platform, and what it made is the cycle's."""
    values = tmp_path / "pod.yaml"
    values.write_text(
        "selfImprovement:\n  resources: {gpu: true, gpuCount: 1, gpuType: nvidia}\n"
        f"  training: {{trainer: pod, image: '{TRAINER_IMAGE}', processes: 1, evaluations: 1, recipes: []}}\n"
    )
    more = {"PREDATOR_SI_VALUES": str(values), "PREDATOR_SI_HOME": str(tmp_path / "home"), "KUBECONFIG": kube.environment["RUN_KUBECONFIG"]}
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    key = Key("v1", "configmaps", SPACE, "predator-si-env")
    before = kube.cluster.store.get(key)["data"]
    kube.cluster.store.update(key, lambda found: found["data"].update(more))
    kube.reload("platform")
    seen: dict[str, Any] = {}
    try:
        loop, cycle_id = cycle_with_data()
        add_cycle(kube.instance, cycle_id)
        run_id = kube.launch("platform", "cycle_train_job", tags={"dagster/partition": cycle_id})
        kube.dequeue("platform")
        assert kube.pod(run_id, 60)["spec"]["nodeName"] == "plain"

        def trained() -> bool:
            for pod in kube.cluster.pods(SPACE):
                if pod["spec"]["containers"][0]["image"] == TRAINER_IMAGE and pod["spec"].get("nodeName"):
                    seen.setdefault("pod", pod)
                    seen.setdefault("order", sorted(path.name for path in (loop.artifacts(cycle_id) / "training").glob("order-*/*")))
            return kube.run(run_id).is_finished

        wait_until(trained, PATIENCE, "the run's end")
    finally:
        kube.cluster.store.update(key, lambda found: found.update(data=before))
        kube.reload("platform")
    assert kube.run(run_id).status is dg.DagsterRunStatus.SUCCESS, kube.messages(run_id)[-4000:]
    spec = seen["pod"]["spec"]
    assert spec["nodeName"] == "gpu-1" and dig(spec["containers"][0], "resources.limits")["nvidia.com/gpu"] == "1"
    assert list(pod_security_violations(spec)) == [] and spec["automountServiceAccountToken"] is False and spec["activeDeadlineSeconds"] == 14_400
    assert not spec["containers"][0].get("envFrom") and {volume["name"] for volume in spec["volumes"]} == {"home", "tmp"}, "nothing of the platform's"
    assert "examples.sealed" in seen["order"] and not [name for name in seen["order"] if name.endswith(".parquet")]
    training = json.loads((loop.artifacts(cycle_id) / "training.json").read_text())
    assert training["trainer"] == "pod" and training["digest"] in loop.models and training["evaluations"]
    assert not list((loop.artifacts(cycle_id) / "training").glob("order-*")), "the order goes with the run"
    wait_until(lambda: all(pod["spec"]["containers"][0]["image"] != TRAINER_IMAGE for pod in kube.cluster.pods(SPACE)), 60, "its pod is deleted")


def test_a_training_in_an_image_of_its_own_reports_back(kube: KubePlatform) -> None:
    seen: list[str] = []
    run_id = kube.launch("light", "elsewhere_job")
    kube.dequeue("light")

    def trainer_seen() -> bool:
        pods = [pod for pod in kube.cluster.pods(SPACE) if pod["spec"]["containers"][0]["image"] == TRAINER_IMAGE]
        seen.extend(pod["spec"].get("nodeName", "") for pod in pods)
        return kube.run(run_id).is_finished

    wait_until(trainer_seen, PATIENCE, "the run's end")
    assert kube.run(run_id).status is dg.DagsterRunStatus.SUCCESS, kube.messages(run_id)[-4000:]
    assert "gpu-1" in seen and "plain" not in seen
    event = kube.instance.get_latest_materialization_event(dg.AssetKey(["lab", "trained_elsewhere"]))
    assert event is not None and event.asset_materialization is not None
    assert event.asset_materialization.metadata["loss"].value == pytest.approx((0.5**3) ** 2)
    assert "trained in a pod of its own" in kube.messages(run_id)
    wait_until(lambda: all(pod["spec"]["containers"][0]["image"] != TRAINER_IMAGE for pod in kube.cluster.pods(SPACE)), 60, "its pod is deleted")
