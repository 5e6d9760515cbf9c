"""Rules about metrics, what they say, what they are held to be, and what a failed one starts."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from predator_si.records.base import Answer, Record


class Hysteresis(Record):
    """How a gate changes its mind: not at the first window on the other side of a limit that the metric hovers about."""

    fail_after: int = Field(default=1, ge=1)
    """Windows in a row that must miss the limit before the gate fails; until then it is unknown."""
    clear_after: int = Field(default=1, ge=1)
    """Windows in a row that must meet the limit before a failing gate passes again."""
    margin: float | None = Field(default=None, ge=0)
    """A failing gate passes at once when a window meets its limit by this fraction of the limit; null: only ``clear_after`` counts."""


class Criterion(Record):
    """One rule about one metric; the same object serves the asset check, the patch asset and the REST verdict.

    ``kind`` "absolute": ``threshold`` is in the metric's unit. "relative": the change against the baseline as a fraction, so a maximal
    drop of 3% of a metric whose good direction is up is ``-0.03``.
    """

    name: str
    """Of the rule; one metric may have several."""
    metric: str
    direction: Literal["min", "max"]
    """`min`: the value must not be below the limit; `max`: not above it."""
    kind: Literal["absolute", "relative"] = "absolute"
    """Whether `threshold` is a value or a change."""
    threshold: float
    """The limit, or the change that gives it."""
    min_sample: int = 1
    """Observations below which the answer is unknown."""
    max_age_seconds: float | None = None
    """Age of the newest observation above which the answer is unknown; null: any."""
    no_data: Literal["unknown", "fail", "not_applicable"] = "unknown"
    """The answer where there is no value."""
    critical: bool = True
    """Whether it may start a cycle, and stops a release."""
    description: dict[str, str] = {}
    """Language -> what the rule is about, for people."""
    unit: str | None = None
    """Unit of the threshold; a metric that names another one is unknown to this gate."""
    hysteresis: Hysteresis = Hysteresis()
    """How it changes its mind."""
    override: str | None = None
    """Who set another threshold than the contour's, until when and why, in words; null: it is the contour's own."""


class GateResult(Record):
    """A criterion's answer with the numbers behind it."""

    criterion: Criterion
    """The rule."""
    answer: Answer
    """What it says."""
    value: float | None
    reference: float | None = None
    """What the value was compared with; null for an absolute rule."""
    limit: float | None = None
    """Where the value had to stay, in the metric's unit; null where that is not known."""
    n: int = 0
    reason: str
    doubt: Literal["missing", "stale", "unit", "no_baseline", "sample", "interval", "pending"] | None = None
    """Why an answer is unknown: no value, too old, in another unit, nothing to compare with, too few observations, an interval that still holds the
    baseline, or a limit missed in too few windows in a row. Null for the other answers."""
    recovering: bool = False
    """Fails because it failed before and has not yet passed long or clearly enough; its newest value meets the limit."""


class HeldGate(Record):
    """What one gate was last held to be, and how many windows in a row have said otherwise."""

    answer: Literal[Answer.PASS, Answer.FAIL] = Answer.PASS
    """What it is held to be."""
    against: int = 0
    """Newest windows in a row that say otherwise."""
    since: datetime | None = None
    """When the answer became what it is; null: from the beginning."""
    changes: int = 0
    """How often it changed."""


class GateMemory(Record):
    """The gates of one champion from one window to the next."""

    champion: str | None
    """Digest of the model whose gates these are."""
    snapshot_id: str
    """The newest snapshot that was counted."""
    window_end: datetime
    gates: dict[str, HeldGate] = {}
    """Name of the rule -> what it is held to be."""


class Trigger(Record):
    """A failed gate that starts a cycle."""

    type: str
    """A row of the trigger table."""
    metric: str
    value: float | None
    """Of the metric when it fired."""
    baseline: float | None
    """What it was compared with."""
    delta: float | None
    """Change against the baseline, as a fraction of it."""
    actions: tuple[str, ...]
    """What the table names for it, in order."""
    reason: str
