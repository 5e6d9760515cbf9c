"""Cycles as the ledger tells them: what each began for, how it went, what it brought and cost. And key figures over a period.

What belongs here: folding ledger records into stories and figures; records alone are read, so all of it outlives artifacts. What must not: telemetry
(``before_after``), wording (``week``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any

from predator_si.records import CycleState, LedgerRecord, Record
from predator_si.reports.costs import RECORDED

_ENDS = frozenset({"stable", "rejected", "rolled_back", "cancelled", "expired", "failed"})
DRILL = "drill"


@dataclass
class CycleStory:
    """One cycle by its ledger records."""

    cycle_id: str
    opened_at: datetime
    actor: str
    trigger: str
    reason: str
    state: str = CycleState.OPENED.value
    state_at: datetime | None = None
    why: str = ""
    reached: dict[str, datetime] = field(default_factory=dict)
    difference: Mapping[str, Any] | None = None
    """NDCG@10 of challenger minus champion on judged queries, with its interval."""
    action: str | None = None
    """What was done instead of training."""
    commit: str | None = None
    approver: str | None = None
    rollbacks: int = 0
    cost_usd: float | None = None
    seqs: list[int] = field(default_factory=list)

    @property
    def drill(self) -> bool:
        """Whether it was an exercise: counted nowhere but apart."""
        return self.actor == DRILL

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state in _ENDS

    @property
    def released(self) -> bool:
        """Whether its challenger became the champion, for however long."""
        return CycleState.RELEASED.value in self.reached

    @property
    def hours(self) -> float | None:
        """From its opening to its end; null while it goes on."""
        return None if not self.ended or self.state_at is None else (self.state_at - self.opened_at).total_seconds() / 3600


def stories(records: Iterable[LedgerRecord]) -> list[CycleStory]:
    """The cycles that were opened within ``records`` (oldest first), in their order."""
    found: dict[str, CycleStory] = {}
    for record in records:
        said, cycle = record.payload, record.cycle_id
        if cycle is None:
            continue
        if record.action == "cycle_opened":
            trigger = said.get("trigger") or {}
            found[cycle] = CycleStory(cycle, record.timestamp, record.actor, str(trigger.get("type", "unknown")), record.reason, state_at=record.timestamp)
        story = found.get(cycle)
        if story is None:
            continue
        story.seqs.append(record.seq)
        if record.action.startswith("cycle_") and {"from", "to"} <= said.keys():
            story.state, story.state_at, story.why = str(said["to"]), record.timestamp, record.reason
            story.reached.setdefault(story.state, record.timestamp)
            story.difference = said.get("difference") or story.difference
            story.action = said.get("action") or story.action
            story.commit = said.get("commit") or story.commit
        elif record.action in ("approval", "approval_approved"):
            story.approver = record.actor
        elif record.action == "rollback":
            story.rollbacks += 1
        elif record.action == RECORDED:
            story.cost_usd = float(said["total_cost_usd"])
    return list(found.values())


class KeyFigures(Record):
    """Figures of a period. Null is unknown or undefined, and ``notes`` say why; drills are in ``drills`` alone."""

    start: datetime
    end: datetime
    cycles: int
    ended: int
    released: int
    stable: int
    rejected: int
    failed: int
    success: float | None
    """Share of the ended cycles whose release became stable."""
    rollbacks: int
    """Releases taken back, drills apart."""
    median_hours: float | None
    """From opening to end, over ended cycles."""
    longest_hours: float | None
    gain_per_release: float | None
    """Mean NDCG@10 difference on judged queries over released cycles that measured one."""
    gains: int
    """Cycles behind it."""
    total_cost_usd: float | None
    cost_per_cycle_usd: float | None
    unmetered: int
    """Ended cycles without a cost: they are in no sum."""
    approvals: int
    kill_switch_pressed: int
    drills: int
    notes: tuple[str, ...] = ()


def key_figures(records: Sequence[LedgerRecord], start: datetime, end: datetime, more_costs: Mapping[str, float] | None = None) -> KeyFigures:
    """Figures of the cycles opened in ``[start, end)``.

    Parameters
    ----------
    records
        Ledger records from ``start`` on, oldest first; those after ``end`` tell how cycles of the period went on.
    more_costs
        Cycle -> USD so far, for cycles that have not ended.
    """
    told = [story for story in stories(records) if start <= story.opened_at < end]
    real = [story for story in told if not story.drill]
    ended = [story for story in real if story.ended]
    hours = [story.hours for story in ended if story.hours is not None]
    gains = [float(story.difference["estimate"]) for story in real if story.released and story.difference is not None]
    known = {story.cycle_id: story.cost_usd for story in real if story.cost_usd is not None}
    known |= {
        story.cycle_id: more_costs[story.cycle_id] for story in real if more_costs is not None and story.cycle_id in more_costs and story.cost_usd is None
    }
    stable = sum(story.state == "stable" for story in ended)
    unmetered = sum(story.cycle_id not in known for story in ended)
    within = [record for record in records if start <= record.timestamp < end]
    notes = []
    if not real:
        notes.append("no cycle was opened in this period")
    elif not ended:
        notes.append("no cycle of this period has ended yet, so there is no success rate and no duration")
    if real and not gains:
        notes.append("no released cycle of this period measured a gain")
    if unmetered:
        notes.append(f"{unmetered} of {len(ended)} ended cycles were never metered: their cost is unknown and in no sum")
    return KeyFigures(
        start=start,
        end=end,
        cycles=len(real),
        ended=len(ended),
        released=sum(story.released for story in real),
        stable=stable,
        rejected=sum(story.state == "rejected" for story in ended),
        failed=sum(story.state == "failed" for story in ended),
        success=stable / len(ended) if ended else None,
        rollbacks=sum(story.rollbacks > 0 for story in real),
        median_hours=median(hours) if hours else None,
        longest_hours=max(hours, default=None),
        gain_per_release=sum(gains) / len(gains) if gains else None,
        gains=len(gains),
        total_cost_usd=sum(known.values()) if known else None,
        cost_per_cycle_usd=sum(known.values()) / len(known) if known else None,
        unmetered=unmetered,
        approvals=sum(record.action in ("approval", "approval_approved") for record in within),
        kill_switch_pressed=sum(record.action == "kill_switch_on" for record in within),
        drills=len(told) - len(real),
        notes=tuple(notes),
    )
