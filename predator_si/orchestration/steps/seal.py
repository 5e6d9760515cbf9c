"""The ledger's oldest records into a file, once a day: what the contour keeps in the database no longer, with the chain unbroken.

What belongs here: when, and the order with the anchor. What must not: the files (``control.segments``).
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta

from predator_si.control.segments import Segment
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.anchor import anchors_of, has_repository, segments_file
from predator_si.orchestration.trust import distrust
from predator_si.release.anchors import standing

LEAST = 1000
"""Fewer records stay where they are: a file for a handful helps nobody."""


def seal_old_records(loop: Loop, now: datetime, least: int = LEAST) -> Segment | None:
    """Seal what is older than ``backup.historyDays``, anchored, and of cycles that have ended; null where that is too little, or nothing is anchored.

    A kill at any step leaves the records in the database, in the file, or in both; the next call goes on.

    Raises
    ------
    BadInput
        The chain of these records is not whole: nothing is sealed.
    Unavailable
        The file or the repository does not take it: nothing leaves the database.
    """
    days = loop.settings.values.backup.history_days
    if days is None or not has_repository(loop) or distrust(loop.home, loop.contour, loop.control) is not None:
        return None
    control, anchors = loop.control, anchors_of(loop)
    known = standing(anchors.known(1))
    found = control.sealable(now - timedelta(days=days), known[0].seq) if known else None
    if found is None or found[1] - found[0] + 1 < least:
        return None
    segment = control.write_segment(*found)
    control.append("ledger_sealed", "loop", None, f"records {segment.first_seq} to {segment.last_seq} are older than {days} days", asdict(segment))
    head = control.head()
    assert head is not None
    anchor = anchors.write(head, now, f"records {segment.first_seq} to {segment.last_seq} sealed", more=segments_file([*control.segments(), segment]))
    loop.control.set_note(f"anchors/{loop.contour}", {"seq": head[0], "at": now.isoformat()})
    commit = anchor.commit if anchor is not None else anchors.known(1)[0].commit
    control.drop_sealed(segment, commit)
    return segment
