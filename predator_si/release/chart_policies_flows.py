"""Policies for who may talk to whom, and who may do what in the cluster.

What belongs here: network policies, services, rights, namespaces, the quota of GPUs. What must not: what a pod is like (``chart_policies``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from predator_si.release.chart_objects import COMPONENT, Object, Pod, Rendered, policy, selects, title

LAUNCHER_RIGHTS = frozenset(
    {("batch", "jobs", verb) for verb in ("create", "delete", "list")}
    | {("batch", "jobs/status", "get"), ("", "pods", "list"), ("", "pods", "delete"), ("", "pods/log", "get"), ("", "events", "list")}
)
"""What K8sRunLauncher was seen to use against an API that records verbs: a run's Job is made, watched, read and ended with its pods."""
PIPES_RIGHTS = frozenset({("", "pods", verb) for verb in ("create", "delete", "list")} | {("", "pods/log", "get")})
"""What PipesK8sClient was seen to use, for a training image of its own."""


def _rules(one: Object, side: str) -> list[Mapping[str, Any]]:
    return list(one["spec"].get(side) or [])


def _policies_for(rendered: Rendered, pod: Pod) -> list[Object]:
    return [one for one in rendered.of("NetworkPolicy") if one["metadata"]["namespace"] == pod.namespace and selects(one["spec"]["podSelector"], pod.labels)]


def _peers(rendered: Rendered, pod: Pod) -> Iterator[Mapping[str, Any]]:
    for one in _policies_for(rendered, pod):
        for rule in _rules(one, "ingress"):
            yield from rule.get("from") or [{}]


@policy
def denied_unless_allowed(rendered: Rendered) -> Iterator[str]:
    """In each namespace all traffic, in and out, is denied to begin with."""
    namespaces = {one["metadata"]["namespace"] for one in rendered.objects if one["metadata"].get("namespace")}
    for namespace in sorted(namespaces):
        denials = [
            one
            for one in rendered.of("NetworkPolicy")
            if one["metadata"]["namespace"] == namespace and one["spec"]["podSelector"] == {} and not _rules(one, "ingress") and not _rules(one, "egress")
        ]
        if not any(sorted(one["spec"].get("policyTypes", [])) == ["Egress", "Ingress"] for one in denials):
            yield f"namespace {namespace}: no policy that denies everything in and out"


@policy
def every_pod_has_its_flows(rendered: Rendered) -> Iterator[str]:
    """Each workload has a network policy of its own, for both directions."""
    for pod in rendered.pods:
        own = [one for one in _policies_for(rendered, pod) if one["spec"]["podSelector"] != {}]
        if not any(sorted(one["spec"].get("policyTypes", [])) == ["Egress", "Ingress"] for one in own):
            yield f"{pod.owner}: no network policy of its own"


@policy
def flows_are_named(rendered: Rendered) -> Iterator[str]:
    """No rule without a peer and a port, no peer that is everybody, no network wider than an installation's own."""
    for one in rendered.of("NetworkPolicy"):
        for side, whom in (("ingress", "from"), ("egress", "to")):
            for rule in _rules(one, side):
                peers, ports = rule.get(whom) or [], rule.get("ports") or []
                if not peers or not ports or any(not port.get("port") for port in ports):
                    yield f"{title(one)}: a rule of {side} without peer or port"
                for peer in peers:
                    if not any(peer.get(key) for key in ("podSelector", "namespaceSelector", "ipBlock")):
                        yield f"{title(one)}: a peer of {side} that is everybody"
                    if "ipBlock" in peer and ipaddress.ip_network(peer["ipBlock"]["cidr"]).prefixlen < 8:
                        yield f"{title(one)}: {peer['ipBlock']['cidr']} is the whole world"


@policy
def flows_meet(rendered: Rendered) -> Iterator[str]:
    """A flow between our own pods is allowed on both sides, on a port that is listened on: half a permission is none."""
    for pod in rendered.pods:
        for one in _policies_for(rendered, pod):
            for rule in _rules(one, "egress"):
                for peer in rule["to"]:
                    target = next((other for other in rendered.pods if "podSelector" in peer and _is(rendered, peer, other, pod.namespace)), None)
                    if target is None:
                        continue
                    listened = {port["containerPort"] for container in target.containers for port in container.get("ports", [])}
                    if not {port["port"] for port in rule["ports"]} <= listened:
                        yield f"{pod.owner} may talk to {target.owner} on {[port['port'] for port in rule['ports']]}, it listens on {sorted(listened)}"
                    if not any(_is(rendered, back, pod, target.namespace) for back in _peers(rendered, target)):
                        yield f"{pod.owner} may talk to {target.owner}, which does not let it in"


def _is(rendered: Rendered, peer: Mapping[str, Any], pod: Pod, here: str) -> bool:
    """Whether a peer of a policy in namespace ``here`` is this pod."""
    if "ipBlock" in peer:
        return False
    namespaces = peer.get("namespaceSelector")
    inside = pod.namespace == here if namespaces is None else selects(namespaces, {"kubernetes.io/metadata.name": pod.namespace})
    return inside and selects(peer.get("podSelector") or {}, pod.labels)


def _words(pod: Pod) -> list[str]:
    return [str(word) for container in pod.containers for word in [*container.get("command", []), *container.get("args", [])]]


@policy
def writable_graphql_is_closed(rendered: Rendered) -> Iterator[str]:
    """A Dagster webserver that may be written to runs code for whoever reaches it: the API alone does."""
    for pod in rendered.pods:
        if "dagster-webserver" not in _words(pod) or "--read-only" in _words(pod):
            continue
        for peer in _peers(rendered, pod):
            if peer.get("namespaceSelector") or (peer.get("podSelector") or {}).get("matchLabels", {}).get(COMPONENT) != "api":
                yield f"{pod.owner}: {peer or 'everybody'} may reach a webserver that starts runs"


