"""What every request and answer of the API shares: strictness, examples, errors.

What belongs here: base classes. What must not: any one call's shape (``answers``, ``stories``).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

Text = Annotated[str, StringConstraints(max_length=2000)]


class Answer(BaseModel):
    """An answer: every key that the contract names is there, unknown is null."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null", protected_namespaces=())


class Asked(BaseModel):
    """A request body: unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def example(**content: Any) -> ConfigDict:
    """The configuration of an answer with one example."""
    return ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null", protected_namespaces=(), json_schema_extra={"examples": [content]})


class ProblemDocument(Answer):
    """An error (RFC 9457)."""

    model_config = example(
        type="about:blank", title="Not allowed", status=403, detail="anna is viewer; this call needs operator",
        next_step="Ask somebody whose role allows it, or for a token of that role.", request_id="0f1c2d3e4b5a",
    )  # fmt: skip
    type: str
    title: str
    status: int
    detail: str
    next_step: str
    request_id: str | None
    errors: list[dict[str, str]] | None = None
