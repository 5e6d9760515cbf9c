"""`cycle run`, `cycle list`, `cycle show`: start or go on with a pass of the loop, and see what it did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import remark, say, show_json, show_table
from predator_si.errors import Missing
from predator_si.settings import Settings

if TYPE_CHECKING:
    from predator_si.orchestration.loop import Loop

app = typer.Typer(help="Passes of the loop.", no_args_is_help=True)


@app.command()
def run(
    context: typer.Context,
    trigger: Annotated[str | None, typer.Option(help="Only for this trigger, such as ndcg_at_10_down; with --force whether or not a gate failed.")] = None,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; it goes into the ledger.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Pass the interval between cycles; with --trigger, start without a failed gate.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Open a cycle for the newest snapshot, or go on with the active one, and run its jobs until it ends or must wait.

    A cycle that waits for traffic, a person or the service is left as it is: run this again later, also after a killed run. Exit code 1 when
    nothing could start, a job failed, or the cycle ended without a stable release.

    Example: `predator-si cycle run --trigger ndcg_at_10_down --reason "new documentation"`
    """
    from predator_si.cli.switch import actor
    from predator_si.monitor import Skip
    from predator_si.orchestration.steps.begin import open_or_resume
    from predator_si.proof.drive import Dagster, drive
    from predator_si.records import CycleState

    loop = _loop(context)
    settings = loop.settings
    found = open_or_resume(loop, actor(), trigger, reason, force=force)
    if isinstance(found, Skip):
        if as_json:
            show_json({"cycle_id": None, "state": None, "jobs": [], "why": list(found.reasons), "retry_at": found.retry_at})
        else:
            say("no cycle was started: " + "; ".join(found.reasons))
        raise typer.Exit(1)
    remark(f"{found.cycle_id} is {found.state.value}: {found.reason}")
    driven = drive(loop, Dagster(settings, actor()), found.cycle_id, remark)
    cycle = driven.cycle
    if as_json:
        jobs = list(driven.jobs)
        show_json({"cycle_id": cycle.cycle_id, "state": cycle.state.value, "jobs": jobs, "why": driven.why, "failure": driven.failure})
    else:
        say(f"{cycle.cycle_id} is {cycle.state.value} after {len(driven.jobs)} jobs: {driven.failure or driven.why}")
    ended = (CycleState.REJECTED, CycleState.FAILED, CycleState.CANCELLED, CycleState.EXPIRED, CycleState.ROLLED_BACK)
    raise typer.Exit(1 if driven.failure is not None or cycle.state in ended else 0)


@app.command()
def approve(
    context: typer.Context,
    cycle_id: Annotated[str, typer.Argument(help="si_YYYY_MM_DD_NNN")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; it goes into the ledger.")],
) -> None:
    """Approve the release of a cycle that waits for it. The loop, or `cycle run`, then releases it.

    Example: `predator-si cycle approve si_2026_11_22_001 --reason "the interval convinces me"`
    """
    from predator_si.cli.switch import actor
    from predator_si.orchestration.steps.decide import give_approval

    decision = give_approval(_loop(context), cycle_id, actor(), reason)
    say(f"{cycle_id} is approved by {decision.approved_by}; `predator-si cycle run` releases it now, the loop at its next tick")


@app.command()
def reject(
    context: typer.Context,
    cycle_id: Annotated[str, typer.Argument(help="si_YYYY_MM_DD_NNN")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; it goes into the ledger.")],
) -> None:
    """Refuse the release of a cycle that waits for approval: its challenger is taken off the trial, and the cycle ends.

    Example: `predator-si cycle reject si_2026_11_22_001 --reason "not before the freeze"`
    """
    from predator_si.cli.switch import actor
    from predator_si.orchestration.steps.decide import refuse_approval
    from predator_si.orchestration.tracking import existing_tracker

    loop = _loop(context)
    refuse_approval(loop, cycle_id, actor(), reason, existing_tracker(loop.home))
    say(f"{cycle_id} is rejected")


def _loop(context: typer.Context) -> Loop:
    from predator_si.control.opening import is_there
    from predator_si.orchestration.loop import Loop

    settings = settings_of(context)
    if not is_there(settings.folders):
        raise Missing(f"{settings.home}: this home was not prepared. Run `predator-si up` or `predator-si demo` first.")
    return Loop(settings)


@app.command("list")
def list_cycles(context: typer.Context, limit: Annotated[int, typer.Option(min=1, help="Newest so many.")] = 20, as_json: JsonFlag = False) -> None:
    """List cycles, newest first.

    Example: `predator-si cycle list --limit 5`
    """
    from predator_si.control.opening import is_there, open_control

    settings = settings_of(context)
    cycles = open_control(settings.folders).cycles(limit, settings.contour) if is_there(settings.folders) else []
    if as_json:
        show_json([cycle.model_dump(mode="json") for cycle in cycles])
        return
    rows = [(c.cycle_id, c.state, f"{c.opened_at:%Y-%m-%d %H:%M}", c.trigger.type, c.trigger.metric, c.reason) for c in cycles]
    show_table("", ("cycle", "state", "opened (UTC)", "trigger", "metric", "reason"), rows, f"no cycle has run in {settings.home} yet")


@app.command()
def show(context: typer.Context, cycle_id: Annotated[str, typer.Argument(help="si_YYYY_MM_DD_NNN")], as_json: JsonFlag = False) -> None:
    """Tell one cycle's story: its state, its verdicts, its ledger records, its artifacts.

    Example: `predator-si cycle show si_2026_11_22_001`
    """
    from predator_si.control.opening import is_there, open_control
    from predator_si.reports.verdicts import verdicts_in

    settings = settings_of(context)
    if not is_there(settings.folders):
        raise Missing(f"no cycle {cycle_id}: nothing has run in {settings.home} yet.")
    control = open_control(settings.folders)
    cycle = control.cycle(cycle_id)
    records = control.records(limit=1000, cycle_id=cycle_id)
    files = _artifacts(settings, cycle_id)
    verdicts = verdicts_in(settings.folders.artifacts / cycle_id)
    if as_json:
        show_json(
            {
                "cycle": cycle.model_dump(mode="json"),
                "verdicts": verdicts,
                "records": [record.model_dump(mode="json") for record in records],
                "artifacts": [str(file) for file in files],
            }
        )
        return
    say(f"{cycle.cycle_id}  {cycle.state}  {cycle.reason}")
    say(f"trigger: {cycle.trigger.reason} (actions: {', '.join(cycle.trigger.actions) or 'none'})")
    show_table("", ("stage", "answer", "why"), [(v["stage"], v["answer"], v["reason"]) for v in verdicts], "no verdicts yet")
    show_table("", ("time (UTC)", "what", "who", "why"), [(f"{r.timestamp:%H:%M:%S}", r.action, r.actor, r.reason) for r in records], "no ledger records")
    show_table("", ("artifact", "bytes"), [(file, file.stat().st_size) for file in files], "no artifacts yet")


def _artifacts(settings: Settings, cycle_id: str) -> list[Path]:
    return sorted(path for path in (settings.folders.artifacts / cycle_id).rglob("*") if path.is_file())
