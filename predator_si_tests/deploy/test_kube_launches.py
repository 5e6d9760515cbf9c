"""However training is started, its Job asks for the GPU; and nothing that a launcher writes makes a Job into something else.

The launcher is dagster-k8s' own, set up by ``deploy/k8s/dagster.yaml``; the API server is the fake one, which has no GPU node here, so nothing runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
import yaml

pytest.importorskip("dagster_k8s", reason="could not import 'dagster_k8s")

from predator_si.home import Home
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.partitions import add_cycle
from predator_si.records import CycleState
from predator_si.settings import load_settings
from predator_si_tests.support.kube_platform import CHART, DAGSTER_YAML, IMAGE, LAUNCHER, SPACE, KubePlatform, gpu_of, kube_platform, role_rules
from predator_si_tests.support.kube_store import dig
from predator_si_tests.support.platform import ndcg_trigger, prepare, word_model
from predator_si_tests.support.postgres_server import PASSWORD
from predator_si_tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
CYCLE = "si_2026_01_31_001"
GPU = {
    "limits": {"memory": "8Gi", "ephemeral-storage": "10Gi", "nvidia.com/gpu": "2"},
    "nodeSelector": {"nvidia.com/gpu.present": "true"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "deadline": 14_400,
    "ttl": 86_400,
    "backoff": 0,
}
PLAIN = {"limits": {"memory": "8Gi", "ephemeral-storage": "10Gi"}, "nodeSelector": None, "tolerations": None, "deadline": 21_600, "ttl": 86_400, "backoff": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubePlatform]:
    folder = tmp_path_factory.mktemp("launches")
    home = Home(folder / "home").ensure()
    values = folder / "more.yaml"
    values.write_text("selfImprovement:\n  resources: {gpuCount: 2}\n")
    settings = {"PREDATOR_SI_HOME": str(home.path), "PREDATOR_SI_CONTOUR": "compute-nvidia", "PREDATOR_SI_VALUES": str(values)}
    with kube_platform(folder, settings) as platform:
        add_cycle(platform.instance, CYCLE)
        platform.cluster.remove_node("plain")  # Jobs are looked at here, none needs to run
        yield platform


@pytest.fixture
def kube(made: KubePlatform, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubePlatform]:
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.clear()


PARTITION = {"dagster/partition": CYCLE}
WAYS: dict[str, Any] = {
    "the job, by GraphQL": lambda kube: [kube.launch("platform", "cycle_train_job", tags=PARTITION)],
    "the job, with its own tags stripped": lambda kube: [kube.launch("platform", "cycle_train_job", tags={**PARTITION, "dagster-k8s/config": "{}"})],
    "Materialize on the page": lambda kube: [kube.launch("platform", "__ASSET_JOB", ["cycle/reranker_model"], PARTITION)],
    "Materialize of a wider selection": lambda kube: [
        kube.launch("platform", "__ASSET_JOB", ["cycle/synthetic_dataset", "cycle/reranker_model", "cycle/optimized_reranker"], PARTITION)
    ],
    "once more from the page": lambda kube: [once_more(kube)],
    "a backfill": lambda kube: kube.backfill("platform", "cycle/reranker_model", CYCLE),
    "the sensor": lambda kube: prepared_cycle_ticks(kube),
}


def once_more(kube: KubePlatform) -> str:
    """A training that was cancelled before it began, executed again."""
    first = kube.launch("platform", "__ASSET_JOB", ["cycle/reranker_model"], PARTITION)
    kube.instance.report_run_canceled(kube.run(first))
    return kube.again("platform", first)


def prepared_cycle_ticks(kube: KubePlatform) -> list[str]:
    """A cycle whose data are there, and one tick of the sensor that moves cycles on."""
    loop = Loop(load_settings())
    prepare(loop, word_model(loop, "first", 1.0))
    cycle_id = loop.control.open_cycle(loop.contour, ndcg_trigger(), "test", "a test wants it").cycle_id
    loop.control.transition(cycle_id, CycleState.PREPARED, "a test", "test")
    return kube.tick("platform", "cycle_advance_sensor")


@pytest.mark.parametrize("way", WAYS)
def test_training_asks_for_the_gpu_whoever_starts_it(kube: KubePlatform, way: str) -> None:
    (run_id,) = WAYS[way](kube)
    assert kube.run(run_id).status is dg.DagsterRunStatus.QUEUED
    kube.dequeue("platform")
    job = kube.job(run_id)
    assert gpu_of(job) == GPU, way
    assert kube.run(run_id).tags["predator/lane"] == "train"
    wait_until(lambda: all(dig(pod, "status.conditions") for pod in kube.cluster.pods(SPACE)), 20, "the scheduler's answer")
    (pod,) = kube.cluster.pods(SPACE)
    assert pod["status"]["conditions"][0]["reason"] == "Unschedulable", "there is no GPU node: anywhere else it must not run"


def test_what_does_not_train_does_not_hold_a_gpu(kube: KubePlatform) -> None:
    run_ids = [
        kube.launch("platform", "cycle_prepare_job", tags=PARTITION),
        kube.launch("platform", "__ASSET_JOB", ["cycle/optimized_reranker"], PARTITION),
        kube.launch("platform", "observe_job"),
    ]
    kube.dequeue("platform")
    started = [run_id for run_id in run_ids if kube.run(run_id).status is not dg.DagsterRunStatus.QUEUED]
    assert len(started) == 2, "two of them are of one lane, in which one runs at a time"
    for run_id in started:
        assert gpu_of(kube.job(run_id)) == PLAIN


def test_a_rollback_starts_beside_all_that_yields(kube: KubePlatform) -> None:
    """Long runs of every kind came first, and more of them than there are places; priority alone would not end one of them."""
    long = ("cycle_train_job", "cycle_prepare_job", "backup_job", "retention_job", "warehouse_job", "weekly_report_job", "aa_replay_job")
    run_ids = [kube.launch("platform", name, tags=PARTITION if name.startswith("cycle") else {}) for name in long]
    run_ids += [kube.launch("platform", "observe_job") for _ in range(6)]
    kube.dequeue("platform")
    kube.dequeue("platform")
    assert [kube.run(run_id).status is dg.DagsterRunStatus.QUEUED for run_id in run_ids].count(False) == 5, (
        "training, a cycle's step, one that yields, two ticks"
    )
    back = kube.launch("platform", "rollback_job", tags=PARTITION)
    kube.dequeue("platform")
    assert kube.run(back).status is not dg.DagsterRunStatus.QUEUED


def test_two_trainings_never_run_together(kube: KubePlatform) -> None:
    """A pool that was never used lets two runs through; the coordinator gives it its one place first."""
    first, second = (kube.launch("platform", "cycle_train_job", tags=PARTITION) for _ in range(2))
    pools = {pool.name: pool.limit for pool in kube.instance.event_log_storage.get_pool_limits()}
    assert pools["gpu_training"] == 1
    kube.dequeue("platform")
    assert [kube.run(run_id).status for run_id in (first, second)].count(dg.DagsterRunStatus.QUEUED) == 1 and len(kube.cluster.jobs(SPACE)) == 1


FORBIDDEN = {
    "another image": {"container_config": {"image": "evil:1"}},
    "another command": {"container_config": {"command": ["sh"]}},
    "an environment": {"container_config": {"env": [{"name": "A", "value": "b"}]}},
    "another service account": {"pod_spec_config": {"service_account_name": LAUNCHER}},
    "a host path": {"pod_spec_config": {"volumes": [{"name": "host", "host_path": {"path": "/"}}]}},
    "a privileged container": {"container_config": {"security_context": {"privileged": True}}},
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_tag_cannot_make_a_job_into_something_else(kube: KubePlatform, what: str) -> None:
    run_id = kube.launch("platform", "observe_job", tags={"dagster-k8s/config": json.dumps(FORBIDDEN[what])})
    kube.dequeue("platform")
    assert kube.run(run_id).status is dg.DagsterRunStatus.FAILURE and not kube.cluster.jobs(SPACE)
    assert "violated the allowed list" in kube.messages(run_id)


def test_the_job_is_hardened_and_speaks_for_nobody(kube: KubePlatform) -> None:
    kube.launch("platform", "observe_job")
    kube.dequeue("platform")
    (job,) = kube.cluster.jobs(SPACE)
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["image"] == IMAGE and "@sha256:" in IMAGE
    assert spec["automountServiceAccountToken"] is False and spec["serviceAccountName"] == "predator-si-run"
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert spec["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    (pod,) = kube.cluster.pods(SPACE)  # the namespace enforces the restricted standard: a careless pod would not be there
    assert [reference["name"] for source in container["envFrom"] for reference in source.values()] == [
        "predator-si-env", "predator-si-postgresql", "predator-si-environment",
    ]  # fmt: skip
    assert PASSWORD not in json.dumps(job), "the command line names the variable, not the password"
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "dagster", "the chart's network rules know runs by it"


def test_an_api_server_that_fails_for_a_moment_costs_no_run_and_one_that_stays_away_says_so(kube: KubePlatform) -> None:
    run_id = kube.launch("platform", "observe_job")
    before = len(kube.cluster.requests)
    kube.cluster.fail("POST", r"/jobs$", 500, times=1)
    kube.dequeue("platform")
    assert kube.run(run_id).status is dg.DagsterRunStatus.STARTING
    assert kube.cluster.requests[before:].count(("POST", f"/apis/batch/v1/namespaces/{SPACE}/jobs")) >= 2 and len(kube.cluster.jobs(SPACE)) == 1
    kube.cluster.fail("POST", r"/jobs$", 403, times=1)
    refused = kube.launch("platform", "observe_job")
    kube.dequeue("platform")
    assert kube.run(refused).status is dg.DagsterRunStatus.FAILURE and "injected" in kube.messages(refused)


def test_a_pod_that_cannot_be_scheduled_in_time_fails_its_run_with_the_reason(kube: KubePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = kube.launch("platform", "cycle_train_job", tags=PARTITION)
    kube.dequeue("platform")
    wait_until(lambda: bool(kube.cluster.events(SPACE, "FailedScheduling")), 20, "the scheduler's answer")
    kube.monitor("platform")
    assert kube.run(run_id).status is dg.DagsterRunStatus.STARTING, "a GPU node may take ten minutes to appear"
    monkeypatch.setattr(type(kube.instance), "run_monitoring_start_timeout_seconds", property(lambda _: 0.001))
    kube.monitor("platform")
    assert kube.run(run_id).status is dg.DagsterRunStatus.FAILURE
    assert "longer than 0.001 seconds to start" in kube.messages(run_id) and "nodes are available" in kube.messages(run_id)


def test_an_image_that_cannot_be_pulled_shows_in_the_runs_failure(kube: KubePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    known = kube.cluster.images.pop(IMAGE)
    kube.cluster.add_node("plain")
    try:
        run_id = kube.launch("platform", "observe_job")
        kube.dequeue("platform")
        wait_until(lambda: any("ErrImagePull" in text for text in kube.cluster.events(SPACE, "Failed")), 20, "the kubelet's answer")
        monkeypatch.setattr(type(kube.instance), "run_monitoring_start_timeout_seconds", property(lambda _: 0.001))
        kube.monitor("platform")
        assert kube.run(run_id).status is dg.DagsterRunStatus.FAILURE and "ErrImagePull" in kube.messages(run_id)
    finally:
        kube.cluster.remove_node("plain")
        kube.cluster.images[IMAGE] = known


def test_the_charts_role_is_what_the_launcher_asks_for_and_nothing_more(kube: KubePlatform) -> None:
    """Launch, health, debug information of a pod and of a Job without one, termination: each verb of the Role is used, none is missing."""
    launcher, name = kube.instance.run_launcher, f"system:serviceaccount:{SPACE}:{LAUNCHER}"
    kube.cluster.access.used.pop(name, None)
    run_id = kube.launch("platform", "observe_job")
    kube.dequeue("platform")
    wait_until(lambda: bool(kube.cluster.pods(SPACE)), 20, "its pod")
    launcher.check_run_worker_health(kube.run(run_id))
    launcher.get_run_worker_debug_info(kube.run(run_id))
    assert launcher.terminate(run_id) is True
    launcher.get_run_worker_debug_info(kube.run(run_id))
    rules = role_rules("launcher")
    granted = {(group, resource, verb) for rule in rules for group in rule["apiGroups"] for resource in rule["resources"] for verb in rule["verbs"]}
    used = {(one.group, one.resource, one.verb) for one in kube.cluster.access.used[name]}
    assert granted - used <= {("", "pods/log", "get")}, "logs are read of a pod that has begun (test_kube_runs.py)"
    assert used <= granted and not kube.cluster.access.denied.get(name)


def test_the_chart_mounts_this_very_file() -> None:
    assert (CHART / "files" / "dagster.yaml").read_bytes() == DAGSTER_YAML.read_bytes()


def test_runs_take_the_image_that_is_meant_for_them() -> None:
    """A code server that names its own image gives it to every run: trainings would find no CUDA in theirs."""
    assert not [path.name for path in (CHART / "templates").glob("*") if re.search(r"\bname\W+DAGSTER_CURRENT_IMAGE", path.read_text())]


def test_the_file_holds_what_both_machines_must_agree_on() -> None:
    cluster, local = (yaml.safe_load(path.read_text()) for path in (DAGSTER_YAML, DAGSTER_YAML.parents[2] / "dagster.yaml"))
    for block in ("telemetry", "nux", "run_coordinator", "concurrency", "run_retries", "retention"):
        assert cluster[block] == local[block], block
    assert cluster["run_monitoring"]["max_resume_run_attempts"] == local["run_monitoring"]["max_resume_run_attempts"] == 0
    assert cluster["run_monitoring"]["start_timeout_seconds"] > 600, "longer than an autoscaler needs for a GPU node"
    assert not [line for line in DAGSTER_YAML.read_text().splitlines() if "password:" in line and "env:" not in line]
