"""The fake cluster keeps Kubernetes' promises, asked by the official client: otherwise what passes on it would prove nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="could not import 'dagster_k8s")
from kubernetes import client, config, watch
from kubernetes.client import ApiException

from predator_si_tests.support.fake_cluster import RESTRICTED, FakeCluster
from predator_si_tests.support.kube_store import Object, dig
from predator_si_tests.support.waiting import wait_until

SPACE = "search"
DEVICE = "nvidia.com/gpu"
TOLERATION = {"key": DEVICE, "operator": "Exists", "effect": "NoSchedule"}
OWN = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"]}]


class Asked:
    """The cluster with the official client's two APIs, as its administrator or as an account."""

    def __init__(self, cluster: FakeCluster, kubeconfig: Path) -> None:
        self.cluster = cluster
        self.api = config.new_client_from_config(str(kubeconfig))
        self.core, self.batch = client.CoreV1Api(self.api), client.BatchV1Api(self.api)

    def start(self, name: str, script: str, *, spec: dict[str, Any] | None = None, pod: dict[str, Any] | None = None, **container: Any) -> None:
        """A Job that runs a line of Python."""
        one = {"name": "main", "image": "python:1", "command": ["python", "-c", script], **container}
        template = {"spec": {"restartPolicy": "Never", "containers": [one], **(pod or {})}}
        self.batch.create_namespaced_job(
            SPACE, {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"backoffLimit": 0, **(spec or {}), "template": template}}
        )

    def status(self, name: str) -> Any:
        return self.batch.read_namespaced_job_status(name, SPACE).status

    def ended(self, name: str) -> Any:
        """The Job's status, once it has ended."""
        wait_until(lambda: bool(self.status(name).conditions), 20, f"the end of {name}")
        return self.status(name)

    def pods(self, name: str) -> list[Object]:
        return self.cluster.pods(SPACE, f"job-name={name}")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with FakeCluster(tmp_path_factory.mktemp("cluster"), {"python:1": {"IMAGE": "yes"}}) as cluster:
        cluster.add_namespace(SPACE)
        cluster.add_node("plain")
        yield Asked(cluster, cluster.kubeconfig(SPACE))


def refused(code: int, says: str) -> Any:
    """What the client raises."""

    class Refusal:
        def __enter__(self) -> None: ...

        def __exit__(self, _: Any, error: BaseException | None, __: Any) -> bool:
            assert isinstance(error, ApiException), error
            assert error.status == code and says in json.loads(error.body)["message"], error.body
            return True

    return Refusal()


def config_map(name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **more.pop("metadata", {})}, **more}


def test_objects_are_kept_selected_and_guarded_against_lost_changes(asked: Asked) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        asked.core.create_namespaced_config_map(SPACE, config_map(name, metadata={"labels": {"colour": colour}}, data={"x": "1"}))
    with refused(409, 'configmaps "a" already exists'):
        asked.core.create_namespaced_config_map(SPACE, config_map("a"))
    with refused(404, 'configmaps "zzz" not found'):
        asked.core.read_namespaced_config_map("zzz", SPACE)
    with refused(404, 'namespaces "nowhere" not found'):
        asked.core.create_namespaced_config_map("nowhere", config_map("a"))
    for selector, names in (("colour=red", ["a"]), ("colour!=red", ["b"]), ("colour", ["a", "b"]), ("shape", [])):
        assert [found.metadata.name for found in asked.core.list_namespaced_config_map(SPACE, label_selector=selector).items] == names
    assert [found.metadata.name for found in asked.core.list_namespaced_config_map(SPACE, field_selector="metadata.name=b").items] == ["b"]
    stale = asked.core.read_namespaced_config_map("a", SPACE)
    asked.core.patch_namespaced_config_map("a", SPACE, {"data": {"y": "2"}})
    with refused(409, "has been modified"):
        asked.core.replace_namespaced_config_map("a", SPACE, stale)
    assert asked.core.read_namespaced_config_map("a", SPACE).data == {"x": "1", "y": "2"}
    asked.core.create_namespaced_config_map(SPACE, config_map("only-tried"), dry_run="All")
    assert asked.core.patch_namespaced_config_map("a", SPACE, {"data": {"z": "3"}}, dry_run="All").data == {"x": "1", "y": "2", "z": "3"}
    assert asked.core.read_namespaced_config_map("a", SPACE).data == {"x": "1", "y": "2"}
    with refused(404, "only-tried"):
        asked.core.read_namespaced_config_map("only-tried", SPACE)


def test_a_field_that_kubernetes_does_not_know_is_refused(asked: Asked) -> None:
    with refused(422, "nodeselector"):
        asked.start("typo", "pass", pod={"nodeselector": {"a": "b"}})
    with refused(501, "does not simulate initContainers"):
        asked.core.create_namespaced_pod(
            SPACE,
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "b"}]}},
        )


