"""Evidence that may be looked at at any time: e-values on the log scale, what they claim, and how several are joined.

What belongs here: what all e-processes of this package share. What must not: how one is computed from data (``mixture``, ``betting``, ``counts``).

An e-process is a non-negative process with expectation at most 1 at every stopping time while the null hypothesis holds (Ramdas, Grünwald, Vovk and
Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference", Statistical Science 38). By Ville's inequality it reaches ``1 / alpha`` with
probability at most ``alpha``, however often one looks. It is given by its natural logarithm ``log_e``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def first_claim(log_e: ArrayLike, alpha: float) -> npt.NDArray[np.int64]:
    """Index of the first look (last axis) that claims; -1 where none does.

    Parameters
    ----------
    log_e
        Shape (..., looks).

    Returns
    -------
    npt.NDArray[np.int64]
        Shape (...).
    """
    hit = claims(log_e, alpha)
    if hit.shape[-1] == 0:
        return np.full(hit.shape[:-1], -1, dtype=np.int64)
    return np.where(hit.any(axis=-1), hit.argmax(axis=-1), -1).astype(np.int64)


def average_log_e(log_es: Sequence[ArrayLike], weights: Sequence[float] | None = None) -> Array:
    """Several e-processes about ONE null hypothesis joined into one: their weighted arithmetic mean is an e-process, whatever their dependence.

    (Vovk and Wang 2021, "E-values: calibration, combination and applications", Annals of Statistics 49: the mean is the best symmetric way.)

    Parameters
    ----------
    log_es
        Arrays of one shape, the same looks in each.
    weights
        Positive, scaled to sum 1; default equal.

    Raises
    ------
    BadInput
        Nothing to average, weights that are not as many or not positive, or a value that is not a number.
    """
    if not log_es or (weights is not None and (len(weights) != len(log_es) or min(weights) <= 0.0)):
        raise BadInput(f"average of {len(log_es)} e-processes with weights {weights}: give at least one, and a positive weight each.")
    share = np.full(len(log_es), 1.0 / len(log_es)) if weights is None else np.asarray(weights, dtype=np.float64) / sum(weights)
    stacked = np.stack(np.broadcast_arrays(*[_known(one) for one in log_es]))
    return np.asarray(np.logaddexp.reduce(stacked + np.log(share).reshape(-1, *[1] * (stacked.ndim - 1)), axis=0), dtype=np.float64)


def always_valid_p(log_e: ArrayLike) -> Array:
    """The p-value that may be looked at at any time: ``min(1, 1 / largest e-value so far)`` along the last axis (Johari et al. 2022)."""
    best = np.maximum.accumulate(_known(log_e), axis=-1)
    return np.asarray(np.exp(-np.maximum(best, 0.0)), dtype=np.float64)


def _known(log_e: ArrayLike) -> Array:
    array = np.asarray(log_e, dtype=np.float64)
    if np.isnan(array).any():
        raise BadInput("evidence holds a value that is not a number; find out where it comes from, it is neither for nor against anything.")
    return array
