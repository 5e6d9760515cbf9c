"""Settings: the shipped values files, layering, spellings, and one clear message for each kind of bad input."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from predator_si.contour import ContourValues
from predator_si.contour_copies import Copies
from predator_si.contour_gates import DEFAULT_GATES, Gate
from predator_si.contour_types import _duration, _duration_text
from predator_si.errors import BadInput, Missing
from predator_si.monitor.gates import default_criteria
from predator_si.monitor.sources import plan
from predator_si.settings import CHART, DEMO_SCALES, Settings, load_settings
from predator_si.values import BLOCK

SHIPPED = ("local", "dev-mac", "edge-oracle", "compute-nvidia")


@pytest.fixture
def values(tmp_path: Path):
    """Write one more values file and load contour local with it."""

    def load(text: str, contour: str = "local", **keywords) -> Settings:
        file = tmp_path / "mine.yaml"
        file.write_text(text, encoding="utf-8")
        return load_settings(contour, values_file=file, env={}, **keywords)

    return load


# ------------------------------------------------------------------ what is shipped


def test_models_defaults_are_contour_local():
    assert load_settings("local", env={}).values == ContourValues()


def test_an_installed_package_without_values_files_knows_local_only(tmp_path: Path):
    nowhere = tmp_path / "no-chart"
    assert load_settings("local", env={}, chart=nowhere).values == load_settings("local", env={}).values
    with pytest.raises(Missing, match="edge-oracle"):
        load_settings("edge-oracle", env={}, chart=nowhere)


def test_a_values_file_lies_over_the_defaults_of_an_installed_package(values, tmp_path: Path):
    settings = values(f"{BLOCK}: {{qualityGates: {{p95_latency: {{max: 650}}, ndcg_at_10: null}}}}", chart=tmp_path / "no-chart")
    assert "ndcg_at_10" not in {gate.metric for gate in settings.quality_gates}
    assert next(gate.threshold for gate in settings.quality_gates if gate.metric == "p95_latency_ms") == 650


@pytest.mark.parametrize("contour", SHIPPED)
def test_every_shipped_contour_loads(contour: str):
    assert load_settings(contour, env={}).contour == contour


def test_base_file_spells_every_key_once():
    """A key left out of values.yaml would silently take contour local's default in every other contour."""

    def keys(tree: dict, path: tuple[str, ...] = ()):
        for key, value in tree.items():
            yield (*path, key)
            if isinstance(value, dict):
                yield from keys(value, (*path, key))

    shipped = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))[BLOCK]
    known = ContourValues().model_dump(by_alias=True)
    gates = known.pop("qualityGates")
    assert set(keys({**shipped, "qualityGates": 0})) == {*keys(known), ("qualityGates",)}
    spelled = {{"p95_latency": "p95_latency_ms", "etl_lag": "etl_lag_seconds"}.get(name, name) for name in shipped["qualityGates"]}
    assert spelled == set(gates)


def test_contours_behave_as_the_contract_says():
    local, mac, edge, compute = (load_settings(contour, env={}) for contour in SHIPPED)
    assert not mac.enabled and mac.mock_signals
    assert edge.policy == "staging" and edge.ab_split_ratio == 0.2 and edge.approval_required and edge.experiment.max_days == 7
    assert compute.policy == "full" and compute.auto_promote and compute.rollback_on_degrade and compute.resources.gpu and compute.values.kubecost.enabled
    assert not local.approval_required and local.experiment.min_days == 0 and local.watch.requests is not None and local.watch.interval is None
    assert edge.watch.checks == 12 and edge.watch.interval == timedelta(minutes=10)
    assert [gate.name for gate in local.quality_gates if gate.metric == "ndcg_at_10"] == ["ndcg_at_10_relative"]
    assert [gate.name for gate in edge.quality_gates if gate.metric == "ndcg_at_10"] == ["ndcg_at_10_min", "ndcg_at_10_relative"]
    assert not any(settings.mock_signals for settings in (local, edge, compute))


