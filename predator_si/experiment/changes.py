"""How the challenger differs from the champion on live traffic, as sequences that hold at every look.

What belongs here: one metric of two arms, its estimate with a confidence sequence over time, and what is shown. What must not: which margins count
(``guardrails``), whether the trial is valid (``quality``).

- means (latency, clicks): the difference of two means over requests, its variance by clients (delta method), the normal mixture of
  ``statistics.mixture``. A margin relative to the champion's mean is tested on ``challenger - (1 + margin) champion``, so that the error of the champion's
  mean counts too;
- errors: two exact sequences for the rates; harm by the failures' own arms: of all failures the challenger's share must not exceed its share of the
  requests (``statistics.counts.treated_share``);
- P95: two quantile sequences; harm by the arms of slow requests, those above the P95 of the first requests of both arms together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.experiment.proofs import (
    FIRST,
    LEAST_CLIENTS,
    Levels,
    events_log_e,
    failure_proofs,
    look_places,
    mean_proofs,
    p95_bounds,
    p95_inside,
    slow_limit,
)
from predator_si.monitor import Traffic, click_quality, click_through
from predator_si.monitor.traffic import FAILED
from predator_si.statistics.counts import rate_sequence
from predator_si.statistics.evidence import needed
from predator_si.statistics.mixture import estimate_sequence

SHOWN_ALPHA = 0.05
"""Two-sided, of the sequences that are drawn and told."""
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """A change from champion to challenger as all looks together show it.

    Attributes
    ----------
    estimate, low, high
        Now, in the metric's unit or as a share of the champion's value (``relative``); the 95% sequence, infinite where nothing bounds it yet.
    reference
        The champion's value.
    n
        Usable requests of each arm.
    inside
        Shown to lie within the margin.
    harm
        Shown to be worse than no change.
    beyond
        Shown to be worse than the margin.
    better
        Shown to be better than no change, at the level of superiority.
    points
        The path: ``n``, ``at``, ``estimate``, ``low``, ``high``; null where unknown.
    needs
        About how many requests in all would show that it lies within the margin, were the estimate true; null where it never would.
    """

    estimate: float
    low: float
    high: float
    reference: float
    n: tuple[int, int]
    inside: bool
    harm: bool
    beyond: bool
    better: bool
    points: list[dict[str, Any]]
    needs: int | None
    shown: str


def mean_change(metric: str, arms: tuple[Traffic, Traffic], margin: float, up: bool, levels: Levels, *, least: int, position_bias: float) -> Change | str:
    """The change of a mean, or why it cannot be known.

    Parameters
    ----------
    margin
        Largest accepted change as a share of the champion's mean, with its sign.
    up
        Whether more is better.
    least
        Requests of each arm before which nothing is said.
    """
    frames = [_values(metric, arm, position_bias) for arm in arms]
    if metric != "avg_latency_ms" and not any((frame["value"] > 0).any() for frame in frames):
        return "no click in either arm; are clicks recorded?"
    if any(frame["client"].n_unique() < 2 for frame in frames):
        return "an arm has fewer than two clients, so nothing says how clients differ"
    sides = [_Side(frame, least) for frame in frames]
    if float(sides[0].values.mean()) <= 0:
        return "the champion's mean is 0, a relative change has no meaning"
    times = _look_times([side.times for side in sides])
    means, errors, sizes = (np.array(one) for one in zip(*(side.at(times) for side in sides), strict=True))
    reference = np.where(means[0] > 0, means[0], np.nan)
    if not np.isfinite(errors[:, -1]).all():
        busy = min(side.effective for side in sides)
        return f"an arm has {busy:.1f} effective clients, {LEAST_CLIENTS} are needed" if busy < LEAST_CLIENTS else f"each arm needs {least} requests"
    if np.hypot(*errors[:, -1]) == 0.0:
        return "all observations of both arms are equal; a spread that was never seen is not zero"

    size = sizes[0] * sizes[1] / np.maximum(sizes.sum(axis=0), 1.0)
    low, high = estimate_sequence(_filled(means[1] - means[0]), np.hypot(*errors), size, SHOWN_ALPHA, prior=levels.prior)
    relative = _filled(means[1] / reference - 1.0, 0.0)
    low, high = np.fmax.accumulate(low / reference), np.fmin.accumulate(high / reference)
    points = _points(times, sizes.sum(axis=0), relative, low, high)
    distance, half = abs(margin - relative[-1]), float(high[-1] - low[-1]) / 2.0
    within = relative[-1] > margin if up else relative[-1] < margin
    n = (len(sides[0].values), len(sides[1].values))
    proofs = mean_proofs(means, errors, sizes, margin, up, levels)
    return Change(
        estimate=float(relative[-1]),
        low=float(low[-1]),
        high=float(high[-1]),
        reference=float(means[0][-1]),
        n=n,
        inside=bool(proofs.inside.any()),
        harm=bool(proofs.harm.any()),
        beyond=bool(proofs.beyond.any()),
        better=bool(proofs.better.any()),
        points=points,
        needs=_needs(sum(n), half, distance) if within else None,
        shown=f"{means[0][-1]:.4g} -> {means[1][-1]:.4g} ({relative[-1]:+.1%}, sequence {_bounds(low[-1], high[-1], '.1%')})",
    )


def error_change(arms: tuple[Traffic, Traffic], margin: float, levels: Levels) -> Change | str:
    """The change of the failure rate: ``margin`` is the largest accepted one, in points of the rate."""
    frames = [arm.served.select(at="timestamp", value=FAILED.cast(pl.Float64)) for arm in arms]
    if any(frame.height == 0 for frame in frames):
        return "an arm served no request"
    times = _look_times([frame["at"].to_numpy() for frame in frames])
    failed, n = (np.array(one, dtype=np.float64) for one in zip(*(_counts(frame, times) for frame in frames), strict=True))
    proofs = failure_proofs(failed, n, margin, levels)
    (shown_low0, shown_high0), (shown_low1, shown_high1) = (rate_sequence(failed[arm], n[arm], SHOWN_ALPHA / 2.0) for arm in (0, 1))
    rates = failed / np.maximum(n, 1.0)
    low, high = np.maximum.accumulate(shown_low1 - shown_high0), np.minimum.accumulate(shown_high1 - shown_low0)
    estimate, total = float(rates[1][-1] - rates[0][-1]), (int(n[0][-1]), int(n[1][-1]))
    told = f"{failed[0][-1]:.0f}/{total[0]} -> {failed[1][-1]:.0f}/{total[1]} ({estimate:+.2%}, sequence {_bounds(low[-1], high[-1], '.2%')})"
    return Change(
        estimate=estimate,
        low=float(low[-1]),
        high=float(high[-1]),
        reference=float(rates[0][-1]),
        n=total,
        inside=bool(proofs.inside.any()),
        harm=bool(proofs.harm.any()),
        beyond=bool(proofs.beyond.any()),
        better=bool(proofs.better.any()),
        points=_points(times, n.sum(axis=0), rates[1] - rates[0], low, high),
        needs=_needs(sum(total), float(high[-1]) - estimate, margin - estimate, rare=True) if estimate < margin else None,
        shown=told,
    )


def p95_change(arms: tuple[Traffic, Traffic], margin: float, levels: Levels, *, least: int) -> Change | str:
    """The change of P95 as a share of the champion's; ``margin`` is the largest accepted one."""
    frames = [arm.answered.select(at="timestamp", value="latency_ms") for arm in arms]
    if any(frame.height < least for frame in frames):
        return f"each arm needs {least} requests"
    first, second = (frame["value"].to_numpy().astype(np.float64) for frame in frames)
    reference, other = float(np.quantile(first, 0.95)), float(np.quantile(second, 0.95))
    if reference <= 0:
        return "the champion's p95 is 0, a relative change has no meaning"
    times = _look_times([frame["at"].to_numpy() for frame in frames])
    sizes = [np.searchsorted(frame["at"].to_numpy(), times, side="right") for frame in frames]
    counts = np.stack(sizes)
    arm_values = (first, second)
    low0, high0, low1, high1 = p95_bounds(arm_values, counts, SHOWN_ALPHA, least)
    with np.errstate(invalid="ignore", divide="ignore"):
        low = np.where(np.isfinite(low1) & np.isfinite(high0), low1 / high0 - 1.0, -np.inf)
        high = np.where(np.isfinite(high1) & (low0 > 0), high1 / low0 - 1.0, np.inf)
    low, high = np.maximum.accumulate(low), np.minimum.accumulate(high)
    estimates = np.array([_p95(second, b) / _p95(first, a) - 1.0 if a and b else np.nan for a, b in zip(*sizes, strict=True)])
    inside = bool(p95_inside(arm_values, counts, margin, levels, least).any())
    _, over0, under1, _ = p95_bounds(arm_values, counts, levels.harm_alpha, least)
    harm = _shown(_slow_events(frames, levels.split), levels.harm_alpha)
    estimate = other / reference - 1.0
    return Change(
        estimate=estimate,
        low=float(low[-1]),
        high=float(high[-1]),
        reference=reference,
        n=(first.size, second.size),
        inside=inside,
        harm=harm,
        beyond=bool((under1 - (1.0 + margin) * over0).max() > 0),
        better=False,
        points=_points(times, counts.sum(axis=0).astype(np.float64), estimates, low, high),
        needs=None,
        shown=f"{reference:.4g} -> {other:.4g} ms ({estimate:+.1%}, sequence {_bounds(low[-1], high[-1], '.1%')})",
    )