def test_a_job_runs_with_its_environment_and_files_and_its_log_can_be_read(asked: Asked) -> None:
    cluster, folder = asked.cluster, asked.cluster.root / "mounted"
    asked.core.create_namespaced_config_map(SPACE, config_map("settings", data={"CONTOUR": "edge", "app.yaml": "a: 1"}))
    asked.core.create_namespaced_secret(
        SPACE, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}, "data": {"password": base64.b64encode(b"sesame").decode()}}
    )
    script = f"import os; print(*(os.environ[n] for n in ('IMAGE', 'CONTOUR', 'PASSWORD', 'WHERE')), open({str(folder / 'app.yaml')!r}).read())"
    asked.start(
        "reads", script,
        env=[{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "key", "key": "password"}}},
             {"name": "WHERE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}],
        envFrom=[{"configMapRef": {"name": "settings"}}],
        volumeMounts=[{"name": "files", "mountPath": str(folder / "app.yaml"), "subPath": "app.yaml"}],
        pod={"volumes": [{"name": "files", "configMap": {"name": "settings"}}]},
    )  # fmt: skip
    assert asked.ended("reads").succeeded == 1
    (pod,) = asked.pods("reads")
    assert dig(pod, "status.phase") == "Succeeded" and pod["spec"]["nodeName"] == "plain"
    raw = asked.core.read_namespaced_pod_log(pod["metadata"]["name"], SPACE, _preload_content=False)  # this client spoils decoded text
    assert raw.data == b"yes edge sesame search a: 1\n"
    assert pod["metadata"]["name"] in " ".join(cluster.events(SPACE, "SuccessfulCreate"))


def test_a_failed_pod_is_made_again_until_the_limit(asked: Asked) -> None:
    asked.start("fails", "raise SystemExit(3)", spec={"backoffLimit": 1})
    status = asked.ended("fails")
    assert (status.failed, status.succeeded, status.conditions[0].reason) == (2, None, "BackoffLimitExceeded")
    assert [dig(pod, "status.containerStatuses")[0]["state"]["terminated"]["exitCode"] for pod in asked.pods("fails")] == [3, 3]


SLEEP = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(7)); print('up', flush=True); time.sleep(60)"


def running(asked: Asked, name: str) -> Object:
    found = asked.cluster.wait_for_pod(SPACE, lambda pod: name in pod["metadata"]["name"] and dig(pod, "status.phase") == "Running", 20, f"{name} runs")
    wait_until(lambda: "up" in asked.cluster.log(found), 20, f"{name} is up")
    return found


def test_a_deadline_ends_the_job_and_its_time_to_live_deletes_it(asked: Asked) -> None:
    asked.start("late", SLEEP, spec={"activeDeadlineSeconds": 1, "backoffLimit": 5})
    status = asked.ended("late")
    assert (status.conditions[0].reason, status.failed, status.active) == ("DeadlineExceeded", 1, None)
    wait_until(lambda: not asked.pods("late"), 10, "its pod is gone")
    asked.start("short", "pass", spec={"ttlSecondsAfterFinished": 0})
    wait_until(lambda: not asked.cluster.jobs(SPACE) or "short" not in [job["metadata"]["name"] for job in asked.cluster.jobs(SPACE)], 20, "deleted")
    wait_until(lambda: not asked.pods("short"), 10, "its pod is deleted with it")


def test_a_deleted_job_orphans_its_pod_unless_told_otherwise(asked: Asked) -> None:
    asked.start("orphan", SLEEP)
    pod = running(asked, "orphan")
    asked.batch.delete_namespaced_job("orphan", SPACE)
    assert "ownerReferences" not in asked.pods("orphan")[0]["metadata"] and dig(asked.pods("orphan")[0], "status.phase") == "Running"
    asked.core.delete_namespaced_pod(pod["metadata"]["name"], SPACE)
    wait_until(lambda: not asked.pods("orphan"), 10, "the pod is gone")
    asked.start("whole", SLEEP)
    running(asked, "whole")
    asked.batch.delete_namespaced_job("whole", SPACE, propagation_policy="Background")
    wait_until(lambda: not asked.pods("whole"), 10, "the pod goes with its job")


def test_a_process_that_ignores_the_signal_is_killed_after_the_grace_period(asked: Asked) -> None:
    asked.start("deaf", SLEEP.replace("lambda *_: exit(7)", "signal.SIG_IGN"), pod={"terminationGracePeriodSeconds": 1})
    pod = running(asked, "deaf")
    asked.core.delete_namespaced_pod(pod["metadata"]["name"], SPACE)
    assert asked.pods("deaf")[0]["metadata"]["deletionTimestamp"]
    wait_until(lambda: pod["metadata"]["name"] not in [one["metadata"]["name"] for one in asked.pods("deaf")], 10, "killed")


