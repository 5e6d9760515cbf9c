"""Policies for rendered pods and workloads: what may run, as whom, from which image, and when it may be given work.

What belongs here: one function a policy; it yields a line for each object that breaks it. What must not: network flows and rights
(``chart_policies_flows``), schemas.
Sources: the Kubernetes Pod Security Standard "restricted", and facts measured with dagster-k8s and the search service.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from predator_si.release.chart_objects import COMPONENT, Pod, Rendered, policy, title
from predator_si.release.chart_values import LOCAL_CONTOURS, NOT_A_DIGEST

LEAST_USER = 10_000
"""Below are users that a node may have."""
WITH_TOKEN = frozenset({"daemon", "webserver"})
"""They start and end run pods."""
ALONE = frozenset({"daemon", "search-ingest", "code-server", "mlflow"})
"""Two at once would both own what belongs to one."""
SERVING = frozenset({"search", "search-candidate", "api", "webserver", "webserver-read-only", "auth-proxy"})
"""People or programs wait for them: another pod is ready before one goes."""
_IMAGE = re.compile(r"^[^@\s]+@sha256:[0-9a-f]{64}$")
_PLAIN_VOLUMES = {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected", "downwardAPI"}
_SECRET_NAME = re.compile(r"PASSWORD|PASSWD|TOKEN|SECRET|CREDENTIAL|API_?KEY|PRIVATE", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|\b(?:xox[abps]-|ghp_|glpat-|github_pat_|AKIA)[A-Za-z0-9_-]{8,}|hooks\.slack\.com/services/\w|://[^/\s:@{}]+:[^/\s@{}]+@"
)


def _containers(rendered: Rendered) -> Iterator[tuple[Pod, Mapping[str, Any], str]]:
    for pod in rendered.pods:
        for container in pod.containers:
            yield pod, container, f"{pod.owner}, container {container['name']}"


@policy
def runs_as_nobody(rendered: Rendered) -> Iterator[str]:
    """No process is root, or a user that a node may have."""
    for pod, container, where in _containers(rendered):
        context = {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}
        if context.get("runAsNonRoot") is not True or int(context.get("runAsUser", 0)) < LEAST_USER or int(context.get("runAsGroup", 0)) < LEAST_USER:
            yield f"{where}: runAsNonRoot, and a user and group from {LEAST_USER} on"


@policy
def root_is_read_only(rendered: Rendered) -> Iterator[str]:
    """What is in an image stays as it is."""
    for _, container, where in _containers(rendered):
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield f"{where}: readOnlyRootFilesystem"


@policy
def no_capabilities(rendered: Rendered) -> Iterator[str]:
    """All Linux capabilities are dropped, none added."""
    for _, container, where in _containers(rendered):
        capabilities = container.get("securityContext", {}).get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
            yield f"{where}: capabilities drop [ALL], add none"


@policy
def no_escalation(rendered: Rendered) -> Iterator[str]:
    """Nobody gains rights that he was not started with."""
    for _, container, where in _containers(rendered):
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield f"{where}: allowPrivilegeEscalation false, not privileged"


@policy
def system_calls_are_filtered(rendered: Rendered) -> Iterator[str]:
    """The runtime's seccomp profile holds."""
    for pod in rendered.pods:
        if pod.spec.get("securityContext", {}).get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.owner}: seccompProfile RuntimeDefault"


@policy
def nothing_of_the_node(rendered: Rendered) -> Iterator[str]:
    """No network, process table, port or folder of the node."""
    for pod in rendered.pods:
        yield from (f"{pod.owner}: {key}" for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if pod.spec.get(key))
        for volume in pod.spec.get("volumes", []):
            foreign = set(volume) - {"name"} - _PLAIN_VOLUMES
            if foreign:
                yield f"{pod.owner}: volume {volume['name']} is {', '.join(foreign)}"
    for _, container, where in _containers(rendered):
        if any(port.get("hostPort") for port in container.get("ports", [])):
            yield f"{where}: hostPort"


@policy
def scratch_space_is_bounded(rendered: Rendered) -> Iterator[str]:
    """A process that writes without end fills its own folder, not the node."""
    for pod in rendered.pods:
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume and not (volume["emptyDir"] or {}).get("sizeLimit"):
                yield f"{pod.owner}: emptyDir {volume['name']} without sizeLimit"


