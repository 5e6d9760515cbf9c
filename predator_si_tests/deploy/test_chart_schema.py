"""``values.schema.json``: made from the models that read the same values, and refusing what they refuse, with the path."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.contour import ContourValues
from predator_si.errors import BadInput
from predator_si.release.chart import render_contour
from predator_si.release.chart_values import NOT_A_DIGEST, SCHEMA_FILE, chart_schema, schema_text
from predator_si.release.release_file import OWNED_KEYS
from predator_si.settings import CHART, load_settings
from predator_si.values import BLOCK, FEATURES
from predator_si_tests.support.charts import CHAMPION, CONTOURS, RELEASE, files, helm


def test_the_schema_is_the_one_that_the_models_make():
    written = (CHART / SCHEMA_FILE).read_text(encoding="utf-8")
    assert written == schema_text(), "write it again: python -m predator_si.release.chart_values"


@functools.cache
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(chart_schema())
    return jsonschema.Draft202012Validator(chart_schema())


def merged(contour: str) -> dict[str, Any]:
    """The contour's values as Helm lays them over each other."""

    def lay(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
        for key, value in over.items():
            if value is None:
                base.pop(key, None)
            else:
                base[key] = lay(dict(base.get(key) or {}), value) if isinstance(value, dict) else value
        return base

    values: dict[str, Any] = {}
    texts = [(CHART / name).read_text(encoding="utf-8") for name in ("values.yaml", f"values-{contour}.yaml")]
    for text in [*texts, *files(contour).values()]:
        values = lay(values, yaml.safe_load(text))
    return values


@pytest.mark.parametrize("contour", CONTOURS)
def test_every_contour_fits(contour: str):
    validator().validate(merged(contour))


def put(values: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    node = values
    *sections, leaf = dotted.split(".")
    for section in sections:
        node = node.setdefault(section, {})
    node[leaf] = value
    return values


# --------------------------------------------------------------------------- what Helm says of wrong values


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("selfImprovement.maxCyclesPerDay", "six", "/selfImprovement/maxCyclesPerDay"),
        ("selfImprovement.maxCyclePerDay", 6, "maxCyclePerDay"),
        ("selfImprovement.kubecost.enabled", True, "/selfImprovement/sources"),
        ("selfImprovement.qualityGates.error_rate.maxx", 0.1, "/selfImprovement/qualityGates/error_rate"),
        ("selfImprovement.qualityGates.eror_rate", {"max": 0.1}, "eror_rate"),
        ("reranker.champion", "latest", "/reranker/champion"),
        ("reranker.candidateWeigt", 0.2, "candidateWeigt"),
        ("replicas", 0, "/replicas"),
        ("images.serving.digest", NOT_A_DIGEST, "/images/serving/digest"),
        ("images.serving.digest", None, "/images/serving"),
        ("images.authProxy.digest", None, "/images/authProxy"),
        ("authProxy.issuer", "http://login.example.org", "/authProxy/issuer"),
        ("network.destinations.git", {"namespace": "git"}, "/network/destinations/git"),
        ("serach", {"minReplicas": 2}, "serach"),
    ],
)
def test_helm_refuses_a_wrong_value_with_its_path(key: str, value: Any, says: str):
    held = files("edge-oracle")
    held["site-edge-oracle.yaml"] = yaml.safe_dump(put(yaml.safe_load(held["site-edge-oracle.yaml"]), key, value))
    if key.startswith(("reranker", "replicas")):  # the release file is laid over the site's
        held["release-edge-oracle.yaml"] = yaml.safe_dump(put(copy.deepcopy(RELEASE), key, value))
    with pytest.raises(BadInput) as refused:
        render_contour(helm(), CHART, "edge-oracle", held)
    assert says in str(refused.value)


def test_a_contour_without_a_release_is_refused():
    held = files("edge-oracle")
    del held["release-edge-oracle.yaml"]
    with pytest.raises(BadInput, match="champion"):
        render_contour(helm(), CHART, "edge-oracle", held)


# --------------------------------------------------------------------------- the schema and the models say the same


