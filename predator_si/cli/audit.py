"""`audit show`, `audit verify`, `audit export`: the hash-chained ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import say, show_json, show_table
from predator_si.cli.switch import actor
from predator_si.control import Control
from predator_si.control.opening import is_there, open_control
from predator_si.errors import BadInput, Missing, Unavailable

app = typer.Typer(help="The ledger: who did what, and whether it is whole.", no_args_is_help=True)
_PAGE = 1000


def _control(context: typer.Context) -> Control:
    home = settings_of(context).folders
    if not is_there(home):
        raise Missing(f"{home.control_db}: there is no ledger yet; the first cycle, or `predator-si stop`, begins it.")
    return open_control(home)


@app.command()
def show(
    context: typer.Context,
    cycle: Annotated[
        str | None, typer.Option(help="Only this cycle's records; with --json its audit record: trigger, actions, approver, cost, outcome.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Newest so many.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """Show ledger records, oldest first.

    Example: `predator-si audit show --cycle si_2026_11_22_001`
    """
    control = _control(context)
    records = control.records(limit=limit, cycle_id=cycle)
    if cycle is not None:
        from predator_si.reports.audit import audit_record

        record = audit_record(control.cycle(cycle), control.records(_PAGE, cycle_id=cycle), settings_of(context).folders.artifacts / cycle)
        if as_json:
            show_json(record)
            return
        cost = "unknown: nothing was metered" if record["total_cost_usd"] is None else f"{record['total_cost_usd']:.4f} USD"
        say(f"{cycle} in {record['environment']}: {record['trigger']['type']}, {record['outcome']}; approver {record['approver'] or 'nobody'}; cost {cost}")
    if as_json:
        show_json([record.model_dump(mode="json") for record in records])
        return
    rows = [(r.seq, f"{r.timestamp:%Y-%m-%d %H:%M:%S}", r.cycle_id, r.action, r.actor, r.reason, r.hash[:12]) for r in records]
    show_table("", ("seq", "time (UTC)", "cycle", "what", "who", "why", "hash"), rows, "no records")


@app.command()
def verify(
    context: typer.Context,
    full: Annotated[bool, typer.Option("--full", help="Read each sealed record, too, not only the hashes of their files.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Check the chain, and its anchors in Git; exit code 1 when a record was edited, removed, reordered or cut off, or the chain was rewritten.

    Example: `predator-si audit verify`
    """
    control = _control(context)
    problems, head = control.verify(full=full), control.head()
    compared, why = _anchored(context, control, problems)
    if as_json:
        facts: dict[str, Any] = {"ok": not problems, "problems": problems, "records": head[0] if head else 0, "head": head[1] if head else None}
        show_json({**facts, "anchors": compared, "anchors_reason": why})
    elif problems:
        for problem in problems:
            say(problem)
    else:
        against = f"{compared} anchors in Git agree" if compared else f"no anchor was compared: {why}"
        say(f"the ledger is whole: {head[0]} records, head {head[1]}; {against}" if head else "the ledger is empty")
    raise typer.Exit(1 if problems else 0)


@app.command()
def accept(
    context: typer.Context,
    reason: Annotated[str, typer.Option(help="Why the newer copy cannot come back.")],
    as_json: JsonFlag = False,
) -> None:
    """Go on with a ledger that is not the one that was anchored: what is lost is recorded, and anchored. Exit code 1 when there is nothing to accept.

    Example: `predator-si audit accept --reason "the disk of Friday is gone"`
    """
    from predator_si.orchestration.loop import Loop
    from predator_si.orchestration.steps.anchor import accept_ledger

    if not reason.strip():
        raise BadInput("--reason is empty. Say why the newer copy cannot come back.")
    loop = Loop(settings_of(context))
    anchor = accept_ledger(loop, actor(), reason)
    if as_json:
        show_json({"accepted": anchor is not None, "anchor": anchor.model_dump(mode="json") if anchor is not None else None})
    elif anchor is None:
        say("the ledger holds what was anchored: there is nothing to accept")
    else:
        said = loop.control.records_of("ledger_accepted", 1)[0].payload
        say(f"accepted: records {said['lost_from']} to {said['lost_to']} as they were anchored are lost; the ledger goes on (commit {anchor.commit[:12]})")
    raise typer.Exit(0 if anchor is not None else 1)


def _anchored(context: typer.Context, control: Control, problems: list[str]) -> tuple[int | None, str | None]:
    """How many anchors were compared (their problems are added), or null with the reason."""
    from predator_si.orchestration.loop import Loop
    from predator_si.orchestration.steps.anchor import anchored_segments, anchors_of, compare, has_repository

    loop = Loop(settings_of(context))
    seen = (loop.home.path / "anchors.git" / "HEAD").is_file()
    if not seen and not has_repository(loop):
        return None, "this home has no GitOps repository yet"
    try:
        anchors = anchors_of(loop).read()
    except (BadInput, Unavailable) as error:
        if seen:  # they could be read before: that they cannot be now may be somebody's doing
            problems.append(str(error))
        return None, str(error)
    there = anchors_of(loop)
    problems += compare(control, anchors) + there.signature_problems(anchors)
    problems += [one for one in control.segment_problems(anchored=anchored_segments(there, anchors)) if one not in problems]
    return len(anchors), None if anchors else "nothing was anchored yet"


@app.command()
def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="What to write: a name that ends with .jsonl or .parquet.")],
    cycle: Annotated[str | None, typer.Option(help="Only this cycle's records.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write ledger records with their hashes into a file.

    Example: `predator-si audit export ledger.jsonl`
    """
    from predator_si.reports.audit import export_ledger

    form = file.suffix.removeprefix(".")
    if form not in ("jsonl", "parquet"):
        raise BadInput(f"{file}: the name tells the format; end it with .jsonl or .parquet.")
    count, head = export_ledger(_control(context).every_record(cycle), file, form)  # type: ignore[arg-type]
    if as_json:
        show_json({"records": count, "file": str(file), "head": head})
    else:
        say(f"{count} records in {file}")
