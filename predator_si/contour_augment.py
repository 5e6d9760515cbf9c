"""What may be used to make training data: key `augment`.

What belongs here: the shape and the defaults of that block. What must not: making anything.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from predator_si.contour_types import Block


class LanguageModelWriter(Block):
    """A language model that writes training queries, behind an OpenAI-compatible address. Off, nothing of this leaves the machine."""

    enabled: bool = False
    base_url: str | None = None
    """Without ``/v1``."""
    model: str | None = None
    key_env: Annotated[str | None, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] = None
    """Name of the environment variable that holds the key."""
    judge_base_url: str | None = None
    """Null: the same address, with the same key."""
    judge_model: str | None = None
    """Another model than ``model``: it confirms what the first one wrote."""
    judge_key_env: Annotated[str | None, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] = None
    """For ``judge_base_url``; read only where that is given."""
    usd_per_million_in: Annotated[float, Field(ge=0)] = 0.0
    usd_per_million_out: Annotated[float, Field(ge=0)] = 0.0
    judge_usd_per_million_in: Annotated[float, Field(ge=0)] = 0.0
    judge_usd_per_million_out: Annotated[float, Field(ge=0)] = 0.0
    usd_per_cycle: Annotated[float, Field(ge=0)] = 1.0
    """Of both models together."""
    tokens_per_cycle: Annotated[int, Field(ge=0)] = 500_000
    minutes_per_cycle: Annotated[float, Field(gt=0)] = 20.0
    """Of wall time: a cycle does not wait longer for its models."""
    examples: Annotated[int, Field(ge=0, le=10)] = 3
    """People's queries shown to it at most, each asked by ``privacy.minClients`` clients or more; 0 shows none."""
    at_once: Annotated[int, Field(ge=1, le=64)] = 4
    """Questions on their way together."""
    replay: bool = False
    """Only what earlier cycles were answered; nothing leaves the machine."""

    @field_validator("base_url", "judge_base_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/@]+[^\s@]*", value):
            raise ValueError("is not an http(s) address without a user")
        return value

    @model_validator(mode="after")
    def _has_two_models(self) -> LanguageModelWriter:
        if self.enabled and (self.base_url is None or self.model is None or self.judge_model is None):
            raise ValueError("a language model that is enabled needs baseUrl, model and judgeModel")
        if self.model is not None and self.judge_model is not None and self.model.strip().casefold() == self.judge_model.strip().casefold():
            raise ValueError(f"{self.model} would judge what it wrote itself; name another judgeModel")
        return self


class Augment(Block):
    """Sources of training data that a contour must ask for."""

    llm: LanguageModelWriter = LanguageModelWriter()
