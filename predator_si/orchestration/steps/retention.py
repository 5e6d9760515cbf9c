"""Once a day, what is older than the contour allows goes."""

from __future__ import annotations

from datetime import datetime

from predator_si.orchestration.loop import Loop
from predator_si.search.erasure import Expiry, expire

_NOTE = "retention:day"


def let_old_go(loop: Loop, now: datetime) -> Expiry | None:
    """Delete events older than ``privacy.retentionDays`` and destroy the keys of their text; ``None`` when this day's sweep is done already."""
    today = now.date().isoformat()
    if loop.control.get_note(_NOTE) == today:
        return None
    done = expire(loop.home.path, now, loop.settings.values.privacy.retention_days)
    loop.control.set_note(_NOTE, today)
    return done
