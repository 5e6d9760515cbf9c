"""Each address that a contour's values name has a flow to it, by real Helm: default deny would swallow the others without a word."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import yaml

from predator_si.release.chart_objects import complaints
from predator_si.release.chart_policies_addresses import ASKERS, DESTINATIONS, Need, needs
from predator_si.release.chart_values import ChartValues
from predator_si.settings import CHART
from predator_si_tests.support.charts import objects, one, rendered

EDGE, GPU = "edge-oracle", "compute-nvidia"
MODEL = {"enabled": True, "baseUrl": "https://models.example.org", "model": "one", "replay": False}
OUTSIDE = {"cidr": "198.51.100.7/32", "port": 443}

NO_FLOWS = {"git": None, "messages": None, "objectStore": None}
FLOWS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "none": NO_FLOWS,
    "outside": {
        "git": {**OUTSIDE, "port": 22},
        "argocd": {**OUTSIDE, "namespace": None},
        "nextSearch": OUTSIDE,
        "search": {**OUTSIDE, "port": 8080},
        "eventTables": OUTSIDE,
        "opensearch": {**OUTSIDE, "port": 9200},
    },
}
CASES: list[tuple[str, dict[str, Any], str | None]] = [
    ("as shipped", {"gitops": {"url": "https://git.example.org/a.git", "tokenEnv": "GIT"}}, None),
    ("as shipped", {"gitops": {"url": "ssh://git@git.example.org/a.git"}}, "gitops.url: code-server asks git.example.org:22, "),
    ("as shipped", {"gitops": {"url": "git@git.example.org:a.git"}}, "gitops.url: runs asks git.example.org:22, "),
    ("outside", {"gitops": {"url": "ssh://git@git.example.org/a.git"}}, None),
    ("outside", {"gitops": {"url": "git@git.example.org:a.git"}}, None),
    ("outside", {"gitops": {"url": "ssh://git@git.example.org:7999/a.git"}}, "gitops.url: api asks git.example.org:7999, "),
    ("none", {"gitops": {"url": "/var/lib/predator-si/gitops.git"}}, None),
    ("none", {"gitops": {"url": "https://git.example.org/a.git"}}, "give network.destinations.git"),
    ("as shipped", {"deploy": {"address": "https://argocd.example.org"}}, "argocd.example.org is no Service there"),
    ("outside", {"deploy": {"address": "https://argocd.example.org"}}, None),
    ("as shipped", {"deploy": {"address": "https://argocd-server.argocd.svc"}}, None),
    ("as shipped", {"deploy": {"address": "https://argocd-server.tools.svc"}}, "deploy.address: api may talk to namespace argocd"),
    ("as shipped", {"promotion": {"search": "https://search.compute.example.org"}}, "promotion.search: runs may not talk to"),
    ("outside", {"promotion": {"search": "https://search.compute.example.org"}}, None),
    ("outside", {"sources": {"search": "http://198.51.100.7:8080"}}, None),
    ("outside", {"sources": {"search": "http://198.51.100.8:8080"}}, "198.51.100.8 is not in it"),
    ("outside", {"sources": {"postgres": {"address": "postgresql://events.example.org/db"}}}, "asks events.example.org:5432"),
    ("outside", {"sources": {"opensearch": {"address": "https://ubi.example.org:9200"}}}, None),
    ("as shipped", {"augment": {"llm": MODEL}}, "augment.llm.baseUrl: runs may not talk to models.example.org:443"),
    ("as shipped", {"augment": {"llm": {**MODEL, "enabled": False}}}, None),
    ("none", {"monitoring": {"slackWebhook": "slack-webhook"}}, "notify.channels: code-server may not talk to its address"),
    ("none", {"backup": {"enabled": True, "destination": "s3://backups/si"}}, "backup.destination: runs may not talk to its address"),
    ("none", {"backup": {"enabled": True, "destination": "/var/backups"}}, None),
]


@functools.cache
def edge(flows: str) -> list[dict[str, Any]]:
    return rendered(EDGE, site={"network": {"destinations": FLOWS[flows]}})


@pytest.mark.parametrize(("flows", "block", "says"), CASES)
def test_an_address_without_its_flow_is_named(flows: str, block: dict[str, Any], says: str | None):
    found = copy.deepcopy(edge(flows))
    data = one(found, "ConfigMap", "settings")["data"]
    mounted = yaml.safe_load(data["values.yaml"])
    for section, more in block.items():
        mounted["selfImprovement"][section] |= more
    data["values.yaml"] = yaml.safe_dump(mounted)
    said = list(complaints(found, EDGE, ["addresses_have_flows"]))
    assert said == [] if says is None else any(says in line for line in said), said


@pytest.mark.parametrize("site", [{"dagster": {"computeLogs": "s3://logs/x"}}, {"authProxy": {"issuer": "https://login.example.org:8443"}}])
def test_addresses_outside_the_block_count_too(site: dict[str, Any]):
    found = rendered(EDGE, site={**site, "network": {"destinations": {"objectStore": None}}})
    assert len({line.partition(" ")[2].partition(":")[0] for line in complaints(found, EDGE, ["addresses_have_flows"])}) == 1


def test_every_destination_of_the_chart_is_somebodys_and_leads_where_it_says():
    names = {field.alias for field in ChartValues.model_fields["network"].annotation.model_fields["destinations"].annotation.model_fields.values()}  # type: ignore[union-attr]
    assert names == set(ASKERS) | {"tracing"}, "tracing stands in a Secret"
    here = {name: {"namespace": None, "cidr": f"198.51.100.{number}/32", "port": 1000 + number} for number, name in enumerate(sorted(names), 1)}  # type: ignore[type-var]
    found = rendered(EDGE, site={"network": {"destinations": here}})
    for name in names:
        rule = {"to": [{"ipBlock": {"cidr": here[name]["cidr"]}}], "ports": [{"protocol": "TCP", "port": here[name]["port"]}]}
        allowed = {
            each["metadata"]["name"].removeprefix("predator-si-")
            for each in found
            if each["kind"] == "NetworkPolicy" and rule in each["spec"].get("egress", [])
        }
        assert allowed >= set(ASKERS.get(name, ("code-server",))), name  # type: ignore[call-overload]


def test_argo_rollouts_may_ask_the_api_and_nothing_else():
    found = rendered(EDGE, site={"network": {"rollouts": "argo-rollouts"}})
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "argo-rollouts"}}}
    policies = [each for each in found if each["kind"] == "NetworkPolicy"]
    admits = {each["metadata"]["name"] for each in policies for rule in each["spec"].get("ingress", []) if peer in rule["from"]}
    assert admits == {"predator-si-api"}
    assert not any(peer in rule["from"] for each in objects(EDGE) if each["kind"] == "NetworkPolicy" for rule in each["spec"].get("ingress", []))
    assert not list(complaints(found, EDGE))


def test_a_search_service_elsewhere_is_the_one_that_the_platform_asks():
    block = {"sources": {"search": "http://search.shop.svc:9000"}}
    found = rendered(EDGE, site={"selfImprovement": block, "network": {"destinations": {"search": {"namespace": "shop", "port": 9000}}}})
    assert one(found, "ConfigMap", "env")["data"]["PREDATOR_SI_SEARCH_URL"] == "http://search.shop.svc:9000"
    assert not list(complaints(found, EDGE))


def test_a_rule_that_its_annotation_does_not_have_is_no_flow():
    found = objects(GPU)
    flows = one(found, "NetworkPolicy", "code-server")
    assert "opencost=kubecost:9090" in flows["metadata"]["annotations"][DESTINATIONS].split()
    flows["spec"]["egress"] = [rule for rule in flows["spec"]["egress"] if "kubecost" not in str(rule)]
    assert list(complaints(found, GPU, ["addresses_have_flows"])) == [
        "addresses_have_flows: sources.opencost: code-server has no rule for opencost to kubecost, port 9090"
    ]


def test_what_the_values_file_itself_says_needs_the_cluster_and_its_database_only():
    block = yaml.safe_load((CHART / "values.yaml").read_text())["selfImprovement"]
    assert {need.destination for need in needs(block)} == {"kubernetesApi", "postgres"}
    block["promotion"] |= {"search": "https://a.example.org", "store": "s3://models"}
    assert Need("promotion.store", "objectStore") in set(needs(block))
