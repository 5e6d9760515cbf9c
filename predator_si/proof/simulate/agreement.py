"""Is the fast simulation the production code? Lives judged step by step by production itself.

What belongs here: the same observations given to ``judge_watch`` check by check, to the offline test one by one, and to ``judge_ab`` as events. What must not:
any tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from predator_si.experiment import judge_ab
from predator_si.experiment.proofs import events_log_e, failure_proofs, look_places, mean_proofs, p95_inside
from predator_si.proof.simulate.promoting import JUDGED, levels, promoted
from predator_si.proof.simulate.trying import UP, Asked, Challenger, TrialPlan, arm_times, ask, failures_at, means_at, slow_of
from predator_si.proof.simulate.watching import METRICS, Deployment, Limits, Seen, limits, observe, slower_share
from predator_si.proof.simulate.world import Clock, Population
from predator_si.records import Answer
from predator_si.release.watch import QUESTIONS, WatchCheck, WatchPlan, judge_watch, ndcg_log_e
from predator_si.search.events import QUARANTINE_SCHEMA, EventFrames, conform
from predator_si.statistics.counts import sample_ratio_log_e
from predator_si.statistics.evidence import needed
from predator_si.statistics.margins import judge_difference

OnProgress = Callable[[int, int], None]
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_MODELS = ("sha256:" + "0" * 64, "sha256:" + "1" * 64)
_TRUTHS = (Challenger(), Challenger(factor=0.6), Challenger(factor=1.6), Challenger(error_rate=0.1), Challenger(clicks=0.4))


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


def trial_agreement(
    plan: TrialPlan, found: Sequence[Population], clock: Clock, *, lives: int, seed: int, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Harmless and harmful challengers, each trial written down as a service writes it and judged by ``judge_ab``.

    Each guardrail must have failed, and have been shown to hold, exactly where the fast way says so; so must the check of the split.

    Returns
    -------
    dict
        ``lives``, ``gates`` compared, ``differences`` (must be 0), ``failed`` and ``passed`` gates (so that it is seen that both answers occur).
    """
    rng, step = np.random.default_rng(seed), plan.last
    least = max(rule.criterion.min_sample for rule in plan.guardrails)
    gates = differences = failed = passed = 0
    for number in range(lives):
        size = int(rng.integers(3, 6) * least / min(step.share, 1.0 - step.share))
        asked = ask(_TRUTHS[number % len(_TRUTHS)], step.share, found[number % len(found)], clock, rng, 1, size)
        end = _BEGIN + timedelta(seconds=size)
        result = judge_ab(
            _recorded(asked), *_MODELS,
            cycle_id="si_2026_01_01_001", window_start=_BEGIN, window_end=end, now=end, split=step.share, guardrails=plan.guardrails, contour=plan.contour,
            min_sample=step.min_samples, design=plan.design,
        )  # fmt: skip
        fast = answered(plan, asked)
        said = {gate.criterion.metric: gate.answer for gate in result.guardrails}
        for rule in plan.guardrails:
            harm, inside = fast[rule.criterion.metric]
            otherwise = Answer.PASS if rule.proof == "no_harm" else Answer.UNKNOWN
            differences += said[rule.criterion.metric] is not (Answer.PASS if inside else Answer.FAIL if harm else otherwise)
        broken = next(gate for gate in result.quality if gate.criterion.name == "sample_ratio").answer is Answer.FAIL
        differences += broken is not _uneven(plan, asked)
        gates += len(plan.guardrails) + 1
        failed += sum(answer is Answer.FAIL for answer in said.values())
        passed += sum(answer is Answer.PASS for answer in said.values())
        if on_progress is not None:
            on_progress(number + 1, lives)
    return {"lives": lives, "gates": gates, "differences": differences, "failed": failed, "passed": passed}


def answered(plan: TrialPlan, asked: Asked) -> dict[str, tuple[bool, bool]]:
    """By metric of one trial at its end: whether harm is shown, and whether it is shown to lie within the margin; at the moments that ``judge_ab`` looks at."""
    levels, step = plan.levels(plan.last), plan.last
    kept = np.flatnonzero(~asked.failed[0])
    places, every = kept[look_places(kept.size)], look_places(asked.failed.shape[1])
    found = {}
    for rule in plan.guardrails:
        metric, margin, least = rule.criterion.metric, rule.criterion.threshold, rule.criterion.min_sample
        if metric == "p95_latency_ms":
            slow = slow_of(asked, 0)
            shown = events_log_e(np.cumsum(slow), np.arange(1, slow.size + 1), step.share) >= needed(levels.harm_alpha)
            found[metric] = bool(shown.any()), bool(p95_inside(*arm_times(asked, 0, places), margin, levels, least).any())
            continue
        if metric == "error_rate":
            proofs = failure_proofs(*failures_at(asked, every), margin, levels)
        else:
            proofs = mean_proofs(*means_at(asked, metric, places, least), margin, UP[metric], levels)
        found[metric] = bool(proofs.harm.any()), bool(proofs.inside.any())
    return found


def _uneven(plan: TrialPlan, asked: Asked) -> bool:
    theirs, split, design = np.cumsum(asked.theirs[0]), plan.last.share, plan.design
    counts = np.stack([np.arange(1, theirs.size + 1) - theirs, theirs], axis=-1)
    log_e = sample_ratio_log_e(counts, [1.0 - split, split], strength=design.sample_ratio_strength)
    return bool((log_e > needed(design.sample_ratio_alpha)).any())


def _recorded(asked: Asked) -> EventFrames:
    """One trial as the service's events: a client of its own for each request, one request a second."""
    size = asked.ms.shape[1]
    theirs, failed = pl.Series(asked.theirs[0]), pl.Series(asked.failed[0])
    shown = [{"object_id": f"d{place}", "score": None, "first_stage_score": None, "rerank_score": None} for place in range(1, 11)]
    frame = pl.DataFrame({"seq": np.arange(size), "latency_ms": asked.ms[0], "results": [shown] * size}).with_columns(
        query_id=pl.format("r{}", "seq"), client_id=pl.format("c{}", "seq"), timestamp=pl.lit(_BEGIN) + pl.duration(seconds=pl.col("seq")),
        user_query=pl.lit("sealed"), writer=pl.lit("w"), depth=pl.lit(10), status=pl.when(failed).then(503).otherwise(200),
        variant=pl.when(theirs).then(pl.lit("candidate")).otherwise(pl.lit("champion")),
        model_digest=pl.when(theirs).then(pl.lit(_MODELS[1])).otherwise(pl.lit(_MODELS[0])), simulated=pl.lit(value=True),
    )  # fmt: skip
    clicks = frame.select("query_id", "timestamp", "client_id", "simulated", position=pl.Series(asked.position[0])).filter(pl.col("position") > 0)
    clicks = clicks.with_columns(action_name=pl.lit("click"), object_id=pl.format("d{}", "position"))
    losses = pl.DataFrame(schema={"writer": pl.String, "kind": pl.String, "lost": pl.Int64})
    return EventFrames(conform(frame, "search"), conform(clicks, "action"), pl.DataFrame(schema=QUARANTINE_SCHEMA), 0, losses)
