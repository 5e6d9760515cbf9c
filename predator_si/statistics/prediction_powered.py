"""A mean from many cheap predictions and a few true values: the error of the predictor is in the interval."""

from __future__ import annotations

import numpy as np

from predator_si.errors import BadInput
from predator_si.records import Interval
from predator_si.statistics.sample import Numbers, check_share, finite


def prediction_powered_mean(truth: Numbers, predicted: Numbers, unlabelled: Numbers, confidence: float = 0.95, *, tuned: bool = False) -> Interval:
    """The mean of the true values over the population that both samples come from.

    Mean of the predictions where there is no truth, plus the rectifier: the mean error on the labelled sample. Its variance is
    ``var(predictions) / N + var(truth - predictions) / n`` (Angelopoulos, Bates, Fannjiang, Jordan and Zrnic, "Prediction-powered inference", Science 2023,
    algorithm 1), with Student's quantile for the labelled sample. ``tuned`` weighs the predictions by the lambda that makes the variance least
    (PPI++, arXiv:2311.01453, section 6): useless predictions then cost nothing. Valid whatever the predictor; the labelled sample must be drawn from
    the same population as the unlabelled one.

    Parameters
    ----------
    truth, predicted
        On the labelled sample, in the same order (n >= 2).
    unlabelled
        Predictions where there is no truth (N >= 2).

    Raises
    ------
    BadInput
        Too few values, lengths that differ, or a number that is not finite.
    """
    from scipy.stats import t

    check_share(confidence, "confidence")
    y, f, rest = finite(truth, "labelled truth", 2), finite(predicted, "labelled predictions", 2), finite(unlabelled, "unlabelled predictions", 2)
    if y.size != f.size:
        raise BadInput(f"prediction-powered mean: {y.size} true values for {f.size} predictions; give both for each labelled item.")
    n, many = y.size, rest.size
    weight = 1.0
    if tuned:
        spread = float(np.concatenate([f, rest]).var(ddof=1))
        weight = 0.0 if spread == 0.0 else float(np.clip(np.cov(y, f)[0, 1] / ((1.0 + n / many) * spread), 0.0, 1.0))
    error = y - weight * f
    variance = weight**2 * rest.var(ddof=1) / many + error.var(ddof=1) / n
    estimate = float(weight * rest.mean() + error.mean())
    half = float(t.ppf((1.0 + confidence) / 2.0, n - 1) * np.sqrt(variance))
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half, n=n + many, sd=float(error.std(ddof=1)))
