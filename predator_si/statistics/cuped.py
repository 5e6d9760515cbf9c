"""Less noise from what was known before the experiment began (CUPED).

What belongs here: the covariate's coefficient and the adjusted outcomes. What must not: which covariate (per-query NDCG of the period before, a client's
earlier clicks): it must not be touched by the treatment.

Deng, Xu, Kohavi and Walker (2013), "Improving the sensitivity of online controlled experiments by utilizing pre-experiment data", WSDM: the outcome minus
``theta (x - mean x)`` has the same mean and the share ``1 - correlation^2`` of the variance. For a sequence that is looked at all the time ``theta`` and the
mean of ``x`` are to be fixed from data before the experiment; then the adjusted outcomes are as independent as the raw ones.
"""

from __future__ import annotations

import numpy as np

from predator_si.errors import BadInput
from predator_si.statistics.evidence import Array
from predator_si.statistics.sample import Numbers, finite


def cuped_coefficient(outcome: Numbers, covariate: Numbers) -> float:
    """``theta = cov(outcome, covariate) / var(covariate)``; 0 for a covariate that never varies, which says nothing.

    Raises
    ------
    BadInput
        Fewer than three pairs, lengths that differ, or a number that is not finite.
    """
    y, x = finite(outcome, "CUPED outcome", 3), finite(covariate, "CUPED covariate", 3)
    if y.size != x.size:
        raise BadInput(f"CUPED: {y.size} outcomes for {x.size} covariates; give both for each unit.")
    centred = x - x.mean()
    spread = float(centred @ centred)
    return 0.0 if spread <= 1e-13 * float(x @ x) else float(centred @ (y - y.mean())) / spread


def cuped_adjust(outcome: Numbers, covariate: Numbers, coefficient: float, centre: float) -> Array:
    """``outcome - coefficient (covariate - centre)``, of the same mean as ``outcome`` where ``centre`` is the covariate's.

    Parameters
    ----------
    centre
        The covariate's mean, the SAME for both arms: over both together, or over the period before.

    Raises
    ------
    BadInput
        Lengths that differ, or a number that is not finite.
    """
    y, x = finite(outcome, "CUPED outcome", 0), finite(covariate, "CUPED covariate", 0)
    if y.size != x.size or not np.isfinite([coefficient, centre]).all():
        raise BadInput(
            f"CUPED: {y.size} outcomes, {x.size} covariates, coefficient {coefficient}, centre {centre}; give one covariate per outcome, and numbers."
        )
    return y - coefficient * (x - centre)
