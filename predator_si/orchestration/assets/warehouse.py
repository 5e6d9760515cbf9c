"""The warehouse: dbt's models as assets, its tests as checks, and whether its numbers are those of the fast path."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg

from predator_si.errors import PredatorError
from predator_si.orchestration import dbt
from predator_si.orchestration.loop import Loop
from predator_si.settings import Settings
from predator_si.warehouse.agreement import Agreement, fast_path_agreement

FAST_PATH = dg.AssetKey(["observe", "mart_fast_path"])
FRESH = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3))
"""The schedule builds each hour: three hours without a build are two that failed."""


def warehouse_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The models of the dbt project as one step, with its tests as checks."""
    known = dbt.described()

    @dg.multi_asset(
        name="warehouse",
        specs=[
            dg.AssetSpec(
                dg.AssetKey.from_user_string(asset["key"]),
                deps=[dg.AssetKey.from_user_string(key) for key in asset["deps"]],
                description=asset["description"],
                group_name=dbt.GROUP,
                kinds={"dbt", settings.warehouse},
                owners=["team:search"],
                code_version="1",
                skippable=True,  # dbt skips what lies behind a failed test
                freshness_policy=FRESH if asset["key"].startswith("observe/mart_") else None,
            )
            for asset in known["assets"]
        ],
        check_specs=[
            dg.AssetCheckSpec(check["name"], asset=dg.AssetKey.from_user_string(check["asset"]), blocking=check["blocking"], description=check["description"])
            for check in known["checks"]
        ],
    )
    def warehouse(context: dg.AssetExecutionContext, loop: dg.ResourceParam[Loop]) -> Iterator[Any]:
        """Make the windows that have changed since the last build, and test them; one step, because a window is done when all models have it."""
        yield from dbt.build_events(loop.home, loop.settings.warehouse, loop.settings.prices.usd_per_vcpu_hour)

    return [warehouse]


def warehouse_checks() -> list[dg.AssetChecksDefinition]:
    """The check that compares the marts with the newest snapshot."""

    @dg.asset_check(
        asset=FAST_PATH, name="fast_path_agrees", description="The newest snapshot's numbers and the warehouse's, from the same events in two ways."
    )
    def fast_path_agrees(loop: dg.ResourceParam[Loop]) -> dg.AssetCheckResult:
        try:
            found = fast_path_agreement(loop.home, loop.settings.warehouse)
        except PredatorError as error:
            found = Agreement(answer="unknown", reason=str(error))
        said: dict[str, Any] = {
            "answer": found.answer,
            "reason": found.reason,
            "snapshot": found.snapshot_id or "none",
            "numbers": dg.MetadataValue.md(found.as_markdown()),
        }
        severity = dg.AssetCheckSeverity.ERROR if found.answer == "differs" else dg.AssetCheckSeverity.WARN
        return dg.AssetCheckResult(passed=found.answer == "agrees", severity=severity, metadata=said)

    return [fast_path_agrees]
