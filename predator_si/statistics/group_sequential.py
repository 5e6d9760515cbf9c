"""Bounds for looks that are planned: more power than a sequence that may be looked at always, at the price of keeping to the plan.

What belongs here: bounds for a normal statistic at planned shares of its information, and what they cross with which probability. What must not: looks that
nobody planned (``mixture``, ``betting``).

The statistic at information ``t`` is a Brownian motion with drift; the density of what has not crossed yet is carried from look to look by numerical
integration (Armitage, McPherson and Rowe 1969, Journal of the Royal Statistical Society A 132; Jennison and Turnbull 2000, "Group sequential methods",
chapter 19). Bounds: O'Brien and Fleming (1979, Biometrics 35), Pocock (1977, Biometrika 64), and spending functions of Lan and DeMets (1983, Biometrika 70),
which allow looks at other times than planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from predator_si.errors import BadInput
from predator_si.statistics.evidence import Array
from predator_si.statistics.sample import check_share

Shape = Literal["obrien_fleming", "pocock"]
_NODES = 240
_FAR = 9.0
"""Standard deviations beyond which nothing is left."""


def planned_bounds(looks: int, alpha: float, shape: Shape = "obrien_fleming", *, two_sided: bool = False) -> Array:
    """Bounds of |z| (z where one-sided) at ``looks`` equally spaced looks: ``c sqrt(K / k)`` for O'Brien-Fleming, ``c`` for Pocock.

    Returns
    -------
    Array
        Shape (looks,).

    Raises
    ------
    BadInput
        Fewer than one look, or ``alpha`` out of range.
    """
    from scipy.optimize import brentq

    check_share(alpha, "alpha")
    if looks < 1:
        raise BadInput(f"{looks} planned looks; plan at least one.")
    information = np.arange(1, looks + 1) / looks
    form = 1.0 / np.sqrt(information) if shape == "obrien_fleming" else np.ones(looks)
    constant = brentq(lambda c: crossing_probabilities(c * form, information, two_sided=two_sided).sum() - alpha, 0.01, 8.0, xtol=1e-9)
    return np.asarray(constant * form, dtype=np.float64)


def spent_alpha(information: Sequence[float], alpha: float, shape: Shape = "obrien_fleming", *, two_sided: bool = False) -> Array:
    """Error allowed up to each share of the information (Lan and DeMets 1983).

    ``obrien_fleming``: ``2 - 2 Phi(z_{alpha/2} / sqrt(t))`` (each side of a two-sided test with half of ``alpha``); ``pocock``: ``alpha log(1 + (e - 1) t)``.

    Raises
    ------
    BadInput
        Shares that do not rise within 0..1.
    """
    from scipy.special import ndtr, ndtri

    check_share(alpha, "alpha")
    t = _shares(information)
    sides = 2.0 if two_sided else 1.0
    if shape == "pocock":
        return np.asarray(alpha * np.log1p((np.e - 1.0) * t), dtype=np.float64)
    return np.asarray(sides * 2.0 * ndtr(ndtri(alpha / sides / 2.0) / np.sqrt(t)), dtype=np.float64)


def spending_bounds(information: Sequence[float], alpha: float, shape: Shape = "obrien_fleming", *, two_sided: bool = False) -> Array:
    """Bounds of |z| (z where one-sided) at these shares of the information; infinite where next to nothing may be spent yet.

    Parameters
    ----------
    information
        Rising shares of the planned information, 0..1; only those looked at so far are needed.

    Returns
    -------
    Array
        Shape (looks,).

    Raises
    ------
    BadInput
        As in :func:`spent_alpha`.
    """
    from scipy.optimize import brentq

    t = _shares(information)
    to_spend = np.diff(spent_alpha(information, alpha, shape, two_sided=two_sided), prepend=0.0)
    bounds = np.full(t.size, np.inf)
    for look, share in enumerate(to_spend):

        def excess(bound: float, look: int = look, share: float = share) -> float:
            tried = np.append(bounds[:look], bound)
            return float(crossing_probabilities(tried, t[: look + 1], two_sided=two_sided)[-1] - share)

        if excess(_FAR - 1.0) < 0.0:
            bounds[look] = brentq(excess, -_FAR if not two_sided else 1e-6, _FAR - 1.0, xtol=1e-8)
    return bounds


def crossing_probabilities(bounds: Sequence[float] | Array, information: Sequence[float] | Array, drift: float = 0.0, *, two_sided: bool = False) -> Array:
    """Probability of first crossing at each look.

    Parameters
    ----------
    bounds
        Of z (|z| where two-sided).
    information
        Rising shares, 0..1.
    drift
        Mean of z at information 1: effect over the standard error of the full sample. Power is the sum of the answer.

    Raises
    ------
    BadInput
        Other lengths, or shares that do not rise within 0..1.
    """
    from scipy.special import ndtr

    t, z = _shares(information), np.asarray(bounds, dtype=np.float64)
    if z.shape != t.shape or np.isnan(z).any():
        raise BadInput(f"{z.size} bounds for {t.size} looks; give a number for each.")
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    crossed = np.empty(t.size)
    places, mass, before = np.zeros(1), np.ones(1), 0.0
    for look, (now, bound) in enumerate(zip(t, z * np.sqrt(t), strict=True)):
        step = float(np.sqrt(now - before))
        mean = places + drift * (now - before)
        above = ndtr((mean - bound) / step)
        below = ndtr((-bound - mean) / step) if two_sided else 0.0
        crossed[look] = float((mass * (above + below)).sum())
        centre, reach = drift * now, _FAR * float(np.sqrt(now))
        low, high = max(-bound if two_sided else -np.inf, centre - reach), min(bound, centre + reach)
        if not low < high:
            crossed[look + 1 :] = 0.0
            break
        fresh = 0.5 * (high - low) * nodes + 0.5 * (high + low)
        density = np.exp(-0.5 * ((fresh[:, None] - mean[None, :]) / step) ** 2) / (step * np.sqrt(2.0 * np.pi))
        places, mass, before = fresh, (density @ mass) * weights * 0.5 * (high - low), float(now)
    return crossed


def _shares(information: Sequence[float] | Array) -> Array:
    t = np.asarray(information, dtype=np.float64).reshape(-1)
    if t.size == 0 or not np.isfinite(t).all() or t[0] <= 0.0 or t[-1] > 1.0 + 1e-12 or (np.diff(t) <= 0.0).any():
        raise BadInput(f"shares of the information {t.tolist()}: they must rise from above 0 to at most 1.")
    return t
