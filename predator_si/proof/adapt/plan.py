"""What an adaptation is told, and how its minutes are shared out.

What belongs here: the options, the clock, the division of the time that is left. What must not: any work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from predator_si.errors import BadInput

LabelMode = Literal["none", "clicks", "train"]
LABEL_MODES: tuple[LabelMode, ...] = ("none", "clicks", "train")
FUSION_WEIGHT = 0.35
EXPORT_SECONDS = 12.0
"""Of a 33 M parameter model into the reference backend, loaded and warm, two cores."""
LEAST_TRAINING = 30.0
"""Seconds of training of one recipe below which nothing is learned that could be measured."""


@dataclass(frozen=True)
class Plan:
    """Options of one adaptation.

    Attributes
    ----------
    labels
        ``none``: query texts only; ``clicks``: simulated clicks on the train queries; ``train``: their judgments.
    examples
        Training queries at most, each with ``group_size`` documents; fewer where the time or the log does not give as many.
    budget_minutes
        For everything on one collection, the supervised oracle and the sealed test included.
    depth, fusion_weight, max_length
        The serving rule that all arms share: candidates scored, share of the first stage (``search.rerank.fuse``), tokens of a pair.
    group_size, teacher_best
        Documents of a training group, and how many of them are the teacher's best; the rest are drawn from the other candidates.
    dev_queries, test_queries, canary_queries
        At most so many, chosen by a stable hash; ``canary_queries`` for each other collection.
    held_out
        Training queries at most that are kept back for choosing among candidates.
    click_searches
        Simulated searches of each train query under ``clicks``.
    backend
        What scores; null takes the chip's reference backend.
    """

    labels: LabelMode = "none"
    examples: int = 1_000
    budget_minutes: float = 25.0
    depth: int = 20
    fusion_weight: float = FUSION_WEIGHT
    max_length: int = 192
    train_length: int = 160
    group_size: int = 8
    teacher_best: int = 3
    dev_queries: int = 200
    test_queries: int = 500
    canary_queries: int = 100
    held_out: int = 120
    click_searches: int = 10
    groups_per_step: int = 8
    learning_rate: float = 2e-5
    backend: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.labels not in LABEL_MODES:
            raise BadInput(f"labels {self.labels!r}: there are {', '.join(LABEL_MODES)}.")
        if not 0 < self.teacher_best < self.group_size <= self.depth:
            raise BadInput(f"a group of {self.group_size} with the {self.teacher_best} best of {self.depth} candidates: give 0 < best < group <= depth.")
        if self.budget_minutes <= 0 or self.examples < 8:
            raise BadInput(f"{self.budget_minutes} minutes and {self.examples} examples: give more than 0 minutes and 8 examples or more.")


@dataclass
class Clock:
    """Where the time of a run goes."""

    budget: float
    """Seconds."""
    now: Callable[[], float] = time.monotonic
    phases: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start."""
        self._began = self.now()

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self.now() - self._began

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; negative when it is overrun."""
        return self.budget - self.spent

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of what runs inside to ``name``."""
        began = self.now()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + self.now() - began


@dataclass(frozen=True)
class Shares:
    """How the rest of the time is used: seconds of training for each recipe and the oracle, and how many queries are judged."""

    train_seconds: float
    dev_queries: int
    canary_queries: int
    test_queries: int


def share_out(plan: Plan, left: float, pairs_per_second: float, *, trainings: int, stored: int, held_out: int, dev: int, canaries: int, test: int) -> Shares:
    """Divide the seconds that are left between training and scoring.

    Scoring takes what it needs while training keeps at least half; where that is not possible all judged sets shrink alike, to a third at the most.

    Parameters
    ----------
    pairs_per_second
        Of scoring, measured in this run.
    trainings
        Trainings to come, the oracle's included.
    stored
        Candidates to export and score on ``held_out`` queries, the oracle's included.
    dev, canaries, test
        Queries at hand: of dev, of all canaries together, of test.

    Raises
    ------
    BadInput
        The time is too short for any training.
    """
    dev, test = min(dev, plan.dev_queries), min(test, plan.test_queries)
    choosing = stored * (EXPORT_SECONDS + held_out * plan.depth / pairs_per_second)
    # Before and after on dev and canaries; three models on test: plain and fused zero-shot share their scores.
    judging = (2 * dev + 2 * canaries + 3 * test) * plan.depth / pairs_per_second
    free = left - choosing
    scale = min(1.0, max(1.0 / 3.0, 0.5 * free / judging)) if judging > 0 else 1.0
    train = (free - scale * judging) / trainings
    if train < LEAST_TRAINING:
        raise BadInput(
            f"{left:.0f} s are left for {trainings} trainings, {stored} candidates and the judged queries: {train:.0f} s of training each teach nothing. "
            "Give a larger --budget-minutes, or fewer queries by --max-queries."
        )
    return Shares(train, max(2, int(dev * scale)), max(2, int(plan.canary_queries * scale)), max(2, int(test * scale)))
