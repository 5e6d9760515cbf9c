"""Tests, intervals and sample sizes on NumPy arrays (leaf: knows nobody but ``records`` and ``errors``).

Does: ``paired_interval`` and ``sign_flip_test`` (two systems on the same queries); ``bootstrap_mean_interval``, ``bootstrap_totals_interval``,
``moments_interval``, ``quantile_interval`` (one sample);
``welch``, ``quantile_ratio_interval``, ``two_proportion`` (two samples); ``wilson``, ``sample_ratio_p`` (counts); ``holm``,
``benjamini_hochberg`` (many tests); ``resolvable_effect``, ``needed_sample`` (power);
``ratio_interval`` (one total over another), ``prediction_powered_mean`` (many predictions, a few true values);
``EDetector`` with ``watch_drop`` and ``watch_rise`` (has a stream changed, looked at for ever).
Does not: know metrics, thresholds or decisions. Each function names its source and is tested against another implementation or by simulation.
"""

from __future__ import annotations

from predator_si.statistics.change import EDetector, watch_drop, watch_rise
from predator_si.statistics.intervals import (
    BOOTSTRAP_LIMIT,
    bootstrap_mean_interval,
    bootstrap_totals_interval,
    moments_interval,
    quantile_interval,
    quantile_ratio_interval,
    welch,
)
from predator_si.statistics.multiplicity import benjamini_hochberg, holm
from predator_si.statistics.paired import paired_interval, sign_flip_test
from predator_si.statistics.power import needed_sample, resolvable_effect
from predator_si.statistics.prediction_powered import prediction_powered_mean
from predator_si.statistics.proportions import sample_ratio_p, two_proportion, wilson
from predator_si.statistics.ratios import ratio_interval

__all__ = [
    "BOOTSTRAP_LIMIT",
    "EDetector",
    "benjamini_hochberg",
    "bootstrap_mean_interval",
    "bootstrap_totals_interval",
    "holm",
    "moments_interval",
    "needed_sample",
    "paired_interval",
    "prediction_powered_mean",
    "quantile_interval",
    "quantile_ratio_interval",
    "ratio_interval",
    "resolvable_effect",
    "sample_ratio_p",
    "sign_flip_test",
    "two_proportion",
    "watch_drop",
    "watch_rise",
    "welch",
    "wilson",
]
