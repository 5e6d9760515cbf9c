"""What a verdict was given beside the events: kept in its record, and read back to judge again.

What belongs here: plain values from and to arguments. What must not: judging.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from predator_si.experiment.guardrails import Guardrail
from predator_si.records import Criterion
from predator_si.statistics.design import Design

_TIMES = ("window_start", "window_end", "now")


def kept_inputs(
    champion: str,
    challenger: str,
    cycle_id: str,
    window_start: datetime,
    window_end: datetime,
    now: datetime,
    min_sample: int,
    longest: str | None,
    design: Design,
    lost: int,
    **more: Any,
) -> dict[str, Any]:
    """Arguments of a judging function as plain values: what JSON keeps as it is."""
    return {
        "champion": champion,
        "challenger": challenger,
        "cycle_id": cycle_id,
        "window_start": window_start.isoformat(),
        "window_end": window_end.isoformat(),
        "now": now.isoformat(),
        "min_sample": min_sample,
        "longest": longest,
        "design": {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(design).items()},
        "lost": lost,
        **more,
    }


def given_inputs(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments again, without ``lost``, which the events carry."""
    found = {name: value for name, value in kept.items() if name != "lost"}
    found |= {name: datetime.fromisoformat(found[name]) for name in _TIMES}
    found["design"] = Design.kept(found["design"])
    if "guardrails" in found:
        found["guardrails"] = [Guardrail(Criterion.model_validate(rule["criterion"]), rule["proof"]) for rule in found["guardrails"]]
    if "novelty" in found:
        found["novelty"] = timedelta(seconds=found["novelty"])
    return found
