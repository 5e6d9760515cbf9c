"""Which combinations of features are worse than the rest: SliceLine over binned features.

What belongs here: searching conjunctions and giving them readable names. What must not: making features (``features``), or believing what was found on the same
queries (``reproduce`` confirms it on others).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from predator_si.errors import BadInput

MAX_LEVEL = 3
_ALPHA = 0.95
"""Weight of a slice's error against its size in SliceLine's score; the authors' default, chosen for slices that are clearly worse and not tiny."""
_ENUMERATED = 200


@dataclass(frozen=True)
class Conjunction:
    """Conditions that hold together, and how the queries that meet them fared.

    ``members`` index all queries given; ``mean_error`` and ``mean_error_rest`` are over the queries that were searched.
    """

    conditions: tuple[tuple[str, str], ...]
    members: np.ndarray
    n: int
    mean_error: float
    mean_error_rest: float
    score: float

    @property
    def name(self) -> str:
        """``language=uk and length=long``."""
        return " and ".join(f"{feature}={value}" for feature, value in self.conditions)


def find_conjunctions(
    features: Mapping[str, Sequence[str | None]],
    error: np.ndarray,
    *,
    searched: np.ndarray | None = None,
    max_level: int = MAX_LEVEL,
    min_support: int = 10,
    limit: int = 15,
    gain: float = 0.02,
) -> list[Conjunction]:
    """Search the lattice of conjunctions for those with the largest error.

    SliceLine (Sagadeeva and Boehm, SIGMOD 2021) enumerates all conjunctions up to ``max_level`` exactly, pruned by support and by an upper bound of the
    score ``alpha (mean error / average - 1) - (1 - alpha) (n / size - 1)``. Of what it lists, a conjunction of several conditions is kept only when its mean
    error exceeds that of each conjunction with one condition less by ``gain``: otherwise the shorter one says all there is. Of two that hold for the same
    queries the shorter stays.

    Parameters
    ----------
    features
        Name -> a bin for each query; null is unknown and forms no slice.
    error
        Loss of each query, at least 0; NaN where unknown (such queries are not searched).
    searched
        Which queries the search may look at (bool); default all.

    Returns
    -------
    list of Conjunction
        Highest score first, at most ``limit``; only with a mean error above that of the rest.

    Raises
    ------
    BadInput
        A feature has not as many bins as there are errors, or an error is negative.
    """
    values = np.asarray(error, dtype=np.float64)
    lacking = [name for name, bins in features.items() if len(bins) != len(values)]
    if lacking:
        raise BadInput(f"feature {lacking[0]}: {len(features[lacking[0]])} bins for {len(values)} queries; give one for each.")
    if (values < -1e-9).any():
        raise BadInput(f"an error of {values[values < 0][0]:g}: SliceLine needs losses of at least 0; pass 1 - NDCG or a loss, not a score.")
    known = np.isfinite(values) & (np.ones(len(values), dtype=bool) if searched is None else np.asarray(searched, dtype=bool))
    names = [name for name, bins in features.items() if len({value for value, kept in zip(bins, known, strict=True) if kept} - {None}) > 1]
    if not names or known.sum() < 2 * min_support or not values[known].sum() > 0:
        return []
    codes, books = _coded([features[name] for name in names])
    listed = _slice_line(codes[known], np.maximum(values[known], 0.0), min(max_level, len(names)), min_support)
    found = []
    for row, score in listed:
        conditions = tuple((names[column], str(books[column][int(code)])) for column, code in enumerate(row) if code is not None)
        if any(int(code) == 0 for code in row if code is not None) or not conditions:
            continue  # the bin of the unknown
        entry = _conjunction(conditions, features, values, known, score)
        adds = all(entry.mean_error >= parent + gain for parent in _parents(conditions, features, values, known))
        if adds and entry.mean_error > entry.mean_error_rest and known.sum() - entry.n >= min_support:
            found.append(entry)
    found.sort(key=lambda entry: (-entry.score, len(entry.conditions), entry.name))
    different: dict[bytes, Conjunction] = {}
    for entry in sorted(found, key=lambda entry: (len(entry.conditions), -entry.score, entry.name)):
        different.setdefault(entry.members.tobytes(), entry)
    kept = {entry.name for entry in different.values()}
    return [entry for entry in found if entry.name in kept][:limit]


def members_of(conditions: Sequence[tuple[str, str]], features: Mapping[str, Sequence[str | None]]) -> np.ndarray:
    """Indices of the queries that meet all conditions."""
    mask = np.ones(len(next(iter(features.values()))), dtype=bool)
    for feature, value in conditions:
        mask &= np.array([bin_ == value for bin_ in features[feature]])
    return np.flatnonzero(mask)


def _conjunction(
    conditions: tuple[tuple[str, str], ...], features: Mapping[str, Sequence[str | None]], values: np.ndarray, known: np.ndarray, score: float
) -> Conjunction:
    members = members_of(conditions, features)
    inside = np.zeros(len(values), dtype=bool)
    inside[members] = True
    within, rest = values[inside & known], values[~inside & known]
    return Conjunction(conditions, members, len(within), float(within.mean()), float(rest.mean()) if len(rest) else 0.0, score)


def _parents(conditions: tuple[tuple[str, str], ...], features: Mapping[str, Sequence[str | None]], values: np.ndarray, known: np.ndarray) -> list[float]:
    if len(conditions) < 2:
        return []
    shorter = (conditions[:at] + conditions[at + 1 :] for at in range(len(conditions)))
    return [_conjunction(parent, features, values, known, 0.0).mean_error for parent in shorter]


def _coded(columns: Sequence[Sequence[str | None]]) -> tuple[np.ndarray, list[list[str | None]]]:
    """Integers for bins, 0 for the unknown, and what each stands for."""
    books = [[None, *sorted({value for value in column if value is not None})] for column in columns]
    codes = np.stack([np.array([book.index(value) for value in column], dtype=np.int64) for column, book in zip(columns, books, strict=True)], axis=1)
    return codes, books


def _slice_line(codes: np.ndarray, errors: np.ndarray, max_level: int, min_support: int) -> list[tuple[list[int | None], float]]:
    from sliceline.slicefinder import Slicefinder

    logging.getLogger("sliceline").setLevel(logging.WARNING)
    finder = Slicefinder(alpha=_ALPHA, k=_ENUMERATED, max_l=max_level, min_sup=min_support, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own sparse arithmetic divides by empty slices on the way
        finder.fit(codes, errors)
    rows = np.asarray(finder.top_slices_, dtype=object).tolist()
    return [(row, float(facts["slice_score"])) for row, facts in zip(rows, finder.top_slices_statistics_, strict=True)]
