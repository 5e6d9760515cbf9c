"""Lives of trials on live traffic: how often a harmless one is ended, how often what is just too bad passes, how long a good one takes.

What belongs here: many trials at once through ``experiment.proofs``, the functions that ``judge_ab`` asks, looked at far more often than production looks. What
must not: a rule of our own about when a trial ends.

Each client asks once. An arm is drawn by the split, times are those of the tables, and a click falls on the one relevant document of a query, at the place
that its measured NDCG@10 says, as often as that place is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from predator_si.experiment.guardrails import Guardrail, default_guardrails
from predator_si.experiment.plan import Step, chain
from predator_si.experiment.proofs import FIRST, LEAST_CLIENTS, Flags, Levels, events_log_e, failure_proofs, mean_proofs, p95_inside, slow_limit
from predator_si.experiment.shadow import ERROR_MARGIN
from predator_si.proof.simulate.counting import NEVER, first_true, least_count, rate, times
from predator_si.proof.simulate.world import Clock, Floats, Population, divided
from predator_si.statistics.counts import STRENGTH, rate_log_e, sample_ratio_log_e
from predator_si.statistics.design import DEFAULT_DESIGN, Design
from predator_si.statistics.evidence import needed
from predator_si.statistics.mixture import mean_log_e, running_sums

OnProgress = Callable[[int, int], None]
Counts = npt.NDArray[np.int64]
HEALTHY_ERRORS = 0.005
"""Share of the champion's requests that fail."""
_ATTRACTION = 0.9
"""Of people who look at the relevant document, those who click on it."""
_LIST = 10
_LOOKS = 30
_PORTION = 600_000
"""Requests that are drawn at once."""
UP = {"ndcg_at_10_clicks": True, "click_through": True, "avg_latency_ms": False}
_SHADOWED = 1_000
"""Requests of a life in shadow, and clients whose list one side wins of a life of interleaving."""


@dataclass(frozen=True)
class TrialPlan:
    """The trial of a contour: what is tried, and against which levels.

    Attributes
    ----------
    contour
        Its guardrails ask for a proof, or in ``local`` for no harm.
    steps
        The chain.
    """

    contour: str = "local"
    steps: tuple[Step, ...] = (Step(mode="ab", share=0.2, min_samples=200),)
    design: Design = DEFAULT_DESIGN

    @cached_property
    def guardrails(self) -> tuple[Guardrail, ...]:
        """Of the last step."""
        return default_guardrails(self.contour)

    @property
    def last(self) -> Step:
        """The step whose guardrails must be proven."""
        return self.steps[-1]

    def levels(self, step: Step) -> Levels:
        """As ``judge_ab`` takes them: the metrics that a trial may be better in share the level of superiority."""
        shared = self.design.replaced({"superiority_alpha": self.design.superiority_alpha / len(UP)})
        return Levels(shared, step.share, step.min_samples, self.design.harm_alpha)

    @property
    def spent(self) -> float:
        """The largest chance of ending a harmless trial, over all steps, questions and looks: what the levels add up to (Ville, Boole).

        Shadow asks for failures and time, interleaving for wins and failures, an A/B each guardrail, the slices together, and the split.
        """
        harm = self.design.harm_alpha
        asked = (len(self.guardrails) + 1) * harm + self.design.sample_ratio_alpha
        return sum(asked if step.mode == "ab" else 2.0 * harm for step in self.steps)


def trial_plan(contour: str, modes: Sequence[Any], design: Design, **shares: Any) -> TrialPlan:
    """The plan of a contour's settings; ``shares`` as ``experiment.plan.chain`` takes them. A chain without an A/B proves nothing to be released by."""
    steps = chain(modes, **shares)
    if steps[-1].mode != "ab":
        steps = (*steps, *chain(("ab",), **shares))
    return TrialPlan(contour, steps, design)


def champions(found: Sequence[Population]) -> list[Population]:
    """One population of each ranker on each collection: a trial of equals draws from one side only."""
    return list({(one.collection, one.rankers[0]): one for one in found}.values())


@dataclass(frozen=True)
class Challenger:
    """What is true of a challenger: its time over the champion's, the share of its requests that fail, the share of the champion's clicks that it keeps."""

    factor: float = 1.0
    error_rate: float = HEALTHY_ERRORS
    clicks: float = 1.0


@dataclass(frozen=True)
class Asked:
    """Requests of trials in the order of time, each array (lives, requests).

    Attributes
    ----------
    theirs
        Answered by the challenger.
    failed
        Without an answer, so without a time and a click.
    ms
        Milliseconds.
    position
        Of the click, from 1; 0 without one.
    """

    theirs: Flags
    failed: Flags
    ms: Floats
    position: Counts

    def values(self, metric: str) -> Floats:
        """What a metric's mean is a mean of, per request: milliseconds, a click, or its inverse-propensity gain (``monitor.click_quality`` at eta 1)."""
        if metric == "avg_latency_ms":
            return self.ms
        if metric == "click_through":
            return (self.position > 0).astype(np.float64)
        return np.where(self.position > 0, self.position / np.log2(np.maximum(self.position, 1) + 1.0), 0.0)