def test_gates_become_criteria_in_canonical_names():
    by_name = {gate.name: gate for gate in load_settings("edge-oracle", env={}).quality_gates}
    relative = by_name["ndcg_at_10_relative"]
    assert (relative.direction, relative.kind, relative.threshold, relative.max_age_seconds) == ("min", "relative", -0.03, 3600)
    p95 = by_name["p95_latency_ms_max"]
    assert (p95.direction, p95.kind, p95.threshold, p95.min_sample) == ("max", "absolute", 800, 50)
    assert by_name["etl_lag_seconds_max"].threshold == 60
    assert by_name["gpu_utilization_max"].no_data == "not_applicable"
    assert all(set(gate.description) == {"en", "uk"} for gate in by_name.values())


@pytest.mark.parametrize("contour", ["local", "edge-oracle"])
def test_the_monitor_s_own_default_gates_are_the_shipped_ones(contour: str):
    shipped = {gate.name: gate.model_copy(update={"description": {}}) for gate in load_settings(contour, env={}).quality_gates}
    own = {gate.name: gate.model_copy(update={"description": {}}) for gate in default_criteria(contour)}
    if contour == "edge-oracle":  # there somebody rates results: silence is unknown, not "no such source"
        shipped["user_satisfaction_min"] = shipped["user_satisfaction_min"].model_copy(update={"no_data": "not_applicable"})
    assert shipped == own


def test_demo_scales_hold_what_the_issue_asks():
    full = DEMO_SCALES["full"]
    assert full.depth == 20 and full.test_queries >= 400
    assert full.trial_requests >= 200 and full.watch_requests >= 200 and full.drill_requests >= 100
    assert DEMO_SCALES["small"].models == "tiny"


# ------------------------------------------------------------------ layering and spellings


def test_flat_and_nested_spellings_mean_the_same(values):
    flat = values(f"{BLOCK}:\n  autoPromote: false\n  abSplitRatio: 0.1\n")
    nested = values(f"{BLOCK}:\n  features: {{autoPromote: false, abSplitRatio: 0.1}}\n")
    assert flat.values == nested.values
    assert not flat.auto_promote and flat.ab_split_ratio == 0.1 and flat.ab_testing


def test_the_two_spellings_may_agree_but_not_contradict(values, tmp_path: Path):
    assert not values(f"{BLOCK}:\n  autoPromote: false\n  features:\n    autoPromote: false\n").auto_promote
    with pytest.raises(BadInput) as refused:
        values(f"{BLOCK}:\n  autoPromote: true\n  features:\n    autoPromote: false\n")
    assert f"{tmp_path / 'mine.yaml'}:2 says autoPromote: True" in str(refused.value)
    assert f"{tmp_path / 'mine.yaml'}:4 says features.autoPromote: False" in str(refused.value)


def test_a_later_file_wins_and_null_removes(values):
    settings = values(f"{BLOCK}:\n  watch: {{interval: 5m, requests: null}}\n  qualityGates: {{error_rate: null, p95_latency_ms: {{max: 400}}}}\n")
    assert settings.watch.interval == timedelta(minutes=5) and settings.watch.requests is None and settings.watch.checks == 4
    assert "error_rate" not in {gate.metric for gate in settings.quality_gates}
    assert [gate.threshold for gate in settings.quality_gates if gate.metric == "p95_latency_ms"] == [400]


def test_blocks_of_the_chart_are_left_alone(values):
    assert values(f"dagster: {{anything: [1, 2]}}\n{BLOCK}: {{maxCyclesPerDay: 2}}\n").max_cycles_per_day == 2


@pytest.mark.parametrize(("contour", "bounds"), [("local", (1, 20)), ("dev-mac", (1, 20)), ("edge-oracle", (2, 4)), ("compute-nvidia", (2, 12))])
def test_copies_are_bounded_as_the_chart_starts_them(contour: str, bounds: tuple[int, int]):
    copies = load_settings(contour, env={}).copies
    assert (copies.least, copies.most) == bounds


