"""Whether the ledger of this home may be believed: it must hold the newest anchor that this home's clone of the anchors has seen.

A control database that was lost, or put back from an older copy, may have forgotten a kill switch, a denied model, a running release. Then the loop begins
nothing by itself, and no run but watch, rollback and observation starts, until the newer copy is back or somebody accepts the loss (``predator-si audit
accept``). The clone lies in the home folder; no network is asked.

What belongs here: that one question. What must not: writing anchors (``steps.anchor``), the whole comparison (``audit verify``), anything heavy: the run
coordinator imports this.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from predator_si.control import Control
from predator_si.home import Home
from predator_si.release.anchors import Anchor, LedgerAnchors, conflict


def distrust(home: Home, contour: str, control: Control | None) -> str | None:
    """Why the ledger is not believed; null where it is, or where nothing was anchored yet.

    Parameters
    ----------
    control
        Null: there is no control database.
    """
    anchor = newest_seen(home, contour)
    if anchor is None:
        return None
    head = control.head() if control is not None else None
    if control is not None and control.hash_at(anchor.seq) == anchor.hash:
        return None
    return conflict(anchor, head[0] if head is not None else 0)


def newest_seen(home: Home, contour: str) -> Anchor | None:
    """The newest anchor in this home's clone; null where there is none."""
    work = home.path / "anchors.git"
    stamps = tuple(_stamp(path) for path in (work / "refs" / "anchors" / f"ledger-{contour}", work / "packed-refs"))
    return None if stamps == (None, None) else _newest(work, contour, stamps)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


@lru_cache(maxsize=16)
def _newest(work: Path, contour: str, _: tuple[tuple[int, int] | None, ...]) -> Anchor | None:
    return next(iter(LedgerAnchors(work, work, contour).known(1)), None)
