"""Drill (b): hot swaps under full load. No request fails, memory stays flat.

What belongs here: the swaps, their clocks, the samples of memory. What must not: how a service swaps.
"""

from __future__ import annotations

from collections.abc import Callable

from predator_si.errors import Unavailable
from predator_si.proof.drill.figures import Tally, memory_slope
from predator_si.proof.drill.ground import Ground
from predator_si.proof.drill.load import Load
from predator_si.proof.drill.plan import DrillPlan
from predator_si.proof.drill.rollback import applied_at, pushed_at

_MODELS = 3
"""Siblings of the champion that take turns with it."""
_READY_SECONDS = 30.0
_MOST_MB = 20.0
"""Per 1,000 swaps: a model of the drill has some 0.2 MB of weights, so one that stayed behind at each swap would be ten times as much."""


def drill_swap(ground: Ground, load: Load, plan: DrillPlan, tally: Tally, on_progress: Callable[[int, int], None]) -> None:
    """Make another sibling the champion ``plan.n`` times, each by a commit of its own."""
    loop = ground.loop
    models = [ground.champion, *(ground.sibling(plan.seed * 1_000 + number) for number in range(_MODELS))]
    serving = loop.serving().model
    for number in range(plan.n):
        old, new = serving, models[(models.index(serving) + 1) % len(models)]
        ground.make_champion(new)
        problems = _one(ground, load, tally, old, new)
        serving = new
        if number % max(1, plan.n // 200) == 0:
            tally.memory.append((number, memory_mb(ground.processes.pid("search"))))
        tally.note(f"swap {number + 1} to {new[7:19]}", problems)
        on_progress(number + 1, plan.n)
    ground.make_champion(ground.champion)
    ground.wait_settled()
    ground.follow()
    tally.violations += [f"at the end: {problem}" for problem in ground.look()]
    slope = memory_slope(tally.memory)
    if slope.low is not None and slope.low > _MOST_MB:
        tally.violations.append(f"memory grows by {slope.estimate:.1f} MB per 1,000 swaps, surely by more than {_MOST_MB:g}")


def _one(ground: Ground, load: Load, tally: Tally, old: str, new: str) -> list[str]:
    committed = pushed_at(ground.loop)
    try:
        first = load.wait_for(new, committed, _READY_SECONDS)
    except Unavailable as error:
        tally.phases["sync"].append(float("inf"))
        tally.phases["ready"].append(float("inf"))
        return [str(error)]
    applied = applied_at(ground.loop)
    tally.phases["sync"].append(applied - committed)
    tally.phases["ready"].append(first.received - applied)
    late = [answer for answer in load.by(old, committed) if answer.sent > first.received]
    return [f"{len(late)} searches sent after the new model had answered were answered by the old one"] if late else []


def memory_mb(pid: int) -> float:
    """Proportional set size of a process and its children, in MB."""
    import psutil

    total, process = 0, psutil.Process(pid)
    for one in [process, *process.children(recursive=True)]:
        try:
            found = one.memory_full_info()
            total += getattr(found, "pss", found.rss)
        except psutil.NoSuchProcess:
            continue  # it ended between being listed and being read
    return float(total / 2**20)
