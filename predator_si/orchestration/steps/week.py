"""The facts behind the weekly report, key figures and the before-after table, and where the report is kept and sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from predator_si.errors import PredatorError
from predator_si.notify import Event
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.metering import spent_in_month
from predator_si.orchestration.steps import observe
from predator_si.orchestration.steps.tell import place_of
from predator_si.records import LedgerRecord, MetricsSnapshot, utc_now
from predator_si.reports.before_after import BeforeAfter, before_after, split_of
from predator_si.reports.costs import read_costs
from predator_si.reports.priorities import priorities
from predator_si.reports.stories import KeyFigures, key_figures, stories
from predator_si.reports.week import Week, as_html, as_markdown, short_text, title_of

WEEK = timedelta(days=7)
_PAGE = 1000


def last_week(now: datetime) -> tuple[datetime, datetime]:
    """The seven days up to the beginning of today (UTC)."""
    end = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return end - WEEK, end


def records_since(loop: Loop, since: datetime) -> list[LedgerRecord]:
    """Ledger records from a moment on, oldest first."""
    found: list[LedgerRecord] = []
    before: int | None = None
    while page := loop.control.page(_PAGE, before):
        found += [record for record in page if record.timestamp >= since]
        if page[-1].timestamp < since:
            break
        before = page[-1].seq
    return found[::-1]


def snapshots_between(loop: Loop, start: datetime, end: datetime) -> list[MetricsSnapshot]:
    """Snapshots whose window lies in the period. Names hold the moment of writing, so others are not read."""
    first, last = (f"{loop.contour}-{moment.astimezone(UTC):%Y%m%dT%H%M%S}" for moment in (start, end + timedelta(hours=2)))
    paths = [path for path in sorted(loop.home.snapshots.glob(f"{loop.contour}-*.json")) if first <= path.stem <= last]
    return [one for one in map(MetricsSnapshot.read, paths) if one.window_start >= start and one.window_end <= end]


def costs_so_far(loop: Loop, records: list[LedgerRecord]) -> dict[str, float]:
    """Cycle -> USD by the files of cycles that have not ended."""
    found = {}
    for cycle_id in {record.cycle_id for record in records if record.cycle_id is not None}:
        costs = read_costs(loop.home.artifacts / cycle_id)
        if costs is not None:
            found[cycle_id] = costs.total_cost_usd
    return found


def figures(loop: Loop, start: datetime, end: datetime) -> KeyFigures:
    """Key figures of a period."""
    records = records_since(loop, start)
    return key_figures(records, start, end, costs_so_far(loop, records))


def compare(loop: Loop, start: datetime, end: datetime, split: datetime | None = None) -> BeforeAfter:
    """The before-after table of a period, split at ``split`` or at its newest release."""
    moves = [
        (story.reached[state], f"{story.cycle_id} was {word}")
        for story in stories(records_since(loop, start - WEEK))
        for state, word in (("released", "released"), ("rolled_back", "rolled back"))
        if state in story.reached and not story.drill
    ]
    at, why = split_of(moves, start, end) if split is None else (split, "chosen by whoever asked")
    return before_after(snapshots_between(loop, start, end), start, end, at, why)


def gather(loop: Loop, start: datetime, end: datetime, now: datetime | None = None) -> Week:
    """Everything that the report of a week is made from. What is unknown now (a service that is down, no repository) is null, never guessed."""
    moment = now or utc_now()
    records = records_since(loop, start)
    newest = next(iter(loop.snapshots(1)), None)
    told = [story for story in stories(records) if story.opened_at < end]
    try:
        loop.repo.sync()
        denied = loop.denied()
        champion: str | None = loop.serving().model
    except PredatorError:
        denied, champion = [], None
    spent, budget = spent_in_month(loop, moment), loop.settings.budget.usd_per_month
    held = {metric: one.expires_at for metric, one in loop.control.gate_overrides(loop.contour, moment).items()}
    asked = priorities(
        told=told,
        gates=observe.gates(loop, newest, moment) if newest is not None else [],
        newest=newest,
        denied=denied,
        since=start,
        spent_usd=spent,
        budget_usd=budget,
        overrides=held,
    )
    return Week(
        contour=loop.contour,
        start=start,
        end=end,
        figures=key_figures(records, start, end, costs_so_far(loop, records)),
        told=told,
        records=[record for record in records if record.timestamp < end],
        table=compare(loop, start, end),
        priorities=asked,
        spent_month_usd=spent,
        budget_usd=budget,
        champion=champion,
        snapshots=snapshots_between(loop, start, end),
        champions=[one for one in loop.control.champions(loop.contour) if one.since < end and (one.until is None or one.until > start)],
    )


def write(loop: Loop, week: Week) -> tuple[Path, Path]:
    """Keep the report as ``reports/week-<date of its end>.md`` and ``.html`` in the home; the same week is written over."""
    folder = loop.home.reports
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"week-{week.end:%Y-%m-%d}.md", folder / f"week-{week.end:%Y-%m-%d}.html"
    for path, text in zip(paths, (as_markdown(week), as_html(week)), strict=True):
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    return paths


def send(loop: Loop, week: Week, page: Path) -> bool:
    """Put the report's few lines into the outbox; once for each week."""
    return loop.notify(
        Event(
            kind="report",
            severity="info",
            title=title_of(week),
            text=short_text(week),
            link=place_of(loop).base,
            next_step=f"Read {page.name} in the home's folder reports, or the asset observe/weekly_report in the Dagster UI.",
            key=f"{loop.contour}:week:{week.end:%Y-%m-%d}",
        )
    )