@policy
def tokens_only_where_needed(rendered: Rendered) -> Iterator[str]:
    """The key to the cluster's API lies only in pods that start runs."""
    for pod in rendered.pods:
        if pod.spec.get("automountServiceAccountToken") is not (pod.component in WITH_TOKEN):
            yield f"{pod.owner}: automountServiceAccountToken is {pod.component in WITH_TOKEN} for {pod.component}"
    for account in rendered.of("ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False and account["metadata"]["labels"].get(COMPONENT) != "runs":
            yield f"{title(account)}: automountServiceAccountToken false; a pod that needs it says so"


@policy
def accounts_of_our_own(rendered: Rendered) -> Iterator[str]:
    """No pod runs under the namespace's default account, or under one that is not there."""
    for pod in rendered.pods:
        name = pod.spec.get("serviceAccountName", "default")
        if rendered.find("ServiceAccount", name, pod.namespace) is None:
            yield f"{pod.owner}: service account {name} is not among the rendered ones"


@policy
def resources_are_bounded(rendered: Rendered) -> Iterator[str]:
    """Each container says what it needs and what it may take at most."""
    for _, container, where in _containers(rendered):
        resources = container.get("resources", {})
        lacking = [f"{side}.{what}" for side in ("requests", "limits") for what in ("cpu", "memory") if not (resources.get(side) or {}).get(what)]
        if lacking:
            yield f"{where}: no {', '.join(lacking)}"


@policy
def images_by_digest(rendered: Rendered) -> Iterator[str]:
    """What runs is what was checked. Contours of one machine name a tag of their own instead, never ``latest``."""
    for _, container, where in _containers(rendered):
        image = str(container.get("image", ""))
        if rendered.contour in LOCAL_CONTOURS and re.search(r":(?!latest$)[\w.-]+$", image):
            continue
        if not _IMAGE.match(image) or image.endswith(NOT_A_DIGEST):
            yield f"{where}: image {image!r} is not named by its digest"


@policy
def no_secret_is_written_down(rendered: Rendered) -> Iterator[str]:
    """Secrets are named, never rendered: not as objects, not in environments, arguments or ConfigMaps."""
    for secret in rendered.of("Secret"):
        yield f"{title(secret)}: a Secret in what Git holds"
    for _, container, where in _containers(rendered):
        for variable in container.get("env", []):
            if variable.get("value") and _SECRET_NAME.search(variable["name"]):
                yield f"{where}: {variable['name']} has its content here"
        for word in [*container.get("command", []), *container.get("args", [])]:
            if _SECRET_TEXT.search(str(word)) or re.search(r"(?:secret|password|token)=\S", str(word), re.IGNORECASE):
                yield f"{where}: a secret among its arguments"
    for one in rendered.of("ConfigMap"):
        for key, text in one.get("data", {}).items():
            if _SECRET_TEXT.search(str(text)) or (_SECRET_NAME.search(key) and text and not str(text).startswith("/")):
                yield f"{title(one)}: {key} holds a secret"


@policy
def health_is_asked(rendered: Rendered) -> Iterator[str]:
    """What listens is asked whether it can work, and everything long-lived whether it still does."""
    for one in rendered.of("Deployment"):
        for container in one["spec"]["template"]["spec"]["containers"]:
            wanted = ["livenessProbe", *(["readinessProbe"] if container.get("ports") else [])]
            yield from (f"{title(one)}, container {container['name']}: no {probe}" for probe in wanted if not container.get(probe))


@policy
def traffic_only_for_the_release(rendered: Rendered) -> Iterator[str]:
    """A search pod is ready once it has loaded the model of its release file, told by digest, and that very file is in force."""
    for one in rendered.of("Deployment"):
        component = one["metadata"]["labels"].get(COMPONENT, "")
        if not component.startswith("search"):
            continue
        spec = one["spec"]["template"]["spec"]
        names = [volume["configMap"]["name"] for volume in spec["volumes"] if volume["name"] == "release"]
        config = rendered.find("ConfigMap", names[0], one["metadata"]["namespace"]) if names else None
        if config is None:
            yield f"{title(one)}: mounts no release that is rendered"
            continue
        text = next((text for key, text in config["data"].items() if key.startswith("release-")), "")
        release = yaml.safe_load(text) or {}
        wanted = f"/ready?champion={release.get('reranker', {}).get('champion')}&release={hashlib.sha256(text.encode()).hexdigest()}"
        asked = spec["containers"][0].get("readinessProbe", {}).get("httpGet", {}).get("path")
        if asked != wanted:
            yield f"{title(one)}: readiness asks {asked}, not {wanted}"


@policy
def a_release_never_changes(rendered: Rendered) -> Iterator[str]:
    """A release's ConfigMap is immutable, so pods of the old release keep the old one until they are replaced."""
    for one in rendered.of("ConfigMap"):
        if any(key.startswith("release-") for key in one.get("data", {})) and one.get("immutable") is not True:
            yield f"{title(one)}: immutable"


@policy
def nothing_denied_is_served(rendered: Rendered) -> Iterator[str]:
    """No release names a model that its deny list forbids in this contour; what another contour took back may be served here."""
    for one in rendered.of("ConfigMap"):
        data = one.get("data", {})
        release = next((yaml.safe_load(text) or {} for key, text in data.items() if key.startswith("release-")), {})
        entries = (yaml.safe_load(data.get("deny.yaml", "")) or {}).get("denied", [])
        denied = {entry.get(key) for entry in entries if entry.get("contour") in (None, rendered.contour) for key in ("digest", "sourceDigest")}
        for role in ("champion", "candidate", "shadow"):
            digest = release.get("reranker", {}).get(role)
            if digest is not None and digest in denied:
                yield f"{title(one)}: the {role} {digest} is on the deny list"


@policy
def nobody_waits_for_an_update(rendered: Rendered) -> Iterator[str]:
    """What is waited for is replaced pod by pod, the new one first; what must be alone is ended first."""
    for one in rendered.of("Deployment"):
        component, strategy = one["metadata"]["labels"].get(COMPONENT), one["spec"].get("strategy", {})
        if component in SERVING and strategy.get("rollingUpdate", {}).get("maxUnavailable") != 0:
            yield f"{title(one)}: rollingUpdate.maxUnavailable 0"
        if component in ALONE and (strategy.get("type") != "Recreate" or one["spec"].get("replicas") != 1):
            yield f"{title(one)}: one replica, Recreate"


@policy
def a_drain_leaves_somebody(rendered: Rendered) -> Iterator[str]:
    """Where several pods answer, a node's drain does not take all of them."""
    search = rendered.deployment("search")
    scaler = next((one for one in rendered.of("HorizontalPodAutoscaler")), None)
    if search is None:
        yield "Deployment search: not rendered"
        return
    least = scaler["spec"]["minReplicas"] if scaler else search["spec"].get("replicas", 1)
    budgets = [one for one in rendered.of("PodDisruptionBudget") if one["spec"]["selector"] == search["spec"]["selector"]]
    if least > 1 and not any(one["spec"].get("minAvailable") in range(1, least) for one in budgets):
        yield f"{title(search)}: {least} pods and no PodDisruptionBudget that keeps at least one and lets one go"
    if least == 1 and budgets:
        yield f"{title(budgets[0])}: with one pod no node could ever be drained"


@policy
def one_hand_on_the_replicas(rendered: Rendered) -> Iterator[str]:
    """A Deployment that an autoscaler scales says no number itself, or each sync would undo the autoscaler."""
    for scaler in rendered.of("HorizontalPodAutoscaler"):
        target = rendered.find("Deployment", scaler["spec"]["scaleTargetRef"]["name"], scaler["metadata"]["namespace"])
        if target is None or "replicas" in target["spec"]:
            yield f"{title(scaler)}: its target is missing or says replicas itself"
        if scaler["spec"]["minReplicas"] > scaler["spec"]["maxReplicas"]:
            yield f"{title(scaler)}: minReplicas above maxReplicas"


def _wave(one: Mapping[str, Any]) -> int:
    return int(one["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-wave", 0))


@policy
def what_is_needed_comes_first(rendered: Rendered) -> Iterator[str]:
    """Argo CD waits until a wave is healthy: what a pod needs lies in no later wave, and its claim in that of the first pod that mounts it, never before."""
    first: dict[str, int] = {}
    for one in rendered.of("Deployment"):
        spec, namespace = one["spec"]["template"]["spec"], one["metadata"]["namespace"]
        needed = [("ServiceAccount", spec.get("serviceAccountName", ""))]
        needed += [("ConfigMap", volume["configMap"]["name"]) for volume in spec.get("volumes", []) if "configMap" in volume]
        needed += [("ConfigMap", source["configMapRef"]["name"]) for c in spec["containers"] for source in c.get("envFrom", []) if "configMapRef" in source]
        found = [*(rendered.find(kind, name, namespace) for kind, name in needed), *rendered.of("NetworkPolicy", "Namespace")]
        yield from (f"{title(one)}: {title(each)} comes in a later wave" for each in found if each is not None and _wave(each) > _wave(one))
        for volume in spec.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            first[claim] = min(first.get(claim, _wave(one)), _wave(one))
    for claim in rendered.of("PersistentVolumeClaim"):
        if _wave(claim) != first.get(claim["metadata"]["name"]):
            yield f"{title(claim)}: not in the wave of its first pod, {first.get(claim['metadata']['name'])}; a volume that waits for a pod would wait for ever"


@policy
def jobs_end(rendered: Rendered) -> Iterator[str]:
    """A job by the clock never meets itself, is ended when it hangs, and is removed when it is done."""
    for one in rendered.of("CronJob"):
        job = one["spec"]["jobTemplate"]["spec"]
        if one["spec"].get("concurrencyPolicy") != "Forbid" or not one["spec"].get("timeZone"):
            yield f"{title(one)}: concurrencyPolicy Forbid, and a timeZone"
        yield from (f"{title(one)}: {key}" for key in ("activeDeadlineSeconds", "ttlSecondsAfterFinished", "backoffLimit") if job.get(key) is None)


@policy
def variables_of_nobody_else(rendered: Rendered) -> Iterator[str]:
    """Kubernetes adds no variables of its own for every Service; they could shadow a setting."""
    for pod in rendered.pods:
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod.owner}: enableServiceLinks false"


