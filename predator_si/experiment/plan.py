"""A trial from its first step to its end: which modes in which order, when a look is due, what a look leads to.

What belongs here: the plan, what has happened so far (one file that survives restarts), and pure functions from one state to the next. What must not:
judging a step (``verdict``, ``shadow``, ``interleave``), committing a step, reading a clock.

The chain is shadow -> interleave -> guardrail A/B: each step costs more people more, so each asks first what the next one needs not find out. A contour
runs all of it or a part. Within the A/B step the challenger's share may rise in steps of a ramp; every step is judged on its own requests, because clients
that a raised share moves have seen both models.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field, model_validator

from predator_si.errors import BadInput, Refused
from predator_si.records import Answer, ExperimentResult, Record, Verdict
from predator_si.statistics.design import DEFAULT_DESIGN, Design

Mode = Literal["shadow", "interleave", "ab"]
ORDER: tuple[Mode, ...] = ("shadow", "interleave", "ab")
GROWTH = 1.25
"""Requests at the next look over those at the last: looks are free in error, not in work."""
_MENDS_ITSELF = frozenset({"freshness"})
"""Checks that more traffic may mend once they failed; any other breakage ends the trial."""


class Step(Record):
    """One step of a trial: a mode, its share, and the requests that it needs at least."""

    mode: Mode
    share: float = Field(gt=0, le=1)
    """Of the clients (``ab``, ``interleave``) or the requests (``shadow``)."""
    min_samples: int = Field(ge=1)
    """Served requests in all while the step is on (``shadow``: those that both models scored; ``interleave``: merged lists)."""


class ExperimentPlan(Record):
    """What a trial will do, fixed before its first request."""

    cycle_id: str
    contour: str
    champion: str
    challenger: str
    same_model: bool = False
    steps: tuple[Step, ...] = Field(min_length=1)
    min_days: float = Field(default=0.0, ge=0)
    max_days: float = Field(default=7.0, gt=0)
    max_samples: int = Field(default=100_000, ge=1)
    """Served requests of one step at which it ends, shown or not."""
    novelty_days: float = Field(default=0.0, ge=0)
    """First part of the A/B steps, from the first of them on, that counts for errors and validity only (:func:`counted_from`)."""
    design: Design = DEFAULT_DESIGN
    """Levels and tuning of every look."""

    @model_validator(mode="after")
    def _ends_after_it_counts(self) -> ExperimentPlan:
        if self.novelty_days >= self.max_days:
            raise ValueError(f"novelty_days {self.novelty_days:g} must be below max_days {self.max_days:g}: nothing would ever count")
        return self

    @model_validator(mode="after")
    def _in_order(self) -> ExperimentPlan:
        places = [ORDER.index(step.mode) for step in self.steps]
        shares = [step.share for step in self.steps if step.mode == "ab"]
        if places != sorted(places) or shares != sorted(shares):
            raise ValueError("steps go shadow, interleave, ab, and the share of an A/B only rises: clients that came back would have seen both models")
        return self


class Look(Record):
    """One look at a step, and what it said."""

    step: int = Field(ge=0)
    at: datetime
    requests: int = Field(ge=0)
    verdict: Verdict
    reason: str


class Experiment(Record):
    """``experiment.json``: a trial as far as it has come."""

    plan: ExperimentPlan
    opened_at: datetime
    step: int = Field(default=0, ge=0)
    step_started_at: datetime
    looks: tuple[Look, ...] = ()
    ended_at: datetime | None = None
    verdict: Verdict | None = None
    reason: str = ""

    @property
    def now(self) -> Step:
        """The step that is on."""
        return self.plan.steps[self.step]


def chain(
    modes: Sequence[Mode], *, split: float, ramp: Sequence[float] = (), shadow_share: float = 0.1, interleave_share: float = 0.2, min_samples: int
) -> tuple[Step, ...]:
    """The steps of a contour.

    Parameters
    ----------
    modes
        In any order; each once. Without any: ``ab``.
    split
        The challenger's share in the last step.
    ramp
        Smaller shares before it; each needs a quarter of the requests, since only harm is looked for.

    Raises
    ------
    BadInput
        A mode twice, or a ramp that does not rise to ``split``.
    """
    wanted = list(modes) or ["ab"]
    if len(set(wanted)) != len(wanted) or list(ramp) != sorted({*ramp}) or any(not 0.0 < share < split for share in ramp):
        raise BadInput(f"a trial of modes {list(modes)} with a ramp {list(ramp)} to {split:g}: each mode once, and rising shares below the split.")
    quarter = max(1, min_samples // 4)
    steps: list[Step] = []
    for mode in sorted(wanted, key=lambda name: ORDER.index(name)):  # type: ignore[arg-type]
        if mode == "shadow":
            steps.append(Step(mode="shadow", share=shadow_share, min_samples=max(30, min_samples // 10)))
        elif mode == "interleave":
            steps.append(Step(mode="interleave", share=interleave_share, min_samples=quarter))
        else:
            steps += [Step(mode="ab", share=share, min_samples=quarter) for share in ramp]
            steps.append(Step(mode="ab", share=split, min_samples=min_samples))
    return tuple(steps)


def begin(plan: ExperimentPlan, now: datetime, other: Experiment | None = None) -> Experiment:
    """A trial that has just been committed.

    Parameters
    ----------
    other
        The newest trial of this contour: one at a time.

    Raises
    ------
    Refused
        Another trial is on.
    """
    if other is not None and other.ended_at is None and other.plan.cycle_id != plan.cycle_id:
        raise Refused(f"the trial of {other.plan.cycle_id} is on in {other.plan.contour}; one trial at a time. End it first.")
    return Experiment(plan=plan, opened_at=now, step_started_at=now)


def counted_from(trial: Experiment) -> datetime:
    """Since when requests of the step that is on count for its minimum and its metrics: since it began, in an A/B also past the novelty of the first one."""
    if trial.now.mode != "ab" or not trial.plan.novelty_days:
        return trial.step_started_at
    first = next(number for number, step in enumerate(trial.plan.steps) if step.mode == "ab")
    before = [look.at for look in trial.looks if look.step < first]
    shown_since = trial.step_started_at if trial.step == first else max(before, default=trial.opened_at)
    return max(trial.step_started_at, shown_since + timedelta(days=trial.plan.novelty_days))


def reason_to_wait(trial: Experiment, requests: int, now: datetime) -> str | None:
    """Why no look is due; null when one is.

    Parameters
    ----------
    requests
        Of the step so far, counted as its ``min_samples`` are.
    """
    step, plan = trial.now, trial.plan
    if trial.ended_at is not None:
        return None  # a run that died after writing the end: the cycle is still to be told
    if now < trial.opened_at:
        return f"the trial began at {trial.opened_at:%Y-%m-%d %H:%M} UTC, which is in the future: a clock went backwards"
    if longest_of(trial, requests, now) is not None:
        return None
    last = trial.step == len(plan.steps) - 1
    if last and now - trial.opened_at < timedelta(days=plan.min_days):
        return f"the trial runs for at least {plan.min_days:g} days"
    seen = max((look.requests for look in trial.looks if look.step == trial.step), default=0)
    needed = max(step.min_samples, -int(-GROWTH * seen // 1) if seen else 0)
    what = "" if len(plan.steps) == 1 else f" in step {trial.step + 1} of {len(plan.steps)} ({step.mode} at {step.share:.0%})"
    return f"the trial has {requests} of {needed} requests{what}" if requests < needed else None


def longest_of(trial: Experiment, requests: int, now: datetime) -> str | None:
    """What ends the trial with this look: its maximum length or size is reached; null where it may go on."""
    plan = trial.plan
    over = now - trial.opened_at >= timedelta(days=plan.max_days) or requests >= plan.max_samples
    return f"{plan.max_days:g} days or {plan.max_samples} requests" if over else None


def after_look(trial: Experiment, result: ExperimentResult, requests: int, now: datetime) -> Experiment:
    """The trial after one look at its step: it goes on, takes its next step, or ends.

    Harm ends it at once. What is shown leads to the next step, after the last one to the end. What is neither goes on until the maximum (``longest_of``),
    where the judge rejects it. A broken trial ends held, unless more traffic may mend it and there is still time for some.

    Raises
    ------
    Refused
        The trial has ended before.
    """
    if trial.ended_at is not None:
        raise Refused(f"the trial of {trial.plan.cycle_id} has ended ({trial.reason}); it is not judged again.")
    looks = (*trial.looks, Look(step=trial.step, at=now, requests=requests, verdict=result.verdict, reason=result.reason))
    seen = trial.model_copy(update={"looks": looks})
    last = trial.step == len(trial.plan.steps) - 1
    if result.verdict is Verdict.PROMOTE and not last:
        return seen.model_copy(update={"step": trial.step + 1, "step_started_at": now})
    if result.verdict is not Verdict.INCONCLUSIVE:
        return _ended(seen, result.verdict, result.reason, now)
    over = longest_of(trial, requests, now)
    if over is not None:
        return _ended(seen, Verdict.INCONCLUSIVE, f"{result.reason}; the trial ends here, after {over}", now)
    broken = {gate.criterion.name for gate in result.quality if gate.answer is Answer.FAIL}
    if broken - _MENDS_ITSELF:
        return _ended(seen, Verdict.INCONCLUSIVE, result.reason, now)
    return seen


def _ended(trial: Experiment, verdict: Verdict, reason: str, now: datetime) -> Experiment:
    return trial.model_copy(update={"ended_at": now, "verdict": verdict, "reason": reason})
