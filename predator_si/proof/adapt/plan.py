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
FUSION_WEIGHT = 0.2
"""On train queries of faq-docs, stackfaq and scifact zero-shot scored .806 on the mean with .2, .35 and .5 alike (.793 alone). What was distilled from an
ensemble holds some of the first stage already and wants less of it: the ensemble itself, fused, scored .830 with .2 and .825 with .35."""
EXPORT_SECONDS = 12.0
"""Of a 33 M parameter model into the reference backend, loaded and warm, two cores."""
LEAST_TRAINING = 30.0
"""Seconds of training of one recipe below which nothing is learned that could be measured."""
LEAST_JUDGED = 30
"""Judged queries of one set below which no interval says anything."""


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
    test_skip
        Sealed queries, the first of that order, that stay closed: an earlier figure was made with them.
    held_out
        Training queries at most that are kept back for choosing among candidates.
    click_searches
        Simulated searches of each train query under ``clicks``.
    learning_rate, oracle_learning_rate
        Of distillation, and of training on judgments. Distillation of 150 train queries of stackfaq gained .0005 at 5e-5 with fixed weights of the teacher and
        .0154 at 1e-4 with fitted ones (120 other train queries). On judgments 1e-4 gained and 3e-5 lost after some 400 groups of the built-in corpus
        (decision 0005).
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
    group_size: int = 6
    teacher_best: int = 3
    dev_queries: int = 200
    test_queries: int = 300
    test_skip: int = 0
    canary_queries: int = 50
    held_out: int = 50
    click_searches: int = 10
    groups_per_step: int = 6
    learning_rate: float = 1e-4
    oracle_learning_rate: float = 1e-4
    backend: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.labels not in LABEL_MODES:
            raise BadInput(f"labels {self.labels!r}: there are {', '.join(LABEL_MODES)}.")
        if not 0 < self.teacher_best < self.group_size <= self.depth:
            raise BadInput(f"a group of {self.group_size} with the {self.teacher_best} best of {self.depth} candidates: give 0 < best < group <= depth.")
        if self.test_skip < 0:
            raise BadInput(f"test_skip {self.test_skip}: a number of queries, 0 or more.")
        if self.budget_minutes <= 0 or self.examples < 8:
            raise BadInput(f"{self.budget_minutes} minutes and {self.examples} examples: give more than 0 minutes and 8 examples or more.")


@dataclass
class Clock:
    """Where the time of a run goes."""

    budget: float
    """Seconds."""
    now: Callable[[], float] = time.monotonic
    phases: dict[str, float] = field(default_factory=dict)
    earlier: float = 0.0
    """Seconds of attempts at the same run before this one."""

    def __post_init__(self) -> None:
        """Start."""
        self._began = self.now()
        self._running: dict[str, float] = {}

    @property
    def spent(self) -> float:
        """Seconds since the start, and those of earlier attempts."""
        return self.now() - self._began + self.earlier

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; negative when it is overrun."""
        return self.budget - self.spent

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of what runs inside to ``name``."""
        began = self._running[name] = self.now()
        try:
            yield
        finally:
            del self._running[name]
            self.phases[name] = self.phases.get(name, 0.0) + self.now() - began

    @property
    def so_far(self) -> dict[str, float]:
        """Seconds of each phase, that of the running one as well."""
        running = {name: self.phases.get(name, 0.0) + self.now() - began for name, began in self._running.items()}
        return {**self.phases, **running}


@dataclass(frozen=True)
class Sets:
    """How many judged queries there are, or are used: of dev, of each canary together, of test."""

    dev: int
    canaries: tuple[int, ...]
    test: int

    def seconds(self, depth: int, pairs_per_second: float) -> float:
        """What scoring them takes: before and after on dev and canaries, three models on test (plain and fused zero-shot share their scores)."""
        return (2 * self.dev + 2 * sum(self.canaries) + 3 * self.test) * depth / pairs_per_second

    def scaled(self, scale: float) -> Sets:
        """A share of each, but never fewer than ``LEAST_JUDGED`` where there are as many."""

        def part(n: int) -> int:
            return min(n, max(LEAST_JUDGED, int(n * min(scale, 1.0))))

        return Sets(part(self.dev), tuple(part(n) for n in self.canaries), part(self.test))

    def within(self, seconds: float, depth: int, pairs_per_second: float) -> Sets:
        """As many as fit into ``seconds``."""
        needed = self.seconds(depth, pairs_per_second)
        return self if needed <= seconds else self.scaled(max(seconds, 0.0) / needed)


def share_out(plan: Plan, left: float, pairs_per_second: float, *, trainings: int, stored: int, held_out: int, judged: Sets) -> tuple[float, Sets]:
    """Divide the seconds that are left between training and scoring.

    Judged queries take what they need while training keeps at least half; where that is not possible they become fewer.

    Parameters
    ----------
    pairs_per_second
        Of scoring, measured in this run.
    trainings
        Trainings to come, the oracle's included.
    stored
        Candidates to export and score on ``held_out`` queries, the oracle's included.
    judged
        Queries at hand.

    Returns
    -------
    (seconds, sets)
        Seconds for each training, and the judged queries that are used.

    Raises
    ------
    BadInput
        The time is too short for any training.
    """
    most = Sets(min(judged.dev, plan.dev_queries), tuple(min(n, plan.canary_queries) for n in judged.canaries), min(judged.test, plan.test_queries))
    free = left - stored * (EXPORT_SECONDS + held_out * plan.depth / pairs_per_second)
    used = most.within(0.5 * free, plan.depth, pairs_per_second)
    train = (free - used.seconds(plan.depth, pairs_per_second)) / trainings
    if train < LEAST_TRAINING:
        raise BadInput(
            f"{left:.0f} s are left for {trainings} trainings, {stored} candidates and the judged queries, at {pairs_per_second:.0f} scored pairs a second: "
            f"{train:.0f} s of training each teach nothing. Give a larger --budget-minutes, or fewer queries by --max-queries."
        )
    return train, used
