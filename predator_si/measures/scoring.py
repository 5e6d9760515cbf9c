"""The formulas: from the places at which judged documents stand to one number per ranking and measure.

What belongs here: array formulas with their source. What must not: ids, strings, frames, files (``ranking`` and ``lists`` make arrays of those).

Only judged documents that were found enter (:class:`Hits`); everything else in a ranking gains nothing, so the work grows with the judgments found and
not with the depth of the rankings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput
from predator_si.measures.measure import Family, Measure

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_LEVELS = 16
"""Up to so many distinct grades the ideal ranking is counted instead of sorted."""


@dataclass(frozen=True)
class Hits:
    """Judged documents that the rankings hold.

    Attributes
    ----------
    row
        Which ranking, 0..n-1; ascending.
    position
        Where in it, from 1; ascending within a ranking, a place at most once.
    relevance
        Grade of the document; 0 or below is judged and not relevant.
    """

    row: Ints
    position: Ints
    relevance: Floats

    @classmethod
    def ordered(cls, row: Ints, position: Ints, relevance: Floats) -> Hits:
        """The same hits, sorted by ranking and place."""
        order = np.argsort(row * (int(position.max(initial=0)) + 1) + position, kind="stable")
        return cls(row[order], position[order], relevance[order])


@dataclass(frozen=True)
class Pool:
    """Everything that is judged about the rankings' queries, found or not: ``row`` (0..n-1, any order) and ``relevance``."""

    row: Ints
    relevance: Floats


def discounts(n: int) -> Floats:
    """``1 / log2(rank + 1)`` for ranks 1..n (Järvelin and Kekäläinen 2002, with the base and shift of trec_eval)."""
    return 1.0 / np.log2(np.arange(2, n + 2))


def score(hits: Hits, pool: Pool, shown: Ints, measures: Sequence[Measure], min_relevance: float = 1.0) -> dict[str, Floats]:
    """Every measure of every ranking.

    Parameters
    ----------
    hits, pool
        What was found, and what could have been.
    shown
        Length of each ranking, shape (n,).
    measures
        See :class:`~predator_si.measures.measure.Measure`.
    min_relevance
        From which grade a document counts as relevant where relevance is binary (all but nDCG, ERR and judged).

    Returns
    -------
    dict
        Measure name -> values, shape (n,), each in 0..1. A ranking whose query has no relevant document scores 0 for nDCG, R and AP; ``judged@k`` of an empty
        ranking is 0.

    Raises
    ------
    BadInput
        A grade above the highest that ERR was told of.

    References
    ----------
    nDCG, R, P, RR, AP: trec_eval 9.0.8 (``m_ndcg_cut.c``, ``m_recall.c``, ``m_P.c``, ``m_recip_rank.c``, ``m_map.c``, ``m_map_cut.c``); exponential
    gain: Burges et al. 2005. ERR: Chapelle et al. 2009. RBP and its residual: Moffat and Zobel 2008. judged@k: share of judged documents among the
    first k that there are, as in ir-measures.
    """
    work = _Work(hits, pool, shown, min_relevance)
    return {measure.name: _FORMULAS[measure.family](work, measure) for measure in measures}


class _Work:
    """What several measures share, computed once."""

    def __init__(self, hits: Hits, pool: Pool, shown: Ints, min_relevance: float) -> None:
        self.hits, self.pool, self.shown, self.n, self.min_relevance = hits, pool, shown, int(shown.size), min_relevance
        self.deepest = int(hits.position.max(initial=1))
        self._cut: dict[tuple[int, int], Hits] = {}

    @cached_property
    def gained(self) -> Hits:
        return _only(self.hits, self.hits.relevance > 0)

    @cached_property
    def relevant(self) -> Hits:
        chosen = self.hits.relevance >= self.min_relevance
        return self.gained if np.count_nonzero(chosen) == self.gained.row.size and self.min_relevance > 0 else _only(self.hits, chosen)

    @cached_property
    def possible(self) -> Floats:
        return np.bincount(self.pool.row[self.pool.relevance >= self.min_relevance], minlength=self.n).astype(np.float64)

    @cached_property
    def grades(self) -> tuple[Floats, Ints] | None:
        """Distinct positive grades from the best on, and how many documents of each or better every query has; null where there are too many grades."""
        row, relevance = self.positive
        whole = relevance.astype(np.int64)
        if relevance.size and float(relevance.max()) <= _LEVELS and bool((whole == relevance).all()):
            levels, level = np.arange(1.0, whole.max() + 1.0), whole - 1
        else:
            levels, level = np.unique(relevance, return_inverse=True)
            if levels.size > _LEVELS:
                return None
        counts = np.bincount(row * levels.size + level, minlength=self.n * levels.size).reshape(self.n, levels.size)
        return levels[::-1], np.cumsum(counts[:, ::-1], axis=1)

    @cached_property
    def positive(self) -> tuple[Ints, Floats]:
        """Rows and relevance of the judgments with a gain."""
        chosen = self.pool.relevance > 0
        return self.pool.row[chosen], self.pool.relevance[chosen]

    @cached_property
    def ordered(self) -> tuple[Ints, Floats, Ints]:
        """The same, best first within each query, with the place counted from 0."""
        row, relevance = self.positive
        order = np.lexsort((-relevance, row))
        return row[order], relevance[order], _count_within(row[order])

    def within(self, hits: Hits, cutoff: int | None) -> Hits:
        if cutoff is None or cutoff >= self.deepest:
            return hits
        key = (id(hits), cutoff)  # the three sets of hits live as long as this object
        if key not in self._cut:
            self._cut[key] = _only(hits, hits.position <= cutoff)
        return self._cut[key]

    def sum(self, hits: Hits, weights: Floats | None = None) -> Floats:
        return np.bincount(hits.row, weights=weights, minlength=self.n).astype(np.float64)

    def at_position(self, hits: Hits, table: Callable[[Floats], Floats]) -> Floats:
        """A function of the position at every hit: looked up where rankings are short."""
        return table(np.arange(self.deepest + 1.0))[hits.position] if self.deepest <= hits.row.size else table(hits.position.astype(np.float64))