def test_a_killed_worker_and_an_evicted_one_leave_a_failed_job(asked: Asked) -> None:
    for name, act in (("killed", asked.cluster.kill), ("evicted", asked.cluster.evict)):
        asked.start(name, SLEEP)
        act(running(asked, name))
        assert asked.ended(name).failed == 1
        (pod,) = asked.pods(name)
        assert dig(pod, "status.phase") == "Failed"
    assert dig(pod, "status.reason") == "Evicted"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": "nowhere:9"}, "ErrImagePull"),
        ({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "a"}}}]}, "CreateContainerConfigError"),
        ({"command": ["/no/such/program"]}, "StartError"),
    ],
)
def test_what_cannot_start_waits_with_its_reason(asked: Asked, change: dict[str, Any], reason: str) -> None:
    name = reason.lower()
    asked.start(name, "pass", **change)
    pod = asked.cluster.wait_for_pod(SPACE, lambda one: name in one["metadata"]["name"] and bool(dig(one, "status.containerStatuses")), 10, "a state")
    assert dig(pod, "status.phase") == "Pending"
    assert dig(pod, "status.containerStatuses")[0]["state"]["waiting"]["reason"] == reason
    assert asked.cluster.events(SPACE, "Failed") and asked.status(name).conditions is None


def test_a_gpu_pod_is_placed_only_where_it_fits(asked: Asked) -> None:
    device = {"resources": {"limits": {DEVICE: "1"}}}
    asked.start("gpu-1", SLEEP, **device, pod={"tolerations": [TOLERATION], "nodeSelector": {"nvidia.com/gpu.present": "true"}})

    def waits(name: str, why: str) -> bool:
        return any(why in condition.get("message", "") for pod in asked.pods(name) for condition in dig(pod, "status.conditions") or [])

    wait_until(lambda: waits("gpu-1", "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."), 10, "no GPU node yet")
    asked.cluster.add_node("gpu", gpus=1)
    assert running(asked, "gpu-1")["spec"]["nodeName"] == "gpu"
    asked.start("intolerant", SLEEP, **device)
    wait_until(lambda: waits("intolerant", "1 node(s) had untolerated taint {nvidia.com/gpu: present}"), 10, "the taint holds")
    assert waits("intolerant", "1 Insufficient nvidia.com/gpu"), "the plain node has none"
    asked.start("gpu-2", SLEEP, **device, pod={"tolerations": [TOLERATION]})
    wait_until(lambda: waits("gpu-2", "2 Insufficient nvidia.com/gpu"), 10, "the one GPU is taken")
    asked.batch.delete_namespaced_job("gpu-1", SPACE, propagation_policy="Background")
    assert running(asked, "gpu-2")["spec"]["nodeName"] == "gpu"
    assert dig(asked.pods("intolerant")[0], "status.phase") == "Pending"


def test_a_token_opens_what_its_roles_allow(asked: Asked) -> None:
    worker = Asked(asked.cluster, asked.cluster.add_service_account(SPACE, "launcher", OWN))
    worker.start("allowed", "pass")
    name = "system:serviceaccount:search:launcher"
    with refused(403, f'jobs.batch "allowed" is forbidden: User "{name}" cannot delete resource "jobs" in API group "batch" in the namespace "search"'):
        worker.batch.delete_namespaced_job("allowed", SPACE)
    with refused(403, 'cannot list resource "pods" in API group "" in the namespace "default"'):
        worker.core.list_namespaced_pod("default")
    assert {(one.resource, one.verb) for one in asked.cluster.access.used[name]} == {("jobs", "create")}
    stranger = Asked(asked.cluster, asked.cluster.kubeconfig(SPACE))
    asked.cluster.access.tokens.popitem()
    with refused(401, "Unauthorized"):
        stranger.core.list_namespaced_pod(SPACE)


def test_the_restricted_standard_keeps_careless_pods_out(asked: Asked) -> None:
    asked.cluster.add_namespace("strict", RESTRICTED)
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "python:1"}]}}
    with refused(403, "allowPrivilegeEscalation != false"):
        asked.core.create_namespaced_pod("strict", pod)
    careful = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    for missing in careful:
        pod["spec"]["containers"][0]["securityContext"] = {name: value for name, value in careful.items() if name != missing}
        with refused(403, {"capabilities": "must drop ALL"}.get(missing, missing)):
            asked.core.create_namespaced_pod("strict", pod)
    pod["spec"]["containers"][0]["securityContext"] = careful
    pod["spec"]["volumes"] = [{"name": "host", "hostPath": {"path": "/"}}]
    with refused(403, "restricted volume types"):
        asked.core.create_namespaced_pod("strict", pod)
    del pod["spec"]["volumes"]
    asked.core.create_namespaced_pod("strict", pod)
    pod["metadata"]["name"], pod["spec"]["serviceAccountName"] = "q", "nobody"
    with refused(403, 'serviceaccount "nobody" not found'):
        asked.core.create_namespaced_pod("strict", pod)


def test_faults_are_answered_as_often_as_asked_and_watchers_see_each_change(asked: Asked) -> None:
    asked.cluster.fail("GET", r"/configmaps$", 500, times=2)
    for _ in range(2):
        with refused(500, "injected"):
            asked.core.list_namespaced_config_map(SPACE)
    start = asked.core.list_namespaced_config_map(SPACE).metadata.resource_version
    asked.core.create_namespaced_config_map(SPACE, config_map("seen"))
    asked.core.delete_namespaced_config_map("seen", SPACE)
    stream = watch.Watch().stream(asked.core.list_namespaced_config_map, SPACE, resource_version=start, timeout_seconds=1)
    assert [(one["type"], one["object"].metadata.name) for one in stream] == [("ADDED", "seen"), ("DELETED", "seen")]
