"""When the ledger's head goes into Git: after each release and rollback, and by the hour while anything is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from predator_si.control import Control
from predator_si.control.segments import Segment
from predator_si.orchestration.loop import Loop
from predator_si.records import utc_now
from predator_si.release.anchors import Anchor, LedgerAnchors, anchor_problems, standing

EVERY = timedelta(hours=1)
AT_ONCE = frozenset({"cycle_released", "cycle_rolled_back", "cycle_stable", "rollback", "deployment_trial", "deployment_promote"})
"""Ledger records after which the head is anchored without waiting."""
_LOOK = 500


def anchors_of(loop: Loop) -> LedgerAnchors:
    """The anchors of this contour's ledger, in the GitOps repository."""
    from predator_si.orchestration.delivery import allowed_signers

    return LedgerAnchors(loop.repo.url, loop.home.path / "anchors.git", loop.contour, loop.repo.access, allowed_signers(loop.settings))


def has_repository(loop: Loop) -> bool:
    """Whether there is a repository to anchor in: the contour's, or the home's own."""
    return loop.settings.values.gitops.url is not None or loop.home.gitops_bare.is_dir()


def anchor_if_due(loop: Loop, now: datetime | None = None) -> Anchor | None:
    """Anchor the head where that is due; null where it is not, or where the newest anchor has it already.

    Raises
    ------
    Unavailable
        The repository does not take it; the next look tries again.
    OlderLedger
        What was anchored last is not in this ledger.
    """
    moment, note = now or utc_now(), f"anchors/{loop.contour}"
    head = loop.control.head()
    known = loop.control.get_note(note) or {"seq": 0, "at": None}
    if head is None or head[0] <= known["seq"]:
        return None
    # a last time that lies ahead was written before the clock went back: nobody waits for it
    due = known["at"] is None or not timedelta(0) <= moment - datetime.fromisoformat(known["at"]) < EVERY
    why = "by the hour"
    if not due:
        news = [record for record in loop.control.records(_LOOK, after_seq=int(known["seq"])) if record.action in AT_ONCE]
        if not news:
            return None
        why = f"{news[-1].action} {news[-1].cycle_id or ''}".strip()
    anchor = anchors_of(loop).write(head, moment, why, more=segments_file(loop.control.segments()))
    loop.control.set_note(note, {"seq": head[0], "at": moment.isoformat()})
    return anchor


SEGMENTS = "segments.json"


def segments_file(segments: Sequence[Segment]) -> dict[str, str]:
    """What an anchor's tree says about the sealed beginning of the ledger; nothing where nothing is sealed."""
    return {SEGMENTS: json.dumps([asdict(one) for one in segments], indent=2) + "\n"} if segments else {}


def anchored_segments(anchors: LedgerAnchors, found: Sequence[Anchor]) -> list[dict[str, Any]]:
    """What the newest anchor says about the sealed beginning; ``found`` newest first."""
    text = anchors.file(found[0].commit, SEGMENTS) if found else None
    return list(json.loads(text)) if text is not None else []


def compare(control: Control, anchors: list[Anchor]) -> list[str]:
    """Where a ledger is not the one that was anchored, in words; ``anchors`` newest first."""
    return anchor_problems(anchors, control.hash_at)


def accept_ledger(loop: Loop, actor: str, reason: str, now: datetime | None = None, newest: int | None = None) -> Anchor | None:
    """Go on with the ledger as it stands, although it is not the one that was anchored; what is lost is written down, in the ledger and as an anchor.

    Parameters
    ----------
    newest
        Last record of the copy that came back; null: the newest one here.

    Returns
    -------
    Anchor or None
        The anchor; null where the ledger holds all that was anchored, so that there is nothing to accept.

    Raises
    ------
    Unavailable
        The repository is not reached: nothing was accepted.
    """
    moment, anchors = now or utc_now(), anchors_of(loop)
    found = standing(anchors.read())
    control = loop.control
    if not found or control.hash_at(found[0].seq) == found[0].hash:
        return None
    kept = next((anchor.seq for anchor in found if control.hash_at(anchor.seq) == anchor.hash), 0)
    here = newest if newest is not None else (control.head() or (0, ""))[0]
    # of a copy that ends too early the records up to its end are here, proven by anchors up to `kept`; of a rewritten one nobody knows more than that
    lost = (max(kept, here) if here < found[0].seq else kept) + 1
    payload = {"proven_to": kept, "lost_from": lost, "lost_to": found[0].seq, "anchor": found[0].commit, "anchored_hash": found[0].hash}
    control.append("ledger_accepted", actor, None, reason, payload)
    head = control.head()
    assert head is not None
    why = f"accepted by {actor}: records {lost} to {found[0].seq} as they were anchored are lost ({' '.join(reason.split())})"
    anchor = anchors.write(head, moment, why, restarted_after=kept, more=segments_file(control.segments()))
    loop.control.set_note(f"anchors/{loop.contour}", {"seq": head[0], "at": moment.isoformat()})
    return anchor
