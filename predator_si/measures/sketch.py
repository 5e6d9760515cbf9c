"""A distribution of positive numbers in little memory, that can be added to another one, with quantiles of a stated relative error.

What belongs here: the sketch and its guarantee. What must not: exact percentiles (``latency``), thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.errors import BadInput
from predator_si.measures.latency import order_ranks

ACCURACY = 0.005
"""Relative error of a quantile: half a percent."""
SMALLEST = 1e-3
"""Numbers below this (a microsecond where they are milliseconds) count as 0."""


@dataclass(frozen=True)
class Sketch:
    """Counts in bins of equal ratio (DDSketch).

    Bin ``i`` holds the numbers in ``(g**(i-1), g**i]`` with ``g = (1 + a) / (1 - a)``; its representative ``2 g**i / (g + 1)`` is at most the share ``a`` away
    from every number in it. So the number of any rank is found with a relative error of at most ``accuracy``, whatever the distribution; sums of sketches
    have the same guarantee, because the bins are the same everywhere.

    Attributes
    ----------
    accuracy
        ``a``, 0..1 exclusive.
    zeros
        Numbers below :data:`SMALLEST`.
    first
        Index of the first bin in ``counts``.
    counts
        Numbers in consecutive bins, shape (bins,).

    References
    ----------
    Masson, Rim and Lee 2019, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", PVLDB 12(12).
    """

    accuracy: float
    zeros: int
    first: int
    counts: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, accuracy: float = ACCURACY) -> Self:
        """The sketch of no numbers.

        Raises
        ------
        BadInput
            ``accuracy`` is not between 0 and 1.
        """
        if not 0.0 < accuracy < 1.0:
            raise BadInput(f"a sketch's accuracy is a share between 0 and 1, got {accuracy}.")
        return cls(accuracy, 0, 0, np.zeros(0, np.int64))

    @classmethod
    def of(cls, values: npt.ArrayLike, accuracy: float = ACCURACY) -> Self:
        """The sketch of finite numbers that are not negative.

        Raises
        ------
        BadInput
            A number is negative or not finite.
        """
        found, array = cls.empty(accuracy), np.asarray(values, dtype=np.float64)
        if array.size == 0:
            return found
        if not np.isfinite(array).all() or float(array.min()) < 0.0:
            raise BadInput("a sketch takes finite numbers that are not negative; quarantine others first.")
        positive = array[array >= SMALLEST]
        index = np.ceil(np.log(positive) / found._log).astype(np.int64)
        if index.size == 0:
            return cls(accuracy, int(array.size), 0, np.zeros(0, np.int64))
        first = int(index.min())
        return cls(accuracy, int(array.size - positive.size), first, np.bincount(index - first).astype(np.int64))

    @cached_property
    def _log(self) -> float:
        return float(np.log1p(2.0 * self.accuracy / (1.0 - self.accuracy)))

    @property
    def n(self) -> int:
        """How many numbers."""
        return self.zeros + int(self.counts.sum())

    def __add__(self, other: Sketch) -> Sketch:
        """The sketch of both sets of numbers.

        Raises
        ------
        BadInput
            The accuracies differ.
        """
        if self.accuracy != other.accuracy:
            raise BadInput(f"sketches of accuracy {self.accuracy} and {other.accuracy} have different bins and cannot be added; measure one of them again.")
        if not self.counts.size or not other.counts.size:
            full = self if self.counts.size else other
            return Sketch(self.accuracy, self.zeros + other.zeros, full.first, full.counts)
        first = min(self.first, other.first)
        counts = np.zeros(max(self.first + self.counts.size, other.first + other.counts.size) - first, np.int64)
        for part in (self, other):
            counts[part.first - first : part.first - first + part.counts.size] += part.counts
        return Sketch(self.accuracy, self.zeros + other.zeros, first, counts)

    def at_ranks(self, ranks: Sequence[int]) -> npt.NDArray[np.float64]:
        """The numbers of these ranks (0 is the smallest), each within ``accuracy`` of the true one.

        Raises
        ------
        BadInput
            A rank that the sketch does not have.
        """
        wanted = np.asarray(ranks, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.n):
            raise BadInput(f"ranks {list(ranks)} of {self.n} numbers; they go from 0 to {self.n - 1}.")
        bins = np.searchsorted(np.cumsum(self.counts), wanted - self.zeros, side="right")
        middle = 2.0 * np.exp((bins + self.first) * self._log) / (np.exp(self._log) + 1.0)
        return np.where(wanted < self.zeros, 0.0, middle)

    def percentiles(self, qs: Sequence[float] = (0.5, 0.95, 0.99), confidence: float = 0.95) -> pl.DataFrame:
        """As :func:`~predator_si.measures.latency.percentiles`, each value and bound within ``accuracy`` of the one that all numbers would give.

        Raises
        ------
        BadInput
            No numbers, or a quantile outside 0..1.
        """
        if self.n == 0:
            raise BadInput("percentiles of no observations; check that the sample is not empty before asking.")
        rows = []
        for q in qs:
            below, above = order_ranks(self.n, q, confidence)
            at = (self.n - 1) * q
            low_side, high_side = self.at_ranks([int(np.floor(at)), int(np.ceil(at))])
            value = float(low_side + (at - np.floor(at)) * (high_side - low_side))
            low = float(self.at_ranks([below - 1])[0]) if below >= 1 else None
            high = float(self.at_ranks([above - 1])[0]) if above <= self.n else None
            rows.append({"q": float(q), "value": value, "low": low, "high": high, "n": self.n})
        return pl.DataFrame(rows, schema={"q": pl.Float64, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64})

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {"accuracy": self.accuracy, "zeros": self.zeros, "first": self.first, "counts": self.counts.tolist()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` gave.

        Raises
        ------
        BadInput
            A key is missing or holds no number.
        """
        try:
            return cls(float(stored["accuracy"]), int(stored["zeros"]), int(stored["first"]), np.asarray(stored["counts"], dtype=np.int64))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"not a stored sketch ({type(error).__name__}: {error}); measure the window again.") from error
