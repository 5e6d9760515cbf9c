"""Is a subset of the queries worse than the rest? One exact permutation test for tokens and slices alike.

Under the null hypothesis that membership says nothing about the score, the members' sum is the sum of a random subset of the same size. Prefix
sums of one random permutation are such sums for every size at once, so any number of subsets costs one pass over the permutations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from predator_si.statistics import benjamini_hochberg

_CHUNK_ELEMENTS = 2_000_000
_MAX_ELEMENTS = 400_000_000
SCHEMA = {
    "name": pl.String,
    "n": pl.Int64,
    "mean": pl.Float64,
    "mean_rest": pl.Float64,
    "deficit": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "shrunk_deficit": pl.Float64,
    "p_value": pl.Float64,
    "q_value": pl.Float64,
}


def subset_deficits(
    scores: np.ndarray,
    subsets: Sequence[tuple[str, np.ndarray]],
    *,
    seed: int,
    min_support: int = 10,
    shrinkage: float = 10.0,
    fdr: float = 0.1,
    permutations: int = 10_000,
) -> pl.DataFrame:
    """How much lower each subset scores than the rest, tested.

    Parameters
    ----------
    scores
        One score per query, float, shape ``(n,)``; NaN is not allowed.
    subsets
        Name and member indices of each subset. Subsets with fewer than ``min_support`` members, or leaving fewer than that outside, are not
        tested and not returned.
    shrinkage
        Pseudo-count of queries without a deficit: the shrunk deficit is ``deficit * n / (n + shrinkage)``.
    fdr
        Only sets how many permutations are needed to resolve the smallest step of Benjamini and Hochberg's procedure.
    permutations
        At least so many (fewer only above 400 million random draws).

    Returns
    -------
    polars.DataFrame
        ``name, n, mean, mean_rest, deficit`` (rest minus subset: positive is worse) with Welch's 95% interval ``ci_low, ci_high`` (normal
        quantile), ``shrunk_deficit``, one-sided permutation ``p_value`` with the +1 correction of Phipson and Smyth (2010), and ``q_value``
        (Benjamini and Hochberg 1995), worst first.
    """
    n = len(scores)
    kept = [(name, np.asarray(members)) for name, members in subsets if min_support <= len(members) <= n - min_support]
    if not kept:
        return pl.DataFrame(schema=SCHEMA)
    values = np.asarray(scores, dtype=np.float64)
    sizes = np.array([len(members) for _, members in kept])
    sums = np.array([values[members].sum() for _, members in kept])
    squares = np.array([np.square(values[members]).sum() for _, members in kept])
    mean, rest = sums / sizes, (values.sum() - sums) / (n - sizes)
    variance = np.maximum((squares - sizes * mean**2) / np.maximum(sizes - 1, 1), 0.0)
    rest_squares = np.square(values).sum() - squares
    rest_variance = np.maximum((rest_squares - (n - sizes) * rest**2) / np.maximum(n - sizes - 1, 1), 0.0)
    half = 1.959963984540054 * np.sqrt(variance / sizes + rest_variance / (n - sizes))
    deficit = rest - mean
    p_value = _permutation_p(values, sizes, sums, seed=seed, draws=max(permutations, int(2 * len(kept) / fdr)))
    return pl.DataFrame(
        {
            "name": [name for name, _ in kept],
            "n": sizes,
            "mean": mean,
            "mean_rest": rest,
            "deficit": deficit,
            "ci_low": deficit - half,
            "ci_high": deficit + half,
            "shrunk_deficit": deficit * sizes / (sizes + shrinkage),
            "p_value": p_value,
            "q_value": np.asarray(benjamini_hochberg(p_value), dtype=np.float64),
        },
        schema=SCHEMA,
    ).sort(["q_value", "shrunk_deficit", "name"], descending=[False, True, False])


def correlation_p(scores: np.ndarray, share: np.ndarray, *, seed: int, permutations: int = 10_000) -> tuple[float, float]:
    """Pearson's correlation of ``scores`` with ``share`` and the one-sided permutation p of a correlation that low or lower.

    A constant input has no correlation: (0, 1).
    """
    x, y = scores - scores.mean(), share - share.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    if len(scores) < 3 or scale == 0.0:
        return 0.0, 1.0
    observed = float(x @ y) / scale
    rng = np.random.default_rng(seed)
    below, step = 0, max(1, _CHUNK_ELEMENTS // len(x))
    for start in range(0, permutations, step):
        shuffled = rng.permuted(np.broadcast_to(x, (min(step, permutations - start), len(x))), axis=1)
        below += int(np.count_nonzero(shuffled @ y / scale <= observed + 1e-12))
    return observed, (below + 1) / (permutations + 1)


def _permutation_p(values: np.ndarray, sizes: np.ndarray, sums: np.ndarray, *, seed: int, draws: int) -> np.ndarray:
    draws = max(1_000, min(draws, _MAX_ELEMENTS // len(values)))
    rng = np.random.default_rng(seed)
    below = np.zeros(len(sizes), dtype=np.int64)
    step = max(1, _CHUNK_ELEMENTS // (len(values) + len(sizes)))
    for start in range(0, draws, step):
        shuffled = rng.permuted(np.broadcast_to(values, (min(step, draws - start), len(values))), axis=1)
        prefix = np.cumsum(shuffled, axis=1)
        below += np.count_nonzero(prefix[:, sizes - 1] <= sums + 1e-9, axis=0)
    return (below + 1) / (draws + 1)