def test_bounds_of_copies_lie_over_each_other_as_any_value(values, tmp_path: Path):
    assert values(f"search: {{minReplicas: 3}}\n{BLOCK}: {{}}\n", "edge-oracle").copies == Copies(least=3, most=4)
    assert values(f"search: {{minReplicas: 6}}\n{BLOCK}: {{}}\n", "edge-oracle").copies == Copies(least=6, most=6), "the chart raises its most, too"
    assert values(f"search: {{autoscaling: {{enabled: false}}}}\n{BLOCK}: {{}}\n", "edge-oracle").copies == Copies(least=2, most=20)
    assert values(f"search: {{autoscaling: {{maxReplicas: 60}}}}\n{BLOCK}: {{}}\n", "edge-oracle").copies == Copies(least=2, most=20)
    assert values(f"{BLOCK}: {{}}\n", chart=tmp_path / "no-chart").copies == Copies()
    for text, line, says in (("search: {threads: 1,\n  minReplicas: two}", 2, "search.minReplicas"), ("search: 3", 1, "mapping")):
        with pytest.raises(BadInput, match=rf"mine\.yaml:{line}: .*{says}"):
            values(f"{text}\n{BLOCK}: {{}}\n")


def test_yaml_anchors_and_merge_keys_work(values):
    settings = values(f"x: &gate {{max: 300, minSample: 9}}\n{BLOCK}:\n  qualityGates:\n    p95_latency: {{<<: *gate}}\n")
    assert [(gate.threshold, gate.min_sample) for gate in settings.quality_gates if gate.metric == "p95_latency_ms"] == [(300, 9)]


