"""Is the fast simulation the production code? Lives judged step by step by production itself.

What belongs here: the same observations given to ``judge_watch`` check by check, and to the offline test one by one. What must not: any tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from predator_si.proof.simulate.promoting import JUDGED, levels, promoted
from predator_si.proof.simulate.watching import METRICS, Deployment, Limits, Seen, limits, observe, slower_share
from predator_si.proof.simulate.world import Clock, Population
from predator_si.records import Answer
from predator_si.release.watch import QUESTIONS, WatchCheck, WatchPlan, judge_watch, ndcg_log_e
from predator_si.statistics.evidence import needed
from predator_si.statistics.margins import judge_difference

OnProgress = Callable[[int, int], None]
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def watch_agreement(
    plan: WatchPlan, found: Sequence[Population], clock: Clock, slow_limit: float, *, lives: int, checks: int, seed: int, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Good and bad deployments, each watched by ``judge_watch`` over checks of 1 to 60 observations.

    After every check each question's gate must have failed exactly where the fast boundary says so, and the answer must be a rollback exactly where one has.

    Returns
    -------
    dict
        ``lives``, ``steps`` (checks judged), ``gates`` compared, ``differences`` (must be 0), ``rollbacks`` (so that it is seen that both answers occur).
    """
    rng = np.random.default_rng(seed)
    steps = gates = differences = rollbacks = 0
    horizon = 60 * checks
    bounds = limits(plan, horizon)
    for number in range(lives):
        population = found[int(rng.integers(len(found)))]
        truth = Deployment(float(rng.choice([1.0, 1.0, 1.2, 2.0])), float(rng.choice([0.005, 0.02, 0.1])), slow_limit)
        seen = {metric: observe(metric, truth, population, clock, rng, 1, horizon) for metric in METRICS}
        judged: list[WatchCheck] = []
        fallen: set[str] = set()
        begin = Stand(0, 0, 0, 0)
        for end in np.cumsum(rng.integers(1, 61, checks)).tolist():
            now = stand(seen, end)
            judged.append(_check(plan, seen, begin, now, len(judged)))
            result = judge_watch(plan, judged, judged[-1].at)
            failed = {gate.criterion.name for gate in result.gates if gate.answer is Answer.FAIL} & set(QUESTIONS)
            fallen |= _crossed(plan, seen, bounds, now)
            gates += len(QUESTIONS)
            differences += len(failed ^ fallen) + ((result.answer == "rollback") is not bool(fallen))
            steps, begin = steps + 1, now
        rollbacks += bool(fallen)
        if on_progress is not None:
            on_progress(number + 1, lives)
    return {"lives": lives, "steps": steps, "gates": gates, "differences": differences, "rollbacks": rollbacks}


class Stand(NamedTuple):
    """How much was seen at a check."""

    requests: int
    failures: int
    answered: int
    slow: int


def stand(seen: dict[str, Seen], end: int) -> Stand:
    """After ``end`` requests, judged queries and timed pairs; the failed ones were not answered, and only answered ones can be slow."""
    failures = int(seen["errors"].bad[0, :end].sum())
    answered = end - failures
    return Stand(end, failures, answered, int(seen["latency"].bad[0, :answered].sum()))


def _check(plan: WatchPlan, seen: dict[str, Seen], begin: Stand, end: Stand, number: int) -> WatchCheck:
    """What production would have stored of these observations."""
    ratios = seen["latency"].paired[0, begin.requests : end.requests]
    return WatchCheck(
        at=_BEGIN + timedelta(minutes=10 * number),
        requests=end.requests - begin.requests,
        failures=end.failures - begin.failures,
        slow=end.slow - begin.slow,
        served_digest=plan.released_digest,
        probes={f"q{place:06d}": float(seen["ndcg"].paired[0, place]) for place in range(begin.requests, end.requests)},
        pairs=ratios.size,
        log_ratio_sum=float(ratios.sum()),
        log_ratio_squares=float((ratios**2).sum()),
    )


def _crossed(plan: WatchPlan, seen: dict[str, Seen], bounds: Limits, now: Stand) -> set[str]:
    """Questions that the fast way answers against the release at this look."""
    n = now.requests
    alone = {metric: one.until(n) for metric, one in seen.items()}
    found = {"errors"} if now.failures >= bounds.failures[n - 1] else set()
    if now.answered and now.slow >= bounds.slow[now.answered - 1]:
        found.add("latency")
    if slower_share(plan, alone["latency"].paired)[0, -1] >= bounds.slower[n - 1]:
        found.add("slower")
    if ndcg_log_e(plan, alone["ndcg"].paired)[0, -1] >= needed(plan.level("ndcg")):
        found.add("ndcg")
    return found


def promotion_agreement(plan: WatchPlan, found: Sequence[Population], *, lives: int, seed: int) -> dict[str, Any]:
    """Candidates near the level, given to the exact test one by one: the screen of the fast way may tell none apart from it.

    Returns
    -------
    dict
        ``lives``, ``differences`` (must be 0), ``promoted``.
    """
    rng, alphas = np.random.default_rng(seed), levels(plan.design)
    differences = passed = 0
    for number in range(lives):
        population = found[number % len(found)]
        values = population.difference[population.draw(rng, (JUDGED[number % len(JUDGED)],))]
        alpha = alphas[number % alphas.size, None]
        exact = judge_difference(values, alpha=float(alpha[0])).standing == "superior"
        differences += bool(promoted(values[None, :], alpha)[0]) is not exact
        passed += exact
    return {"lives": lives, "differences": differences, "promoted": passed}
