"""What the chart makes of a contour and of a release: real Helm, Kubernetes' schemas, the settings that a pod would read."""

from __future__ import annotations

import copy
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predator_si.contour_copies import Copies
from predator_si.errors import BadInput, Missing
from predator_si.records import ModelCard, ServingConfig
from predator_si.release.chart import difference, file_names, lint_contour, misfits, render_contour, settings_differ
from predator_si.release.chart_objects import complaints
from predator_si.release.deny import SEED_DENY, add_denied, deny_entries
from predator_si.release.release_file import ReleaseFile, seed_release
from predator_si.search.release_file import parse_denied, parse_release
from predator_si.settings import CHART, load_settings
from predator_si_tests.support.charts import CANDIDATE, CHAMPION, CONTOURS, RELEASE, files, helm, objects, one, rendered

EDGE, GPU = "edge-oracle", "compute-nvidia"
SERVICE_MONITOR = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "ServiceMonitor"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["selector", "endpoints"],
            "properties": {
                "selector": {"type": "object", "properties": {"matchLabels": {"type": "object"}}, "additionalProperties": False},
                "endpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {"port": {"type": "string"}, "path": {"type": "string"}, "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"}},
                    },
                },
            },
        },
    },
}
"""The fields of the Prometheus operator's CRD that the chart uses, written down from its documentation: the CRD itself is not at hand."""


@pytest.mark.parametrize("contour", CONTOURS)
def test_every_contour_is_clean_and_fits_kubernetes(contour: str):
    lint_contour(helm(), CHART, contour, files(contour))
    found = objects(contour)
    faults, unknown = misfits(found)
    assert not faults
    # a kind without a schema is an error, but for the one that is checked below
    assert set(unknown) <= {"monitoring.coreos.com/v1/ServiceMonitor"}
    for each in found:
        if each["kind"] == "ServiceMonitor":
            jsonschema.validate(each, SERVICE_MONITOR)


def test_the_schemas_refuse_what_is_wrong():
    broken = [one(objects(EDGE), "Deployment", "search"), one(objects(EDGE), "Service", "search")]
    broken[0]["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    broken[1]["spec"]["ports"][0]["port"] = "eighty"
    faults, _ = misfits(broken)
    assert len(faults) == 2 and "imagePullPolice" in faults[0] and "spec.ports.0.port" in faults[1]
    assert misfits([{"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": "x"}}])[1] == ["argoproj.io/v1alpha1/Rollout"]


# --------------------------------------------------------------------------- one source of truth


@pytest.mark.parametrize("contour", CONTOURS)
def test_a_pod_reads_the_settings_that_the_values_files_give(contour: str):
    assert settings_differ(objects(contour), CHART, contour, files(contour)) is None


@pytest.mark.parametrize(
    "block",
    [
        {"autoPromote": True, "abSplitRatio": 0.3},  # the flat spelling
        {"qualityGates": {"error_rate": None, "p95_latency": {"max": 650}, "ndcg_at_10": {"min": None}}},  # what a null takes away
        {"training": {"schedule": None}, "watch": {"interval": None, "requests": 60}, "probes": {"rotation": "12h"}},
        {"experiment": {"modes": ["ab"], "ramp": [0.01, 0.05]}, "sources": {"prometheus": None, "metrics": {"p95_latency": [{"source": "events"}]}}},
    ],
)
def test_an_installation_s_own_values_mean_the_same_to_helm_and_to_settings(block: dict[str, Any]):
    held = files(EDGE, site={"selfImprovement": block})
    assert settings_differ(render_contour(helm(), CHART, EDGE, held), CHART, EDGE, held) is None


def test_a_difference_is_named():
    found = objects(EDGE)
    data = one(found, "ConfigMap", "settings")["data"]
    data["values.yaml"] = data["values.yaml"].replace("maxCyclesPerDay: 6", "maxCyclesPerDay: 7")
    assert settings_differ(found, CHART, EDGE, files(EDGE)) == "selfImprovement.maxCyclesPerDay is 6 beside the files and 7 in the cluster"


