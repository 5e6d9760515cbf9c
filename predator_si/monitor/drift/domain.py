"""Do two sets of texts come from one domain? A classifier that tries to tell them apart, against chance.

What belongs here: vectors in, area under the curve with its intervals out. What must not: where texts come from, which shift matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float64]
Vectorise = Callable[[Sequence[str]], npt.NDArray[np.floating]]
FEWEST = 20
"""Distinct texts that each side needs."""
MOST = 500
"""Distinct texts that a side gives at most: time and memory grow with the square of both sides together. Embedding is the larger part: 9 s for a
thousand queries with MiniLM on one busy core, the classifier with all its permutations some 3 s. With 500 queries a side a fifth of another topic gives
an area of .60 (p .0005), a tenth .53, which is not told from chance (stackfaq with scifact mixed in)."""
_RIDGE = 1.0
"""On vectors of length one: about the variance of a direction of three hundred texts in 384 dimensions."""


@dataclass(frozen=True)
class DomainAuc:
    """How well the sides are told apart.

    Attributes
    ----------
    auc
        Chance that a current text looks more current than a reference one, out of fold; 0.5 is one domain, 1 are two.
    interval
        95%, by DeLong et al. (1988), the fitted scores taken as given.
    null_interval
        Where the middle 95% of the areas lie when sides are dealt out at random.
    p
        One-sided permutation p-value; never below ``1 / (permutations + 1)``.
    n, shared
        Distinct texts of each side, and how many of them stand in both.
    """

    auc: float
    interval: tuple[float, float]
    null_interval: tuple[float, float]
    p: float
    n: tuple[int, int]
    shared: int


def domain_classifier(
    reference: Sequence[str], current: Sequence[str], vectorise: Vectorise, *, most: int = MOST, permutations: int = 1999, folds: int = 5, seed: int = 0
) -> DomainAuc | str:
    """The cross-validated area under the curve of a linear classifier, and what chance makes of it; a sentence where there is too little text.

    A text counts once a side, however often it was asked, and one that stands in both sides keeps both labels in every permutation: it pulls the area
    towards one half, as it should. The classifier is the least-squares one with a ridge (Fisher's discriminant), not logistic regression: its
    out-of-fold scores are a fixed linear function of the labels, so that two thousand permutations, each with the whole cross-validation in it, cost one matrix
    product. ``test_monitor_drift.py`` holds its area within .03 of scikit-learn's logistic regression.

    Parameters
    ----------
    vectorise
        Texts to rows of finite numbers; rows are brought to length one.
    """
    rng = np.random.default_rng(seed)
    sides = [_sample(sorted(set(texts)), most, rng) for texts in (reference, current)]
    for side, what in zip(sides, ("reference", "current"), strict=True):
        if len(side) < FEWEST:
            return f"{len(side)} distinct texts in the {what} window, {FEWEST} are needed"
    first, second = set(sides[0]), set(sides[1])
    texts = sorted(first | second)
    labels = np.array([(text in second) * 1.0 - (text in first) * 1.0 for text in texts])
    hat = _out_of_fold(_gram(vectorise(texts)), rng.permutation(len(texts)) % folds)
    single = np.flatnonzero(labels != 0)
    dealt = np.repeat(labels[:, None], permutations + 1, axis=1)
    if single.size:
        dealt[single, 1:] = rng.permuted(np.repeat(labels[single][:, None], permutations, axis=1), axis=0)
    scores = hat @ dealt
    shared = np.flatnonzero(labels == 0)
    rows = np.concatenate([single, shared, shared])
    is_current = np.concatenate([dealt[single] > 0, np.ones((shared.size, permutations + 1), bool), np.zeros((shared.size, permutations + 1), bool)])
    areas = _areas(scores[rows], is_current)
    low, high = _delong(scores[rows, 0], is_current[:, 0])
    beyond = int((areas[1:] >= areas[0] - 1e-12).sum())
    return DomainAuc(
        auc=float(areas[0]),
        interval=(low, high),
        null_interval=(float(np.quantile(areas[1:], 0.025)), float(np.quantile(areas[1:], 0.975))),
        p=(1 + beyond) / (permutations + 1),
        n=(len(first), len(second)),
        shared=int(shared.size),
    )


def hashed_ngrams(texts: Sequence[str]) -> npt.NDArray[np.floating]:
    """Texts as hashed character n-grams (3 to 5, within words), where no embedder is at hand: ``len(texts) x 4096``."""
    from sklearn.feature_extraction.text import HashingVectorizer

    vectoriser = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=4096, lowercase=True)
    dense: npt.NDArray[np.float64] = vectoriser.transform(texts).toarray()
    return dense


def _sample(texts: list[str], most: int, rng: np.random.Generator) -> list[str]:
    return texts if len(texts) <= most else [texts[i] for i in rng.choice(len(texts), most, replace=False)]


def _gram(vectors: npt.NDArray[np.floating]) -> Vectors:
    rows = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths > 0, lengths, 1.0)
    return rows @ rows.T


def _out_of_fold(gram: Vectors, fold: npt.NDArray[np.int64]) -> Vectors:
    """The matrix that turns labels into out-of-fold scores: kernel ridge in each fold's complement, centred there, without the intercept.

    The intercept is left out since a training set's mean leans against the labels of the fold that it lacks.
    """
    n = gram.shape[0]
    hat = np.zeros((n, n))
    for which in np.unique(fold):
        test, train = np.flatnonzero(fold == which), np.flatnonzero(fold != which)
        inner, outer = gram[np.ix_(train, train)], gram[np.ix_(test, train)]
        column = inner.mean(axis=0)
        centred = inner - column[None, :] - column[:, None] + column.mean()
        crossed = outer - column[None, :] - outer.mean(axis=1, keepdims=True) + column.mean()
        weights = np.linalg.solve(centred + _RIDGE * np.eye(train.size), crossed.T).T
        hat[np.ix_(test, train)] = weights - weights.mean(axis=1, keepdims=True)  # labels are centred on the training set
    return hat


def _areas(scores: Vectors, positive: npt.NDArray[np.bool_]) -> Vectors:
    """Area under the curve of each column, ties counting half."""
    from scipy.stats import rankdata

    ranks = rankdata(scores, axis=0)
    n_positive = positive.sum(axis=0)
    n_negative = positive.shape[0] - n_positive
    area: Vectors = ((ranks * positive).sum(axis=0) - n_positive * (n_positive + 1) / 2.0) / (n_positive * n_negative)
    return area


def _delong(scores: Vectors, positive: npt.NDArray[np.bool_]) -> tuple[float, float]:
    from scipy.stats import rankdata

    high, low = scores[positive], scores[~positive]
    ranks, within_high, within_low = rankdata(np.concatenate([high, low])), rankdata(high), rankdata(low)
    above = (ranks[: high.size] - within_high) / low.size
    below = 1.0 - (ranks[high.size :] - within_low) / high.size
    area, error = float(above.mean()), float(np.sqrt(above.var(ddof=1) / high.size + below.var(ddof=1) / low.size))
    return max(0.0, area - 1.96 * error), min(1.0, area + 1.96 * error)
