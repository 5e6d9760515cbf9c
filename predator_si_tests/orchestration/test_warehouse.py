"""The warehouse as Dagster runs it: the description that loads fast is what dbt says, one run makes the marts, a planted fault is seen."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl
import pytest

from predator_si.build import build_defs
from predator_si.home import Home
from predator_si.orchestration import dbt
from predator_si.records import MetricsSnapshot
from predator_si.settings import Settings
from predator_si.warehouse import open_warehouse
from predator_si_tests.support.raw_layer import WINDOW, snapshot, store_rows
from predator_si_tests.support.windows import START, action, search


def run(settings: Settings, instance: dg.DagsterInstance) -> Any:
    return build_defs(settings).resolve_job_def("warehouse_job").execute_in_process(instance=instance, raise_on_error=False)


def checks(result: Any) -> dict[str, Any]:
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


def forge(home: Home, found: MetricsSnapshot, metric: str, **changes: Any) -> None:
    """Write the snapshot again with one number changed, as a defect of the fast path would."""
    metrics = {**found.metrics, metric: found.metrics[metric].model_copy(update=changes)}
    (home.snapshots / f"{found.snapshot_id}.json").write_text(found.model_copy(update={"metrics": metrics}).to_json())


@pytest.mark.slow
def test_a_run_makes_the_marts_and_sees_a_fast_path_that_lies(settings: Settings, home: Home) -> None:
    """One run, since each loads dbt anew: all models and checks as `@dbt_assets` has them, and a forged number of the snapshot found."""
    rows = [search(i, latency_ms=50.0 + i, degraded=i % 10 == 0) for i in range(60)]
    store_rows(home, rows, [action(f"r{i}", timestamp=START + timedelta(seconds=i + 1), seq=i, writer="w") for i in range(0, 60, 3)])
    taken = snapshot(home, START, START + WINDOW, at=datetime.now(UTC))
    forge(home, taken, "p95_latency_ms", value=1.0)
    described = dbt.described()
    with dg.instance_for_test() as instance:
        result = run(settings, instance)
    assert result.success  # a check that fails is no failed step
    made = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}
    assert made == {asset["key"] for asset in described["assets"]}
    evaluated = checks(result)
    lying = evaluated.pop("fast_path_agrees")
    assert set(evaluated) == {check["name"] for check in described["checks"]}
    assert all(evaluation.passed for evaluation in evaluated.values())
    assert not lying.passed and lying.severity is dg.AssetCheckSeverity.ERROR
    assert lying.metadata["answer"].value == "differs"
    assert str(lying.metadata["reason"].value) == "p95_latency_ms: two ways from the same events to this number disagree"
    with open_warehouse(home, read_only=True) as warehouse:
        ((requests, median),) = warehouse.rows("select requests, p50_latency_ms from warehouse.mart_window_latency where segment_kind = 'all'")
        assert warehouse.rows("select count(*) from raw.windows where dirty") == [(0,)]
    assert (requests, median) == (60, pl.Series([row["latency_ms"] for row in rows if not row["degraded"]]).median())

    # whoever changes the project runs `python -m predator_si.orchestration.dbt`
    assert dbt.as_text(dbt.describe(home)) == dbt.DESCRIPTION.read_text(encoding="utf-8")


def test_without_a_warehouse_the_check_is_unknown_and_does_not_pass(settings: Settings) -> None:
    result = _evaluate(settings)
    assert not result.passed and result.severity is dg.AssetCheckSeverity.WARN
    assert "no warehouse yet" in str(result.metadata["reason"].value)


def _evaluate(settings: Settings) -> Any:
    definitions = build_defs(settings)
    key = dg.AssetCheckKey(dg.AssetKey(["observe", "mart_fast_path"]), "fast_path_agrees")
    job = dg.define_asset_job("only_the_check", selection=dg.AssetSelection.checks(key))
    found = dg.Definitions(
        assets=definitions.assets, asset_checks=definitions.asset_checks, resources=definitions.resources, jobs=[job], executor=dg.in_process_executor
    )
    with dg.instance_for_test() as instance:
        return checks(found.resolve_job_def("only_the_check").execute_in_process(instance=instance))["fast_path_agrees"]


def test_stale_telemetry_shows(settings: Settings) -> None:
    """A snapshot is due each quarter of an hour and a build each hour; three in a row missed are a failure."""
    specs = {spec.key.to_user_string(): spec for spec in build_defs(settings).resolve_all_asset_specs()}
    assert _fails_after(specs["observe/metrics_snapshot"]) == timedelta(minutes=45)
    marts = [key for key in specs if key.startswith("observe/mart_")]
    assert len(marts) == 6 and {_fails_after(specs[key]) for key in marts} == {timedelta(hours=3)}


def _fails_after(spec: dg.AssetSpec) -> timedelta:
    policy: Any = spec.freshness_policy
    return policy.fail_window.to_timedelta()


def test_the_hourly_build_does_not_start_with_a_tick(settings: Settings) -> None:
    """The tick is at :00, :15, :30 and :45; the build starts in between, yields in the queue, and ends by itself."""
    schedules = {schedule.name: schedule for schedule in build_defs(settings).schedules or []}
    minute = int(str(schedules["warehouse_schedule"].cron_schedule).split()[0])
    assert minute % 15 >= 5
    tags = build_defs(settings).resolve_job_def("warehouse_job").tags
    assert int(tags["dagster/priority"]) < 0 and int(tags["dagster/max_runtime"]) <= 3600


def test_the_description_is_read_without_dbt() -> None:
    """It is plain JSON: two seconds of every process that loads the platform hang on it."""
    found = json.loads(dbt.DESCRIPTION.read_text(encoding="utf-8"))
    keys = {asset["key"] for asset in found["assets"]}
    assert {check["asset"] for check in found["checks"]} <= keys
    assert all(asset["description"] for asset in found["assets"])