@policy
def names_lead_somewhere(rendered: Rendered) -> Iterator[str]:
    """Every ConfigMap, claim, port and pod that something names is rendered, and no two objects share a name."""
    seen: set[str] = set()
    for one in rendered.objects:
        if title(one) in seen:
            yield f"{title(one)}: rendered twice"
        seen.add(title(one))
    for pod in rendered.pods:
        names = [("ConfigMap", volume["configMap"]["name"]) for volume in pod.spec.get("volumes", []) if "configMap" in volume]
        names += [("ConfigMap", source["configMapRef"]["name"]) for c in pod.containers for source in c.get("envFrom", []) if "configMapRef" in source]
        yield from (f"{pod.owner}: {kind} {name} is not rendered" for kind, name in names if rendered.find(kind, name, pod.namespace) is None)
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        mounted = {mount["name"] for container in pod.containers for mount in container.get("volumeMounts", [])}
        yield from (f"{pod.owner}: volume {name} is mounted and not there, or there and not mounted" for name in volumes ^ mounted)
    for service in rendered.of("Service"):
        chosen = [
            pod for pod in rendered.pods if pod.namespace == service["metadata"]["namespace"] and service["spec"]["selector"].items() <= pod.labels.items()
        ]
        ports = {port["name"] for pod in chosen for container in pod.containers for port in container.get("ports", [])}
        if len(chosen) != 1 or not {port["targetPort"] for port in service["spec"]["ports"]} <= ports:
            yield f"{title(service)}: leads to {len(chosen)} workloads, with ports {sorted(ports)}"


@policy
def everything_says_whose_it_is(rendered: Rendered) -> Iterator[str]:
    """The recommended labels, and the contour."""
    wanted = {f"app.kubernetes.io/{key}" for key in ("name", "instance", "component", "part-of", "managed-by", "version")} | {"predator.si/contour"}
    for one in rendered.objects:
        lacking = wanted - set(one["metadata"].get("labels", {}))
        if lacking:
            yield f"{title(one)}: no label {', '.join(sorted(lacking))}"
