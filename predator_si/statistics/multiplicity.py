"""Many tests at once: adjusted p-values in the order they were given."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput
from predator_si.statistics.sample import Numbers, finite


def _p_values(p_values: Numbers) -> npt.NDArray[np.float64]:
    array = finite(p_values, "p-values", 0)
    if ((array < 0.0) | (array > 1.0)).any():
        raise BadInput(f"p-values must lie in 0..1, got {array.min():g} to {array.max():g}.")
    return array


def holm(p_values: Numbers) -> npt.NDArray[np.float64]:
    """Adjusted p-values that bound the chance of any false rejection (Holm 1979), whatever the dependence.

    Raises
    ------
    BadInput
        A value outside 0..1.
    """
    array = _p_values(p_values)
    order = np.argsort(array, kind="stable")
    stepped = np.maximum.accumulate(array[order] * np.arange(array.size, 0, -1))
    adjusted = np.empty_like(array)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def benjamini_hochberg(p_values: Numbers) -> npt.NDArray[np.float64]:
    """Adjusted p-values (q) that bound the false discovery rate (Benjamini and Hochberg 1995) under independence or positive dependence.

    Raises
    ------
    BadInput
        A value outside 0..1.
    """
    array = _p_values(p_values)
    order = np.argsort(array, kind="stable")[::-1]
    stepped = np.minimum.accumulate(array[order] * array.size / np.arange(array.size, 0, -1))
    adjusted = np.empty_like(array)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
