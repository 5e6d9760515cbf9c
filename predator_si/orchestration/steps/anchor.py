"""When the ledger's head goes into Git: after each release and rollback, and by the hour while anything is written."""

from __future__ import annotations

from datetime import datetime, timedelta

from predator_si.control import Control
from predator_si.orchestration.loop import Loop
from predator_si.records import utc_now
from predator_si.release.anchors import Anchor, LedgerAnchors, anchor_problems

EVERY = timedelta(hours=1)
AT_ONCE = frozenset({"cycle_released", "cycle_rolled_back", "cycle_stable", "rollback", "deployment_trial", "deployment_promote"})
"""Ledger records after which the head is anchored without waiting."""
_LOOK = 500


def anchors_of(loop: Loop) -> LedgerAnchors:
    """The anchors of this contour's ledger, in the GitOps repository."""
    return LedgerAnchors(loop.repo.url, loop.home.path / "anchors.git", loop.contour, loop.repo.access)


def has_repository(loop: Loop) -> bool:
    """Whether there is a repository to anchor in: the contour's, or the home's own."""
    return loop.settings.values.gitops.url is not None or loop.home.gitops_bare.is_dir()


def anchor_if_due(loop: Loop, now: datetime | None = None) -> Anchor | None:
    """Anchor the head where that is due; null where it is not, or where the newest anchor has it already.

    Raises
    ------
    Unavailable
        The repository does not take it; the next look tries again.
    """
    moment, note = now or utc_now(), f"anchors/{loop.contour}"
    head = loop.control.head()
    known = loop.control.get_note(note) or {"seq": 0, "at": None}
    if head is None or head[0] <= known["seq"]:
        return None
    due = known["at"] is None or moment - datetime.fromisoformat(known["at"]) >= EVERY
    why = "by the hour"
    if not due:
        news = [record for record in loop.control.records(_LOOK, after_seq=int(known["seq"])) if record.action in AT_ONCE]
        if not news:
            return None
        why = f"{news[-1].action} {news[-1].cycle_id or ''}".strip()
    anchor = anchors_of(loop).write(head, moment, why)
    loop.control.set_note(note, {"seq": head[0], "at": moment.isoformat()})
    return anchor


def compare(control: Control, anchors: list[Anchor]) -> list[str]:
    """Where a ledger is not the one that was anchored, in words."""

    def hash_at(seq: int) -> str | None:
        found = control.records(1, after_seq=seq - 1)
        return found[0].hash if found and found[0].seq == seq else None

    return anchor_problems(anchors, hash_at)