def _slow_events(frames: list[pl.DataFrame], split: float) -> Array:
    """Evidence that slow requests fall on the challenger more often than requests do: slower than the P95 of both arms' first ones, which do not count."""
    merged = pl.concat([frame.with_columns(theirs=pl.lit(arm == 1)) for arm, frame in enumerate(frames)]).sort("at", maintain_order=True)
    if merged.height <= FIRST:
        return np.zeros(1)
    limit = slow_limit(merged["value"].to_numpy()[:FIRST])
    slow = merged[FIRST:].filter(pl.col("value") > limit)["theirs"].to_numpy().astype(np.float64)
    return events_log_e(np.cumsum(slow), np.arange(1, slow.size + 1), split) if slow.size else np.zeros(1)


class _Side:
    """One arm's values in the order of time, and its mean with an error by clients at any moment."""

    def __init__(self, frame: pl.DataFrame, least: int) -> None:
        ordered = frame.sort("at", maintain_order=True)
        self.times = ordered["at"].to_numpy()
        self.values: Array = ordered["value"].to_numpy().astype(np.float64)
        self._client = ordered["client"].rank("dense").to_numpy().astype(np.int64) - 1
        self._least = least
        counts = np.bincount(self._client).astype(np.float64)
        self.effective = float(counts.sum() ** 2 / (counts**2).sum())

    def at(self, times: npt.NDArray[Any]) -> tuple[Array, Array, Array]:
        """(mean, standard error, requests) at each moment; error infinite where too little was seen."""
        found = [self._prefix(int(size)) for size in np.searchsorted(self.times, times, side="right")]
        mean, error, n = (np.array(one, dtype=np.float64) for one in zip(*found, strict=True))
        return mean, error, n

    def _prefix(self, size: int) -> tuple[float, float, float]:
        values, client = self.values[:size], self._client[:size]
        if size < max(2, self._least):
            return (float(values.mean()) if size else np.nan), np.inf, float(size)
        sizes = np.bincount(client).astype(np.float64)
        sums = np.bincount(client, weights=values)[sizes > 0]
        sizes = sizes[sizes > 0]
        mean = float(values.mean())
        if sizes.size < 2 or sizes.sum() ** 2 / (sizes**2).sum() < LEAST_CLIENTS:
            return mean, np.inf, float(size)
        residual = sums - sizes * mean
        residual[np.abs(residual) < 1e-12 * np.abs(sums).max(initial=0.0)] = 0.0  # rounding is no spread
        return mean, float(np.sqrt(sizes.size / (sizes.size - 1) * (residual**2).sum()) / size), float(size)


