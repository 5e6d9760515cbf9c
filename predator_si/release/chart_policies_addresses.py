"""The policy that what the settings name can be reached: everything is denied by default, so an address without a flow is an address that never answers.

What belongs here: which key of a contour's values is asked by which process, through which of the chart's ``network.destinations``. What must not: the shape
of the flows themselves (``chart_policies_flows``).

A Service of the cluster may listen on another port than its pods, and a network policy counts the pods' one, so only an address outside the cluster has its
port compared. What stands in a Secret (the collector of traces, the database's own address) is not read here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from predator_si.release.chart_objects import Rendered, policy

DESTINATIONS = "predator.si/destinations"
"""Annotation of a network policy: which of its rules is whose, ``name=network:port`` or ``name=namespace:port``."""
_BOTH = ("code-server", "runs")
ASKERS: dict[str, tuple[str, ...]] = {
    "postgres": ("daemon", "webserver", "webserver-read-only", "code-server", "runs", "api"),
    "kubernetesApi": ("daemon", "webserver"),
    "git": (*_BOTH, "api"),
    "argocd": (*_BOTH, "api"),
    "search": (*_BOTH, "api"),
    "nextSearch": _BOTH,
    "prometheus": _BOTH,
    "opencost": _BOTH,
    "eventTables": ("runs",),
    "opensearch": ("runs",),
    "languageModel": ("runs",),
    "messages": (*_BOTH, "api"),
    "objectStore": _BOTH,
    "identity": ("auth-proxy",),
}
"""Destination -> the processes that go there."""
_PORTS = {"http": 80, "https": 443, "ssh": 22, "postgresql": 5432, "postgres": 5432}
_SCP = re.compile(r"^[^\s/@]+@([^\s/:]+):(?!//)")
"""Git's ``user@host:path``."""


@dataclass(frozen=True)
class Need:
    """A key that leads out of the chart's own pods. Without ``host`` only that there is a flow can be asked."""

    key: str
    destination: str
    host: str | None = None
    port: int | None = None


def _address(key: str, destination: str, text: str | None) -> Iterator[Need]:
    """The need of one address; none where it is null or a path of this machine."""
    if not text:
        return
    scp = _SCP.match(text)
    if scp is not None:
        yield Need(key, destination, scp.group(1), _PORTS["ssh"])
        return
    parts = urlsplit(text)
    if parts.scheme not in ("", "file", "local"):
        yield Need(key, destination, parts.hostname if parts.scheme in _PORTS else None, parts.port or _PORTS.get(parts.scheme))


def needs(block: Mapping[str, Any]) -> Iterator[Need]:
    """What the processes of a contour with these values ask, beside each other.

    Parameters
    ----------
    block
        ``selfImprovement`` as it is mounted: every key of values.yaml is there.
    """
    sources, promotion, model, notify = block["sources"], block["promotion"], block["augment"]["llm"], block["notify"]
    yield Need("the run launcher", "kubernetesApi")
    yield Need("DAGSTER_PG_HOST", "postgres")
    yield from _address("gitops.url", "git", block["gitops"].get("url"))
    yield from _address("deploy.address", "argocd", block["deploy"].get("address"))
    yield from _address("promotion.search", "nextSearch", promotion.get("search"))
    yield from _address("promotion.store", "objectStore", promotion.get("store"))
    for name in ("search", "prometheus", "opencost"):
        yield from _address(f"sources.{name}", name, sources.get(name))
    yield from _address("sources.postgres", "eventTables", (sources.get("postgres") or {}).get("address"))
    yield from _address("sources.opensearch", "opensearch", (sources.get("opensearch") or {}).get("address"))
    if block["llmJudge"]["enabled"]:
        yield from _address("llmJudge.baseUrl", "languageModel", block["llmJudge"].get("baseUrl"))
    if model["enabled"] and not model["replay"]:
        for key in ("baseUrl", "judgeBaseUrl"):
            yield from _address(f"augment.llm.{key}", "languageModel", model.get(key))
    if notify["channels"] or block["monitoring"].get("slackWebhook"):
        yield Need("notify.channels", "messages")
    if block["backup"]["enabled"]:
        yield from _address("backup.destination", "objectStore", block["backup"].get("destination"))


@policy
def addresses_have_flows(rendered: Rendered) -> Iterator[str]:
    """Every address in the settings has its destination, at the processes that ask it: the namespace of its Service, or network and port of an outer one."""
    maps = rendered.of("ConfigMap")
    settings = next((one["data"] for one in maps if one["metadata"]["name"].endswith("-settings")), None)
    environment = next((one["data"] for one in maps if one["metadata"]["name"].endswith("-env")), None)
    if settings is None or environment is None:
        yield "ConfigMap settings or env: not rendered"
        return
    found = [*needs(yaml.safe_load(settings["values.yaml"])["selfImprovement"])]
    found += _address("dagster.computeLogs", "objectStore", environment.get("PREDATOR_SI_COMPUTE_LOGS"))
    words = [str(word) for pod in rendered.pods if pod.component == "auth-proxy" for container in pod.containers for word in container.get("args", [])]
    for word in words:
        if word.startswith("--oidc-issuer-url="):
            found += _address("authProxy.issuer", "identity", word.partition("=")[2])
    for need in found:
        for asker in ASKERS[need.destination]:
            for one in rendered.of("NetworkPolicy"):
                if one["metadata"]["name"].endswith(f"-{asker}"):
                    problem = _problem(need, one)
                    if problem is not None:
                        yield f"{need.key}: {asker} {problem}"


def _problem(need: Need, flows: Mapping[str, Any]) -> str | None:
    """Why a process with these flows does not reach what it needs; ``None`` where it does."""
    text = (flows["metadata"].get("annotations") or {}).get(DESTINATIONS, "")
    where, _, port = dict(item.partition("=")[::2] for item in text.split()).get(need.destination, "").rpartition(":")
    wanted = f"{need.host or 'its address'}{f':{need.port}' if need.port else ''}"
    if not where:
        return f"may not talk to {wanted}; give network.destinations.{need.destination}"
    network = "/" in where
    peer = {"ipBlock": {"cidr": where}} if network else {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": where}}}
    if not any(rule["to"] == [peer] and [each["port"] for each in rule["ports"]] == [int(port)] for rule in flows["spec"].get("egress") or []):
        return f"has no rule for {need.destination} to {where}, port {port}"
    if need.host is None:
        return None
    service = _service_namespace(need.host)
    if not network:
        return None if service == where else f"may talk to namespace {where}, and {need.host} is no Service there (NAME.{where}.svc)"
    if _is_address(need.host) and ipaddress.ip_address(need.host) not in ipaddress.ip_network(where, strict=False):
        return f"may talk to {where}, and {need.host} is not in it"
    if need.port != int(port) and not need.host.endswith((".svc", ".svc.cluster.local")):
        return f"asks {wanted}, and network.destinations.{need.destination} lets port {port} through"
    return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _service_namespace(host: str) -> str | None:
    """Namespace of ``name.namespace``, ``name.namespace.svc`` or the full name of a Service; ``None`` of any other host."""
    name, _, rest = host.removesuffix(".").removesuffix(".cluster.local").removesuffix(".svc").partition(".")
    return rest if name and rest and "." not in rest and not _is_address(host) else None
