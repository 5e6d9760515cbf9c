"""What is measured of a window, and what it is compared with."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from predator_si.records.base import Record


class Metric(Record):
    """One measured number. ``value`` is null when it cannot be known; ``reason`` then says why."""

    name: str
    """As in the list of metrics."""
    value: float | None
    n: int = 0
    ci_low: float | None = None
    """Lower end of the 95% interval; null where there is none."""
    ci_high: float | None = None
    """Upper end."""
    unit: str = ""
    """Of value and interval."""
    direction: Literal["up", "down"] = "up"
    """The good direction."""
    window_start: datetime | None = None
    """Where its window begins; null: with its snapshot's."""
    window_end: datetime | None = None
    """Where it ends; null: with its snapshot's."""
    source: str = ""
    """Who measured it."""
    age_seconds: float | None = None
    """Age of the newest observation behind the value."""
    reason: str | None = None
    """Why there is no value; null where there is one."""

    @property
    def known(self) -> bool:
        """Whether there is a value at all."""
        return self.value is not None


class Provenance(Record):
    """Where telemetry of a window comes from and how much of it can be used."""

    source: str
    """Name of the source in the contour: ``spool``, ``events``, ``postgres``, ``opensearch``, ``prometheus``, ``opencost``."""
    origin: str
    """Address, folder or table, never with a password."""
    window_start: datetime
    window_end: datetime
    newest: datetime | None = None
    """Time of the newest observation; null where there is none."""
    rows_good: int = 0
    """Records of the window that could be used."""
    rows_quarantined: int = 0
    """Records that could not."""
    unknown: tuple[str, ...] = ()
    """What this source could not say, and why; a source that is down says so here."""

    def age_seconds(self, now: datetime) -> float | None:
        """How old the newest observation is."""
        return None if self.newest is None else max(0.0, (now - self.newest).total_seconds())


class MetricCandidate(Record):
    """What one source said about a metric, and whether that was taken."""

    source: str
    """Its name in the contour."""
    chosen: bool
    """Whether its value was taken."""
    value: float | None
    n: int = 0
    age_seconds: float | None = None
    """Of its newest observation."""
    reason: str = ""
    """Why it was not taken: ``stale``, ``unknown``, ``not applicable`` or ``a source before it has a value``, with the details."""


class CellMetrics(Record):
    """What the requests of one model, variant and segment say, beside the champion's metrics as a whole."""

    model_digest: str | None
    """Of the model that answered."""
    variant: str | None
    """Of the answers."""
    segment: str | None
    """Kind and name of the group of requests; null: all of them."""
    kind: Literal["person", "probe"] = "person"
    """Whose requests: of probes only the judged measures are told, their latency may be a stand-in's."""
    counts: dict[str, int]
    """``requests``, ``answered``, ``served``, ``failed``; where requests were judged also the holes: ``judged``, ``unjudged_requests``, ``documents`` (first
    ten of judged requests), ``unjudged_documents``, ``repeated``."""
    metrics: dict[str, Metric]
    """Metric -> what was measured."""


class MetricsSnapshot(Record):
    """All metrics of one window."""

    snapshot_id: str
    contour: str
    created_at: datetime
    window_start: datetime
    window_end: datetime
    champion: str | None
    """Digest of the model that served the window; null where nobody could say."""
    metrics: dict[str, Metric]
    """Metric -> what was measured."""
    mock: bool = False
    """Whether the contour's mock signals made it (`mockSignals`)."""
    lost_events: int = 0
    """Events that gaps in `seq` count as lost."""
    quarantined: int = 0
    """Records of the window that could not be used."""
    candidates: dict[str, tuple[MetricCandidate, ...]] = {}
    """By metric: what every source of it said, in the order of precedence; for metrics with more than one source."""
    sources: tuple[Provenance, ...] = ()
    """What was read for this window, and what could not be."""
    cells: tuple[CellMetrics, ...] = ()
    """The same window by model, variant and segment."""
    revision: int = 1
    """Counts the measurements of this window: events that came late are measured with the others, and what was said before is kept beside it."""


class Reference(Record):
    """What one metric usually is for one champion, and how far healthy windows stray from it."""

    metric: str
    centre: float
    """Median over healthy windows, each weighted by its sample."""
    spread: float | None = None
    """1.4826 x the median absolute deviation from what was expected: the standard deviation of windows, whatever a minority of them does. Null below three."""
    noise: float | None = None
    """Standard error of one window by its own interval (median over windows): what sampling alone makes."""
    error: float | None = None
    """Standard error of ``centre``."""
    windows: int
    """Healthy windows that it stands on."""
    observations: int = 0
    """All windows' samples together."""
    mean: float | None = None
    """Mean weighted by sample, for rates whose median is often zero; not robust."""
    tail: tuple[float, float] | None = None
    """How far the outermost 5% of windows lie: their threshold and mean excess, both in spreads. Null below two hundred windows."""
    oldest: datetime | None = None
    """End of the oldest of them."""
    newest: datetime | None = None
    """End of the newest of them."""
    season: dict[int, float] = {}
    """Hour of the week (0 is Monday 00:00 UTC) -> what is added to ``centre`` then; empty where two weeks are not known or no season is to be seen."""
    reason: str = ""
    """What it stands on, and what it lacks."""


class Baseline(Record):
    """Reference values over healthy windows of one champion: median per metric, with how many windows are behind it."""

    champion: str
    """Digest of the model whose baseline it is."""
    created_at: datetime
    windows: int
    """Healthy windows that it stands on."""
    values: dict[str, float]
    """Metric -> centre; ``references`` has the rest."""
    sources: dict[str, str] = {}
    """Metric -> who measured it."""
    references: dict[str, Reference] = {}
    """Metric -> what it usually is."""
    oldest: datetime | None = None
    """End of the oldest healthy window."""
    newest: datetime | None = None
    """End of the newest healthy window: a baseline whose newest is long ago describes a service of long ago."""
    left_out: dict[str, int] = {}
    """Why windows of this champion do not count -> how many."""
