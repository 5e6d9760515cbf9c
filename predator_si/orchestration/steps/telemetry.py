"""Bring the raw layer up to date with every source of the contour.

What belongs here: which sources this installation has, from its settings. What must not: a source's language, storing (``monitor.intake``).
"""

from __future__ import annotations

from datetime import datetime

from predator_si.monitor.intake import Intake, IntakeReport
from predator_si.monitor.sources import Source, Spool
from predator_si.orchestration.loop import Loop
from predator_si.search.personal import open_vault


def take_in(loop: Loop, now: datetime | None = None) -> IntakeReport:
    """Take what the embedded service and the contour's other event sources have into the raw layer.

    A source that is down is named in the report and read again at the next tick, up to a day back.
    """
    return Intake(loop.home.telemetry, open_vault(loop.home.path)).run(event_sources(loop), now)


def event_sources(loop: Loop) -> list[Source]:
    """The sources of events of this installation: its own service's spool first."""
    return [Spool(loop.home.events)]
