"""What a training run is told: one frozen record, kept with the model."""

from __future__ import annotations

from pydantic import Field

from predator_si.records import Record


class TrainingRecipe(Record):
    """How to fine-tune a cross-encoder.

    ``loss`` "listwise" is the soft cross-entropy between the model's and the target distribution over one group; "bce" is the pairwise one.
    Both take raw logits: a sigmoid before a listwise loss saturates and ruins the ranking while the loss looks fine.
    """

    loss: str = Field(default="listwise", pattern="^(listwise|bce)$")
    learning_rate: float = Field(default=3e-5, gt=0, le=1e-2)
    epochs: float = Field(default=1.0, gt=0, le=20)
    groups_per_step: int = Field(default=8, ge=1, le=256)
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
    average_with_start: float = Field(default=0.0, ge=0, lt=1)
    """Share of the starting weights in the final ones (WiSE-FT, Wortsman et al. 2022); costs nothing at serving."""
    seed: int = 0
    checkpoint_every: int = Field(default=25, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    """Stop early, keeping what was learned, after so many seconds of training."""
