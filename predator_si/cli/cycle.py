"""`cycle list`, `cycle show`: what the loop did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import say, show_json, show_table
from predator_si.errors import Missing
from predator_si.settings import Settings

app = typer.Typer(help="Passes of the loop.", no_args_is_help=True)


@app.command("list")
def list_cycles(context: typer.Context, limit: Annotated[int, typer.Option(min=1, help="Newest so many.")] = 20, as_json: JsonFlag = False) -> None:
    """List cycles, newest first.

    Example: `predator-si cycle list --limit 5`
    """
    from predator_si.control import Control

    settings = settings_of(context)
    database = settings.folders.control_db
    cycles = Control(database).cycles(limit, settings.contour) if database.exists() else []
    if as_json:
        show_json([cycle.model_dump(mode="json") for cycle in cycles])
        return
    rows = [(c.cycle_id, c.state, f"{c.opened_at:%Y-%m-%d %H:%M}", c.trigger.type, c.trigger.metric, c.reason) for c in cycles]
    show_table("", ("cycle", "state", "opened (UTC)", "trigger", "metric", "reason"), rows, f"no cycle has run in {settings.home} yet")


@app.command()
def show(context: typer.Context, cycle_id: Annotated[str, typer.Argument(help="si_YYYY_MM_DD_NNN")], as_json: JsonFlag = False) -> None:
    """Tell one cycle's story: its state, its ledger records, its artifacts.

    Example: `predator-si cycle show si_2026_11_22_001`
    """
    from predator_si.control import Control

    settings = settings_of(context)
    if not settings.folders.control_db.exists():
        raise Missing(f"no cycle {cycle_id}: nothing has run in {settings.home} yet.")
    control = Control(settings.folders.control_db)
    cycle = control.cycle(cycle_id)
    records = control.records(limit=1000, cycle_id=cycle_id)
    files = _artifacts(settings, cycle_id)
    if as_json:
        show_json(
            {
                "cycle": cycle.model_dump(mode="json"),
                "records": [record.model_dump(mode="json") for record in records],
                "artifacts": [str(file) for file in files],
            }
        )
        return
    say(f"{cycle.cycle_id}  {cycle.state}  {cycle.reason}")
    say(f"trigger: {cycle.trigger.reason} (actions: {', '.join(cycle.trigger.actions) or 'none'})")
    show_table("", ("time (UTC)", "what", "who", "why"), [(f"{r.timestamp:%H:%M:%S}", r.action, r.actor, r.reason) for r in records], "no ledger records")
    show_table("", ("artifact", "bytes"), [(file, file.stat().st_size) for file in files], "no artifacts yet")


def _artifacts(settings: Settings, cycle_id: str) -> list[Path]:
    return sorted(path for path in (settings.folders.artifacts / cycle_id).rglob("*") if path.is_file())
