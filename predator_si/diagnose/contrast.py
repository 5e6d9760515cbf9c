"""Which words set the worst queries apart: weighted log-odds with an informative Dirichlet prior.

What belongs here: counting words of two groups of queries and testing the difference. What must not: whether such words cost NDCG (``subsets`` tests that).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import polars as pl

from predator_si.corpora.vocabulary import DocumentFrequency, frequency
from predator_si.errors import BadInput
from predator_si.statistics import benjamini_hochberg

PRIOR_WORDS = 500.0
"""Size of the prior in words, as in the authors' example: a word that neither group has said leaves the odds where the corpus has them."""
SCHEMA = {
    "token": pl.String,
    "z": pl.Float64,
    "log_odds": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "n_worst": pl.Int64,
    "n_rest": pl.Int64,
    "p_value": pl.Float64,
    "q_value": pl.Float64,
}


def weighted_log_odds(
    worst: Sequence[Sequence[str]],
    rest: Sequence[Sequence[str]],
    corpus: DocumentFrequency | None = None,
    *,
    prior_words: float = PRIOR_WORDS,
    min_count: int = 3,
) -> pl.DataFrame:
    """Words that one group of queries says more often than the other, given how often the corpus says them.

    Monroe, Colaresi and Quinn (2008, Political Analysis 16(4), section 3.5): with prior counts ``a_w`` (corpus counts scaled to ``a_0`` words) the log-odds
    difference of word w is ``ln((y1 + a_w) / (n1 + a_0 - y1 - a_w)) - ln((y2 + a_w) / (n2 + a_0 - y2 - a_w))``, its variance about
    ``1 / (y1 + a_w) + 1 / (y2 + a_w)``, and z the ratio of the first to the root of the second. Unlike the paper, each group's prior is in proportion to its
    size: the worst quarter is three times smaller than the rest, and with the same prior for both it would be drawn further towards the corpus, so that words
    which documents say more often than queries would look like words of the worst.

    Parameters
    ----------
    worst, rest
        Words of each query, with repetitions.
    corpus
        Word -> how many documents have it; ``None`` takes the counts of both groups together as the prior.
    prior_words
        ``a_0`` > 0, of both groups together.
    min_count
        Words said fewer times in both groups together are not tested.

    Returns
    -------
    polars.DataFrame
        ``token, z`` (positive: said more by the worst), ``log_odds`` with its 95% interval, ``n_worst, n_rest`` (times said), two-sided normal ``p_value`` and
        ``q_value`` (Benjamini and Hochberg), largest z first. Empty where a group has no word, or both say one word only.

    Raises
    ------
    BadInput
        ``prior_words`` is not positive.
    """
    from scipy.special import ndtr

    if not prior_words > 0:
        raise BadInput(f"prior of {prior_words} words: the prior needs a positive size; 500 is the usual one.")
    first, second = (Counter(word for query in group for word in query) for group in (worst, rest))
    both = first + second
    if not first or not second or len(both) < 2:
        return pl.DataFrame(schema=SCHEMA)
    vocabulary = sorted(both)
    background = np.array([max(float(both[word] if corpus is None else frequency(corpus, word) or 0), 0.5) for word in vocabulary])
    ours, theirs = (np.array([group[word] for word in vocabulary], dtype=np.float64) for group in (first, second))
    priors = [prior_words * size / (ours.sum() + theirs.sum()) * background / background.sum() for size in (ours.sum(), theirs.sum())]
    difference = _log_odds(ours, priors[0]) - _log_odds(theirs, priors[1])
    error = np.sqrt(1.0 / (ours + priors[0]) + 1.0 / (theirs + priors[1]))
    kept = np.flatnonzero(ours + theirs >= min_count)
    z = difference[kept] / error[kept]
    p_value = 2.0 * ndtr(-np.abs(z))
    half = 1.959963984540054 * error[kept]
    return pl.DataFrame(
        {
            "token": [vocabulary[index] for index in kept],
            "z": z,
            "log_odds": difference[kept],
            "ci_low": difference[kept] - half,
            "ci_high": difference[kept] + half,
            "n_worst": ours[kept].astype(np.int64),
            "n_rest": theirs[kept].astype(np.int64),
            "p_value": p_value,
            "q_value": np.asarray(benjamini_hochberg(p_value), dtype=np.float64),
        },
        schema=SCHEMA,
    ).sort(["z", "token"], descending=[True, False])


def worst_quartile(scores: np.ndarray) -> np.ndarray:
    """Which queries are among the worst quarter, ties at its border included (bool, shape ``(n,)``); all false where that is more than half of them."""
    values = np.asarray(scores, dtype=np.float64)
    if len(values) < 4:
        return np.zeros(len(values), dtype=bool)
    worst = values <= np.quantile(values, 0.25, method="lower")
    return worst if worst.mean() <= 0.5 else np.zeros(len(values), dtype=bool)


def _log_odds(counts: np.ndarray, prior: np.ndarray) -> np.ndarray:
    total = counts.sum() + prior.sum()
    return np.asarray(np.log((counts + prior) / (total - counts - prior)))
