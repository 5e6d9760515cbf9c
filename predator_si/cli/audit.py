"""`audit show`, `audit verify`: the hash-chained ledger."""

from __future__ import annotations

from typing import Annotated

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import say, show_json, show_table
from predator_si.control import Control
from predator_si.errors import Missing

app = typer.Typer(help="The ledger: who did what, and whether it is whole.", no_args_is_help=True)


def _control(context: typer.Context) -> Control:
    database = settings_of(context).folders.control_db
    if not database.exists():
        raise Missing(f"{database}: there is no ledger yet; the first cycle, or `predator-si stop`, begins it.")
    return Control(database)


@app.command()
def show(
    context: typer.Context,
    cycle: Annotated[str | None, typer.Option(help="Only this cycle's records.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Newest so many.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """Show ledger records, oldest first.

    Example: `predator-si audit show --cycle si_2026_11_22_001`
    """
    records = _control(context).records(limit=limit, cycle_id=cycle)
    if as_json:
        show_json([record.model_dump(mode="json") for record in records])
        return
    rows = [(r.seq, f"{r.timestamp:%Y-%m-%d %H:%M:%S}", r.cycle_id, r.action, r.actor, r.reason, r.hash[:12]) for r in records]
    show_table("", ("seq", "time (UTC)", "cycle", "what", "who", "why", "hash"), rows, "no records")


@app.command()
def verify(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Check the chain; exit code 1 when a record was edited, removed, reordered or cut off.

    Example: `predator-si audit verify`
    """
    control = _control(context)
    problems, head = control.verify(), control.head()
    if as_json:
        show_json({"ok": not problems, "problems": problems, "records": head[0] if head else 0, "head": head[1] if head else None})
    elif problems:
        for problem in problems:
            say(problem)
    else:
        say(f"the ledger is whole: {head[0]} records, head {head[1]}" if head else "the ledger is empty")
    raise typer.Exit(1 if problems else 0)
