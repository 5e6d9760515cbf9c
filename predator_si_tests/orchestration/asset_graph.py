"""The whole platform as plain data, for the snapshot beside this file: run this module to accept a change that was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg

from predator_si.build import build_defs
from predator_si.settings import Settings, load_settings

SNAPSHOT = Path(__file__).with_suffix(".json")


def describe(settings: Settings) -> dict[str, Any]:
    """Assets, checks, jobs, sensors and schedules of a contour, sorted, without anything that changes from run to run."""
    definitions = build_defs(settings)
    graph = definitions.resolve_asset_graph()
    checks: dict[str, list[dict[str, Any]]] = {}
    for key in graph.asset_check_keys:
        spec = graph.get_check_spec(key)
        checks.setdefault(key.asset_key.to_user_string(), []).append(
            {"name": key.name, "blocking": spec.blocking, "partitions": _partitions(spec.partitions_def), "description": spec.description}
        )
    assets = {
        spec.key.to_user_string(): {
            "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
            "group": spec.group_name,
            "kinds": sorted(spec.kinds),
            "owners": sorted(spec.owners),
            "code_version": spec.code_version,
            "partitions": _partitions(spec.partitions_def),
            "description": spec.description,
            "pool": _pool(definitions, spec.key),
            "checks": sorted(checks.get(spec.key.to_user_string(), []), key=lambda check: check["name"]),
        }
        for spec in definitions.resolve_all_asset_specs()
    }
    named = [job.name for job in definitions.jobs or []]
    jobs = {
        name: {
            "assets": sorted(key.to_user_string() for key in definitions.resolve_job_def(name).asset_layer.selected_asset_keys),
            "tags": {key: _parsed(value) for key, value in sorted(definitions.resolve_job_def(name).tags.items())},
            "partitions": _partitions(definitions.resolve_job_def(name).partitions_def),
        }
        for name in named
    }
    sensors = {
        sensor.name: {
            "seconds": sensor.minimum_interval_seconds,
            "status": sensor.default_status.value,
            "jobs": sorted(target.job_name for target in sensor.targets or []),
            "description": sensor.description,
        }
        for sensor in definitions.sensors or []
    }
    schedules = {
        schedule.name: {"cron": schedule.cron_schedule, "job": schedule.job_name, "status": schedule.default_status.value, "zone": schedule.execution_timezone}
        for schedule in definitions.schedules or []
        if isinstance(schedule, dg.ScheduleDefinition)
    }
    return {"assets": assets, "jobs": jobs, "schedules": schedules, "sensors": sensors}


def _partitions(found: Any) -> str | None:
    return None if found is None else str(found.name) if isinstance(found, dg.DynamicPartitionsDefinition) else str(found)


def _pool(definitions: dg.Definitions, key: dg.AssetKey) -> str | None:
    made = key in definitions.resolve_asset_graph().materializable_asset_keys
    return definitions.get_assets_def(key).op.pool if made else None


def _parsed(value: str) -> Any:
    return json.loads(value) if value.startswith("{") else value


def as_text(found: dict[str, Any]) -> str:
    """One spelling for one graph."""
    return json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SNAPSHOT.write_text(as_text(describe(load_settings("local", env={}))), encoding="utf-8")
