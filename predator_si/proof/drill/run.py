"""One drill from its name to its figures and its page.

What belongs here: which module drills what: ``drill_<name>`` of the module of that name. What must not: a drill's body.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from predator_si.proof.drill.figures import Tally, figures
from predator_si.proof.drill.ground import Ground, Say
from predator_si.proof.drill.load import Load
from predator_si.proof.drill.plan import DrillPlan

Progress = Callable[[int, int], None]
Drill = Callable[[Ground, Load, DrillPlan, Tally, Progress], None]


def _drill(name: str) -> Drill:
    import importlib

    module = importlib.import_module(f"predator_si.proof.drill.{name}")
    found: Drill = getattr(module, f"drill_{name}")
    return found


def run_drill(plan: DrillPlan, out: Path, cache: Path, say: Say = lambda text: None, on_progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """Make a ground in ``out``, drill on it, write ``drill-<name>.json`` and ``drill-<name>.html`` there; the figures of CONTRACT.md section 7.

    Parameters
    ----------
    out
        Folder of the figures; the drill's home is ``out/<name>`` and is made anew.
    cache
        Where tools and models lie, as ``PREDATOR_SI_CACHE`` names it; nothing is downloaded.

    Raises
    ------
    PredatorError
        The ground could not be made, or what a drill needs went away for another reason than the drill.
    """
    out.mkdir(parents=True, exist_ok=True)
    ground = Ground.prepare(out / plan.name, cache, plan.seed, say)
    return drill_on(ground, plan, out, say, on_progress)


def drill_on(ground: Ground, plan: DrillPlan, out: Path, say: Say = lambda text: None, on_progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """The same on a ground that is there already."""
    say("reconciler, search service and clients")
    with ground.running(plan.clients) as load:
        return drill_under(load, ground, plan, out, say, on_progress)


def drill_under(
    load: Load, ground: Ground, plan: DrillPlan, out: Path, say: Say = lambda text: None, on_progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """The same with processes and clients that run already."""
    from predator_si.proof.drill.report import write_page

    say(f"drill {plan.name}")
    tally, began = Tally(), time.monotonic()
    before = (load.requests, load.failed, load.excused)
    _drill(plan.name)(ground, load, plan, tally, on_progress)
    seconds = time.monotonic() - began
    tally.requests, tally.failed_requests, tally.excused_requests = (
        now - then for now, then in zip((load.requests, load.failed, load.excused), before, strict=True)
    )
    if tally.failed_requests:
        tally.violations.append(f"{tally.failed_requests} of {tally.requests} searches failed: {dict(load.failures)}")
    found = figures(plan, tally, seconds)
    (out / f"drill-{plan.name}.json").write_text(json.dumps({**found, "each": tally.rows}, indent=2, sort_keys=True) + "\n")
    write_page(out, found, tally)
    return found
