"""The figures of a simulation, where the command left them, and whether they are about what is in force.

What belongs here: reading them. What must not: simulating: that takes minutes of two cores, and a person or CI asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from predator_si.errors import BadInput, Missing
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.trial import design_of
from predator_si.reports.characteristics import NEEDED, STORED


def newest_simulation(loop: Loop) -> dict[str, Any]:
    """What the last `predator-si simulate` of this home found.

    Raises
    ------
    Missing
        None was run.
    BadInput
        The file holds something else.
    """
    path = loop.home.path / STORED
    if not path.is_file():
        raise Missing(f"{path}: no simulation was run in this home. Run `predator-si simulate` (or `--scale small` to try it).")
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path}: not the figures of a simulation ({error}). Run `predator-si simulate` again.") from error
    if not isinstance(found, dict) or any(key not in found for key in NEEDED):
        raise BadInput(f"{path}: not the figures of a simulation. Run `predator-si simulate` again.")
    return found


def changed_since(loop: Loop, found: Mapping[str, Any]) -> list[str]:
    """What a simulation does not know of the settings in force: the contour, and each number of the design, with both values; empty where it is about them."""
    changes = [] if found.get("contour") == loop.contour else [f"contour {found.get('contour', 'unknown')}, now {loop.contour}"]
    simulated = found.get("design") or {}
    for name, value in asdict(design_of(loop)).items():
        now = list(value) if isinstance(value, tuple) else value
        if simulated.get(name) != now:
            changes.append(f"{name} {simulated.get(name, 'unknown')}, now {now}")
    return changes
