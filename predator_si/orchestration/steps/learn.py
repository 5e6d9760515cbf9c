"""Training by the calendar: whether there is anything new to learn from, and whether a cycle may begin.

What belongs here: the question that ``training_schedule`` asks. What must not: opening the cycle, training.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl

from predator_si.monitor import Skip
from predator_si.monitor.intake import read_window
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import permission
from predator_si.records import Record, Trigger, utc_now

TRIGGER = "schedule"
ACTIONS = ("diagnose", "augment", "retrain_reranker")
_CLICKS = frozenset({"click", "rating"})
_REACH = timedelta(days=30)
"""Older searches than this are not counted: the training data are made from the newest days."""


class NewMaterial(Record):
    """What came in since the loop last trained: the searches and labels of people (or of their replay), probes apart."""

    since: datetime
    searches: int
    labels: int
    """Clicks and ratings on them."""


def new_material(loop: Loop, now: datetime, enough: int) -> NewMaterial:
    """Count what is new, a day at a time from the newest on, until it is ``enough``; then the counts are at least so high."""
    since = max(last_training(loop), now - _REACH)
    searches, labels, end = 0, 0, now
    while end > since and max(searches, labels) < enough:
        start = max(since, end - timedelta(days=1))
        seen = read_window(loop.home.telemetry, start, end, events=loop.home.events, results=False)
        people = seen.search.filter(~pl.col("probe") & (pl.col("status") == 200))
        searches += people.height
        labels += seen.actions.filter(pl.col("action_name").is_in(list(_CLICKS))).join(people.select("query_id"), on="query_id", how="semi").height
        end = start
    return NewMaterial(since=since, searches=searches, labels=labels)


def last_training(loop: Loop) -> datetime:
    """When the newest cycle that trained was opened; the home's preparation where none has."""
    cycles = loop.control.cycles(500, loop.contour)
    trained = (cycle.opened_at for cycle in cycles if (loop.home.artifacts / cycle.cycle_id / "training.json").is_file())
    return max(trained, default=loop.plan.prepared_at)


def next_training(loop: Loop, now: datetime | None = None) -> Trigger | Skip:
    """The trigger of a scheduled cycle, or every reason against one; the same policy as for a failed gate, and something new to learn from."""
    now = now or utc_now()
    settings = loop.settings
    if settings.mock_signals:
        return Skip(("signals are mock in this contour: nothing is trained on them",))
    answer = permission.ruling(loop, "start_cycle", trigger=TRIGGER, now=now)
    if answer.answer != "allow":
        return Skip((f"scheduled training may not start: {answer.reason}",), answer.retry_at)
    newest = loop.snapshots(1)
    if not newest:
        return Skip(("there is no metrics snapshot yet, so nothing says what to train for",))
    enough = settings.values.training.new_queries
    found = new_material(loop, now, enough)
    told = f"{found.searches} searches and {found.labels} clicks and ratings since {found.since:%Y-%m-%d %H:%M} UTC"
    if max(found.searches, found.labels) < enough:
        return Skip((f"nothing new to learn from: {told}, {enough} of either are needed",))
    metric, baseline = newest[-1].metrics.get("ndcg_at_10"), loop.baseline()
    value = metric.value if metric is not None else None
    reference = baseline.values.get("ndcg_at_10") if baseline is not None and baseline.champion == newest[-1].champion else None
    return Trigger(
        type=TRIGGER,
        metric="ndcg_at_10",
        value=value,
        baseline=reference,
        delta=value - reference if value is not None and reference is not None else None,
        actions=ACTIONS,
        reason=f"scheduled training: {told}",
    )
