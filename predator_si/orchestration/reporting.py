"""What runs by the calendar beside the loop: the weekly report, the backup, and letting old history go."""

import os

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from predator_si.errors import BadInput, PredatorError
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.op_tags import Lane
from predator_si.orchestration.steps import week as weekly
from predator_si.orchestration.steps.clear import clear_history
from predator_si.orchestration.steps.keep_copy import back_up
from predator_si.records import utc_now
from predator_si.release.git import shown
from predator_si.reports.plots import as_markdown, cycle_costs, metric_history
from predator_si.settings import Settings

_YIELDING = {**Lane.UPKEEP.tags, "dagster/priority": "-1", "dagster/max_runtime": "3600"}


@dg.asset(
    key=["observe", "weekly_report"], group_name="observe", kinds={"html"}, owners=["team:search"], code_version="1", deps=[["observe", "metrics_snapshot"]]
)
def weekly_report(context: dg.AssetExecutionContext, loop: dg.ResourceParam[Loop]) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """The last seven days from ledger and telemetry: what was gained, what it cost, what was done, what to look at next; written, and sent once."""
    found = weekly.gather(loop, *weekly.last_week(utc_now()))
    text, page = weekly.write(loop, found)
    sent = weekly.send(loop, found, page)
    figures = found.figures
    metadata: dict[str, dg.MetadataValue | str | int | float | bool] = {  # type: ignore[type-arg]
        "report": dg.MetadataValue.md(text.read_text(encoding="utf-8")),
        "page": dg.MetadataValue.path(str(page)),
        "cycles": figures.cycles,
        "rollbacks": figures.rollbacks,
        "priorities": len(found.priorities),
        "total_cost_usd": figures.total_cost_usd if figures.total_cost_usd is not None else "unknown",
        "put_into_the_outbox": sent,
    }
    for metric in ("ndcg_at_10", "cost_per_1k_requests"):
        if any((one := snapshot.metrics.get(metric)) is not None and one.value is not None for snapshot in found.snapshots):
            metadata[f"{metric}_history"] = dg.MetadataValue.md(as_markdown(metric_history(found.snapshots, metric), metric))
    costs = [(story.cycle_id, story.cost_usd) for story in found.told if story.cost_usd is not None and not story.drill]
    if costs:
        metadata["cycle_costs"] = dg.MetadataValue.md(as_markdown(cycle_costs(costs, found.budget_usd), "what each cycle cost"))
    return dg.MaterializeResult(metadata=metadata)


weekly_report_job = dg.define_asset_job(
    "weekly_report_job",
    selection=dg.AssetSelection.assets(["observe", "weekly_report"]),
    tags=_YIELDING,
    description="The weekly report, written and sent. It yields to everything else.",
    executor_def=dg.in_process_executor,
)


@dg.asset(key=["observe", "backup"], group_name="observe", kinds={"file"}, owners=["team:search"], code_version="1")
def backup(context: dg.AssetExecutionContext, loop: dg.ResourceParam[Loop]) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Databases, artifacts, model store and Git at the contour's destination, each part with its hash; the keys of people's queries are not in it."""
    destination = loop.settings.values.backup.destination
    if destination is None:
        raise BadInput("selfImprovement.backup.destination is null: name a folder or an fsspec URL, or set backup.enabled false.")
    url, manifest = back_up(loop, destination, "backup_schedule", lambda done, total: context.log.debug("copied %s of %s", done, total))
    facts = {"bytes": sum(part.bytes for part in manifest.parts), "databases": len(manifest.databases), "ledger_seq": manifest.ledger_seq}
    return dg.MaterializeResult(metadata={"backup": shown(url), **facts, "left_out": dg.MetadataValue.json(manifest.left_out)})


backup_job = dg.define_asset_job(
    "backup_job",
    selection=dg.AssetSelection.assets(["observe", "backup"]),
    tags=_YIELDING,
    description="A copy of the home elsewhere. It yields to everything else.",
    executor_def=dg.in_process_executor,
)


@dg.op
def clear_old(context: dg.OpExecutionContext, loop: dg.ResourceParam[Loop]) -> None:  # type: ignore[type-arg]
    """Let go what is older than ``backup.historyDays``."""
    done = clear_history(loop, context.instance, utc_now())
    context.log.info("cleared: %s", done)


@dg.job(
    name="retention_job", tags=_YIELDING, executor_def=dg.in_process_executor, description="What a long life leaves behind goes. It yields to everything else."
)
def retention_job() -> None:
    """One step."""
    clear_old()


REPORT_ASSETS = [weekly_report, backup]
REPORT_JOBS: list[dg.JobDefinition | UnresolvedAssetJobDefinition] = [weekly_report_job, backup_job, retention_job]


def report_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The weekly report, the backup and the sweep of old history, when the contour wants them."""
    cron = settings.values.notify.weekly_report

    @dg.schedule(
        name="weekly_report_schedule",
        job=weekly_report_job,
        cron_schedule=cron or "0 8 * * 1",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if settings.enabled and cron is not None else dg.DefaultScheduleStatus.STOPPED,
        description="The last seven days as a report; nothing where this home was not prepared.",
    )
    def scheduled(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            _ = Loop(settings).plan
        except PredatorError as error:
            return dg.SkipReason(str(error))
        return dg.RunRequest(run_key=f"week:{context.scheduled_execution_time:%Y-%m-%d}")

    copies = settings.values.backup
    in_cluster = "KUBERNETES_SERVICE_HOST" in os.environ  # there the chart's CronJob does it, also while Dagster is down
    wanted = settings.enabled and copies.enabled and copies.destination is not None and not in_cluster
    kept = dg.ScheduleDefinition(
        name="backup_schedule",
        job=backup_job,
        cron_schedule=copies.schedule,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if wanted else dg.DefaultScheduleStatus.STOPPED,
    )
    cleared = dg.ScheduleDefinition(
        name="retention_schedule",
        job=retention_job,
        cron_schedule="30 3 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING if settings.enabled and copies.history_days is not None else dg.DefaultScheduleStatus.STOPPED,
    )
    return [scheduled, kept, cleared]
