"""Tests, intervals and sample sizes on NumPy arrays (leaf: knows nobody but ``records`` and ``errors``).

Does: ``paired_interval`` and ``sign_flip_test`` (two systems on the same queries); ``bootstrap_mean_interval``, ``bootstrap_t_interval``,
``bootstrap_totals_interval``, ``moments_interval``, ``quantile_interval`` (one sample); ``welch``, ``quantile_ratio_interval`` (two
samples); ``wilson`` (counts); ``holm``, ``benjamini_hochberg`` (many tests); ``judge_difference`` (better, or not worse
than a margin); ``candidate_level``, ``Ladder`` with ``climb`` (one judged set used again and again); ``resolvable_effect``,
``power_sentence`` (power); ``ratio_interval`` (one total over another), ``prediction_powered_mean`` (many predictions, a few true values); ``EDetector`` with
``watch_drop`` and ``watch_rise`` (has a stream changed, looked at for ever).
Looked at at any time: ``mean_log_e``, ``mean_sequence``, ``estimate_log_e``, ``estimate_sequence`` (normal mixture), ``bounded_mean_log_e``
(betting), ``rate_log_e``, ``rate_sequence``, ``treated_share``, ``sample_ratio_log_e`` (counts),
``quantile_ranks``, ``quantile_sequence``; ``claims``, ``needed``, ``always_valid_p`` (what evidence claims);
``cuped_coefficient``, ``cuped_adjust``.
At planned looks: ``planned_bounds``, ``spending_bounds``, ``spent_alpha``, ``crossing_probabilities``. ``Design``: the levels and tuning that production
uses.
Does not: know metrics, thresholds or decisions. Each function names its source and is tested against another implementation or by simulation.
"""

from __future__ import annotations

from predator_si.statistics.betting import BETS, bounded_mean_log_e
from predator_si.statistics.budget import Ladder, candidate_level, climb
from predator_si.statistics.change import EDetector, watch_drop, watch_rise
from predator_si.statistics.counts import rate_log_e, rate_sequence, sample_ratio_log_e, treated_share
from predator_si.statistics.cuped import cuped_adjust, cuped_coefficient
from predator_si.statistics.design import DEFAULT_DESIGN, Design
from predator_si.statistics.evidence import Alternative, always_valid_p, claims, needed
from predator_si.statistics.group_sequential import crossing_probabilities, planned_bounds, spending_bounds, spent_alpha
from predator_si.statistics.intervals import (
    BOOTSTRAP_LIMIT,
    bootstrap_mean_interval,
    bootstrap_t_interval,
    bootstrap_totals_interval,
    moments_interval,
    quantile_interval,
    quantile_ratio_interval,
    welch,
)
from predator_si.statistics.margins import MarginVerdict, judge_difference, power_sentence
from predator_si.statistics.mixture import BURN_IN, estimate_log_e, estimate_sequence, mean_log_e, mean_sequence, prior_size, running_sums
from predator_si.statistics.multiplicity import benjamini_hochberg, holm
from predator_si.statistics.paired import paired_interval, sign_flip_test
from predator_si.statistics.power import resolvable_effect
from predator_si.statistics.prediction_powered import prediction_powered_mean
from predator_si.statistics.proportions import wilson
from predator_si.statistics.quantiles import quantile_ranks, quantile_sequence
from predator_si.statistics.ratios import ratio_interval

__all__ = [
    "BETS",
    "BOOTSTRAP_LIMIT",
    "BURN_IN",
    "DEFAULT_DESIGN",
    "Alternative",
    "Design",
    "EDetector",
    "Ladder",
    "MarginVerdict",
    "always_valid_p",
    "benjamini_hochberg",
    "bootstrap_mean_interval",
    "bootstrap_t_interval",
    "bootstrap_totals_interval",
    "bounded_mean_log_e",
    "candidate_level",
    "claims",
    "climb",
    "crossing_probabilities",
    "cuped_adjust",
    "cuped_coefficient",
    "estimate_log_e",
    "estimate_sequence",
    "holm",
    "judge_difference",
    "mean_log_e",
    "mean_sequence",
    "moments_interval",
    "needed",
    "paired_interval",
    "planned_bounds",
    "power_sentence",
    "prediction_powered_mean",
    "prior_size",
    "quantile_interval",
    "quantile_ranks",
    "quantile_ratio_interval",
    "quantile_sequence",
    "rate_log_e",
    "rate_sequence",
    "ratio_interval",
    "resolvable_effect",
    "running_sums",
    "sample_ratio_log_e",
    "sign_flip_test",
    "spending_bounds",
    "spent_alpha",
    "treated_share",
    "watch_drop",
    "watch_rise",
    "welch",
    "wilson",
]
