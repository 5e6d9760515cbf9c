"""Has the mean of a stream of bounded observations changed? A sequential test that may be looked at after every window, for ever.

What belongs here: the e-detector on arrays. What must not: which metric is watched, against what reference, what an alarm leads to.

Source: Shin, Ramdas and Rinaldo (2022), "E-detectors: a nonparametric framework for sequential change detection", arXiv:2203.03532: an
e-detector is a non-negative process ``M`` with ``E[M_tau] <= E[tau]`` at every stopping time while nothing has changed; stopping when ``M >= A``
therefore takes ``A`` steps on average at least (the average run length to a false alarm), whatever the distribution. Here a step is a window
of observations, the e-value of a window is a product of bets ``1 + bet (m - x)`` that the mean has fallen below ``m``, windows are joined by
the Shiryaev-Roberts recursion ``M <- (M + 1) E``, and several bets share one unit of money, so that small and large drops are both found.

Within a window the observations may have different means (a frozen set of queries, easy and hard ones): where they are independent given
the past, the expected product of bets is at most ``(1 + bet (m - mean of their means))^n``, by the inequality of arithmetic and geometric means, so
only the average of their means must not lie below ``m``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput
from predator_si.statistics.sample import Numbers, finite

BETS = 12
"""Shares of the largest bet that cannot lose everything, spread geometrically from :data:`_SMALLEST` to :data:`_LARGEST`."""
_SMALLEST, _LARGEST = 0.005, 0.9


@dataclass(frozen=True)
class EDetector:
    """Where a detector stands. Start with ``EDetector()``.

    Attributes
    ----------
    log_wealth
        Natural logarithm of the Shiryaev-Roberts sum of each bet; minus infinity at the beginning.
    windows, observations
        Counted since the beginning or the last alarm.
    """

    log_wealth: tuple[float, ...] = (-np.inf,) * BETS
    windows: int = 0
    observations: int = 0

    @property
    def log_e(self) -> float:
        """Logarithm of the detector's value, the mean over its bets."""
        wealth = np.asarray(self.log_wealth)
        top = wealth.max()
        return float(top + np.log(np.exp(wealth - top).mean())) if np.isfinite(top) else float("-inf")

    def alarm(self, run_length: float) -> bool:
        """Whether a change is called; at least ``run_length`` windows pass between false calls on average."""
        return self.log_e >= math.log(run_length)


def watch_drop(detector: EDetector, observations: Numbers, mean: float, low: float = 0.0, high: float = 1.0) -> EDetector:
    """The detector after one more window, looking for a mean below ``mean``.

    Parameters
    ----------
    observations
        Numbers in ``low..high``, independent given the past; an empty window changes nothing.
    mean
        What the mean is at least while nothing has changed; known before the window is seen. It may differ from window to window.
    low, high
        What an observation can be at all.

    Raises
    ------
    BadInput
        An observation outside ``low..high``, or a ``mean`` that does not lie between them.
    """
    values = finite(observations, "change test", 0)
    if not low < mean < high:
        raise BadInput(f"change test: the mean {mean:g} must lie strictly between {low:g} and {high:g}, or nothing could be said about falling below it.")
    if values.size == 0:
        return detector
    if values.min() < low or values.max() > high:
        raise BadInput(f"change test: observations from {values.min():g} to {values.max():g} in a stream that is bounded to {low:g}..{high:g}.")
    numbers, counts = np.unique(values, return_counts=True)
    bets: npt.NDArray[np.float64] = np.geomspace(_SMALLEST, _LARGEST, BETS) / (high - mean)
    gained = np.log1p(bets[:, None] * (mean - numbers)[None, :]) @ counts
    wealth = np.logaddexp(np.asarray(detector.log_wealth), 0.0) + gained
    return EDetector(tuple(float(one) for one in wealth), detector.windows + 1, detector.observations + int(values.size))


def watch_rise(detector: EDetector, events: int, trials: int, rate: float) -> EDetector:
    """The detector after ``trials`` more of which ``events`` happened, looking for a rate above ``rate``; as :func:`watch_drop` on their complement.

    Raises
    ------
    BadInput
        More events than trials, negative counts, or a ``rate`` that is not strictly between 0 and 1.
    """
    if not 0 <= events <= trials:
        raise BadInput(f"change test: {events} events in {trials} trials; count what happened among what could.")
    return watch_drop(detector, np.repeat([0.0, 1.0], [events, trials - events]), 1.0 - rate)
