"""What a training run is told: one frozen record, kept with the model."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from predator_si.records import Record

LABEL_LOSSES = ("listwise", "bce", "lambda")
TEACHER_LOSSES = ("distil", "margin_mse", "mse")
LOSSES = LABEL_LOSSES + TEACHER_LOSSES


class TrainingRecipe(Record):
    """How to fine-tune a cross-encoder.

    Every loss takes raw logits (see ``losses``): a sigmoid before a listwise loss saturates and ruins the ranking while the loss looks fine.
    """

    loss: str = Field(default="listwise", pattern=f"^({'|'.join(LOSSES)})$")
    """On labels: "listwise", "bce", "lambda". On a teacher's scores: "distil", "margin_mse", "mse"; groups that the teacher did not score are left out."""
    learning_rate: float = Field(default=3e-5, gt=0, le=1e-2)
    epochs: float = Field(default=1.0, gt=0, le=20)
    groups_per_step: int = Field(default=8, ge=1, le=256)
    groups_at_once: int | None = Field(default=None, ge=1)
    """Gradient accumulation: so many groups are in memory at once. Null takes all of a step on a GPU, and on a processor some sixteen pairs, which stay in
    its cache. The gradient is the same but for rounding."""
    max_length: int = Field(default=160, ge=16, le=512)
    warmup: float = Field(default=0.1, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0)
    frozen_layers: int = Field(default=0, ge=0)
    """Lower encoder layers (and the embeddings, when above 0) that keep the champion's weights: cheaper, and less is forgotten."""
    layers: int | None = Field(default=None, ge=1)
    """Encoder layers to keep; null keeps all. Nine of the L-12's twelve, the lower ones, lost .002 of NDCG@10 after the same training (768 groups of clicks,
    592 dev queries, two seeds) and cost a quarter less."""
    keep: str = Field(default="first", pattern="^(first|spaced)$")
    """Which layers these are: the lower ones, or evenly spaced ones (``layers.kept_layers``)."""
    target_temperature: float = Field(default=1.0, gt=0)
    """Of the labels under "listwise": at 1 they are shares of their group, otherwise softmax(label / temperature)."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the teacher's scores under "distil": softmax(score / temperature)."""
    group_weights: bool = False
    """Whether the column ``weight`` counts; it is scaled to a mean of 1 over the groups."""
    replay_share: float = Field(default=0.0, ge=0, le=0.5)
    """Share of the groups that come from earlier cycles, where the caller gives some: .2 to .3 keeps what was learned."""
    average_with_start: float = Field(default=0.0, ge=0, lt=1)
    """Share of the starting weights in the final ones (WiSE-FT, Wortsman et al. 2022); costs nothing at serving."""
    averages: tuple[float, ...] = ()
    """More such shares: each gives one more stored candidate of the same training."""
    evaluations: int = Field(default=0, ge=0, le=1000)
    """So many times in a run the caller's judge is asked, evenly spread; the best weights are kept."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations in a row that brought nothing better; null never stops."""
    seed: int = 0
    checkpoint_every: int = Field(default=25, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    """Stop early, keeping what was learned, after so many seconds of training."""
    usd: float | None = Field(default=None, gt=0)
    """The same after so much money, at ``usd_per_hour``."""
    usd_per_hour: float | None = Field(default=None, gt=0)
    bf16: bool | None = None
    """Compute in bfloat16; null asks the chip. The weights that are learned stay in fp32."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.usd is not None and self.usd_per_hour is None:
            raise ValueError("usd is a budget in money: give usd_per_hour, the price of this machine, with it")
        if self.patience is not None and not self.evaluations:
            raise ValueError("patience counts evaluations: set evaluations too")
        if not all(0 <= share < 1 for share in self.averages):
            raise ValueError("averages are shares of the starting weights, from 0 to below 1")
        return self

    @property
    def budget_seconds(self) -> float | None:
        """Seconds of training that time and money allow; null without a limit."""
        limits = [self.seconds] if self.seconds is not None else []
        if self.usd is not None and self.usd_per_hour is not None:
            limits.append(self.usd / self.usd_per_hour * 3600)
        return min(limits, default=None)