@policy
def people_come_by_the_login(rendered: Rendered) -> Iterator[str]:
    """The pages for people are read-only, and only the auth proxy reaches them; where there is none, nobody does."""
    pages = [pod for pod in rendered.pods if pod.component == "webserver-read-only"]
    if not pages:
        yield "Deployment webserver-read-only: not rendered"
    for pod in pages:
        if "--read-only" not in _words(pod):
            yield f"{pod.owner}: --read-only"
        for peer in _peers(rendered, pod):
            if (peer.get("podSelector") or {}).get("matchLabels", {}).get(COMPONENT) != "auth-proxy":
                yield f"{pod.owner}: {peer or 'everybody'} may reach it past the login"


@policy
def services_stay_inside(rendered: Rendered) -> Iterator[str]:
    """No Service has an address outside the cluster; what comes in comes by the platform's gateway."""
    for one in rendered.of("Service"):
        if one["spec"].get("type") != "ClusterIP" or one["spec"].get("externalIPs") or any(port.get("nodePort") for port in one["spec"]["ports"]):
            yield f"{title(one)}: ClusterIP only"
    yield from (f"{title(one)}: a way in from outside" for one in rendered.of("Ingress", "HTTPRoute"))


@policy
def rights_are_those_measured(rendered: Rendered) -> Iterator[str]:
    """Roles hold the verbs that were seen to be needed, no other; nothing reaches beyond a namespace."""
    yield from (f"{title(one)}: rights over the whole cluster" for one in rendered.of("ClusterRole", "ClusterRoleBinding"))
    for one in rendered.of("Role"):
        given = {(group, what, verb) for rule in one["rules"] for group in rule["apiGroups"] for what in rule["resources"] for verb in rule["verbs"]}
        allowed = LAUNCHER_RIGHTS if one["metadata"]["labels"][COMPONENT] == "launcher" else PIPES_RIGHTS
        if given != allowed:
            yield f"{title(one)}: more {sorted(given - allowed)}, less {sorted(allowed - given)}"
    for one in rendered.of("RoleBinding"):
        if rendered.find("Role", one["roleRef"]["name"], one["metadata"]["namespace"]) is None:
            yield f"{title(one)}: its role is not rendered"
        for subject in one["subjects"]:
            if subject["kind"] != "ServiceAccount" or rendered.find("ServiceAccount", subject["name"], subject["namespace"]) is None:
                yield f"{title(one)}: {subject['kind']} {subject['name']} is not one of ours"


@policy
def namespaces_are_restricted(rendered: Rendered) -> Iterator[str]:
    """Where we make a namespace, the cluster itself refuses pods that break the standard."""
    made = {one["metadata"]["name"] for one in rendered.of("Namespace")}
    for one in rendered.of("Namespace"):
        if one["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{title(one)}: pod-security.kubernetes.io/enforce restricted"
    for one in rendered.objects:
        if made and one["kind"] != "Namespace" and one["metadata"].get("namespace") not in made:
            yield f"{title(one)}: is in a namespace that is not ours"


@policy
def gpus_are_counted(rendered: Rendered) -> Iterator[str]:
    """A contour that trains on GPUs bounds them, in the namespace of the runs, whoever launches a run."""
    for one in rendered.of("ConfigMap"):
        if not one["metadata"]["name"].endswith("-settings"):
            continue
        resources = yaml.safe_load(one["data"]["values.yaml"])["selfImprovement"].get("resources", {})
        quotas = [quota for quota in rendered.of("ResourceQuota") if any(key.endswith(".com/gpu") for key in quota["spec"]["hard"])]
        if bool(resources.get("gpu")) != bool(quotas):
            yield f"{title(one)}: gpu is {resources.get('gpu')}, and {len(quotas)} quotas count GPUs"
        roles = [role["metadata"]["namespace"] for role in rendered.of("Role") if role["metadata"]["labels"][COMPONENT] == "launcher"]
        yield from (f"{title(quota)}: runs start in {roles}" for quota in quotas if quota["metadata"]["namespace"] not in roles)


@policy
def runs_find_what_they_mount(rendered: Rendered) -> Iterator[str]:
    """What Dagster's instance gives a run pod (accounts, ConfigMaps) is rendered in the namespace of the runs, and its pod is bounded and restricted."""
    config = next((one for one in rendered.of("ConfigMap") if "dagster.yaml" in one.get("data", {})), None)
    launcher = (yaml.safe_load(config["data"]["dagster.yaml"]) or {}).get("run_launcher", {}).get("config") if config else None
    if launcher is None:
        yield "ConfigMap dagster: no run_launcher"
        return
    where = next((role["metadata"]["namespace"] for role in rendered.of("Role") if role["metadata"]["labels"][COMPONENT] == "launcher"), None)
    pod = launcher["run_k8s_config"]["pod_spec_config"]
    names = [("ServiceAccount", launcher["service_account_name"]), ("ConfigMap", launcher["instance_config_map"])]
    names += [("ConfigMap", name) for name in launcher["env_config_maps"]]
    names += [("ConfigMap", volume["config_map"]["name"]) for volume in pod["volumes"] if "config_map" in volume]
    yield from (f"dagster.yaml: {kind} {name} is not rendered in {where}" for kind, name in names if rendered.find(kind, name, where) is None)
    starts_pods = any(role["metadata"]["labels"][COMPONENT] == "runs" for role in rendered.of("Role"))
    if pod["security_context"].get("run_as_non_root") is not True or pod.get("automount_service_account_token") is not starts_pods:
        yield f"dagster.yaml: run pods are nobody's, and automount_service_account_token is {starts_pods}, as their rights are"