def ask(truth: Challenger, split: float, population: Population, clock: Clock, rng: np.random.Generator, lives: int, requests: int) -> Asked:
    """Draw trials; the champion's and the challenger's clicks come from the same rankings, the champion's."""
    shape = (lives, requests)
    theirs = rng.random(shape) < split
    failed = rng.random(shape) < np.where(theirs, truth.error_rate, HEALTHY_ERRORS)
    ms = clock.ms[rng.integers(0, clock.ms.size, shape)] * np.where(theirs, truth.factor, 1.0)
    gain = population.old[population.draw(rng, shape)]
    place = np.rint(np.exp2(1.0 / np.maximum(gain, 0.05)) - 1.0)
    seen = rng.random(shape) < np.where((gain > 0.0) & (place <= _LIST), _ATTRACTION / np.minimum(place, _LIST), 0.0)
    kept = rng.random(shape) < np.where(theirs, truth.clicks, 1.0)
    return Asked(theirs, failed, ms, np.where(seen & kept & ~failed, np.minimum(place, _LIST), 0).astype(np.int64))


def means_at(asked: Asked, metric: str, places: Counts, least: int) -> tuple[Floats, Floats, Floats]:
    """Mean, standard error and requests of both arms after the requests at ``places``, shape (2, lives, looks) each; as ``changes`` has them of single clients.

    An error is infinite where an arm has fewer than ``least`` requests.
    """
    values, found = asked.values(metric), []
    for arm in (~asked.theirs, asked.theirs):
        counted = arm & ~asked.failed
        own = np.where(counted, values, 0.0)
        n, total, squares = (np.cumsum(one, axis=1, dtype=np.float64)[:, places] for one in (counted, own, own * own))
        size = np.maximum(n, 1.0)
        spread = np.where(squares - total**2 / size > 1e-13 * squares, squares - total**2 / size, 0.0)
        error = np.sqrt(n / np.maximum(n - 1.0, 1.0) * spread) / size
        found.append((total / size, np.where(n >= max(2, least, LEAST_CLIENTS), error, np.inf), n))
    means, errors, sizes = (np.stack(one) for one in zip(*found, strict=True))
    return means, errors, sizes


def failures_at(asked: Asked, places: Counts) -> tuple[Floats, Floats]:
    """Failures and requests of both arms, shape (2, lives, looks) each."""
    arms = (~asked.theirs, asked.theirs)
    failed, sizes = (np.stack([np.cumsum(arm & kept, axis=1)[:, places] for arm in arms]) for kept in (asked.failed, np.ones_like(asked.failed)))
    return failed.astype(np.float64), sizes.astype(np.float64)


def arm_times(asked: Asked, life: int, places: Counts) -> tuple[tuple[Floats, Floats], Counts]:
    """Of one life both arms' milliseconds, and how many of them each look has."""
    answered, theirs = ~asked.failed[life], asked.theirs[life]
    arms = (answered & ~theirs, answered & theirs)
    return (asked.ms[life][arms[0]], asked.ms[life][arms[1]]), np.stack([np.cumsum(arm)[places] for arm in arms])


def slow_of(asked: Asked, life: int) -> Floats:
    """Of the slow requests of one life, in the order of time, whether each was the challenger's; without any where nothing says yet what slow is."""
    answered = np.flatnonzero(~asked.failed[life])
    if answered.size <= FIRST:
        return np.empty(0)
    limit, rest = slow_limit(asked.ms[life][answered[:FIRST]]), answered[FIRST:]
    return np.asarray(asked.theirs[life][rest[asked.ms[life][rest] > limit]], dtype=np.float64)


def inside_at(plan: TrialPlan, step: Step, rule: Guardrail, asked: Asked, places: Counts) -> Flags:
    """At which looks a guardrail's change is shown to lie within its margin, shape (lives, looks)."""
    metric, margin, least, levels = rule.criterion.metric, rule.criterion.threshold, rule.criterion.min_sample, plan.levels(step)
    if metric == "error_rate":
        failed, sizes = failures_at(asked, places)
        return np.asarray(failure_proofs(failed, sizes, margin, levels).inside & (sizes.min(axis=0) >= least))
    if metric == "p95_latency_ms":
        return np.stack([p95_inside(*arm_times(asked, life, places), margin, levels, least) for life in range(asked.ms.shape[0])])
    return mean_proofs(*means_at(asked, metric, places, least), margin, UP[metric], levels).inside


