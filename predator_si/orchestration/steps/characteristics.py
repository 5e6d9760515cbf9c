"""The figures of a simulation, where the command left them.

What belongs here: reading them. What must not: simulating: that takes minutes of two cores, and a person or CI asks for it.
"""

from __future__ import annotations

import json
from typing import Any

from predator_si.errors import BadInput, Missing
from predator_si.orchestration.loop import Loop
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
