"""Anomalies, changes and drift: what else is known about a window."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from predator_si.records.base import Record


class AnomalyScore(Record):
    """How far one metric of a window lies from what the baseline expects."""

    metric: str
    value: float | None
    expected: float | None = None
    """What the baseline expects of such a window."""
    scale: float | None = None
    """Standard deviation of such a window about ``expected``."""
    z: float | None = None
    """Distance from `expected` in standard deviations."""
    threshold: float | None = None
    """Distance from which on it is called an anomaly."""
    anomalous: bool | None = None
    """Null where it cannot be known; ``reason`` says why."""
    windows: int = 0
    """Healthy windows that the reference stands on."""
    reason: str


class ChangeAlarm(Record):
    """A change called by the sequential test."""

    window_end: datetime
    windows: int
    """Windows that it took since the last alarm or the beginning."""
    observations: int
    """Observations in these windows."""
    holds: int
    """Windows for which the alarm stands unless it is raised again: twice as many as it took, and two."""


class ChangeWatch(Record):
    """The sequential test of one stream, from one window to the next."""

    stream: str
    """What is followed: a metric and a direction."""
    metric: str
    looks_for: str
    """What an alarm means, in words and numbers."""
    run_length: float
    """Windows between two false alarms, at least, on average."""
    log_wealth: list[float | None]
    """State of the e-detector; null stands for nothing yet."""
    log_e: float | None = None
    """Evidence so far; an alarm is raised at ``log(run_length)``."""
    windows: int = 0
    """Looked at since the beginning."""
    observations: int = 0
    """In these windows."""
    alarms: int = 0
    """Called so far."""
    last: ChangeAlarm | None = None
    """The newest alarm; null: none yet."""
    active: bool = False
    """Whether the last alarm still stands."""
    since_alarm: int = 0
    """Windows since then."""
    reason: str = ""


class AnomalyReport(Record):
    """What is unusual about a window: each metric against its reference, and the sequential tests with it."""

    snapshot_id: str
    champion: str | None
    """Digest of the model that served the window."""
    window_end: datetime
    false_alarms_per_month: float
    """Chosen by the contour: this many from the scores, and this many from the sequential tests, in a month of 15-minute windows."""
    scores: list[AnomalyScore]
    """Each metric against its reference."""
    changes: list[ChangeWatch]
    """The sequential tests after this window."""

    @property
    def alarms(self) -> list[str]:
        """A sentence for each anomaly and each standing alarm."""
        return [score.reason for score in self.scores if score.anomalous] + [change.reason for change in self.changes if change.active]


class DriftItem(Record):
    """One comparison of a reference with now."""

    name: str
    """What is compared."""
    statistic: float | None
    """What ``measure`` names; null where it cannot be known, ``reason`` says why."""
    measure: str = ""
    """How: name of the statistic."""
    interval: tuple[float, float] | None = None
    """95% interval of the statistic."""
    null_interval: tuple[float, float] | None = None
    """Where the statistic lies in 95% of the cases while nothing has drifted."""
    p: float | None = None
    """Of the test that nothing drifted; null where there is none."""
    adjusted_p: float | None = None
    """``p`` after Holm's correction over the report's items."""
    threshold: float | None = None
    """The least statistic that is worth a word; smaller shifts are not called drift however sure they are."""
    drifted: bool | None = None
    """Whether it did; null where it cannot be known."""
    n: tuple[int, int] = (0, 0)
    """Reference and current observations."""
    reason: str
    details: dict[str, Any] = {}
    """Numbers behind it."""


class DriftReport(Record):
    """How the queries, scores and documents of a window differ from those of healthy windows."""

    snapshot_id: str
    champion: str | None
    """Digest of the model that served the window."""
    created_at: datetime
    reference_start: datetime
    """Where the healthy windows begin."""
    reference_end: datetime
    """Where they end."""
    window_start: datetime
    window_end: datetime
    alpha: float
    """Chance that a report on equal windows calls any drift, over all items together."""
    items: list[DriftItem]
    """Each comparison."""
    erased: int = 0
    """Requests whose text cannot be opened any more: they count for scores, not for texts."""
    seconds: float | None = None
    """What the comparison took."""
    html: str | None = None
    """Evidently's page, a file name beside the report."""

    @property
    def drifted(self) -> bool:
        """Whether any item drifted."""
        return any(item.drifted for item in self.items)