def test_the_mounted_folder_is_all_that_a_pod_needs(tmp_path: Path):
    found = objects(GPU)
    environment = one(found, "ConfigMap", "env")["data"]
    for name, text in one(found, "ConfigMap", "settings")["data"].items():
        (tmp_path / name).write_text(text)
    inside = load_settings(env={**environment, "PREDATOR_SI_CHART": str(tmp_path)})
    assert inside.contour == GPU and inside.values == load_settings(GPU, env={}).values
    assert inside.copies == load_settings(GPU, env={}).copies == Copies(least=2, most=12)
    services = {
        f"http://{each['metadata']['name']}.{each['metadata']['namespace']}.svc:{each['spec']['ports'][0]['port']}"
        for each in found
        if each["kind"] == "Service"
    }
    assert {inside.search_url, inside.values.api.dagster} <= services


def test_the_chart_has_the_one_dagster_yaml():
    assert (CHART / "files" / "dagster.yaml").read_bytes() == (CHART.parents[1] / "k8s" / "dagster.yaml").read_bytes()


# --------------------------------------------------------------------------- contours


def test_contours_differ_where_they_should():
    found = {contour: objects(contour) for contour in CONTOURS}
    kinds = {contour: {each["kind"] for each in those} for contour, those in found.items()}
    assert kinds["dev-mac"] == kinds["local"]
    assert kinds[EDGE] - kinds["dev-mac"] == {"HorizontalPodAutoscaler", "PodDisruptionBudget", "ServiceMonitor"}
    assert kinds[GPU] - kinds[EDGE] == {"ResourceQuota"}
    assert not kinds["dev-mac"] - kinds[EDGE] and not kinds[EDGE] - kinds[GPU]
    quota = one(found[GPU], "ResourceQuota", "gpu")
    assert (quota["metadata"]["namespace"], quota["spec"]["hard"]) == ("predator-si-runs", {"requests.nvidia.com/gpu": "1"})
    components = {contour: {each["metadata"]["name"] for each in those if each["kind"] == "Deployment"} for contour, those in found.items()}
    assert components[EDGE] - components["dev-mac"] == {"predator-si-auth-proxy"} and components[EDGE] == components[GPU]
    assert components["dev-mac"] - components["local"] == {"predator-si-api"}, "contour local's API answers on loopback only"
    images = {contour: one(those, "ConfigMap", "env")["data"]["PREDATOR_SI_IMAGE"] for contour, those in found.items()}
    assert images["dev-mac"] == "predator-si/platform:dev"
    assert images[EDGE].startswith("predator-si/platform@sha256:") and images[GPU].startswith("predator-si/training@sha256:")
    blocks = {contour: yaml.safe_load(one(those, "ConfigMap", "settings")["data"]["values.yaml"])["selfImprovement"] for contour, those in found.items()}
    assert [blocks[contour]["enabled"] for contour in CONTOURS] == [False, True, True, True]
    assert [blocks[contour]["mockSignals"] for contour in CONTOURS] == [True, False, False, False]
    assert [blocks[contour]["features"]["autoPromote"] for contour in CONTOURS] == [False, True, False, True]


def test_runs_of_another_namespace_find_everything_there():
    there = {(each["kind"], each["metadata"]["name"]) for each in objects(GPU) if each["metadata"].get("namespace") == "predator-si-runs"}
    wanted = {("ConfigMap", f"predator-si-{name}") for name in ("settings", "env", "dagster")}
    wanted |= {("NetworkPolicy", f"predator-si-{name}") for name in ("deny", "names", "runs")}
    wanted |= {
        ("ResourceQuota", "predator-si-gpu"),
        ("Role", "predator-si-launcher"),
        ("RoleBinding", "predator-si-launcher"),
        ("ServiceAccount", "predator-si-run"),
    }
    assert there == wanted


def test_a_trainer_in_a_pod_wants_runs_that_may_start_one_and_knows_their_claim():
    block = {"training": {"trainer": "pod", "image": "registry.example.org/trainer@sha256:" + "1" * 64}}
    with pytest.raises(BadInput, match=r"training\.trainer: pod wants runs\.pipes: true"):
        rendered(GPU, site={"selfImprovement": block})
    found = rendered(GPU, site={"selfImprovement": block, "runs": {"pipes": True, "claim": "its-home"}})
    assert {each["data"]["PREDATOR_SI_HOME_CLAIM"] for each in found if each["metadata"]["name"] == "predator-si-env"} == {"its-home"}
    assert not list(complaints(found, GPU))


