"""What a set of queries can show: the effect it resolves, and the size an effect needs."""

from __future__ import annotations

import math

from predator_si.errors import BadInput
from predator_si.statistics.sample import check_share


def _quantiles(alpha: float, power: float, two_sided: bool) -> float:
    from scipy.special import ndtri

    check_share(alpha, "alpha")
    check_share(power, "power")
    return float(ndtri(1.0 - (alpha / 2.0 if two_sided else alpha)) + ndtri(power))


def resolvable_effect(n: int, sd: float, alpha: float = 0.05, power: float = 0.8, *, two_sided: bool = False) -> float:
    """The smallest true mean difference found with probability ``power``: ``(z_alpha + z_power) sd / sqrt(n)``.

    A verdict says it aloud: "this set can resolve X points" (one-sided at ``alpha`` unless ``two_sided``; normal approximation).

    Parameters
    ----------
    n
        Paired queries.
    sd
        Standard deviation of the per-query difference, in its unit.

    Raises
    ------
    BadInput
        ``n`` below 2, a negative ``sd``, or a probability outside 0..1.
    """
    if n < 2 or not sd >= 0.0:
        raise BadInput(f"resolvable effect needs n >= 2 and sd >= 0, got n={n}, sd={sd}.")
    return _quantiles(alpha, power, two_sided) * sd / math.sqrt(n)
