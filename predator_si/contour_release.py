"""How long a person has to answer, and where a proven release goes next: keys `approval` and `promotion`.

What belongs here: their shape and defaults (contour ``local``). What must not: asking, promoting.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from predator_si.contour_types import Block, Duration


class ApprovalValues(Block):
    """Questions to people."""

    expires_in: Duration = timedelta(days=3)
    """A release that nobody approved by then ends as ``expired``."""

    @field_validator("expires_in")
    @classmethod
    def _is_some_time(cls, value: timedelta) -> timedelta:
        if not timedelta(minutes=1) <= value <= timedelta(days=90):
            raise ValueError("a person gets between 1m and 90d to answer")
        return value


class Promotion(Block):
    """The next contour of a release that has proven itself here. Each step is a commit of its own, and a person's decision."""

    to: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] | None = None
    """The contour whose release file gets the model; null: this one is the last."""
    search: str | None = None
    """Address of that contour's search service, which confirms the digest it serves. Without it nothing is promoted: nobody could say what it serves."""
    store: str | None = None
    """A folder or any fsspec URL that contours share: a model is brought there before its promotion is committed, and what Git names and the contour's own
    model store lacks is fetched from there. Without it nothing is promoted from here, and nothing is fetched."""

    @field_validator("search")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/@]+[^\s@]*", value):
            raise ValueError("is an http(s) address without user and password")
        return None if value is None else value.rstrip("/")

    @field_validator("store")
    @classmethod
    def _is_a_place(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"(/|[a-z][a-z0-9+]*://)[^\s@]+", value):
            raise ValueError("is an absolute folder or an fsspec URL (s3://bucket/models) without user and password")
        return value

    @model_validator(mode="after")
    def _somewhere(self) -> Promotion:
        if self.search is not None and self.to is None:
            raise ValueError("search is the address of the next contour's service; name that contour in to")
        return self
