"""What a contour's values say about training: keys ``training`` and ``h2oStudio``.

What belongs here: their shape and defaults (contour ``local``). What must not: training.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from predator_si.contour_types import Block

WEEKLY = "0 3 * * 1"
"""Monday, three o'clock in the morning, UTC."""


class TrainingMix(Block):
    """One of the trainings that a cycle makes, to choose the best of them."""

    loss: Literal["listwise", "bce", "lambda", "distil", "margin_mse", "mse"] | None = None
    """Null: the teacher's distribution where it scored most of the groups, labels elsewhere."""
    data: Literal["all", "people"] = "all"
    """``people``: what was clicked and asked, without what was made up."""
    pace: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Multiplies the learning rate."""


class Training(Block):
    """Training by the calendar, beside the cycles that a failed gate starts."""

    schedule: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")] | None = None
    """A cron line in UTC; null: only failed gates start cycles."""
    new_queries: Annotated[int, Field(ge=1)] = 200
    """Searches, or clicks and ratings, since the last training without which a scheduled one is skipped."""
    trainer: Literal["lean", "accelerate", "sentence-transformers", "pod"] = "lean"
    """Who trains; ``accelerate`` uses several processes or GPUs, ``pod`` does so in a pod of its own."""
    image: Annotated[str | None, Field(pattern=r"^[^@\s]+@sha256:[0-9a-f]{64}$")] = None
    """Of that pod; null: the image of runs."""
    processes: Annotated[int, Field(ge=1)] | None = None
    """Of ``accelerate`` and ``pod``; null: one for each GPU."""
    teacher_seconds: Annotated[float, Field(ge=0)] = 0.0
    """What labelling by the ensemble of champion and first stage may take in a cycle; 0: no teacher, clicks and documents only."""
    replay_share: Annotated[float, Field(ge=0, le=0.5)] = 0.25
    """Share of the training groups from earlier cycles whose release proved itself."""
    averages: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], Field(strict=False)] = ()
    """Shares of the starting weights to average the trained ones with, beside none: candidates that dev queries choose among."""
    recipes: Annotated[tuple[TrainingMix, ...], Field(strict=False, max_length=8)] = ()
    """Trainings that share a cycle's time and money; dev queries choose among what they give, corrected for having looked. None: one, as the data allow."""
    evaluations: Annotated[int, Field(ge=0, le=100)] = 0
    """So many times in a training, dev queries that choose nothing else judge the weights, and the best ones are kept; 0: the last ones are."""
    patience: Annotated[int, Field(ge=1, le=100)] | None = None
    """A training ends early after so many evaluations in a row without a gain; null: never."""
    teacher_model: str | None = None
    """A larger cross-encoder that labels too: a fetched model's name, or a folder; null: none."""
    keep_models_days: Annotated[int, Field(ge=1, le=3650)] = 90
    """Older models of the store go, unless they are, were just before, or became gold, or are under way; the ten newest always stay."""
    students: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = ()
    """Encoder layers of smaller models to distil and to try in serving; a cycle about time or money makes some anyway."""
    lengths: Annotated[tuple[Annotated[int, Field(ge=16, le=512)], ...], Field(strict=False)] = ()
    """Shorter inputs, in tokens, to try in serving."""
    depths: Annotated[tuple[Annotated[int, Field(ge=1, le=1000)], ...], Field(strict=False)] = ()
    """Fewer candidates to try in serving."""
    early_exit: bool = False
    """Whether scoring that stops once the first page is settled is calibrated on people's queries, and tried."""


class H2OStudio(Block):
    """H2O LLM Studio as the teacher of a training: a language model grades the pairs, the lean loop distils its grades (docs/training.md)."""

    enabled: bool = False
    """Cycles that a person opened train with it."""
    auto_trigger_training: bool = False
    """Cycles that the loop opened by itself do, too."""
    folder: str | None = None
    """Its installation, with an environment of its own: the command runs there."""
    backbone: str | None = None
    """The language model that it tunes: a Hugging Face name or a folder."""
    command: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = ("uv", "run", "python", "llm_studio/train.py")
    gpus: Annotated[tuple[str, ...], Field(strict=False)] = ("0",)
