"""How values of a contour are written: durations, fractions, and blocks of keys.

What belongs here: types without meaning of their own. What must not: any key of the `selfImprovement` block.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", value)
        if match is None:
            raise ValueError(f"{value!r} is not a duration; write a number with a unit, like 90s, 10m, 4h or 7d")
        return timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    if isinstance(value, timedelta):
        return value
    raise ValueError(f"{value!r} has no unit; write it like 90s, 10m, 4h or 7d")


def _duration_text(value: timedelta) -> str:
    seconds = value.total_seconds()
    unit = next((name for name in "dhm" if seconds >= _UNITS[name] and seconds % _UNITS[name] == 0), "s")
    count = seconds / _UNITS[unit]
    return f"{int(count) if count.is_integer() else count}{unit}"


def _fraction(value: Any) -> Any:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([+-]?\d+(?:\.\d+)?)\s*%\s*", value)
        if match is None:
            raise ValueError(f"{value!r} is not a fraction; write -0.03 or '-3%'")
        return float(match[1]) / 100
    return value


_DURATION_SCHEMA = {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*[smhd]\s*$"}
_FRACTION_SCHEMA = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\s*[+-]?[0-9]+(\.[0-9]+)?\s*%\s*$"}]}

Duration = Annotated[timedelta, BeforeValidator(_duration), PlainSerializer(_duration_text, return_type=str), WithJsonSchema(_DURATION_SCHEMA)]
Fraction = Annotated[float, BeforeValidator(_fraction), WithJsonSchema(_FRACTION_SCHEMA)]


class Block(BaseModel):
    """A group of keys: frozen, camelCase in files, strict about types and unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, alias_generator=to_camel, populate_by_name=True)


def http_address(value: str | None) -> str | None:
    """The address without a slash at its end; refused where it is none, or holds a user or a password."""
    if value is not None and not re.fullmatch(r"https?://[^\s/@]+[^\s@]*", value):
        if "@" in value:  # not repeated: it may be a password
            raise ValueError("holds a user or a password; they go into credentials, by the names of environment variables")
        raise ValueError(f"{value!r} is not an http(s) address")
    return value.rstrip("/") if value else value
