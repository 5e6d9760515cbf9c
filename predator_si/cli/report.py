"""`report week`, `report kpis`, `report before-after`: what the loop did and brought, from ledger and telemetry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import say, show_json, show_table
from predator_si.errors import BadInput, Missing
from predator_si.records import utc_now

if TYPE_CHECKING:
    from predator_si.orchestration.loop import Loop

app = typer.Typer(help="What the loop did, brought and cost.", no_args_is_help=True)
Since = Annotated[str | None, typer.Option("--from", help="Beginning, like 2026-11-16 or 2026-11-16T08:00 (UTC) [default: seven days before --to].")]
Until = Annotated[str | None, typer.Option("--to", help="End (UTC) [default: now].")]


def _loop(context: typer.Context) -> Loop:
    from predator_si.control.opening import is_there
    from predator_si.orchestration.loop import Loop

    loop = Loop(settings_of(context))
    if not is_there(loop.home):
        raise Missing(f"{loop.home.control_db}: there is no ledger yet, so there is nothing to report. Run `predator-si demo` or `predator-si up` first.")
    return loop


def _moment(text: str, option: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"{option} {text!r}: not a date; write it like 2026-11-16 or 2026-11-16T08:00.") from error
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _period(start: str | None, end: str | None) -> tuple[datetime, datetime]:
    last = _moment(end, "--to") if end is not None else utc_now()
    first = _moment(start, "--from") if start is not None else last - timedelta(days=7)
    if first >= last:
        raise BadInput(f"--from {first:%Y-%m-%d %H:%M} is not before --to {last:%Y-%m-%d %H:%M}.")
    return first, last


def _written(text: str, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{file}: cannot be written ({error.strerror}); name another file with --html.") from error


@app.command()
def week(
    context: typer.Context,
    start: Since = None,
    end: Until = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write it here as one HTML page, too.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """The weekly report as Markdown: Summary, Model Improvements, Cost Optimization, Actions Taken, Next Week Priorities.

    Example: `predator-si report week --html week.html`
    """
    from predator_si.orchestration.steps.week import gather
    from predator_si.reports.week import as_html, as_markdown, chapters

    found = gather(_loop(context), *_period(start, end))
    if html is not None:
        _written(as_html(found), html)
    if not as_json:
        say(as_markdown(found).rstrip())
        return
    told = [{"heading": one.heading, "paragraphs": one.paragraphs, "tables": [{"head": t.head, "rows": t.rows} for t in one.grids]} for one in chapters(found)]
    facts = {"contour": found.contour, "from": found.start, "to": found.end, "champion": found.champion, "spent_month_usd": found.spent_month_usd}
    more = {"kpis": found.figures.model_dump(), "before_after": found.table.model_dump(), "priorities": [one.model_dump() for one in found.priorities]}
    show_json({**facts, **more, "chapters": told})


@app.command()
def kpis(context: typer.Context, start: Since = None, end: Until = None, as_json: JsonFlag = False) -> None:
    """Key figures of the cycles opened in a period: success, duration, rollbacks, gain, cost; unknown ones say why.

    Example: `predator-si report kpis --from 2026-11-01`
    """
    from predator_si.orchestration.steps.week import figures

    found = figures(_loop(context), *_period(start, end))
    if as_json:
        show_json(found.model_dump())
        return
    rows = [
        (name, "unknown" if value is None else f"{value:.4g}" if isinstance(value, float) else value)
        for name, value in found.model_dump().items()
        if name != "notes"
    ]
    show_table("", ("figure", "value"), rows, "")
    for note in found.notes:
        say(note)


@app.command("before-after")
def compare_sides(
    context: typer.Context,
    start: Since = None,
    end: Until = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Moment between the sides (UTC) [default: the newest release or rollback in the period].")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """NDCG@10, P95, cost per 1,000 requests and downtime before and after a moment, from stored snapshots.

    Example: `predator-si report before-after --from 2026-11-01 --split 2026-11-15`
    """
    from predator_si.orchestration.steps.week import compare

    found = compare(_loop(context), *_period(start, end), _moment(split, "--split") if split is not None else None)
    if as_json:
        show_json({**found.model_dump(), "rows": [{**row.model_dump(), "difference": row.difference, "answer": row.answer} for row in found.rows]})
        return
    say(f"split at {found.split:%Y-%m-%d %H:%M} UTC: {found.why_split}" + ("; some metrics are made up (mockSignals)" if found.mock else ""))
    rows = []
    for row in found.rows:
        sides = ["unknown" if side.value is None else f"{side.value:.4g} (n={side.observations})" for side in (row.before, row.after)]
        rows.append((row.name, row.unit, *sides, "unknown" if row.difference is None else f"{row.difference:+.4g}", row.answer))
    show_table("", ("metric", "unit", "before", "after", "difference", "so"), rows, "")
    if found.unmeasured_hours > 1:
        say(f"{found.unmeasured_hours:.1f} hours of the period were not measured")
