"""When the loop looks: each quarter of an hour, and each minute where the trigger table asks for a quick answer."""

from __future__ import annotations

import dagster as dg

from predator_si.orchestration.jobs import observe_job, warehouse_job
from predator_si.settings import Settings


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The tick on :00, :15, :30 and :45, and the warehouse once an hour between two ticks; running from the start where the contour enables the loop."""
    status = dg.DefaultScheduleStatus.RUNNING if settings.enabled else dg.DefaultScheduleStatus.STOPPED
    times = {"snapshot_schedule": (observe_job, "*/15 * * * *"), "warehouse_schedule": (warehouse_job, "7 * * * *")}
    return [
        dg.ScheduleDefinition(name=name, job=job, cron_schedule=cron, execution_timezone="UTC", default_status=status) for name, (job, cron) in times.items()
    ]
