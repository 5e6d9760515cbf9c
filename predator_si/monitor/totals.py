"""Means that windows can add: what is kept of many observations so that their mean and its interval stay exact after any number of additions.

What belongs here: adding, and the interval of what was added. What must not: what the observations are, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.errors import BadInput
from predator_si.records import Interval
from predator_si.statistics import BOOTSTRAP_LIMIT, bootstrap_totals_interval, moments_interval

Floats = npt.NDArray[np.float64]
RESAMPLES = 2_000


@dataclass(frozen=True)
class Keys:
    """Which cluster each observation belongs to: ``code`` (negative: none, it stands for itself), and where in ``names`` each code's name stands first."""

    names: pl.Series
    code: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]

    @classmethod
    def of(cls, names: pl.Series) -> Keys:
        """From one name, or null, for each observation."""
        _, first, code = np.unique(names.hash().to_numpy(), return_index=True, return_inverse=True)
        return cls(names, np.where(names.is_null().to_numpy(), -1, code), first)

    def at(self, rows: npt.NDArray[np.int64]) -> Keys:
        """Of some observations only."""
        return Keys(self.names, self.code[rows], self.first)


@dataclass(frozen=True)
class Totals:
    """Observations of some quantities, made at the same requests.

    Observations that depend on each other (one client's) are kept as one row of sums per client, so that a client who comes again in the next window
    stays one client. The others are kept as they are up to :data:`~predator_si.statistics.BOOTSTRAP_LIMIT`, and as moments beyond, where no more is
    needed.

    Attributes
    ----------
    names
        The quantities, m of them.
    n
        Observations that stand for themselves.
    total, squares
        Their sums and sums of squares, shape (m,).
    rows
        Those observations, shape (n, m); null above the limit.
    clusters
        ``key``, ``size`` (observations), and the sum of each quantity; a key once.
    """

    names: tuple[str, ...]
    n: int
    total: Floats
    squares: Floats
    rows: Floats | None
    clusters: pl.DataFrame

    @classmethod
    def of(cls, values: Sequence[Floats], names: Sequence[str], keys: pl.Series | Keys | None = None) -> Totals:
        """From one array per quantity, all of the same length; observations with a key belong to its cluster, a null key stands for itself."""
        loose, clusters = list(values), pl.DataFrame(schema=_schema(names))
        if keys is not None:
            found = keys if isinstance(keys, Keys) else Keys.of(keys)
            known = found.code >= 0
            if known.any():
                every = bool(known.all())
                code, own = (found.code, loose) if every else (found.code[known], [array[known] for array in loose])
                size = np.bincount(code, minlength=found.first.size)
                here = np.flatnonzero(size)
                sums = {name: np.bincount(code, weights=array, minlength=size.size)[here] for name, array in zip(names, own, strict=True)}
                clusters = pl.DataFrame({"key": found.names.gather(pl.Series(found.first[here])), "size": size[here].astype(np.int64), **sums})
                loose = [array[:0] for array in loose] if every else [array[~known] for array in loose]
        n = int(loose[0].size) if loose else 0
        total = np.array([float(array.sum()) for array in loose])
        squares = np.array([float((array * array).sum()) for array in loose])
        return cls(tuple(names), n, total, squares, np.stack(loose, axis=1) if n <= BOOTSTRAP_LIMIT else None, clusters)

    @classmethod
    def added(cls, parts: Sequence[Totals]) -> Totals:
        """All observations of the parts.

        Raises
        ------
        BadInput
            No parts, or of different quantities.
        """
        if len({part.names for part in parts}) != 1:
            raise BadInput(f"totals of {sorted({', '.join(part.names) for part in parts})} cannot be added; measure the windows with the same measures.")
        if len(parts) == 1:
            return parts[0]
        n = sum(part.n for part in parts)
        kept = [part.rows for part in parts if part.rows is not None]
        rows = np.concatenate(kept) if n <= BOOTSTRAP_LIMIT else None
        clustered = [part.clusters for part in parts if part.clusters.height]
        clusters = _grouped(pl.concat(clustered), parts[0].names) if len(clustered) > 1 else (clustered[0] if clustered else parts[0].clusters)
        total, squares = (np.sum([getattr(part, name) for part in parts], axis=0) for name in ("total", "squares"))
        return cls(parts[0].names, n, total, squares, rows, clusters)

    @property
    def observations(self) -> int:
        """How many observations in all."""
        return self.n + int(self.clusters["size"].sum())

    def sum(self, name: str) -> float:
        """Sum of one quantity."""
        return float(self.total[self.names.index(name)]) + float(self.clusters[name].sum())

    def interval(self, name: str, *, scale: float = 1.0, seed: int = 0, limit: int = BOOTSTRAP_LIMIT) -> Interval | None:
        """Mean of one quantity times ``scale``, with its 95% interval over clients: bootstrap up to ``limit`` units, Student (cluster-robust) above.

        Null where nothing was observed, without bounds (NaN) where there is one unit only.
        """
        size = self.observations
        if size == 0:
            return None
        at, units = self.names.index(name), self.n + self.clusters.height
        mean = self.sum(name) / size
        if units < 2:
            return Interval(estimate=mean * scale, low=float("nan"), high=float("nan"), n=size)
        bootstrapped = units <= limit and self.rows is not None
        clusters = self.clusters.sort("key") if bootstrapped else self.clusters  # the same clients in the same order give the same interval
        sums, sizes = clusters[name].to_numpy(), clusters["size"].cast(pl.Float64).to_numpy()
        if bootstrapped and self.rows is not None:
            every = np.concatenate([self.rows[:, at], sums]), np.concatenate([np.ones(self.n), sizes])
            return bootstrap_totals_interval(every[0] * scale, every[1], seed=seed, n_boot=RESAMPLES)
        loose = self.squares[at] - 2.0 * mean * self.total[at] + mean * mean * self.n
        residual = max(0.0, float(loose)) + float(((sums - sizes * mean) ** 2).sum())
        return moments_interval(self.sum(name) * scale, size, residual * scale * scale, units)

    def to_frame(self) -> pl.DataFrame:
        """Everything but the moments, for a file: ``key`` (null for observations that stand for themselves), ``size``, the sums."""
        if self.rows is None or not self.n:
            return self.clusters
        loose = pl.DataFrame({"key": pl.Series([None] * self.n, dtype=pl.String), "size": np.ones(self.n, np.int64)})
        return pl.concat([loose.with_columns(pl.Series(name, self.rows[:, i]) for i, name in enumerate(self.names)), self.clusters])

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, n: int, total: Sequence[float], squares: Sequence[float]) -> Totals:
        """What :meth:`to_frame` gave, with the moments."""
        names = tuple(frame.columns[2:])
        alone = frame.filter(pl.col("key").is_null())
        rows = alone.select(names).to_numpy().reshape(alone.height, len(names)) if alone.height == n else None
        return cls(names, n, np.asarray(total, np.float64), np.asarray(squares, np.float64), rows, frame.filter(pl.col("key").is_not_null()))


def _schema(names: Sequence[str]) -> dict[str, pl.DataType]:
    return {"key": pl.String(), "size": pl.Int64(), **{name: pl.Float64() for name in names}}


def _grouped(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    return frame.group_by("key").agg(pl.col("size").sum(), *(pl.col(name).sum() for name in names))
