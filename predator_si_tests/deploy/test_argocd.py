"""Argo CD's files: valid by its CRDs without an unknown field, no wider than the chart, and with the settings that its users learned the hard way."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from predator_si.release.deny import DENY_FILE
from predator_si_tests.support.argo_schemas import problems
from predator_si_tests.support.kube_access import pod_security_violations
from predator_si_tests.support.kube_store import dig

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "argocd"
CHART = ROOT / "deploy" / "helm" / "predator-umbrella"
CONTOURS = ("dev-mac", "edge-oracle", "compute-nvidia")
OBJECTS = [one for path in sorted(FOLDER.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in OBJECTS if one["kind"] == kind}


PROJECT = named("AppProject")["predator-si"]
APPLICATIONS = {name.removeprefix("predator-si-"): one for name, one in named("Application").items()}
ANALYSES = named("AnalysisTemplate")


@pytest.mark.parametrize("made", OBJECTS, ids=lambda made: made["metadata"]["name"])
def test_each_object_is_what_its_crd_describes(made: dict[str, Any]) -> None:
    assert problems(made) == []


@pytest.mark.parametrize(
    ("kind", "place", "value", "says"),
    [
        ("Application", "spec.syncPolicy.automatic", {}, "automatic"),
        ("Application", "spec.syncPolicy.retry.refresh", "yes", "boolean"),
        ("Application", "spec.sources", "one", "array"),
        ("AppProject", "spec.sourceRepositories", [], "sourceRepositories"),
        ("AnalysisTemplate", "spec.metric", [], "metric"),
    ],
)
def test_a_typing_error_would_be_seen(kind: str, place: str, value: Any, says: str) -> None:
    made = copy.deepcopy(next(one for one in OBJECTS if one["kind"] == kind))
    *above, last = place.split(".")
    dig(made, ".".join(above))[last] = value
    assert any(says in problem for problem in problems(made))


def test_every_contour_of_a_cluster_has_its_application() -> None:
    assert set(APPLICATIONS) == set(CONTOURS)


@pytest.mark.parametrize("contour", CONTOURS)
def test_the_project_lets_each_application_do_what_it_does_and_no_more(contour: str) -> None:
    spec = APPLICATIONS[contour]["spec"]
    assert spec["project"] == PROJECT["metadata"]["name"]
    assert {source["repoURL"] for source in spec["sources"]} == set(PROJECT["spec"]["sourceRepos"])
    assert {"name": spec["destination"]["name"], "namespace": spec["destination"]["namespace"]} in PROJECT["spec"]["destinations"]
    assert "*" not in str(PROJECT["spec"]["sourceRepos"]) + str(PROJECT["spec"]["destinations"])


def test_the_project_allows_the_kinds_of_the_chart_and_no_other() -> None:
    rendered = set()
    for path in (CHART / "templates").glob("*"):
        for version, kind in re.findall(r"^apiVersion: (\S+)\nkind: (\w+)", path.read_text(), re.MULTILINE):
            rendered.add((version.rpartition("/")[0], kind))
    cluster, inside = ({(one["group"], one["kind"]) for one in PROJECT["spec"][name]} for name in ("clusterResourceWhitelist", "namespaceResourceWhitelist"))
    assert cluster == {("", "Namespace")}
    assert rendered == cluster | inside


def test_the_loops_token_may_ask_and_end_a_sync_and_nothing_else() -> None:
    (role,) = PROJECT["spec"]["roles"]
    assert {tuple(word.strip() for word in policy.split(",")[2:4]) for policy in role["policies"]} == {("applications", "get"), ("applications", "sync")}
    assert all(policy.endswith("predator-si/*, allow") for policy in role["policies"])


@pytest.mark.parametrize("contour", CONTOURS)
def test_values_are_laid_over_each_other_as_the_chart_says(contour: str) -> None:
    chart, gitops = APPLICATIONS[contour]["spec"]["sources"]
    assert re.fullmatch(r"v\d+\.\d+\.\d+", chart["targetRevision"]), "a chart that moves by itself deploys itself"
    assert (ROOT / chart["path"] / "Chart.yaml").is_file() and gitops["ref"] == "gitops" and "path" not in gitops
    files = chart["helm"]["valueFiles"]
    assert files == [f"values-{contour}.yaml", f"$gitops/site-{contour}.yaml", f"$gitops/release-{contour}.yaml", f"$gitops/{DENY_FILE}"]
    assert (CHART / files[0]).is_file() and not chart["helm"].get("ignoreMissingValueFiles")


@pytest.mark.parametrize("contour", CONTOURS)
def test_a_failing_sync_does_not_keep_its_own_rollback_out_argo_cd_11494(contour: str) -> None:
    policy = APPLICATIONS[contour]["spec"]["syncPolicy"]
    assert policy["retry"]["refresh"] is True and policy["retry"]["limit"] > 0
    assert policy["automated"] == {"prune": True, "selfHeal": True, "allowEmpty": False}


def test_the_web_analysis_asks_a_call_that_the_api_has_and_holds_when_nobody_knows() -> None:
    from typing import get_args

    from predator_si.api.answers import CycleVerdict

    (metric,) = ANALYSES["predator-si-verdict"]["spec"]["metrics"]
    web = metric["provider"]["web"]
    path = web["url"].removeprefix("{{args.api}}").replace("{{args.cycle}}", "{cycle_id}")
    routes = (ROOT / "predator_si" / "api" / "routes.py").read_text()
    prefix = path.removesuffix("/cycles/{cycle_id}/verdict")
    assert '"/cycles/{cycle_id}/verdict"' in routes and prefix == "/api/v1/optimizer"
    assert web["jsonPath"] == "{$.verdict}"
    words = get_args(CycleVerdict.model_fields["verdict"].annotation)
    outcome = {
        word: "success"
        if metric["successCondition"] == f'result == "{word}"'
        else "failure"
        if metric["failureCondition"] == f'result == "{word}"'
        else "asked again"
        for word in words
    }
    assert outcome == {"promote": "success", "reject": "failure", "inconclusive": "asked again"}
    assert metric["failureLimit"] == 0 and metric["inconclusiveLimit"] > 1 and metric["consecutiveErrorLimit"] > 1
    assert {arg["name"] for arg in ANALYSES["predator-si-verdict"]["spec"]["args"]} == set(re.findall(r"\{\{args\.(\w+)\}\}", str(metric)))


def test_the_job_analysis_runs_a_command_that_there_is_in_a_pod_that_is_let_in() -> None:
    from typer.testing import CliRunner

    from predator_si.cli.commands import app

    spec = ANALYSES["predator-si-verdict-job"]["spec"]["metrics"][0]["provider"]["job"]["spec"]["template"]["spec"]
    assert list(pod_security_violations(spec)) == []
    (container,) = spec["containers"]
    program, *words = container["command"]
    assert program == "predator-si" and "{{args.cycle}}" in words
    answer = CliRunner().invoke(app, [*words[:2], "--help"])
    assert answer.exit_code == 0 and "exit code 0 promote" in " ".join(answer.output.split())


def test_nothing_here_is_a_secret() -> None:
    for path in FOLDER.glob("*.yaml"):
        assert not re.search(r"(password|token|key):\s+[A-Za-z0-9+/_-]{16,}", path.read_text(), re.IGNORECASE), path.name
