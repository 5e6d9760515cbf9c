"""Expectation and maximisation for the position-based model: one step, its fixed point, and the power law as a special shape.

What belongs here: arithmetic on counts of (pair, position). What must not: frames of impressions, intervals, what can be identified (``pbm``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float64]
_TOLERANCE = 1e-6
_ROUNDS = 1000
_LEAP = 64.0
_SMOOTHING = 0.02
"""Pseudo-pairs on each attraction of the grid in each kind of pair."""
GRID: npt.NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.linspace(-5.0, 3.5, 15)))
"""Attractions that a pair can have: .007 to .97, even in log odds."""


@dataclass(frozen=True)
class ClickEM:
    """The counts of each (pair, position), as parallel arrays sorted by pair; positions from 0, every pair at least once."""

    pair: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    home: npt.NDArray[np.int64]
    """Of each pair: the kind of pair that it is before its clicks are known, see ``kinds_of_pairs``."""
    positions: Floats
    """Position (from 1) of each place."""
    power: bool = False
    """Examination is ``position**-eta`` with one free number, instead of one for each position."""

    @property
    def places(self) -> int:
        """How many positions there are."""
        return int(self.positions.size)

    def start(self) -> tuple[Floats, Floats]:
        """Examination falling as one over the position, every attraction alike."""
        return 1.0 / self.positions, np.full((int(self.home.max(initial=0)) + 1, GRID.size), 1.0 / GRID.size)

    def classes(self, theta: Floats, weights: Floats, shown: Floats, clicked: Floats) -> Floats:
        """Probability of each attraction of the grid for each pair, given its clicks."""
        likely, unlikely = np.log(theta[:, None] * GRID), np.log1p(-theta[:, None] * GRID)
        each = clicked[:, None] * likely[self.place] + (shown - clicked)[:, None] * unlikely[self.place]
        total = np.add.reduceat(each, np.flatnonzero(np.diff(self.pair, prepend=-1)), axis=0) + np.log(weights)[self.home]
        total = np.exp(total - total.max(axis=1, keepdims=True))
        return np.asarray(total / total.sum(axis=1, keepdims=True))

    def step(self, theta: Floats, weights: Floats, shown: Floats, clicked: Floats) -> tuple[Floats, Floats]:
        """One round of EM: expected classes and examinations given the clicks, then the shares they make."""
        found = self.classes(theta, weights, shown, clicked)
        looked = theta[:, None] * (1.0 - GRID) / (1.0 - theta[:, None] * GRID)  # of an impression without a click
        examined = clicked + (shown - clicked) * (found[self.pair] * looked[self.place]).sum(axis=1)
        looks, chances = sums(self.place, examined, self.places), sums(self.place, shown, self.places)
        fresh = looks / np.maximum(chances, 1e-12)
        fresh[0] = 1.0
        if self.power:
            fresh = _power(looks, chances, self.positions)
        mixed = np.stack([np.bincount(self.home, column, len(weights)) for column in found.T], axis=1) + _SMOOTHING
        return np.clip(fresh, 1e-6, 1.0), mixed / mixed.sum(axis=1, keepdims=True)

    def fit(
        self, theta: Floats, weights: Floats, shown: Floats, clicked: Floats, tolerance: float = _TOLERANCE, rounds: int = _ROUNDS
    ) -> tuple[Floats, Floats, int, bool]:
        """EM to convergence, in the long steps of SQUAREM (Varadhan and Roland, Scandinavian Journal of Statistics 2008, scheme S3)."""
        cut, shape = theta.size, weights.shape
        at = np.concatenate([np.log(theta), weights.ravel()])

        def step(x: Floats) -> Floats:
            fresh, mixed = self.step(np.exp(x[:cut]), x[cut:].reshape(shape), shown, clicked)
            return np.concatenate([np.log(fresh), mixed.ravel()])

        for count in range(1, rounds + 1):
            first = step(at)
            second = step(first)
            r, v = first - at, second - 2.0 * first + at
            if float(np.abs(r[:cut]).max()) < tolerance:
                return np.exp(second[:cut]), second[cut:].reshape(shape), count, True
            length = float(np.linalg.norm(v))
            stride = max(1.0, min(float(np.linalg.norm(r)) / length, _LEAP)) if length > 0.0 else 1.0
            leap = at + 2.0 * stride * r + stride**2 * v
            leap[:cut] = np.clip(leap[:cut], np.log(1e-6), 0.0)
            kept = np.maximum(leap[cut:].reshape(shape), 1e-12)
            leap[cut:] = (kept / kept.sum(axis=1, keepdims=True)).ravel()
            landed = step(leap)
            # A leap that lands where EM still wants to go far is taken back: plain EM never makes the likelihood worse.
            at = landed if np.linalg.norm(landed - leap) <= 2.0 * np.linalg.norm(r) else second
        return np.exp(at[:cut]), at[cut:].reshape(shape), rounds, False


def _power(examined: Floats, shown: Floats, positions: Floats) -> Floats:
    """The ``position**-eta`` that makes the expected examinations likeliest: a root of the derivative in eta, which falls, by bisection."""
    logs, missed, low, high = np.log(positions), np.maximum(shown - examined, 0.0), 1e-3, 8.0
    for _ in range(50):
        eta = 0.5 * (low + high)
        theta = np.exp(-eta * logs[1:])
        slope = (logs[1:] * (missed[1:] * theta / (1.0 - theta) - examined[1:])).sum()
        low, high = (eta, high) if slope > 0.0 else (low, eta)
    return np.asarray(np.exp(-0.5 * (low + high) * logs))


def sums(index: npt.NDArray[np.int64], values: Floats, size: int) -> Floats:
    """Sum of the values of each index 0..size-1."""
    return np.bincount(index, weights=values, minlength=size).astype(np.float64, copy=False)


def kinds_of_pairs(cells: pl.DataFrame) -> npt.NDArray[np.int64]:
    """Pairs by their mean position, to a half: what is shown further down is less attractive, and one distribution for all would take that for bias."""
    shown = pl.col("shown")
    mean = cells.group_by("pair").agg(mean=(pl.col("position") * shown).sum() / shown.sum()).sort("pair")["mean"]
    return (mean * 2.0).round().rank("dense").cast(pl.Int64).to_numpy() - 1
