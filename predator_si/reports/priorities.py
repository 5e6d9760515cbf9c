"""What to look at next week: by rules over open gates, verdicts, deny entries, approvals and money, each with its evidence. Nothing is typed in.

What belongs here: the rules and their order. What must not: gathering the facts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from predator_si.records import Answer, GateResult, MetricsSnapshot, Record
from predator_si.release.deny import DenyEntry
from predator_si.reports.stories import CycleStory

FRUITLESS = 2
"""So many rejected cycles of one trigger in a week ask whether training is the right answer to it."""


class Priority(Record):
    """One thing to look at."""

    what: str
    why: str
    evidence: str


def priorities(
    *,
    told: Sequence[CycleStory],
    gates: Sequence[GateResult],
    newest: MetricsSnapshot | None,
    denied: Sequence[DenyEntry],
    since: datetime,
    spent_usd: float | None,
    budget_usd: float,
    overrides: Mapping[str, datetime] | None = None,
) -> list[Priority]:
    """The priorities, the most urgent first.

    Parameters
    ----------
    told
        The week's cycles.
    gates
        The contour's gates on ``newest``.
    denied
        The deny list; entries since ``since`` are news.
    overrides
        Metric -> end of an overridden gate that still holds.
    """
    at = f"snapshot {newest.snapshot_id}" if newest is not None else "no snapshot"
    found = [
        Priority(what=f"Decide about {one.cycle_id}", why=f"it waits for an approval since {one.state_at:%Y-%m-%d %H:%M} UTC", evidence=_seq(one))
        for one in told
        if one.state == "awaiting_approval"
    ]
    found += [
        Priority(what=f"Bring {gate.criterion.metric} back within its gate", why=gate.reason, evidence=f"gate {gate.criterion.name}, {at}")
        for gate in gates
        if gate.answer is Answer.FAIL
    ]
    if newest is None:
        found.append(Priority(what="Make the loop see something", why="no metrics snapshot exists", evidence=at))
    found += [
        Priority(what=f"Make {gate.criterion.metric} known", why=gate.reason, evidence=f"gate {gate.criterion.name}, {at}")
        for gate in gates
        if gate.answer is Answer.UNKNOWN and gate.criterion.critical and newest is not None
    ]
    real = [one for one in told if not one.drill]
    found += [Priority(what=f"Find out why {one.cycle_id} was rolled back", why=one.why, evidence=_seq(one)) for one in real if one.rollbacks]
    found += [Priority(what=f"Mend what made {one.cycle_id} fail", why=one.why, evidence=_seq(one)) for one in real if one.state == "failed"]
    rejected = Counter(one.trigger for one in real if one.state == "rejected")
    for trigger, count in sorted(rejected.items()):
        if count >= FRUITLESS:
            cycles = [one for one in real if one.state == "rejected" and one.trigger == trigger]
            why = f"{count} cycles were rejected, the newest because: {cycles[-1].why}"
            found.append(
                Priority(what=f"Look for another answer to {trigger} than what was tried", why=why, evidence=", ".join(one.cycle_id for one in cycles))
            )
    found += [
        Priority(what=f"Review the denied model of {entry.cycle or 'no cycle'}", why=entry.reason, evidence=f"deny list, {entry.digest[:19]}")
        for entry in denied
        if entry.at >= since
    ]
    if spent_usd is not None and spent_usd >= 0.8 * budget_usd:
        why = f"{spent_usd:.2f} of {budget_usd:.2f} USD of this month are spent; at the limit no cycle begins"
        found.append(Priority(what="Look at the budget", why=why, evidence="cycle_cost records of this month"))
    for metric, ends in sorted((overrides or {}).items()):
        found.append(Priority(what=f"Review the overridden gate of {metric}", why=f"it holds until {ends:%Y-%m-%d %H:%M} UTC", evidence="gate overrides"))
    return found


def _seq(story: CycleStory) -> str:
    return f"{story.cycle_id}, ledger record {story.seqs[-1]}"
