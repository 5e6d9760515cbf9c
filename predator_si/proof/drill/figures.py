"""What a drill counts, and its figures as CONTRACT.md section 7 has them.

What belongs here: counters, percentiles, the slope of memory. What must not: drilling, drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from predator_si.errors import BadInput
from predator_si.proof.drill.plan import DrillPlan
from predator_si.provenance import provenance

PHASES = ("detect", "commit", "sync", "ready")
"""Of a way back, in seconds: from the release to the watch's answer; from there to the pushed commit; to the applied file; to the first answer of the old
model."""
GOALS = {"rollback": 2.0}
"""Seconds from commit to ready that P95 must keep, by drill: the embedded reconciler's way back."""
_JUDGED_FROM = 20
"""Repetitions: of fewer, P95 is the slowest one."""
_BLOCKS = 20
_WARM_UP = 0.2


@dataclass(frozen=True)
class Slope:
    """MB per 1,000 repetitions, with its 95% interval; null with the reason where there are too few samples."""

    estimate: float | None
    low: float | None
    high: float | None
    reason: str | None = None


@dataclass
class Tally:
    """A running drill's counts.

    Attributes
    ----------
    n
        Repetitions that were done.
    violations
        What must never happen and did: one sentence each.
    phases
        Seconds by phase, one number a repetition.
    memory
        (repetition, MB) of the search service.
    rows
        What each repetition was and how it ended, for the page.
    """

    n: int = 0
    violations: list[str] = field(default_factory=list)
    phases: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PHASES})
    memory: list[tuple[int, float]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    requests: int = 0
    failed_requests: int = 0
    excused_requests: int = 0
    more: dict[str, Any] = field(default_factory=dict)
    """Figures that only this drill has."""

    def note(self, what: str, problems: Sequence[str], **more: Any) -> None:
        """One repetition: what it was, and what was wrong after it."""
        self.n += 1
        self.violations += [f"{what}: {problem}" for problem in problems]
        self.rows.append({"what": what, "problems": list(problems), **more})


def figures(plan: DrillPlan, tally: Tally, seconds: float) -> dict[str, Any]:
    """The object of ``--json``; what this drill does not measure is null."""
    ready = [sync + back for sync, back in zip(tally.phases["sync"], tally.phases["ready"], strict=True)]
    goal = GOALS.get(plan.name)
    slope = memory_slope(tally.memory)
    return {
        "drill": plan.name,
        "n": tally.n,
        "violations": len(tally.violations),
        "violated": tally.violations,
        "requests": tally.requests,
        "failed_requests": tally.failed_requests,
        "excused_requests": tally.excused_requests,
        "p50_seconds": quantile(ready, 0.5),
        "p95_seconds": quantile(ready, 0.95),
        "goal_seconds": goal,
        "within_goal": within_goal(ready, goal),
        "phases": {name: {"p50": quantile(values, 0.5), "p95": quantile(values, 0.95), "n": len(values)} for name, values in tally.phases.items()},
        "rss_slope_mb_per_1000": slope.estimate,
        "rss_slope_ci": None if slope.low is None else [slope.low, slope.high],
        "rss_slope_unknown": slope.reason,
        "seconds": round(seconds, 1),
        **tally.more,
        **provenance(plan.scale, plan.seed),
    }


def quantile(values: Sequence[float], q: float) -> float | None:
    """The smallest value with at least a share ``q`` of the values at or below it; null for none.

    A way back that was never seen counts as infinite.
    """
    return float(np.quantile(np.asarray(values, np.float64), q, method="inverted_cdf")) if len(values) else None


def within_goal(ready: Sequence[float], goal: float | None) -> bool | None:
    """Whether P95 of commit to ready keeps the drill's goal; null where it has none, or where there are too few repetitions for a P95."""
    if goal is None or len(ready) < _JUDGED_FROM:
        return None
    reached = quantile(ready, 0.95)
    return reached is not None and reached <= goal


def memory_slope(samples: Sequence[tuple[int, float]], blocks: int = _BLOCKS) -> Slope:
    """How memory grows, by least squares over means of consecutive blocks, so that neighbours' likeness does not pass for certainty.

    The first fifth is left out: allocators and caches fill.

    Parameters
    ----------
    samples
        (repetition, MB), in order.

    Raises
    ------
    BadInput
        Fewer than three blocks are asked for.
    """
    if blocks < 3:
        raise BadInput(f"{blocks} blocks: a line with an interval needs three at least.")
    kept = np.asarray(samples[int(len(samples) * _WARM_UP) :], np.float64)
    if len(kept) < 2 * blocks:
        return Slope(None, None, None, f"{len(kept)} samples after the warm-up, {2 * blocks} are needed")
    from scipy.stats import linregress, t

    means = np.array([part.mean(axis=0) for part in np.array_split(kept, blocks)])
    line = linregress(means[:, 0] / 1000.0, means[:, 1])
    half = float(t.ppf(0.975, blocks - 2) * line.stderr)
    return Slope(float(line.slope), float(line.slope) - half, float(line.slope) + half)
