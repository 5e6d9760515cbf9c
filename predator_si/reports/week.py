"""The weekly report: Summary, Model Improvements, Cost Optimization, Actions Taken, Next Week Priorities; Markdown and HTML from one structure.

What belongs here: what is told under which heading. What must not: gathering facts (``orchestration.steps.week``), the rules of priorities.

Every number comes from the ledger, snapshots or the deny list; what is unknown is said to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from predator_si.records import ChampionSpan, CycleState, LedgerRecord, MetricsSnapshot
from predator_si.reports.before_after import BeforeAfter, Side
from predator_si.reports.page import Markup, element, joined, page, picture, section, table
from predator_si.reports.priorities import Priority
from predator_si.reports.stories import CycleStory, KeyFigures
from predator_si.statistics import resolvable_effect

HEADINGS = ("Summary", "Model Improvements", "Cost Optimization", "Actions Taken", "Next Week Priorities")
_MOST_ACTIONS = 40
_TOLD = frozenset(
    {"rollback", "approval", "approval_approved", "approval_rejected", "approval_refused", "kill_switch_on", "kill_switch_off", "run_failed", "gate_overridden",
     "gold_set", "sealed_test_opened", "patch_trial", "patch_promote", "actions_tried", "rollback_ordered"}
)  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """A small table; ``numbers`` are columns set to the right."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chapter:
    """One heading with its paragraphs and tables."""

    heading: str
    paragraphs: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()


@dataclass(frozen=True)
class Week:
    """Everything that the report is made from."""

    contour: str
    start: datetime
    end: datetime
    figures: KeyFigures
    told: Sequence[CycleStory]
    records: Sequence[LedgerRecord]
    """Of the week."""
    table: BeforeAfter
    priorities: Sequence[Priority]
    spent_month_usd: float | None
    budget_usd: float
    champion: str | None
    """Digest that serves at the end; null: unknown."""
    snapshots: Sequence[MetricsSnapshot] = field(default_factory=tuple)
    champions: Sequence[ChampionSpan] = field(default_factory=tuple)
    """Who served within the week, newest first."""


def chapters(week: Week) -> list[Chapter]:
    """The report's content."""
    return [_summary(week), _improvements(week), _costs(week), _actions(week), _next(week)]


def as_markdown(week: Week) -> str:
    """The report as Markdown; what is a table's border in it is escaped."""
    lines = [f"# {title_of(week)}", ""]
    for chapter in chapters(week):
        lines += [f"## {chapter.heading}", ""]
        for paragraph in chapter.paragraphs:
            lines += [paragraph, ""]
        for grid in chapter.grids:
            lines.append("| " + " | ".join(map(_cell, grid.head)) + " |")
            lines.append("|" + "|".join("---:" if index in grid.numbers else "---" for index in range(len(grid.head))) + "|")
            lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in grid.rows]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def as_html(week: Week) -> str:
    """The same as one self-contained page, with the histories of quality and cost."""
    body: list[Markup] = [element("header", element("h1", title_of(week)))]
    for chapter in chapters(week):
        parts = [element("p", paragraph) for paragraph in chapter.paragraphs]
        parts += [table(grid.head, grid.rows, numbers=grid.numbers) for grid in chapter.grids]
        if chapter.heading == "Model Improvements":
            parts += _history(week, "ndcg_at_10")
        if chapter.heading == "Cost Optimization":
            parts += _history(week, "cost_per_1k_requests")
        body.append(section(chapter.heading, *parts))
    return page(title_of(week), "en", joined(body))


def title_of(week: Week) -> str:
    """The report's name."""
    return f"Weekly report, {week.contour}: {week.start:%Y-%m-%d} to {week.end:%Y-%m-%d} (UTC)"


def short_text(week: Week) -> str:
    """A few lines for a message."""
    found = chapters(week)
    first = week.priorities[0] if week.priorities else None
    return " ".join(found[0].paragraphs) + (f" First priority: {first.what} ({first.why})." if first is not None else "")


# --------------------------------------------------------------------------- chapters


def _summary(week: Week) -> Chapter:
    k = week.figures
    lines = []
    if week.table.mock:
        lines.append("Some metrics of this week are made up (mockSignals): what follows says nothing about a real service.")
    if not k.cycles:
        lines.append("No cycle was opened this week" + (f" ({k.drills} drills apart)." if k.drills else "."))
    else:
        success = "none has ended yet" if k.success is None else f"{k.stable} of {k.ended} ended ones became stable"
        lines.append(f"{_count(k.cycles, 'cycle')} opened, {k.released} released, {k.rollbacks} rolled back, {k.failed} failed; {success}.")
        if k.median_hours is not None:
            lines.append(f"A cycle took {_hours(k.median_hours)} (median), the longest {_hours(k.longest_hours)}.")
    lines.append(f"At the end serves {week.champion[:19]}." if week.champion else "What serves at the end is unknown.")
    if week.table.unmeasured_hours > 1:
        lines.append(f"{week.table.unmeasured_hours:.0f} hours of the week were not measured.")
    rows = tuple(
        (row.name, _side(row.before, row.unit), _side(row.after, row.unit), _signed(row.difference, row.unit), row.answer, row.how) for row in week.table.rows
    )
    lines.append(f"Before and after {week.table.split:%Y-%m-%d %H:%M} UTC: {week.table.why_split}.")
    return Chapter("Summary", tuple(lines), (Grid(("metric", "before", "after", "difference", "so", "how"), rows, (1, 2, 3)),))


