"""How sure the loop's decisions are, as a person is told: the newest simulation and the newest A/A replay of this home.

What belongs here: reading both. What must not: simulating, replaying, words of our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from predator_si.api.operations.views import Told, attempt
from predator_si.errors import Missing
from predator_si.experiment.same import SameReplay
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.characteristics import changed_since, newest_simulation
from predator_si.orchestration.steps.same import REPLAY


@dataclass(frozen=True)
class Simulated:
    """What the newest simulation says: when, at which scale, the promises that do not hold, and what was changed in the settings since."""

    at: datetime | None
    scale: str
    false_rollback_upper: float
    false_promotion_upper: float
    broken: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Assurance:
    """Both, or why they are not known."""

    simulated: Told[Simulated]
    replayed: Told[SameReplay]


def assurance(loop: Loop) -> Assurance:
    """What is known of this home's error rates."""
    return Assurance(attempt(loop, lambda: _simulated(loop)), attempt(loop, lambda: _replayed(loop)))


def _simulated(loop: Loop) -> Simulated:
    found: dict[str, Any] = newest_simulation(loop)
    at = found.get("created_at")
    return Simulated(
        at=None if at is None else datetime.fromisoformat(at),
        scale=str(found["scale"]),
        false_rollback_upper=float(found["false_rollback"]["upper"]),
        false_promotion_upper=float(found["false_promotion_month"]["upper"]),
        broken=tuple(found["broken"]),
        changed=tuple(changed_since(loop, found)),
    )


def _replayed(loop: Loop) -> SameReplay:
    path = loop.home.path / "experiments" / REPLAY
    if not path.is_file():
        raise Missing("no A/A replay was made in this home; aa_replay_schedule makes one each month, or run aa_replay_job")
    return SameReplay.read(path)