# ------------------------------------------------------------------ bad input: file, line, and what to do


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("{B}:\n  maxCyclePerDay: 3\n", 2, "unknown key 'selfImprovement.maxCyclePerDay'; did you mean 'maxCyclesPerDay'?"),
        ("{B}:\n  features:\n    autoPromte: true\n", 3, "did you mean 'autoPromote'?"),
        ("{B}:\n  qualityGates:\n    error_rate:\n      maxx: 0.1\n", 4, "did you mean 'max'?"),
        ("{B}:\n  qualityGates:\n    ndgc_at_10: {min: 0.5}\n", 3, "did you mean 'ndcg_at_10'?"),
        ("{B}:\n  maxCyclesPerDay: -1\n", 2, "selfImprovement.maxCyclesPerDay: Input should be greater than or equal to 0"),
        ("{B}:\n  maxCyclesPerDay: '6'\n", 2, "valid integer"),
        ("{B}:\n  enabled: 'yes'\n", 2, "valid boolean"),
        ("{B}:\n  enabled: {a: 1}\n", 2, "valid boolean"),
        ("{B}:\n  policy: everything\n", 2, "'staging' or 'full'"),
        ("{B}:\n  features: true\n", 2, "selfImprovement.features"),
        ("{B}:\n  features: true\n  autoPromote: true\n", 2, "selfImprovement.features"),
        ("{B}:\n  cycleInterval: 90\n", 2, "no unit; write it like 90s"),
        ("{B}:\n  cycleInterval: 4 fortnights\n", 2, "not a duration"),
        ("{B}:\n  watch:\n    interval: 1m\n", 2, "either by interval or by requests"),
        ("{B}:\n  experiment: {minDays: 9}\n", 2, "minDays 9 is more than maxDays 7"),
        ("{B}:\n  qualityGates:\n    ndcg_at_10:\n      relative: 0.03\n", 3, "must be a drop"),
        ("{B}:\n  qualityGates:\n    ndcg_at_10: {relative: 3}\n", 3, "must be a drop"),
        ("{B}:\n  qualityGates:\n    ndcg_at_10: {relative: minus three}\n", 3, "not a fraction"),
        ("{B}:\n  qualityGates:\n    error_rate: {max: 1.5}\n", 3, "error_rate: the limit 1.5 cannot be"),
        ("{B}:\n  qualityGates:\n    p95_latency: {min: 5, max: null}\n", 3, "lower is better here, so its limit is max"),
        ("{B}:\n  qualityGates:\n    ndcg_at_10: {max: 0.5}\n", 3, "higher is better here"),
        ("{B}:\n  qualityGates:\n    ndcg_at_10: {relative: null}\n", 3, "needs min, max or relative"),
        ("{B}:\n  qualityGates:\n    etl_lag: {max: 1}\n    etl_lag_seconds: {max: 2}\n", 4, "are one metric"),
        ("{B}:\n  qualityGates: {error_rate: {max: .nan}}\n", 2, "finite"),
        ("{B}:\n  monitoring: {slackWebhook: 'https://hooks.example/T0/B0'}\n", 2, "name of a secret"),
        ("{B}:\n  sources: {search: localhost}\n", 2, "not an http(s) address"),
        ("{B}:\n  policy: full\n  policy: staging\n", 3, "stands here twice"),
        ("{B}:\n  1: x\n", 2, "not text"),
        ("{B}:\n  a: [1\n  b: 2\n", 3, "malformed YAML"),
        ("{B}:\n\tpolicy: full\n", 2, "malformed YAML"),
        ("{B}: &a\n  features: *a\n", 2, "deeper"),
        ("{B}: 3\n", 1, "must be a mapping"),
        ("- 1\n", 1, "is a mapping"),
        ("selfImprovment: {}\n", 1, "did you mean 'selfImprovement'"),
        ("{B}:\n  policy: 2026-13-45\n", 2, "cannot be read as a value"),
        ("{B}:\n  policy: \x07\n", 2, "malformed YAML"),
    ],
)
def test_bad_values_are_named_with_file_and_line(values, tmp_path: Path, text: str, line: int, says: str):
    with pytest.raises(BadInput) as refused:
        values(text.replace("{B}", BLOCK))
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'mine.yaml'}:{line}:")
    assert says in message
    assert "\n" not in message


BILL = "  sources:\n    opencost: http://costs.example.org:9003\n    metrics: {cost_per_1k_requests: [%s]}\n"


@pytest.mark.parametrize(
    "sources",
    [
        "",
        BILL.replace("    opencost: http://costs.example.org:9003\n", "") % "{source: opencost, query: namespace=search}",
        BILL.replace("    metrics: {cost_per_1k_requests: [%s]}\n", ""),
        BILL % "{source: prices}, {source: opencost, query: namespace=search}",
    ],
)
def test_a_bill_that_nothing_reads_is_refused(values, sources: str):
    with pytest.raises(BadInput, match=r"kubecost\.enabled is true, and no bill is read"):
        values(f"{BLOCK}:\n  kubecost: {{enabled: true}}\n{sources}")


def test_a_bill_that_is_read_may_be_said(values):
    found = values(f"{BLOCK}:\n  kubecost: {{enabled: true}}\n{BILL % '{source: opencost, query: namespace=search}, {source: prices}'}")
    assert [one.source for one in plan(found.sources)["cost_per_1k_requests"]] == ["opencost", "prices"]
    assert [contour for contour in SHIPPED if load_settings(contour, env={}).values.kubecost.cost_optimization] == ["local", "compute-nvidia"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "other: {}\n"])
def test_a_file_without_the_block_is_refused(values, text: str):
    with pytest.raises(BadInput, match=r"mine\.yaml"):
        values(text)


