"""Evidence that may be looked at at any time: e-values on the log scale, and what they claim.

What belongs here: what all e-processes of this package share. What must not: how one is computed from data (``mixture``, ``betting``, ``counts``).

An e-process is a non-negative process with expectation at most 1 at every stopping time while the null hypothesis holds (Ramdas, Grünwald, Vovk and
Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38). By Ville's inequality it reaches ``1 / alpha`` with
probability at most ``alpha``, however often one looks. It is given by its natural logarithm ``log_e``.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput
from predator_si.statistics.sample import check_share

Array = npt.NDArray[np.float64]
ArrayLike = npt.ArrayLike
Alternative = Literal["greater", "less", "two-sided"]
"""What is to be shown, as in SciPy: the parameter is greater than the null value, less than it, or either."""


def claims(log_e: ArrayLike, alpha: float) -> npt.NDArray[np.bool_]:
    """Where the evidence suffices at level ``alpha``: ``log_e >= log(1 / alpha)``.

    Raises
    ------
    BadInput
        ``alpha`` outside 0..1, or a ``log_e`` that is not a number.
    """
    return np.asarray(_known(log_e) >= needed(alpha))


def needed(alpha: float) -> float:
    """``log(1 / alpha)``: the evidence that a claim at level ``alpha`` needs."""
    check_share(alpha, "alpha")
    return -math.log(alpha)


def always_valid_p(log_e: ArrayLike) -> Array:
    """The p-value that may be looked at at any time: ``min(1, 1 / largest e-value so far)`` along the last axis (Johari et al. 2022)."""
    best = np.maximum.accumulate(_known(log_e), axis=-1)
    return np.asarray(np.exp(-np.maximum(best, 0.0)), dtype=np.float64)


def _known(log_e: ArrayLike) -> Array:
    array = np.asarray(log_e, dtype=np.float64)
    if np.isnan(array).any():
        raise BadInput("evidence holds a value that is not a number; find out where it comes from, it is neither for nor against anything.")
    return array
