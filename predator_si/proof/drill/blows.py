"""Which process is killed where, and in how many cycles that is done.

What belongs here: the roads' names and ends, choosing points by the seed, sharing them out over cycles. What must not: killing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from predator_si.records import CycleState


@dataclass(frozen=True)
class Road:
    """What a cycle goes through.

    Attributes
    ----------
    ends
        Where it may end: anything else is a violation.
    blows
        How many it takes at most, so that it is not longer dead than alive.
    """

    name: str
    ends: frozenset[CycleState]
    blows: int


WHOLE = Road("whole", frozenset({CycleState.STABLE, CycleState.REJECTED}), 12)
"""From the opening to the end of the watch, past no gate. A trial that was disturbed may end in a rejection."""
BACK = Road("way back", frozenset({CycleState.ROLLED_BACK}), 3)
"""A damaged model, from its decision to the end of its rollback."""
ROADS = (WHOLE, BACK)


@dataclass(frozen=True)
class Blow:
    """SIGKILL for ``victim`` when a worker stands at ``point``; where it is the victim's ``own``, at the victim's own write of that name."""

    victim: str
    road: Road
    point: str
    own: bool = False

    def __str__(self) -> str:
        return f"{self.victim} killed at {'its own ' if self.own else ''}{self.point} ({self.road.name})"


def choose(victim: str, points: Mapping[Road, Sequence[str]], n: int, seed: int, own: Mapping[Road, Sequence[str]] | None = None) -> list[Blow]:
    """``n`` blows for a victim, drawn by the seed: a third of them, as far as there are so many, at its own writes; 0 takes every point there is."""
    theirs = [Blow(victim, road, point) for road, found in points.items() for point in found]
    mine = [Blow(victim, road, point, own=True) for road, found in (own or {}).items() if road in points for point in found]
    if n == 0:
        return [*theirs, *mine]
    drawing = random.Random(f"{seed} {victim}")
    kept = drawing.sample(mine, min(len(mine), n // 3))
    return [*drawing.sample(theirs, min(len(theirs), n - len(kept))), *kept]


def share_out(blows: Sequence[Blow], road: Road, order: Sequence[str]) -> list[list[Blow]]:
    """The blows of one road by cycle, spread over it: as few cycles as take them all, and of a victim's own writes one in each."""
    here = [blow for blow in blows if blow.road == road]
    place = {point: number for number, point in enumerate(order)}
    others = sorted((blow for blow in here if not blow.own), key=lambda blow: (place.get(blow.point, -1), blow.victim))
    mine = [blow for blow in here if blow.own]
    most = max(Counter(blow.victim for blow in mine).values(), default=0)
    cycles = max(-(-len(here) // road.blows), most)
    shared = [others[number::cycles] for number in range(cycles)]
    met: Counter[str] = Counter()
    for blow in mine:
        shared[met[blow.victim] % cycles].append(blow)
        met[blow.victim] += 1
    return shared


def deal(
    blows: Sequence[Blow], orders: Mapping[Road, Sequence[str]], strike: Callable[[Road, list[Blow], int], list[Blow]], tell: Callable[[int], None]
) -> list[Blow]:
    """Strike them all, cycle by cycle; those that fell.

    What was not reached gets one more chance in cycles of its own. In place of what was not reached then, the victim is killed at another point of that road,
    so that chance does not decide how often it dies; twice at most, for no road has points without end.

    Parameters
    ----------
    strike
        One cycle: its road, its blows and a number that no other has; those that fell.
    """
    fallen: list[Blow] = []
    tried = set(blows)
    left, number = list(blows), 0
    for turn in range(4):
        missed: list[Blow] = []
        for road, order in orders.items():
            for mine in share_out(left, road, order):
                struck = strike(road, mine, number)
                number += 1
                fallen += struck
                missed += [blow for blow in mine if blow not in struck]
                tell(len(mine) if turn == 1 else len(struck))
        left = missed if turn == 0 else _others(missed, orders, tried, fallen)
    return fallen


def _others(missed: Sequence[Blow], orders: Mapping[Road, Sequence[str]], tried: set[Blow], fallen: Sequence[Blow]) -> list[Blow]:
    """For each of these another one of the same victim and road that was not tried yet, at points first where somebody else died."""
    reached = {(blow.road, blow.point) for blow in fallen if not blow.own}
    found = []
    for blow in missed:
        points = sorted(dict.fromkeys(orders.get(blow.road, ())), key=lambda point: (blow.road, point) not in reached)
        other = next((one for one in (Blow(blow.victim, blow.road, point) for point in points) if one not in tried), None)
        if other is not None:
            tried.add(other)
            found.append(other)
    return found


__all__ = ["BACK", "ROADS", "WHOLE", "Blow", "Road", "choose", "deal", "share_out"]