def _improvements(week: Week) -> Chapter:
    tried = [story for story in week.told if not story.drill]
    served = tuple(
        (f"{one.since:%m-%d %H:%M}", "now" if one.until is None else f"{one.until:%m-%d %H:%M}", one.digest[:19], one.why[:160]) for one in week.champions
    )
    spans = (Grid(("champion from (UTC)", "to", "model", "why"), served),) if served else ()
    if not tried:
        return Chapter("Model Improvements", ("No model was changed: no cycle was opened this week.",), spans)
    rows = tuple((one.cycle_id, one.trigger, one.action or "training", _gain(one), one.state, one.approver or "-", one.why[:160]) for one in tried)
    k = week.figures
    gain = "unknown: no released cycle measured one" if k.gain_per_release is None else f"{k.gain_per_release:+.4f} NDCG@10 over {_count(k.gains, 'release')}"
    head = ("cycle", "trigger", "by", "NDCG@10 gain [95%]", "state", "approver", "why")
    return Chapter("Model Improvements", (f"Mean gain of released models on judged queries: {gain}.",), (Grid(head, rows), *spans))


def _costs(week: Week) -> Chapter:
    k = week.figures
    spent = "unknown" if week.spent_month_usd is None else f"{week.spent_month_usd:.2f} USD of {week.budget_usd:.2f} USD"
    lines = [f"Spent on cycles this month: {spent}."]
    if k.cost_per_cycle_usd is not None and k.total_cost_usd is not None:
        lines.append(
            f"This week's cycles cost {k.total_cost_usd:.4f} USD, {k.cost_per_cycle_usd:.4f} USD each (estimated: metered seconds times the price table)."
        )
    elif k.cycles:
        lines.append("What this week's cycles cost is unknown: nothing was metered.")
    if k.unmetered:
        lines.append(f"{_count(k.unmetered, 'ended cycle')} never metered and in no sum.")
    row = next(row for row in week.table.rows if row.metric == "cost_per_1k_requests")
    lines.append(f"Serving 1,000 requests cost {_side(row.before, 'USD')} before and {_side(row.after, 'USD')} after.")
    cheaper = [one for one in week.told if one.trigger.startswith("cost") and not one.drill]
    if not cheaper:
        return Chapter("Cost Optimization", (*lines, "No cycle was about cost."))
    rows = tuple((one.cycle_id, one.action or "training", one.state, one.why[:160]) for one in cheaper)
    return Chapter("Cost Optimization", tuple(lines), (Grid(("cycle", "action", "state", "why"), rows),))


def _actions(week: Week) -> Chapter:
    if not week.records:
        return Chapter("Actions Taken", ("Nothing was done this week: the ledger has no record of it.",))
    counts = Counter(record.action for record in week.records)
    said = ", ".join(f"{name} {count}" for name, count in counts.most_common(12))
    told = [record for record in week.records if record.action in _TOLD or (record.action.startswith("cycle_") and {"from", "to"} <= record.payload.keys())]
    rows = tuple((f"{one.timestamp:%m-%d %H:%M}", one.cycle_id or "-", one.action, one.actor, one.reason[:160]) for one in told[-_MOST_ACTIONS:])
    lines = [f"{_count(len(week.records), 'ledger record')}: {said}."]
    if len(told) > _MOST_ACTIONS:
        lines.append(f"The newest {_MOST_ACTIONS} of {len(told)} follow.")
    if not rows:
        return Chapter("Actions Taken", tuple(lines))
    return Chapter("Actions Taken", tuple(lines), (Grid(("time (UTC)", "cycle", "what", "who", "why"), rows),))


def _next(week: Week) -> Chapter:
    if not week.priorities:
        return Chapter("Next Week Priorities", ("No gate is open, nothing waits, nothing was taken back: no rule asks for work.",))
    rows = tuple((f"{number}", one.what, one.why[:240], one.evidence) for number, one in enumerate(week.priorities, 1))
    return Chapter("Next Week Priorities", (), (Grid(("", "what", "why", "evidence"), rows, (0,)),))


# --------------------------------------------------------------------------- words


def _history(week: Week, metric: str) -> list[Markup]:
    known = [one for one in week.snapshots if (found := one.metrics.get(metric)) is not None and found.value is not None]
    if not known:
        return [element("p", f"No history of {metric}: it is unknown in every window of this week.")]
    from predator_si.reports.plots import metric_history

    marks = [(at, what) for one in week.told for what, at in one.reached.items() if what in ("released", "rolled_back")]
    return [picture(lambda theme: metric_history(week.snapshots, metric, marks=marks, theme=theme), f"{metric} over the week")]


def _gain(story: CycleStory) -> str:
    if story.difference is None:
        return "not released, so not told" if CycleState.EVALUATED.value in story.reached else "not measured"
    d = story.difference
    resolves = f", resolves {resolvable_effect(d['n'], d['sd']):.4f}" if d.get("sd") else ""
    return f"{d['estimate']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}], n={d['n']}{resolves}"


def _side(side: Side, unit: str) -> str:
    if side.value is None:
        return f"unknown ({side.reason})"
    interval = f" [{side.low:.4g}, {side.high:.4g}]" if side.low is not None and side.high is not None else ""
    return f"{side.value:.4g}{interval}{' ' + unit if unit else ''}"


def _signed(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{value:+.4g}{' ' + unit if unit else ''}"


def _hours(value: float | None) -> str:
    return "unknown" if value is None else f"{value * 60:.0f} min" if value < 2 else f"{value:.1f} h"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|") or " "
