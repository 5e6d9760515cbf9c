"""What people and policy said: approvals, overridden gates, feature flags, and who was champion."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from predator_si.records.base import Record

Stage = Literal["trial", "promote"]
ApprovalState = Literal["waiting", "approved", "rejected", "expired", "cancelled"]


class Approval(Record):
    """A question to a person about one stage of one cycle, with the evidence it was asked on, and the answer."""

    cycle_id: str
    stage: Stage
    contour: str
    evidence_hash: str
    """sha256 over the files that the verdict was computed from: an answer is about these, and about no other."""
    evidence: dict[str, Any]
    """Verdict, numbers, gates, slices, what would change it, links."""
    asked_at: datetime
    """When the person was asked."""
    expires_at: datetime
    """After that nobody may answer any more."""
    decision: Literal["approved", "rejected", "expired", "cancelled"] | None = None
    """The answer; null: none yet."""
    actor: str | None = None
    """Who answered, or `loop`."""
    reason: str = ""
    """Why, in their words."""
    at: datetime | None = None
    """When."""

    def state(self, now: datetime) -> ApprovalState:
        """What the question is at ``now``: one that nobody answered in time has expired, whether or not anybody wrote it down yet."""
        if self.decision is not None:
            return self.decision
        return "expired" if now >= self.expires_at else "waiting"


class GateOverride(Record):
    """Another threshold for a quality gate, for a time."""

    contour: str
    metric: str
    threshold: float
    """That holds instead of the contour's."""
    old: float | None
    """The threshold in force before; null: the metric had no absolute one."""
    actor: str
    reason: str
    set_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None
    """When it was taken back or replaced; null: it ends by itself."""

    def holds(self, now: datetime) -> bool:
        """Whether it is in force."""
        return self.set_at <= now < (self.expires_at if self.ended_at is None else min(self.ended_at, self.expires_at))


class ChampionSpan(Record):
    """Who served a contour, from when to when, and why. Git is the truth; this is its index."""

    contour: str
    digest: str
    """Of the model."""
    cycle_id: str | None
    """Null: the first one of a home, or a person's commit."""
    since: datetime
    """When it began to serve."""
    until: datetime | None = None
    """Null: it serves now."""
    why: str
    """In words."""
    commit: str | None


class FeatureFlag(Record):
    """A switch of one contour that people may turn without a change of its values: false forbids the automatic action of this name."""

    contour: str
    name: str
    """Of the automatic action."""
    on: bool
    """Whether the loop may do it."""
    actor: str
    reason: str
    set_at: datetime
