"""When the loop looks: each quarter of an hour, and each minute where the trigger table asks for a quick answer."""

from __future__ import annotations

import dagster as dg

from predator_si.orchestration.jobs import observe_job
from predator_si.settings import Settings


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The tick on :00, :15, :30 and :45; running from the start where the contour enables the loop."""
    status = dg.DefaultScheduleStatus.RUNNING if settings.enabled else dg.DefaultScheduleStatus.STOPPED
    return [dg.ScheduleDefinition(name="snapshot_schedule", job=observe_job, cron_schedule="*/15 * * * *", execution_timezone="UTC", default_status=status)]
