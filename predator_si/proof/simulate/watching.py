"""Lives of deployments under watch: how often a good one is rolled back, how soon a bad one is.

What belongs here: many deployments at once through the evidence functions of ``release.watch``, looked at after every single observation, which is more often
than production can. What must not: a rule of our own about when to roll back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from predator_si.proof.simulate import rivals
from predator_si.proof.simulate.counting import NEVER, earliest, first_true, least_count, rate, times
from predator_si.proof.simulate.world import Clock, Floats, Population, divided
from predator_si.release.watch import QUESTIONS, WatchPlan, errors_log_e, latency_log_e, ndcg_log_e, slower_log_e
from predator_si.statistics.evidence import needed

OnProgress = Callable[[int, int], None]
Firsts = npt.NDArray[np.int64]
METRICS = ("ndcg", "latency", "errors")
RULES = ("guide", "z_peeking", "mann_whitney")
_PORTION = 250
_CHECKS = 12
_FEW = 4
"""Of each portion, lives that the Mann-Whitney judge sees: it counts all pairwise differences at every check."""
_SEARCH = 45
_NO_SPREAD = 1e-13
_STEP = 0.02
SLOW_SHARE = 0.05
HEALTHY_SLOW = 0.8
"""P95 of a healthy service over the limit at which it is rolled back: the trigger table warns at 800 ms and rolls back at 1000."""


@dataclass(frozen=True)
class Limits:
    """When each question is answered, after each number of observations 1..horizon, found with production's own functions.

    Attributes
    ----------
    failures, slow
        The least count that is proof.
    slower
        The least ``m^2 / (m^2 + v)`` that is proof, ``m`` and ``v`` the mean and variance of the log ratios above what is allowed; above 1 where none is.
    """

    failures: npt.NDArray[np.int64]
    slow: npt.NDArray[np.int64]
    slower: Floats


def limits(plan: WatchPlan, horizon: int) -> Limits:
    """The boundaries of a plan: evidence rises with the count (with the standardised mean), so bisection finds where it suffices."""
    n = np.arange(1, horizon + 1)
    null, top = math.log(plan.latency_ratio), needed(plan.level("slower"))

    def proves(share: Floats) -> npt.NDArray[np.bool_]:
        mean = null + np.sqrt(share)
        return np.asarray(slower_log_e(plan, n, n * mean, n * ((1.0 - share) + mean**2)) >= top)

    low, high = np.zeros(horizon), np.full(horizon, 1.0 - 1e-9)
    reachable = proves(high)
    for _ in range(_SEARCH):
        middle = 0.5 * (low + high)
        proof = proves(middle)
        low, high = np.where(proof, low, middle), np.where(proof, middle, high)
    failures = least_count(lambda k, size: errors_log_e(plan, k, size) >= needed(plan.level("errors")), horizon)
    slow = least_count(lambda k, size: latency_log_e(plan, k, size) >= needed(plan.level("latency")), horizon)
    return Limits(failures, slow, np.where(reachable, high, 2.0))


@dataclass(frozen=True)
class Deployment:
    """What is true of a deployment.

    Attributes
    ----------
    factor
        Times the old champion's time that a request takes.
    error_rate
        Share of requests that fail.
    slow_limit
        Milliseconds above which a request is slow.
    """

    factor: float
    error_rate: float
    slow_limit: float


@dataclass(frozen=True)
class Seen:
    """Observations of some lives about one metric, each array of shape (lives, horizon); empty where the metric has none.

    Attributes
    ----------
    old, new
        Each model's own values: NDCG, or milliseconds.
    paired
        On the same query or request: the NDCG difference, or the log ratio of both times.
    bad
        Failed, or slower than the limit.
    """

    old: Floats
    new: Floats
    paired: Floats
    bad: npt.NDArray[np.bool_]

    def first(self, lives: int) -> Seen:
        """Some of the lives."""
        return Seen(self.old[:lives], self.new[:lives], self.paired[:lives], self.bad[:lives])

    def until(self, size: int) -> Seen:
        """The first ``size`` observations of each life."""
        return Seen(self.old[:, :size], self.new[:, :size], self.paired[:, :size], self.bad[:, :size])


def observe(metric: str, truth: Deployment, population: Population, clock: Clock, rng: np.random.Generator, lives: int, horizon: int) -> Seen:
    """Draw lives: judged queries, requests with their times, or requests that fail."""
    shape, empty = (lives, horizon), np.empty((lives, 0))
    if metric == "ndcg":
        query = population.draw(rng, shape)
        old, new = population.old[query], population.new[query]
        return Seen(old, new, new - old, empty > 0.0)
    if metric == "errors":
        return Seen(empty, empty, empty, rng.random(shape) < truth.error_rate)
    old, new = (clock.ms[rng.integers(0, clock.ms.size, shape)] for _ in range(2))
    ratio = clock.log_ratios[rng.integers(0, clock.log_ratios.size, shape)] + math.log(truth.factor)
    return Seen(old, new * truth.factor, ratio, new * truth.factor > truth.slow_limit)


def rolled_back(plan: WatchPlan, bounds: Limits, metric: str, seen: Seen) -> dict[str, Firsts]:
    """By question, the observations (judged queries, requests, timed pairs) after which it was answered against the release."""
    if metric == "ndcg":
        return {"ndcg": first_true(ndcg_log_e(plan, seen.paired) >= needed(plan.level("ndcg")))}
    if metric == "errors":
        return {"errors": first_true(np.cumsum(seen.bad, axis=1) >= bounds.failures[: seen.bad.shape[1]])}
    share, size = slower_share(plan, seen.paired), seen.paired.shape[1]
    slow = np.cumsum(seen.bad, axis=1)
    return {"latency": first_true(slow >= bounds.slow[:size]), "slower": first_true(share >= bounds.slower[:size])}


def slower_share(plan: WatchPlan, log_ratios: Floats) -> Floats:
    """``m^2 / (m^2 + v)`` after each pair, ``m`` and ``v`` mean and variance of the log ratios above what is allowed; 0 where ``m`` is not above it."""
    n = np.arange(1, log_ratios.shape[1] + 1)
    mean = np.cumsum(log_ratios, axis=1) / n
    raw = np.cumsum(log_ratios**2, axis=1) / n
    variance = raw - mean**2
    above = np.maximum(mean - math.log(plan.latency_ratio), 0.0) ** 2
    share: Floats = np.divide(above, above + variance, out=np.zeros_like(above), where=variance > _NO_SPREAD * raw)
    return share


def by_rivals(plan: WatchPlan, metric: str, seen: Seen, looks: Sequence[int]) -> dict[str, Firsts]:
    """The same of the other rules, where they have one for the metric; ``mann_whitney`` on the first few lives only."""
    few = seen.first(_FEW)
    if metric == "errors":
        return {"guide": rivals.guide_share(seen.bad, plan.max_error_rate, looks), "z_peeking": rivals.z_share(seen.bad, plan.max_error_rate, looks)}
    if metric == "ndcg":
        return {
            "guide": rivals.guide_ndcg(seen.old, seen.new, looks),
            "z_peeking": rivals.z_mean(seen.paired, looks, -1.0),
            "mann_whitney": rivals.mann_whitney(few.old, few.new, looks, lower_is_bad=True),
        }
    return {
        "guide": rivals.guide_share(seen.bad, SLOW_SHARE, looks),
        "z_peeking": rivals.z_mean(seen.paired, looks, 1.0),
        "mann_whitney": rivals.mann_whitney(_coarse(few.old), _coarse(few.new), looks, lower_is_bad=False),
    }


def _coarse(ms: Floats) -> Floats:
    """Times to the nearest 2%: the Mann-Whitney judge counts every pair of different values."""
    return np.asarray(np.exp(np.round(np.log(ms) / _STEP) * _STEP), dtype=np.float64)


def false_rollbacks(
    plan: WatchPlan, found: Sequence[Population], clock: Clock, truth: Deployment, *, lives: int, horizon: int, seed: int, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Deployments as good as the old one (or just not worse than is allowed): how many are rolled back, by us and by the other rules.

    Returns
    -------
    dict
        :func:`~predator_si.proof.simulate.counting.rate` over all questions together, ``questions`` (each one's own), ``worst_population``, ``rules``.
    """
    rng, looks, bounds = np.random.default_rng(seed), checks_at(horizon), limits(plan, horizon)
    hits = dict.fromkeys(QUESTIONS, 0)
    by_population: dict[str, list[int]] = {}
    others: dict[str, list[int]] = {rule: [0, 0] for rule in RULES}
    total = done = 0
    for population, some in divided(found, lives, _PORTION):
        seen = {metric: observe(metric, truth, population, clock, rng, some, horizon) for metric in METRICS}
        firsts = {question: when for metric in METRICS for question, when in rolled_back(plan, bounds, metric, seen[metric]).items()}
        together = int((earliest(*firsts.values()) != NEVER).sum())
        for question, first in firsts.items():
            hits[question] += int((first != NEVER).sum())
        tally = by_population.setdefault(f"{population.collection}: {population.rankers[0]} -> {population.rankers[1]}", [0, 0])
        tally[0] += together
        tally[1] += some
        answers = [by_rivals(plan, metric, seen[metric].first(_FEW), looks) for metric in METRICS]
        for rule in RULES:
            called = earliest(*(answer[rule] for answer in answers if rule in answer)) != NEVER
            others[rule][0] += int(called.sum())
            others[rule][1] += called.size
        total, done = total + together, done + some
        if on_progress is not None:
            on_progress(done, lives)
    worst = max(by_population.items(), key=lambda item: item[1][0] / item[1][1])
    return {
        **rate(total, lives),
        "questions": {question: rate(count, lives) for question, count in hits.items()},
        "worst_population": {"name": worst[0], **rate(*worst[1])},
        "populations": len(by_population),
        "horizon": horizon,
        "rules": {rule: rate(*count) for rule, count in others.items()},
    }