def test_an_installation_may_have_another_name():
    found = render_contour(helm(), CHART, GPU, files(GPU), release="shop", namespace="search")
    assert not list(complaints(found, GPU))
    assert not [each for each in found if each["metadata"]["name"].startswith("predator-si") and each["metadata"]["name"] != "predator-si-runs"]
    text = next(each for each in found if each["metadata"]["name"] == "shop-dagster")["data"]["dagster.yaml"]
    launcher = yaml.safe_load(text)["run_launcher"]["config"]
    assert (launcher["instance_config_map"], launcher["service_account_name"]) == ("shop-dagster", "shop-run")
    assert launcher["env_secrets"] == ["predator-si-postgresql"], "secrets keep the names that the values give them"


# --------------------------------------------------------------------------- releases


def changed(**more: Any) -> dict[str, Any]:
    release = copy.deepcopy(RELEASE)
    for dotted, value in more.items():
        node = release
        *sections, leaf = dotted.split("__")
        for section in sections:
            node = node[section]
        node[leaf] = value
    return release


def release_map(found: list[dict[str, Any]]) -> dict[str, Any]:
    return next(each for each in found if each["kind"] == "ConfigMap" and "-release-" in each["metadata"]["name"])


def test_a_promotion_touches_search_alone_and_makes_another_release():
    before, after = objects(EDGE), rendered(EDGE, changed(reranker__champion=CANDIDATE, reranker__candidate=None, reranker__candidateWeight=0.0))
    assert release_map(before)["metadata"]["name"] != release_map(after)["metadata"]["name"]
    touched = {line.removeprefix("+++ here/") for line in difference(before, after).splitlines() if line.startswith("+++ ")}
    replaced = {name.rpartition("/")[2] for name in touched if name.startswith("Deployment")}
    assert replaced == {"predator-si-search", "predator-si-search-ingest", "predator-si-search-candidate"}
    assert {name.split()[0] for name in touched} == {"ConfigMap", "Deployment", "NetworkPolicy", "Service"}
    probe = one(after, "Deployment", "search")["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"]
    assert f"champion={CANDIDATE}" in probe
    assert not [each for each in after if "search-candidate" in each["metadata"]["name"]], "no trial, no pod of its own"
    assert not list(complaints(after, EDGE))


def test_taking_a_release_back_gives_the_very_objects_of_before():
    forward = rendered(EDGE, changed(reranker__champion=CANDIDATE))
    back = rendered(EDGE)
    assert difference(objects(EDGE), back) == "" != difference(forward, back)


def test_a_challenger_is_loaded_by_itself_before_anybody_meets_it():
    found = objects(EDGE)
    alone, everybody = one(found, "Deployment", "search-candidate"), one(found, "Deployment", "search")
    waves = [int(each["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-wave", 0)) for each in (alone, everybody)]
    assert waves[0] < waves[1]
    name = next(volume for volume in alone["spec"]["template"]["spec"]["volumes"] if volume["name"] == "release")["configMap"]["name"]
    data = next(each for each in found if each["metadata"]["name"] == name)["data"]
    own = parse_release(data["release-edge-oracle.yaml"].encode(), "candidate")
    assert (own.champion, own.candidate, own.depth, own.fusion_weight) == (CANDIDATE, None, 20, 0.35)
    assert "--reader" in alone["spec"]["template"]["spec"]["containers"][0]["command"]
    assert "--reader" not in one(found, "Deployment", "search-ingest")["spec"]["template"]["spec"]["containers"][0]["command"]


def test_replicas_are_the_release_file_s():
    assert one(rendered("local", changed(replicas=3)), "Deployment", "search")["spec"]["replicas"] == 3
    scaled = one(rendered(EDGE, changed(replicas=7)), "HorizontalPodAutoscaler", "search")["spec"]
    assert (scaled["minReplicas"], scaled["maxReplicas"]) == (7, 7)
    assert one(objects(EDGE), "HorizontalPodAutoscaler", "search")["spec"]["minReplicas"] == 2, "the contour's least"