def test_unreadable_files_are_named(tmp_path: Path):
    with pytest.raises(BadInput, match="no such values file"):
        load_settings(values_file=tmp_path / "none.yaml", env={})
    with pytest.raises(BadInput, match="cannot be read"):
        load_settings(values_file=tmp_path, env={})
    (tmp_path / "latin.yaml").write_bytes(b"selfImprovement:\n  policy: \xe9\n")
    with pytest.raises(BadInput, match=r"latin\.yaml:2: not UTF-8"):
        load_settings(values_file=tmp_path / "latin.yaml", env={})


def test_unknown_contour_names_the_nearest():
    with pytest.raises(Missing, match="did you mean 'edge-oracle'"):
        load_settings("edge-oracel", env={})


# ------------------------------------------------------------------ environment


def test_environment_names_home_cache_ports_and_service(tmp_path: Path):
    settings = load_settings(
        env={"PREDATOR_SI_HOME": str(tmp_path / "h"), "PREDATOR_SI_CACHE": str(tmp_path / "c"), "PREDATOR_SI_PORTS": "dagster=3100, search=8180"}
    )
    assert (settings.home, settings.cache) == (tmp_path / "h", tmp_path / "c")
    assert (settings.ports.dagster, settings.ports.mlflow, settings.ports.search) == (3100, 5000, 8180)
    assert settings.search_url == "http://127.0.0.1:8180"


def test_arguments_win_over_environment(tmp_path: Path):
    settings = load_settings("local", home=tmp_path / "a", env={"PREDATOR_SI_HOME": "b", "PREDATOR_SI_CONTOUR": "edge-oracle"})
    assert (settings.contour, settings.home) == ("local", tmp_path / "a")


def test_a_child_process_loads_the_same_settings(values, tmp_path: Path):
    settings = values(f"{BLOCK}: {{maxCyclesPerDay: 3, sources: {{search: 'http://10.0.0.9:80/'}}}}", home=tmp_path)
    assert settings.search_url == "http://10.0.0.9:80"
    assert load_settings(env=settings.environment()) == settings


def test_a_mounted_folder_of_values_takes_the_checkout_s_place(tmp_path: Path):
    """As the chart mounts it: the whole block in values.yaml, nothing to add in the contour's own file."""
    (tmp_path / "values.yaml").write_text(f"{BLOCK}: {{maxCyclesPerDay: 2}}\n")
    (tmp_path / "values-edge-oracle.yaml").write_text(f"{BLOCK}: {{}}\n")
    settings = load_settings("edge-oracle", env={"PREDATOR_SI_CHART": str(tmp_path)})
    assert settings.max_cycles_per_day == 2
    assert load_settings(env=settings.environment()) == settings
    with pytest.raises(Missing, match="compute-nvidia"):
        load_settings("compute-nvidia", env={"PREDATOR_SI_CHART": str(tmp_path)})


@pytest.mark.parametrize("ports", ["3000", "dagster=", "dagster=x", "dagstr=3000", "search=70000", "search=0", "search=3000"])
def test_bad_ports_are_refused(ports: str):
    with pytest.raises(BadInput, match="PREDATOR_SI_PORTS"):
        load_settings(env={"PREDATOR_SI_PORTS": ports})


def test_settings_are_frozen(settings: Settings):
    with pytest.raises(ValueError, match="frozen"):
        settings.contour = "edge-oracle"


# ------------------------------------------------------------------ properties


@given(st.integers(min_value=1, max_value=10**7))
def test_durations_survive_their_text(seconds: int):
    assert _duration(_duration_text(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


@given(st.floats(min_value=-0.99, max_value=0, allow_nan=False))
def test_a_percentage_is_a_fraction(fraction: float):
    text = f"{fraction * 100:.6f}%"
    assert Gate(relative=text).relative == pytest.approx(fraction, abs=1e-8)  # type: ignore[arg-type]


def test_default_gates_are_the_ones_of_the_contract():
    assert DEFAULT_GATES["avg_latency_ms"].max == 500 and DEFAULT_GATES["cost_per_1k_requests"].max == 0.5 and DEFAULT_GATES["user_satisfaction"].min == 4.0