def detected(
    plan: WatchPlan,
    found: Sequence[Population],
    clock: Clock,
    truth: Deployment,
    metric: str,
    *,
    lives: int,
    horizon: int,
    seed: int,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A deployment that is worse: when it is taken back, over all lives; by us, and by the other rules.

    Only the questions about ``metric`` ("ndcg", "latency", "errors") count: a false alarm of another one is no detection.
    """
    rng, looks, bounds = np.random.default_rng(seed), checks_at(horizon), limits(plan, horizon)
    ours: list[Firsts] = []
    others: dict[str, list[Firsts]] = {}
    done = 0
    for population, some in divided(found, lives, _PORTION):
        seen = observe(metric, truth, population, clock, rng, some, horizon)
        ours.append(earliest(*rolled_back(plan, bounds, metric, seen).values()))
        for rule, first in by_rivals(plan, metric, seen, looks).items():
            others.setdefault(rule, []).append(first)
        done += some
        if on_progress is not None:
            on_progress(done, lives)
    return times(np.concatenate(ours)), {rule: times(np.concatenate(parts)) for rule, parts in others.items()}


def checks_at(horizon: int) -> list[int]:
    """Where the other rules look: twelve checks, evenly spread."""
    return [max(2, horizon * (check + 1) // _CHECKS) for check in range(_CHECKS)]
