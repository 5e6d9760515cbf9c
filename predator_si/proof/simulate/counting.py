"""What a number of lives says: exact bounds of a probability, percentiles in which a miss is infinite.

What belongs here: counting. What must not: drawing, deciding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput

NEVER = -1
"""A time to an event that did not come."""
_CONFIDENCE = 0.95
_CURVE = (10, 20, 30, 40, 50, 60, 80, 100, 125, 150, 200, 250, 300, 350, 400, 500, 600, 800, 1000, 1250, 1500, 2000, 2500, 3000)
"""Numbers of observations at which the share of lives that were done is told."""


def exact_bounds(events: int, n: int, confidence: float = _CONFIDENCE) -> tuple[float, float]:
    """Clopper and Pearson's two-sided interval of a probability (1934); each end alone is a bound at ``(1 + confidence) / 2``.

    Raises
    ------
    BadInput
        No trials, or more events than trials.
    """
    from scipy.special import betaincinv

    if n < 1 or not 0 <= events <= n:
        raise BadInput(f"{events} events in {n} lives; count again.")
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if events == 0 else float(betaincinv(events, n - events + 1, tail))
    high = 1.0 if events == n else float(betaincinv(events + 1, n - events, 1.0 - tail))
    return low, high


def rate(events: int, n: int) -> dict[str, Any]:
    """``estimate``, ``lower``, ``upper`` (95%, exact), ``events``, ``lives``."""
    low, high = exact_bounds(events, n)
    return {"estimate": events / n, "lower": low, "upper": high, "events": int(events), "lives": int(n)}


def times(first: npt.NDArray[np.integer]) -> dict[str, Any]:
    """Of times to detection (:data:`NEVER` where it did not come): ``probability`` with its exact bounds, ``median`` and ``p95`` over ALL lives.

    A percentile is the smallest time by which at least that share of the lives was done; null (infinite) where they never were.
    """
    ordered = np.sort(np.where(first == NEVER, np.iinfo(np.int64).max, first))
    done = int((first != NEVER).sum())
    low, high = exact_bounds(done, first.size)

    def percentile(share: float) -> float | None:
        value = int(ordered[int(np.ceil(share * first.size)) - 1])
        return None if value == np.iinfo(np.int64).max else float(value)

    return {
        "probability": done / first.size, "probability_lower": low, "probability_upper": high,
        "median": percentile(0.5), "p80": percentile(0.8), "p95": percentile(0.95), "lives": int(first.size),
        "curve": [[n, float((ordered <= n).mean())] for n in _CURVE],
    }  # fmt: skip


def earliest(*firsts: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Of several times per life the earliest; :data:`NEVER` where none came."""
    stacked = np.stack([np.where(one == NEVER, np.iinfo(np.int64).max, one) for one in firsts])
    found = stacked.min(axis=0)
    return np.where(found == np.iinfo(np.int64).max, NEVER, found).astype(np.int64)


def first_true(hit: npt.NDArray[np.bool_], sizes: npt.NDArray[np.integer] | None = None) -> npt.NDArray[np.int64]:
    """How much was seen (1, 2, ... or ``sizes``) when the last axis first was true; :data:`NEVER` where it was not."""
    place = hit.argmax(axis=-1)
    seen = place + 1 if sizes is None else np.asarray(sizes)[place]
    return np.where(hit.any(axis=-1), seen, NEVER).astype(np.int64)


def least_count(proves: Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.bool_]], horizon: int) -> npt.NDArray[np.int64]:
    """Of each number of trials 1..horizon the least count that proves something; ``n + 1`` where none does.

    Parameters
    ----------
    proves
        (counts, trials) to answers; an answer once given for a count must hold for every larger one.
    """
    n = np.arange(1, horizon + 1)
    low, high = np.zeros_like(n), n + 1
    while (low < high).any():
        middle = (low + high) // 2
        proof = proves(np.minimum(middle, n), n) & (middle <= n)
        going = low < high
        low, high = np.where(going & ~proof, middle + 1, low), np.where(going & proof, middle, high)
    return np.asarray(low, dtype=np.int64)