def harmed(plan: TrialPlan, step: Step, asked: Asked, places: Counts) -> tuple[dict[str, Flags], Flags]:
    """By question, the lives in which harm was shown at some look, and the lives in which any metric was shown to be better.

    Whether the change was shown to be small beforehand, which saves a trial from being ended, is not asked.
    """
    levels, requests = plan.levels(step), asked.ms.shape[1]
    found, better = {}, np.zeros(asked.ms.shape[0], dtype=bool)
    top = _events_top(levels.harm_alpha, step.share, requests)
    events, theirs = np.cumsum(asked.failed, axis=1), np.cumsum(asked.failed & asked.theirs, axis=1)
    found["error_rate"] = ((events > 0) & (theirs >= top[np.maximum(events, 1) - 1])).any(axis=1)
    slow = [np.cumsum(slow_of(asked, life)) for life in range(asked.ms.shape[0])]
    found["p95_latency_ms"] = np.array([bool((one >= top[: one.size]).any()) for one in slow])
    for metric, up in UP.items():
        rule = next(one.criterion for one in plan.guardrails if one.criterion.metric == metric)
        proofs = mean_proofs(*means_at(asked, metric, places, rule.min_sample), rule.threshold, up, levels)
        found[metric], better = proofs.harm.any(axis=1), better | proofs.better.any(axis=1)
    counts = np.stack([np.cumsum(~asked.theirs, axis=1), np.cumsum(asked.theirs, axis=1)], axis=-1)
    uneven = sample_ratio_log_e(counts, [1.0 - step.share, step.share], strength=plan.design.sample_ratio_strength)
    found["sample_ratio"] = (uneven >= needed(plan.design.sample_ratio_alpha)).any(axis=1)
    return found, better


