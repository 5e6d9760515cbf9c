"""Put the platform together: fresh Definitions from settings, with whatever a test or another contour wants to replace."""

from __future__ import annotations

from typing import Any

import dagster as dg

from predator_si.orchestration.assets.characteristics import operating_characteristics
from predator_si.orchestration.assets.cycle import CYCLE_ASSETS
from predator_si.orchestration.assets.external import external_assets
from predator_si.orchestration.assets.keep import KEEP_ASSETS
from predator_si.orchestration.assets.observe import observe_assets
from predator_si.orchestration.assets.warehouse import warehouse_assets, warehouse_checks
from predator_si.orchestration.jobs import jobs
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.messenger import messenger_sensor
from predator_si.orchestration.reporting import REPORT_ASSETS, REPORT_JOBS, report_schedules
from predator_si.orchestration.schedules import schedules
from predator_si.orchestration.sensors import sensors
from predator_si.orchestration.tracking import mlflow_tracker
from predator_si.settings import Settings, load_settings


def build_defs(settings: Settings | None = None, **overrides: Any) -> dg.Definitions:
    """The whole platform of a contour.

    Parameters
    ----------
    settings
        Default: those of the environment.
    overrides
        Resources by name (``loop``, ``tracker``) that take the place of the real ones.

    Raises
    ------
    PredatorError
        The settings cannot be used.
    """
    settings = settings or load_settings()
    resources: dict[str, Any] = {
        "loop": dg.ResourceDefinition(lambda _: Loop(settings), description="The parts of this installation."),
        "tracker": mlflow_tracker(Loop(settings).home, f"http://127.0.0.1:{settings.ports.mlflow}"),
        **{name: value if isinstance(value, dg.ResourceDefinition) else dg.ResourceDefinition.hardcoded_resource(value) for name, value in overrides.items()},
    }
    return dg.Definitions(
        assets=[
            *external_assets(settings),
            *observe_assets(settings),
            *warehouse_assets(settings),
            *CYCLE_ASSETS,
            *KEEP_ASSETS,
            *REPORT_ASSETS,
            operating_characteristics,
        ],
        asset_checks=warehouse_checks(),
        jobs=[*jobs(settings.run_resources), *REPORT_JOBS],
        schedules=[*schedules(settings), *report_schedules(settings)],
        sensors=[*sensors(settings), messenger_sensor(settings)],
        resources=resources,
        executor=dg.in_process_executor,
    )
