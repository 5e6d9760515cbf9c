"""What every procedure asks of its input: enough finite numbers, and the clusters they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput

Numbers = Sequence[float] | npt.NDArray[Any]
Labels = Sequence[Any] | npt.NDArray[Any]


def finite(values: Numbers, what: str, least: int) -> npt.NDArray[np.float64]:
    """``values`` as a one-dimensional float64 array.

    Raises
    ------
    BadInput
        Fewer than ``least`` of them, or one that is not a finite number.
    """
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if array.size < least:
        raise BadInput(f"{what}: {array.size} observations, at least {least} are needed; collect more or report the value as unknown.")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise BadInput(f"{what}: {bad} of {array.size} observations are not finite numbers; find where they come from, do not drop them.")
    return array


def check_share(value: float, what: str) -> None:
    """Raise :class:`BadInput` unless ``value`` lies strictly between 0 and 1."""
    if not 0.0 < value < 1.0:
        raise BadInput(f"{what} is {value}; it must lie strictly between 0 and 1.")


def cluster_totals(values: npt.NDArray[np.float64], cluster: Labels | None, what: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sum and size of each cluster; without labels every observation is its own.

    Raises
    ------
    BadInput
        The labels are not as many as the values, or name fewer than two clusters.
    """
    if cluster is None:
        return values, np.ones_like(values)
    labels = np.asarray(cluster)
    if labels.shape != values.shape:
        raise BadInput(f"{what}: {labels.size} cluster labels for {values.size} observations; give one label each.")
    _, index = np.unique(labels, return_inverse=True)
    sizes = np.bincount(index).astype(np.float64)
    if sizes.size < 2:
        raise BadInput(f"{what}: all {values.size} observations belong to one cluster, so nothing says how clusters differ; collect from at least two.")
    return np.bincount(index, weights=values).astype(np.float64), sizes