WRONG = [
    ("maxCyclesPerDay", -1), ("maxCyclesPerDay", 1.5), ("enabled", "yes"), ("policy", "everything"), ("features", True), ("features.autoPromte", True),
    ("cycleInterval", 90), ("cycleInterval", "4 fortnights"), ("qualityGates.ndcg_at_10.relative", "minus three"), ("qualityGates.ndcg_at_10.noData", "pass"),
    ("abSplitRatio", 0.9), ("backup.schedule", "nightly"), ("watch.checks", 0), ("sources.credentials.postgres", {"password": "x"}), ("budget.usdPerMonth", 0),
    ("experiment.modes", ["abc"]), ("training.trainer", "torch"), ("probes.stays", 0), ("llmJudge.keyEnv", "lower-case"), ("notify.channels", ["pager"]),
]  # fmt: skip
RIGHT = [
    ("autoPromote", True), ("features.abSplitRatio", 0.5), ("cycleInterval", "90s"), ("qualityGates.ndcg_at_10.relative", -0.05),
    ("qualityGates.ndcg@10", {"min": 0.5}),
    ("qualityGates.mrr", {"relative": "-2.5%", "hysteresis": {"margin": "10%"}}), ("maxCyclesPerDay", 0), ("sources.search", "http://search:8080"),
    ("experiment.design", {"harm_alpha": 0.002}), ("training.averages", []), ("backup.destination", "s3://b/p"), ("watch.interval", "1.5h"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "fits"), [(key, value, False) for key, value in WRONG] + [(key, value, True) for key, value in RIGHT])
def test_settings_and_schema_agree(tmp_path: Path, key: str, value: Any, fits: bool):
    assert validator().is_valid(put(merged("edge-oracle"), f"{BLOCK}.{key}", value)) is fits
    if key == "qualityGates.ndcg@10":
        return  # beside the other spelling of the same metric, which only Settings can tell
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({BLOCK: put({}, key, value)}))
    try:
        load_settings("edge-oracle", values_file=tmp_path / "mine.yaml", env={})
    except BadInput:
        assert not fits
    else:
        assert fits


def test_every_key_of_the_contour_and_of_the_release_is_known():
    schema = chart_schema()
    parts = schema["$defs"]
    known = {field.alias or name for name, field in ContourValues.model_fields.items()}
    assert set(parts["ContourValues"]["properties"]) == known | set(FEATURES)
    reranker = {key.removeprefix("reranker.") for key in OWNED_KEYS if key.startswith("reranker.")}
    assert reranker <= set(parts["Reranker"]["properties"])
    strict = [name for name, part in parts.items() if part.get("type") == "object" and part.get("additionalProperties") is not False]
    assert not strict, "unknown keys are refused everywhere"


@settings(max_examples=20, deadline=None)
@given(
    st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=12),
    st.sampled_from(["", "selfImprovement", "images.platform", "search.ingest", "reranker", "network"]),
)
def test_no_unknown_key_gets_in_anywhere(name: str, where: str):
    values = merged("edge-oracle")
    node: Any = values
    for section in filter(None, where.split(".")):
        node = node[section]
    if name in node or name in {"global", *FEATURES} or _knows(validator().schema, where, name):
        return
    node[name] = 1
    assert not validator().is_valid(values)


def _knows(schema: dict[str, Any], where: str, name: str) -> bool:
    part = schema
    for section in filter(None, where.split(".")):
        part = part["properties"][section]
        part = schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
    return name in part["properties"]


def test_digests_are_wanted_by_contour():
    def fits(contour: str, **images: Any) -> bool:
        values = merged(contour)
        for name, digest in images.items():
            values["images"][name]["digest"] = digest
        return validator().is_valid(values)

    assert fits("dev-mac", platform=None, serving=None, training=None)
    assert not fits("edge-oracle", platform=None) and not fits("edge-oracle", serving=None)
    assert fits("edge-oracle", training=None), "it has no GPU"
    assert not fits("compute-nvidia", training=None)
    assert not fits("dev-mac", platform=NOT_A_DIGEST) and not fits("compute-nvidia", platform=NOT_A_DIGEST)
    assert fits("edge-oracle", platform=CHAMPION)