def _values(metric: str, arm: Traffic, eta: float) -> pl.DataFrame:
    if metric == "avg_latency_ms":
        return arm.answered.select(at="timestamp", client=pl.coalesce("client_id", "query_id"), value="latency_ms")
    made: Callable[[], pl.DataFrame] = lambda: click_through(arm.answered, arm.actions)  # noqa: E731
    found = made() if metric == "click_through" else click_quality(arm.answered, arm.actions, eta=eta)
    return found.join(arm.answered.select("query_id", at="timestamp"), on="query_id", how="left", maintain_order="left").select("at", "client", "value")


def _counts(frame: pl.DataFrame, times: npt.NDArray[Any]) -> tuple[Array, Array]:
    ordered = frame.sort("at", maintain_order=True)
    sizes = np.searchsorted(ordered["at"].to_numpy(), times, side="right")
    failed = np.concatenate([[0.0], np.cumsum(ordered["value"].to_numpy())])
    return failed[sizes], sizes.astype(np.float64)


def _look_times(arms: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The moments of a look's path, equally many requests apart; the last is the last request's."""
    moments = np.sort(np.concatenate(arms))
    return np.asarray(moments[look_places(moments.size)])


def _shown(log_e: Array, alpha: float) -> bool:
    return bool(log_e.max() >= needed(alpha))


def _filled(values: Array, instead: float = 0.0) -> Array:
    return np.where(np.isfinite(values), values, instead)


def _p95(values: Array, size: int) -> float:
    return float(np.quantile(values[:size], 0.95))


def _points(times: npt.NDArray[Any], n: Array, estimate: Array, low: Array, high: Array) -> list[dict[str, Any]]:
    moments: list[datetime] = pl.Series(times).to_list()
    return [
        {"n": int(n[k]), "at": moments[k].isoformat(), "estimate": _known(estimate[k]), "low": _known(low[k]), "high": _known(high[k])}
        for k in range(len(moments))
    ]


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _needs(n: int, half: float, distance: float, *, rare: bool = False) -> int | None:
    """Requests at which a sequence of half-width ``half`` now would be ``distance`` wide; of rare events it shrinks with n, else with its root."""
    if not np.isfinite(half) or distance <= 0.0:
        return None
    return int(np.ceil(n * max(1.0, half / distance) ** (1.0 if rare else 2.0)))


def _bounds(low: float, high: float, form: str) -> str:
    sides = [f"{side:+{form}}" if np.isfinite(side) else "unbounded" for side in (low, high)]
    return f"{sides[0]} to {sides[1]}"
