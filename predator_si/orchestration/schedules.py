"""When the loop looks: each quarter of an hour, and each minute where the trigger table asks for a quick answer; and when it trains unasked."""

from __future__ import annotations

import dagster as dg

from predator_si.contour_training import WEEKLY
from predator_si.errors import PredatorError
from predator_si.monitor import Skip
from predator_si.notify.log import refused
from predator_si.orchestration.jobs import aa_replay_job, cycle_prepare_job, observe_job, warehouse_job
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.partitions import add_cycle
from predator_si.orchestration.steps.learn import TRIGGER, next_training
from predator_si.settings import Settings


def schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The tick on :00, :15, :30 and :45, the warehouse once an hour between two ticks, the A/A replay once a month, and training by the contour's calendar.

    They run from the start where the contour enables the loop; training only where it names a time, otherwise a person may switch it on.
    """
    status = dg.DefaultScheduleStatus.RUNNING if settings.enabled else dg.DefaultScheduleStatus.STOPPED
    times = {
        "snapshot_schedule": (observe_job, "*/15 * * * *"),
        "warehouse_schedule": (warehouse_job, "7 * * * *"),
        "aa_replay_schedule": (aa_replay_job, "37 4 1 * *"),
    }
    made = [
        dg.ScheduleDefinition(name=name, job=job, cron_schedule=cron, execution_timezone="UTC", default_status=status) for name, (job, cron) in times.items()
    ]
    return [*made, training_schedule(settings)]


def training_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Opens a cycle that trains on what came in since the last one, under the same policy, gates and leases as any other."""
    cron = settings.values.training.schedule
    on = settings.enabled and cron is not None

    @dg.schedule(
        name="training_schedule",
        job=cycle_prepare_job,
        cron_schedule=cron or WEEKLY,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if on else dg.DefaultScheduleStatus.STOPPED,
        description="A cycle by the calendar, where enough is new since the last training.",
    )
    def scheduled(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        from predator_si.orchestration.sensors import cycle_tags

        loop = Loop(settings)
        try:
            answer = next_training(loop, context.scheduled_execution_time)
            if isinstance(answer, Skip):
                refused("training_schedule", "; ".join(answer.reasons))
                return dg.SkipReason("; ".join(answer.reasons))
            cycle = loop.control.open_cycle(loop.contour, answer, "training_schedule", answer.reason)
        except PredatorError as error:
            return dg.SkipReason(f"unknown: {error}")
        add_cycle(context.instance, cycle.cycle_id)
        tags = cycle_tags(cycle.cycle_id, TRIGGER, answer.reason)
        return dg.RunRequest(run_key=f"{cycle.cycle_id}:opened:0", partition_key=cycle.cycle_id, tags=tags)

    return scheduled
