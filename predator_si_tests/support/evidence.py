"""Reading of simulated evidence: when each life first had enough."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from predator_si.statistics import claims


def first_claim(log_e: npt.ArrayLike, alpha: float) -> npt.NDArray[np.int64]:
    """Index of the first look (last axis) that claims; -1 where none does."""
    hit = claims(log_e, alpha)
    if hit.shape[-1] == 0:
        return np.full(hit.shape[:-1], -1, dtype=np.int64)
    return np.where(hit.any(axis=-1), hit.argmax(axis=-1), -1).astype(np.int64)