@pytest.mark.parametrize("key", ["digest", "sourceDigest"])
@pytest.mark.parametrize("role", ["champion", "candidate"])
def test_a_denied_model_is_not_rendered(role: str, key: str):
    entry = {"digest": "sha256:" + "f" * 64, "cycle": "si_2026_11_22_001", "reason": "it was worse", "at": "2026-11-22T10:00:00Z"}
    entry[key] = {"champion": CHAMPION, "candidate": CANDIDATE}[role]
    with pytest.raises(BadInput, match=rf"reranker\.{role}: sha256:\w+ is on the deny list \(it was worse\); revert the commit"):
        rendered(EDGE, denied=[entry])
    with pytest.raises(BadInput, match="on the deny list"):
        rendered(EDGE, denied=[{**entry, "contour": EDGE}])
    assert not list(complaints(rendered(EDGE, denied=[{**entry, "contour": GPU}]), EDGE)), "what another contour took back may be served and released here"


def test_a_candidate_s_own_index_is_refused_at_once_rather_than_by_pods_that_never_become_ready():
    with pytest.raises(BadInput, match=r"index\.candidateBuild: wide cannot be tried here"):
        rendered(EDGE, changed(index__candidateBuild="wide"))
    assert rendered(EDGE, changed(index__build="wide", index__candidateBuild="wide"))


def test_the_files_that_the_loop_writes_are_values_files():
    """The very text of a seeded repository after a rollback: comments, a time that YAML knows as one."""
    seeded = seed_release(ServingConfig(model=CHAMPION, depth=20, fusion_weight=0.35), EDGE)
    bad = ModelCard(name="bad", digest="sha256:" + "f" * 64, source_digest="sha256:" + "e" * 64, backend="torch-fp32", max_length=128)
    denied = add_denied(SEED_DENY, deny_entries(bad, cycle_id="si_2026_11_22_001", reason="it was worse", at=datetime(2026, 11, 22, tzinfo=UTC), keep=()))
    held = {**files(EDGE), **dict(zip(file_names(EDGE)[1:], (seeded, denied), strict=True))}
    data = release_map(render_contour(helm(), CHART, EDGE, held))["data"]
    assert set(parse_denied(data["deny.yaml"].encode(), "deny.yaml").reasons) == {bad.digest, bad.source_digest}
    there, wrote = parse_release(data["release-edge-oracle.yaml"].encode(), "rendered"), parse_release(seeded.encode(), "written")
    assert there.model_copy(update={"sha256": wrote.sha256}) == wrote


SHARES = st.floats(min_value=0, max_value=1).map(lambda value: round(value, 6))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    reranker=st.fixed_dictionaries(
        {"champion": st.just(CHAMPION), "depth": st.integers(0, 200), "earlyExit": st.booleans()},
        optional={
            "candidate": st.sampled_from([CANDIDATE, None]),
            "candidateMode": st.sampled_from(["ab", "shadow"]),
            "candidateDepth": st.integers(0, 200),
            "candidateFirstStage": SHARES,
            "shadow": st.just("sha256:" + "c" * 64),
            "shadowShare": SHARES,
        },
    ),
    weights=st.tuples(st.floats(min_value=1e-5, max_value=1), SHARES),
    replicas=st.integers(1, 20),
    workers=st.integers(1, 8),
    build=st.sampled_from(["first", "wide-2"]),
)
def test_the_service_reads_what_the_loop_wrote(reranker: dict[str, Any], weights: tuple[float, float], replicas: int, workers: int, build: str):
    release = {
        "reranker": reranker,
        "fusion": {"weights": {"rerank": weights[0], "firstStage": weights[1]}},
        "replicas": replicas,
        "ingest": {"workers": workers},
        "index": {"build": build},
    }
    ReleaseFile.model_validate(release)
    data = release_map(rendered("local", release))["data"]["release-local.yaml"]
    there = parse_release(data.encode(), "rendered")
    wrote = parse_release(yaml.safe_dump(release).encode(), "written")
    assert there.model_copy(update={"sha256": ""}) == wrote.model_copy(update={"sha256": ""})
    assert there.sha256 == hashlib.sha256(data.encode()).hexdigest()


def test_a_contour_that_is_not_there_is_named():
    with pytest.raises(Missing, match="the chart's contours are compute-nvidia, dev-mac, edge-oracle, local"):
        render_contour(helm(), CHART, "edge", {})
    assert file_names(EDGE) == ("site-edge-oracle.yaml", "release-edge-oracle.yaml", "deny.yaml")