def _only(hits: Hits, chosen: npt.NDArray[np.bool_]) -> Hits:
    at = np.flatnonzero(chosen)
    return Hits(hits.row.take(at), hits.position.take(at), hits.relevance.take(at))


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _gain(measure: Measure, relevance: Floats) -> Floats:
    return np.exp2(relevance) - 1.0 if measure.exponential else relevance


def _ndcg(work: _Work, measure: Measure) -> Floats:
    found = work.within(work.gained, measure.cutoff)
    discount = work.at_position(found, lambda position: 1.0 / np.log2(np.maximum(position, 1.0) + 1.0))
    return _share(work.sum(found, _gain(measure, found.relevance) * discount), _ideal(work, measure))


def _ideal(work: _Work, measure: Measure) -> Floats:
    """DCG@k of the best possible order of each query's judged documents."""
    k = int(measure.cutoff or 1)
    if work.grades is None:
        row, relevance, place = work.ordered
        first = place < k
        weights = _gain(measure, relevance[first]) / np.log2(place[first] + 2.0)
        return np.bincount(row[first], weights=weights, minlength=work.n).astype(np.float64)
    grades, counts = work.grades
    reach = np.concatenate([[0.0], np.cumsum(discounts(k))])[np.minimum(counts, k)]
    steps = np.diff(reach, axis=1, prepend=0.0)
    total: Floats = steps @ _gain(measure, grades)
    return total


def _recall(work: _Work, measure: Measure) -> Floats:
    return _share(work.sum(work.within(work.relevant, measure.cutoff)), work.possible)


def _precision(work: _Work, measure: Measure) -> Floats:
    return work.sum(work.within(work.relevant, measure.cutoff)) / float(measure.cutoff or 1)


def _count_within(row: Ints) -> Ints:
    """0, 1, 2 ... along each run of equal values of the sorted ``row``."""
    if row.size == 0:
        return row
    starts = np.flatnonzero(np.concatenate([[True], row[1:] != row[:-1]]))
    return np.arange(row.size) - np.repeat(starts, np.diff(np.append(starts, row.size)))


def _reciprocal(work: _Work, measure: Measure) -> Floats:
    found = work.within(work.relevant, measure.cutoff)
    first = np.concatenate([[True], found.row[1:] != found.row[:-1]])[: found.row.size]
    value = np.zeros(work.n)
    value[found.row[first]] = 1.0 / found.position[first]
    return value


def _average_precision(work: _Work, measure: Measure) -> Floats:
    found = work.within(work.relevant, measure.cutoff)
    return _share(work.sum(found, (_count_within(found.row) + 1.0) / found.position), work.possible)


def _expected_reciprocal(work: _Work, measure: Measure) -> Floats:
    found = work.within(work.gained, measure.cutoff)
    best = float(found.relevance.max(initial=0.0))
    if best > measure.max_grade:
        raise BadInput(f"{measure.name}: a judgment has grade {best:g}, above {measure.max_grade:g}; say ERR(max={best:g}).")
    stops = (np.exp2(found.relevance) - 1.0) / 2.0**measure.max_grade
    value, going, place = np.zeros(work.n), np.ones(work.n), _count_within(found.row)
    for turn in range(int(place.max(initial=-1)) + 1):  # the first of every ranking's documents with a gain, then the second where there is one, ...
        at = np.flatnonzero(place == turn)
        row = found.row[at]
        value[row] += going[row] * stops[at] / found.position[at]
        going[row] *= 1.0 - stops[at]
    return value


def _weights(work: _Work, measure: Measure, hits: Hits) -> Floats:
    return work.at_position(hits, lambda position: (1.0 - measure.persistence) * measure.persistence ** (position - 1.0))


def _rank_biased(work: _Work, measure: Measure) -> Floats:
    found = work.within(work.relevant, measure.cutoff)
    return work.sum(found, _weights(work, measure, found))


def _residual(work: _Work, measure: Measure) -> Floats:
    """All weights add up to 1, and what is judged is decided, whether it gained or not; the rest, also everything below the ranking, could still gain."""
    found = work.within(work.hits, measure.cutoff)
    return 1.0 - work.sum(found, _weights(work, measure, found))


def _judged(work: _Work, measure: Measure) -> Floats:
    return _share(work.sum(work.within(work.hits, measure.cutoff)), np.minimum(work.shown, measure.cutoff or 1).astype(np.float64))


_FORMULAS: dict[Family, Callable[[_Work, Measure], Floats]] = {
    "nDCG": _ndcg,
    "R": _recall,
    "P": _precision,
    "RR": _reciprocal,
    "AP": _average_precision,
    "ERR": _expected_reciprocal,
    "RBP": _rank_biased,
    "RBPres": _residual,
    "judged": _judged,
}