def harmless_trials(
    plan: TrialPlan, found: Sequence[Population], clock: Clock, *, lives: int, requests: int, seed: int, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Trials of a challenger that is the champion again: how many are ended as harmful or broken, over all steps, and how many call it better in the last.

    Returns
    -------
    dict
        :func:`~predator_si.proof.simulate.counting.rate` over the chain, ``steps`` and ``questions`` (each one's own), ``spent`` (what the levels add up to,
        with the part of the slices, which are not drawn), ``better`` (called better in any metric).
    """
    rng, places, done = np.random.default_rng(seed), _places(requests), 0
    questions: dict[str, int] = {}
    steps = [0] * len(plan.steps)
    total = claimed = 0
    for population, some in divided(found, lives, max(1, _PORTION // requests)):
        ended = np.zeros(some, dtype=bool)
        for number, step in enumerate(plan.steps):
            if step.mode == "ab":
                answers, better = harmed(plan, step, ask(Challenger(), step.share, population, clock, rng, some, requests), places)
                claimed += int(better.sum()) if number == len(plan.steps) - 1 else 0
            else:
                answers = _unseen(plan.design, clock, rng, some) if step.mode == "shadow" else _merged(plan.design, rng, some)
            here = np.stack(list(answers.values())).any(axis=0)
            for name, hit in answers.items():
                questions[name] = questions.get(name, 0) + int(hit.sum())
            steps[number] += int(here.sum())
            ended |= here
        total, done = total + int(ended.sum()), done + some
        if on_progress is not None:
            on_progress(done, lives)
    return {
        **rate(total, lives),
        "steps": [{"mode": step.mode, "share": step.share, **rate(count, lives)} for step, count in zip(plan.steps, steps, strict=True)],
        "questions": {name: rate(count, lives * sum(name in _asked_by(step.mode) for step in plan.steps)) for name, count in questions.items()},
        "spent": plan.spent,
        "better": rate(claimed, lives),
        "requests": requests,
    }


def passed_at_limit(
    plan: TrialPlan, found: Sequence[Population], clock: Clock, *, lives: int, requests: int, seed: int, on_progress: OnProgress | None = None
) -> list[dict[str, Any]]:
    """Challengers that are worse by exactly the margin: how often each guardrail is shown to hold all the same, at some look of the last step.

    Returns
    -------
    list[dict]
        One of each guardrail: ``metric``, ``margin``, :func:`~predator_si.proof.simulate.counting.rate`, ``asked`` (whether this contour asks for the proof).
    """
    rows, places = [], _places(requests)
    for number, rule in enumerate(plan.guardrails):
        metric, margin = rule.criterion.metric, rule.criterion.threshold
        slower = Challenger(factor=1.0 + margin)
        truth = {"error_rate": Challenger(error_rate=HEALTHY_ERRORS + margin), "avg_latency_ms": slower, "p95_latency_ms": slower}
        rng, hits = np.random.default_rng([seed, number]), 0
        for population, some in divided(found, lives, max(1, _PORTION // requests)):
            asked = ask(truth.get(metric, Challenger(clicks=1.0 + margin)), plan.last.share, population, clock, rng, some, requests)
            hits += int(inside_at(plan, plan.last, rule, asked, places).any(axis=1).sum())
        if on_progress is not None:
            on_progress(number + 1, len(plan.guardrails))
        rows.append({"metric": metric, "margin": margin, **rate(hits, lives), "asked": rule.proof == "non_inferior"})
    return rows


def time_to_pass(plan: TrialPlan, truth: Challenger, found: Sequence[Population], clock: Clock, *, lives: int, requests: int, seed: int) -> dict[str, Any]:
    """After how many requests of both arms every guardrail that this contour asks a proof of was shown to hold, and the minimum was there.

    Returns
    -------
    dict
        :func:`~predator_si.proof.simulate.counting.times` over all lives, ``factor``, ``slowest`` (metric -> share of the lives that waited for it last).
    """
    rng, places = np.random.default_rng(seed), np.unique(np.geomspace(min(50, requests), requests, 2 * _LOOKS).round().astype(np.int64)) - 1
    proven = [rule for rule in plan.guardrails if rule.proof == "non_inferior"]
    firsts: dict[str, list[Counts]] = {rule.criterion.metric: [] for rule in proven}
    for population, some in divided(found, lives, max(1, _PORTION // requests)):
        asked = ask(truth, plan.last.share, population, clock, rng, some, requests)
        for rule in proven:
            firsts[rule.criterion.metric].append(first_true(inside_at(plan, plan.last, rule, asked, places), places + 1))
    every = {metric: np.concatenate(parts) for metric, parts in firsts.items()}
    stacked = np.stack([np.where(one == NEVER, np.iinfo(np.int64).max, one) for one in every.values()])
    latest = stacked.max(axis=0)
    first = np.where(latest == np.iinfo(np.int64).max, NEVER, np.maximum(latest, plan.last.min_samples))
    last = {metric: float((one == latest).mean()) for metric, one in zip(every, stacked, strict=True)}
    return {"factor": truth.factor, **{k: v for k, v in times(first).items() if k != "curve"}, "slowest": last, "requests": requests}


def _unseen(design: Design, clock: Clock, rng: np.random.Generator, lives: int) -> dict[str, Flags]:
    """Harm shown in shadow, as ``judge_shadow`` asks for it: failures and time of an equal model."""
    ratios = clock.log_ratios[rng.integers(0, clock.log_ratios.size, (lives, _SHADOWED))]
    slower = mean_log_e(*running_sums(ratios), 0.0, alternative="greater", prior=design.latency_prior, burn_in=design.latency_burn_in)
    return {"shadow: failures": _many_failures(design, rng, lives), "shadow: time": np.asarray((slower >= needed(design.harm_alpha)).any(axis=1))}


def _merged(design: Design, rng: np.random.Generator, lives: int) -> dict[str, Flags]:
    """Harm shown by merged lists, as ``judge_interleave`` asks for it: wins of two rankings that are liked alike, and failures."""
    top = _rate_top(design.harm_alpha, 0.5, design.interleaving_strength)
    lost = np.cumsum(rng.random((lives, _SHADOWED)) < 0.5, axis=1)
    return {"interleave: wins": np.asarray((lost >= top).any(axis=1)), "interleave: failures": _many_failures(design, rng, lives)}


def _many_failures(design: Design, rng: np.random.Generator, lives: int) -> Flags:
    top = _rate_top(design.harm_alpha, ERROR_MARGIN, STRENGTH)
    return np.asarray((np.cumsum(rng.random((lives, _SHADOWED)) < HEALTHY_ERRORS, axis=1) >= top).any(axis=1))


@lru_cache(maxsize=32)
def _events_top(alpha: float, split: float, events: int) -> Counts:
    """Of each number of failures (or slow requests) the least that falls on the challenger and shows harm."""
    return least_count(lambda k, n: events_log_e(k, n, split) >= needed(alpha), events)


@lru_cache(maxsize=32)
def _rate_top(alpha: float, limit: float, strength: float) -> Counts:
    return least_count(lambda k, n: rate_log_e(k, n, limit, strength=strength) >= needed(alpha), _SHADOWED)


def _asked_by(mode: str) -> tuple[str, ...]:
    if mode == "shadow":
        return ("shadow: failures", "shadow: time")
    return ("interleave: wins", "interleave: failures") if mode == "interleave" else ("error_rate", "p95_latency_ms", *UP, "sample_ratio")


def _places(requests: int) -> Counts:
    return np.unique(np.linspace(0, requests - 1, _LOOKS + 1)[1:].round().astype(np.int64))
