"""Every policy holds for every object of every contour, and each is shown to fail on an object that breaks it."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from predator_si.release import chart_policies, chart_policies_addresses, chart_policies_flows  # noqa: F401 - they register the policies
from predator_si.release.chart_objects import POLICIES, complaints
from predator_si.settings import CHART
from predator_si_tests.support.charts import CHAMPION, CONTOURS, objects, one, rendered

Objects = list[dict[str, Any]]
EDGE, GPU, RUNS = "edge-oracle", "compute-nvidia", "predator-si-runs"


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("contour", CONTOURS)
def test_a_policy_holds_for_everything_that_is_rendered(contour: str, name: str):
    assert not list(complaints(objects(contour), contour, [name]))


# --------------------------------------------------------------------------- what breaks each of them


def pod(found: Objects, name: str = "search") -> dict[str, Any]:
    return one(found, "Deployment", name)["spec"]["template"]["spec"]


def container(found: Objects, name: str = "search") -> dict[str, Any]:
    return pod(found, name)["containers"][0]


def secure(found: Objects, name: str = "search") -> dict[str, Any]:
    return container(found, name)["securityContext"]


def flows(found: Objects, name: str) -> dict[str, Any]:
    return one(found, "NetworkPolicy", name)["spec"]


def release(found: Objects) -> dict[str, Any]:
    return next(each for each in found if each["kind"] == "ConfigMap" and "-release-" in each["metadata"]["name"])


def instance(found: Objects, old: str, new: str) -> None:
    data = one(found, "ConfigMap", "dagster")["data"]
    assert old in data["dagster.yaml"]
    data["dagster.yaml"] = data["dagster.yaml"].replace(old, new)


def space(found: Objects) -> dict[str, Any]:
    return next(each for each in found if each["kind"] == "Namespace")["metadata"]


def drop(found: Objects, kind: str, name: str, namespace: str | None = None) -> None:
    found.remove(one([each for each in found if namespace in (None, each["metadata"].get("namespace"))], kind, name))


def env(found: Objects, name: str, value: str) -> None:
    container(found)["env"] = [{"name": name, "value": value}]


WAVE = "argocd.argoproj.io/sync-wave"
GATEWAY = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateway-system"}}}
MUTATIONS: list[tuple[str, str, Callable[[Objects], Any]]] = [
    ("runs_as_nobody", EDGE, lambda o: pod(o)["securityContext"].pop("runAsUser")),
    ("runs_as_nobody", EDGE, lambda o: secure(o).update(runAsUser=0)),
    ("runs_as_nobody", EDGE, lambda o: secure(o).update(runAsNonRoot=False)),
    ("root_is_read_only", EDGE, lambda o: secure(o, "auth-proxy").pop("readOnlyRootFilesystem")),
    ("no_capabilities", EDGE, lambda o: secure(o)["capabilities"].update(add=["NET_ADMIN"])),
    ("no_capabilities", EDGE, lambda o: secure(o).pop("capabilities")),
    ("no_escalation", EDGE, lambda o: secure(o).pop("allowPrivilegeEscalation")),
    ("no_escalation", EDGE, lambda o: secure(o).update(privileged=True)),
    ("system_calls_are_filtered", EDGE, lambda o: pod(o, "daemon")["securityContext"].update(seccompProfile={"type": "Unconfined"})),
    ("nothing_of_the_node", EDGE, lambda o: pod(o).update(hostNetwork=True)),
    ("nothing_of_the_node", EDGE, lambda o: pod(o)["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
    ("nothing_of_the_node", EDGE, lambda o: container(o)["ports"][0].update(hostPort=8080)),
    ("scratch_space_is_bounded", EDGE, lambda o: pod(o)["volumes"][0].update(emptyDir={})),
    ("tokens_only_where_needed", EDGE, lambda o: pod(o).pop("automountServiceAccountToken")),
    ("tokens_only_where_needed", EDGE, lambda o: pod(o, "api").update(automountServiceAccountToken=True)),
    ("tokens_only_where_needed", EDGE, lambda o: one(o, "ServiceAccount", "platform").pop("automountServiceAccountToken")),
    ("accounts_of_our_own", EDGE, lambda o: pod(o).pop("serviceAccountName")),
    ("accounts_of_our_own", EDGE, lambda o: drop(o, "ServiceAccount", "launcher")),
    ("resources_are_bounded", EDGE, lambda o: container(o)["resources"]["limits"].pop("memory")),
    ("images_by_digest", EDGE, lambda o: container(o).update(image="predator-si/serving:1.0")),
    ("images_by_digest", GPU, lambda o: container(o).update(image=f"predator-si/serving@sha256:{'0' * 64}")),
    ("images_by_digest", "dev-mac", lambda o: container(o).update(image="predator-si/serving:latest")),
    ("images_by_digest", "dev-mac", lambda o: container(o).update(image="predator-si/serving")),
    ("no_secret_is_written_down", EDGE, lambda o: o.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}})),
    ("no_secret_is_written_down", EDGE, lambda o: env(o, "PGPASSWORD", "hunter2")),
    ("no_secret_is_written_down", EDGE, lambda o: container(o, "auth-proxy")["args"].append("--cookie-secret=abc")),
    ("no_secret_is_written_down", EDGE, lambda o: one(o, "ConfigMap", "env")["data"].update(GIT_TOKEN="ghp_abcdefghij")),
    ("no_secret_is_written_down", EDGE, lambda o: one(o, "ConfigMap", "settings")["data"].update(x="url: postgresql://me:pw@host/db")),
    ("health_is_asked", EDGE, lambda o: container(o, "daemon").pop("livenessProbe")),
    ("health_is_asked", EDGE, lambda o: container(o, "api").pop("readinessProbe")),
    ("traffic_only_for_the_release", EDGE, lambda o: container(o)["readinessProbe"]["httpGet"].update(path="/ready")),
    ("traffic_only_for_the_release", EDGE, lambda o: release(o)["data"].update({"deny.yaml": "", "release-edge-oracle.yaml": "reranker: {champion: other}"})),
    ("traffic_only_for_the_release", EDGE, lambda o: o.remove(release(o))),
    ("a_release_never_changes", EDGE, lambda o: release(o).pop("immutable")),
    ("nothing_denied_is_served", EDGE, lambda o: release(o)["data"].update({"deny.yaml": f"denied: [{{digest: '{CHAMPION}'}}]"})),
    ("nobody_waits_for_an_update", EDGE, lambda o: one(o, "Deployment", "search")["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1)),
    ("nobody_waits_for_an_update", EDGE, lambda o: one(o, "Deployment", "daemon")["spec"].update(replicas=2)),
    ("nobody_waits_for_an_update", EDGE, lambda o: one(o, "Deployment", "search-ingest")["spec"].update(strategy={"type": "RollingUpdate"})),
    ("a_drain_leaves_somebody", EDGE, lambda o: drop(o, "PodDisruptionBudget", "search")),
    ("a_drain_leaves_somebody", EDGE, lambda o: one(o, "PodDisruptionBudget", "search")["spec"].update(minAvailable=2)),
    ("a_drain_leaves_somebody", "local", lambda o: o.append({**one(objects(EDGE), "PodDisruptionBudget", "search")})),
    ("one_hand_on_the_replicas", EDGE, lambda o: one(o, "Deployment", "search")["spec"].update(replicas=2)),
    ("one_hand_on_the_replicas", EDGE, lambda o: one(o, "HorizontalPodAutoscaler", "search")["spec"].update(maxReplicas=1)),
    ("what_is_needed_comes_first", EDGE, lambda o: release(o)["metadata"]["annotations"].pop(WAVE)),
    ("what_is_needed_comes_first", EDGE, lambda o: one(o, "NetworkPolicy", "names")["metadata"]["annotations"].pop(WAVE)),
    ("what_is_needed_comes_first", EDGE, lambda o: one(o, "PersistentVolumeClaim", "home")["metadata"]["annotations"].update({WAVE: "-2"})),
    ("jobs_end", "backup", lambda o: one(o, "CronJob", "backup")["spec"].update(concurrencyPolicy="Allow")),
    ("jobs_end", "backup", lambda o: one(o, "CronJob", "backup")["spec"]["jobTemplate"]["spec"].pop("activeDeadlineSeconds")),
    ("variables_of_nobody_else", EDGE, lambda o: pod(o).pop("enableServiceLinks")),
    ("names_lead_somewhere", EDGE, lambda o: drop(o, "ConfigMap", "env")),
    ("names_lead_somewhere", EDGE, lambda o: one(o, "Service", "api")["spec"]["selector"].update({"app.kubernetes.io/component": "apj"})),
    ("names_lead_somewhere", EDGE, lambda o: container(o)["volumeMounts"].pop()),
    ("names_lead_somewhere", EDGE, lambda o: o.append(one(o, "Service", "api"))),
    ("everything_says_whose_it_is", EDGE, lambda o: one(o, "Role", "launcher")["metadata"]["labels"].pop("predator.si/contour")),
    ("denied_unless_allowed", GPU, lambda o: drop(o, "NetworkPolicy", "deny", RUNS)),
    ("denied_unless_allowed", EDGE, lambda o: flows(o, "deny").update(policyTypes=["Ingress"])),
    ("every_pod_has_its_flows", EDGE, lambda o: drop(o, "NetworkPolicy", "mlflow")),
    ("every_pod_has_its_flows", EDGE, lambda o: flows(o, "mlflow").update(policyTypes=["Ingress"])),
    ("flows_are_named", EDGE, lambda o: flows(o, "search")["ingress"][0].pop("from")),
    ("flows_are_named", EDGE, lambda o: flows(o, "search")["ingress"][0].pop("ports")),
    ("flows_are_named", EDGE, lambda o: flows(o, "search")["ingress"][0]["from"].append({"podSelector": {}})),
    ("flows_are_named", EDGE, lambda o: flows(o, "daemon")["egress"].append({"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]})),
    ("flows_meet", EDGE, lambda o: flows(o, "mlflow")["ingress"][0]["from"].pop(0)),
    ("flows_meet", EDGE, lambda o: flows(o, "api")["egress"][0]["ports"][0].update(port=1)),
    ("addresses_have_flows", EDGE, lambda o: one(o, "NetworkPolicy", "runs")["metadata"]["annotations"].pop("predator.si/destinations")),
    ("addresses_have_flows", EDGE, lambda o: flows(o, "daemon").pop("egress")),
    ("addresses_have_flows", GPU, lambda o: drop(o, "ConfigMap", "settings") or drop(o, "ConfigMap", "settings", RUNS)),
    ("writable_graphql_is_closed", EDGE, lambda o: flows(o, "webserver")["ingress"][0]["from"].append(GATEWAY)),
    ("writable_graphql_is_closed", EDGE, lambda o: flows(o, "webserver")["ingress"][0].pop("from")),
    ("writable_graphql_is_closed", EDGE, lambda o: container(o, "webserver-read-only")["command"].remove("--read-only")),
    ("people_come_by_the_login", EDGE, lambda o: container(o, "webserver-read-only")["command"].remove("--read-only")),
    ("people_come_by_the_login", EDGE, lambda o: flows(o, "webserver-read-only")["ingress"][0]["from"].append(GATEWAY)),
    ("services_stay_inside", EDGE, lambda o: one(o, "Service", "search")["spec"].update(type="LoadBalancer")),
    ("services_stay_inside", EDGE, lambda o: o.append({"kind": "Ingress", "metadata": {"name": "in", "namespace": "predator-si", "labels": {}}})),
    ("rights_are_those_measured", EDGE, lambda o: one(o, "Role", "launcher")["rules"][0].update(verbs=["*"])),
    ("rights_are_those_measured", EDGE, lambda o: one(o, "Role", "launcher")["rules"].pop()),
    ("rights_are_those_measured", EDGE, lambda o: one(o, "Role", "launcher")["rules"].append({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})),
    ("rights_are_those_measured", EDGE, lambda o: one(o, "RoleBinding", "launcher")["subjects"].append({"kind": "Group", "name": "system:authenticated"})),
    ("rights_are_those_measured", EDGE, lambda o: o.append({"kind": "ClusterRole", "metadata": {"name": "all"}, "rules": []})),
    ("namespaces_are_restricted", EDGE, lambda o: space(o)["labels"].pop("pod-security.kubernetes.io/enforce")),
    ("namespaces_are_restricted", EDGE, lambda o: one(o, "Service", "api")["metadata"].update(namespace="default")),
    ("gpus_are_counted", GPU, lambda o: drop(o, "ResourceQuota", "gpu")),
    ("gpus_are_counted", GPU, lambda o: one(o, "ResourceQuota", "gpu")["metadata"].update(namespace="predator-si")),
    ("runs_find_what_they_mount", GPU, lambda o: drop(o, "ConfigMap", "env", RUNS)),
    ("runs_find_what_they_mount", EDGE, lambda o: drop(o, "ServiceAccount", "run")),
    ("runs_find_what_they_mount", EDGE, lambda o: instance(o, "automount_service_account_token: false", "automount_service_account_token: true")),
    ("runs_find_what_they_mount", EDGE, lambda o: instance(o, "run_as_non_root: true", "run_as_non_root: false")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "contour", "broken"), MUTATIONS, ids=[f"{name}-{number}" for number, (name, _, _) in enumerate(MUTATIONS)])
def test_a_policy_fails_where_it_is_broken(name: str, contour: str, broken: Callable[[Objects], Any], backed_up: Objects):
    found = backed_up if contour == "backup" else objects(contour)
    contour = EDGE if contour == "backup" else contour
    assert not list(complaints(found, contour, [name]))
    broken(found)
    assert list(complaints(found, contour, [name]))


def test_what_checkov_does_not_look_at_has_its_reason():
    text = (CHART / "checkov.yaml").read_text(encoding="utf-8")
    skipped = yaml.safe_load(text)["skip-check"]
    reasons = dict(re.findall(r"^  - (\w+) +# (.{20,})$", text, re.MULTILINE))
    assert set(reasons) == set(skipped) and len(set(reasons.values())) == len(skipped)
    numbers = ("no", "one", "two", "three", "four", "five", "six", "seven")
    assert f"{numbers[len(skipped)].capitalize()} checks are skipped" in (CHART / "README.md").read_text(encoding="utf-8")


def test_each_policy_was_shown_to_fail():
    assert {name for name, _, _ in MUTATIONS} == set(POLICIES)


@functools.cache
def _with_backup() -> Objects:
    return rendered(EDGE, site={"selfImprovement": {"backup": {"enabled": True, "destination": "s3://backups/predator"}}})


@pytest.fixture
def backed_up() -> Objects:
    """The edge with a backup."""
    return copy.deepcopy(_with_backup())


def test_a_backup_keeps_every_policy(backed_up: Objects):
    assert any(each["kind"] == "CronJob" for each in backed_up)
    assert not list(complaints(backed_up, EDGE))


def test_runs_that_start_pods_keep_every_policy():
    assert not list(complaints(rendered(GPU, site={"runs": {"pipes": True}}), GPU))
