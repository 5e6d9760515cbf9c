"""Who trains: one protocol, and the trainers behind it.

What belongs here: the protocol, the choice by name, and the default. What must not: the loop itself (``fit``), other trainers' details
(``framework`` for sentence-transformers, ``accelerated`` for several processes, ``h2o`` for H2O LLM Studio).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import polars as pl

from predator_si.errors import BadInput
from predator_si.search.models import ModelStore
from predator_si.train.fit import Judge, Trained, fine_tune
from predator_si.train.recipe import TrainingRecipe

TRAINERS = ("lean", "accelerate", "sentence-transformers")
"""H2O LLM Studio is not chosen by name alone: it needs an installation of its own (``h2o.H2OTrainer``)."""


class Trainer(Protocol):
    """Makes a model of the store from another one and training groups."""

    name: str

    def train(
        self,
        store: ModelStore,
        start: str,
        examples: pl.DataFrame,
        recipe: TrainingRecipe,
        work: Path,
        *,
        name: str,
        earlier: pl.DataFrame | None = None,
        judge: Judge | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[int, int], None] | None = None,
        on_loss: Callable[[int, float], None] | None = None,
    ) -> Trained:
        """As ``fit.fine_tune``: Refused when told to stop, BadInput for data or a loss that cannot be used; then nothing is stored."""
        ...


class LeanTrainer:
    """The loop of ``fit`` in this process: the default."""

    name = "lean"

    def train(
        self,
        store: ModelStore,
        start: str,
        examples: pl.DataFrame,
        recipe: TrainingRecipe,
        work: Path,
        *,
        name: str,
        earlier: pl.DataFrame | None = None,
        judge: Judge | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[int, int], None] | None = None,
        on_loss: Callable[[int, float], None] | None = None,
    ) -> Trained:
        """See ``Trainer``."""
        return fine_tune(
            store,
            start,
            examples,
            recipe,
            work,
            name=name,
            earlier=earlier,
            judge=judge,
            should_stop=should_stop,
            on_progress=on_progress,
            on_loss=on_loss,
        )


def trainer_named(name: str, processes: int | None = None) -> Trainer:
    """One of ``TRAINERS``; ``processes`` is for "accelerate" [default: one per GPU, or one].

    Raises
    ------
    BadInput
        Another name.
    """
    if name == "lean":
        return LeanTrainer()
    if name == "accelerate":
        from predator_si.train.accelerated import AccelerateTrainer

        return AccelerateTrainer(processes)
    if name == "sentence-transformers":
        from predator_si.train.framework import SentenceTransformersTrainer

        return SentenceTransformersTrainer()
    raise BadInput(f"unknown trainer {name!r}; known: {', '.join(TRAINERS)}.")
