"""The whole loop for ten months: a world that drifts, candidates good and bad, our rules and the guide's on the same worlds.

What belongs here: the world, and counting what a rule made of it. What must not: a decision rule of our own.

The world is assumed, the numbers in it are real: relevance falls a little with every cycle, each candidate brings a true change drawn from
:attr:`World.changes` (cut where nothing is left to gain), and every judged query of an evaluation and every probe of a watch is drawn from real paired
scores tilted to that change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from predator_si.proof.simulate.promoting import levels, promoted
from predator_si.proof.simulate.world import Floats, Population, Tables, populations
from predator_si.release.watch import WatchPlan, ndcg_log_e
from predator_si.statistics.evidence import needed

OnProgress = Callable[[int, int], None]
_GRID = 0.01


@dataclass(frozen=True)
class World:
    """What is assumed.

    Attributes
    ----------
    cycles, worlds
        Length of a life, and how many.
    candidate_every
        Cycles between candidates: 18 a month of 72 cycles.
    drift, drift_sd
        Mean and standard deviation of the change of relevance in a cycle without a release, in points of NDCG.
    changes, shares
        True change that a candidate brings to the champion, and how often.
    headroom
        Above where the life began, relevance cannot rise by more.
    judged, checks, probes
        Queries of an evaluation; checks of a watch; judged queries of each.
    """

    cycles: int = 720
    worlds: int = 30
    candidate_every: int = 4
    drift: float = -0.0005
    drift_sd: float = 0.001
    changes: tuple[float, ...] = (-0.05, -0.02, 0.0, 0.02, 0.05)
    shares: tuple[float, ...] = (0.1, 0.15, 0.45, 0.2, 0.1)
    headroom: float = 0.05
    judged: int = 300
    checks: int = 12
    probes: int = 30


class Rules(Protocol):
    """Two decisions, each from paired differences of one candidate, shape (queries,)."""

    def promotes(self, differences: Floats, number: int) -> bool:
        """The evaluation's answer about the candidate of that number, from 0."""
        ...

    def rolls_back(self, differences: Floats, checks: Sequence[int]) -> int:
        """Queries after which the watch takes it back, looking at ``checks``; -1 never."""
        ...


@dataclass(frozen=True)
class Ours:
    """Production's rules: the offline test at a candidate's level, and the watch's betting evidence."""

    plan: WatchPlan

    def promotes(self, differences: Floats, number: int) -> bool:
        """As ``release.decide``: each month divides its error among its candidates."""
        alphas = levels(self.plan.design)
        return bool(promoted(differences[None, :], alphas[number % alphas.size, None])[0])

    def rolls_back(self, differences: Floats, checks: Sequence[int]) -> int:
        """As ``release.watch``."""
        log_e = ndcg_log_e(self.plan, differences)
        return next((n for n in checks if log_e[n - 1] >= needed(self.plan.level("ndcg"))), -1)


@dataclass(frozen=True)
class Guide:
    """The guide's rules: ship what scores higher, roll back on ``new_ndcg < baseline_ndcg`` at any check."""

    def promotes(self, differences: Floats, number: int) -> bool:
        """A higher mean."""
        return bool(differences.sum() > 1e-12)

    def rolls_back(self, differences: Floats, checks: Sequence[int]) -> int:
        """A lower mean so far."""
        return next((n for n in checks if differences[:n].sum() < -1e-12), -1)


@dataclass
class _Life:
    """What a rule made of a world."""

    ndcg: list[float] = field(default_factory=list)
    promotions: int = 0
    false_promotions: int = 0
    rollbacks: int = 0
    false_rollbacks: int = 0
    missed: int = 0
    probed: int = 0
    flips: int = 0
    last: int = 0


def run_loop(tables: Tables, plan: WatchPlan, world: World, seed: int, on_progress: OnProgress | None = None) -> dict[str, Any]:
    """Live through all worlds under our rules and under the guide's; both see the same drift, candidates and queries.

    Returns
    -------
    dict
        ``world`` (the assumptions), ``ours`` and ``guide``: ``ndcg`` (mean over worlds every 18 cycles, relative to the beginning), ``ndcg_end``, per life:
        ``promotions``, ``false_promotions`` (of candidates that are no better), ``rollbacks``, ``false_rollbacks`` (of releases that are no worse),
        ``kept_worse`` (worse releases that stayed), ``oscillations`` (a release taken back right after another was), ``judged_queries`` and ``probes`` (the
        cost); ``untouched``: NDCG at the end without any release.
    """
    by_effect = {effect: found for effect in _grid(world) if (found := populations(tables, effect, must=False))}
    sides: dict[str, Rules] = {"ours": Ours(plan), "guide": Guide()}
    lives: dict[str, list[_Life]] = {name: [] for name in sides}
    untouched = []
    for number in range(world.worlds):
        rng = np.random.default_rng([seed, number])
        drift = rng.normal(world.drift, world.drift_sd, world.cycles)
        drawn = rng.choice(world.changes, size=world.cycles, p=world.shares)
        untouched.append(float(drift.sum()))
        for name, rules in sides.items():
            # Both sides draw the same queries for the same candidate: the generator of a cycle does not depend on what was decided before.
            lives[name].append(_live(rules, by_effect, world, drift, drawn, lambda cycle, at=number: np.random.default_rng([seed, at, cycle])))  # type: ignore[misc]
        if on_progress is not None:
            on_progress(number + 1, world.worlds)
    return {
        "world": asdict(world),
        "untouched": float(np.mean(untouched)),
        **{name: _summary(found, world) for name, found in lives.items()},
    }


def _live(
    rules: Rules,
    by_effect: dict[float, list[Population]],
    world: World,
    drift: npt.NDArray[np.float64],
    drawn: npt.NDArray[np.float64],
    generator: Callable[[int], np.random.Generator],
) -> _Life:
    life, height = _Life(), 0.0
    checks = [world.probes * (check + 1) for check in range(world.checks)]
    for cycle in range(world.cycles):
        height += float(drift[cycle])
        if cycle % world.candidate_every == 0:
            effect = _on_grid(min(float(drawn[cycle]), world.headroom - height))
            if effect in by_effect:
                height += _candidate(rules, by_effect[effect], effect, world, checks, generator(cycle), life, cycle)
        life.ndcg.append(height)
    return life


def _candidate(
    rules: Rules, found: Sequence[Population], effect: float, world: World, checks: list[int], rng: np.random.Generator, life: _Life, cycle: int
) -> float:
    """The change of NDCG that stays."""
    population = found[int(rng.integers(len(found)))]
    judged = population.difference[population.draw(rng, (world.judged,))]
    probed = population.difference[population.draw(rng, (checks[-1],))]
    if not rules.promotes(judged, cycle // world.candidate_every):
        return 0.0
    life.promotions += 1
    life.false_promotions += effect <= 0.0
    when = rules.rolls_back(probed, checks)
    life.probed += checks[-1] if when < 0 else when
    if when < 0:
        life.missed += effect < 0.0
        return effect
    life.rollbacks += 1
    life.false_rollbacks += effect >= 0.0
    life.flips += life.last > 0 and cycle - life.last <= world.candidate_every
    life.last = cycle
    return 0.0


def _on_grid(effect: float) -> float:
    return round(round(effect / _GRID) * _GRID, 10) + 0.0


def _grid(world: World) -> list[float]:
    """Every effect that a candidate can have: those of the world, and what the headroom cuts them to."""
    best = max(world.changes)
    steps = round(best / _GRID)
    cut = [_on_grid(step * _GRID) for step in range(-steps, steps + 1)]
    return sorted({*cut, *(_on_grid(change) for change in world.changes)})


def _summary(found: list[_Life], world: World) -> dict[str, Any]:
    def mean(name: str) -> float:
        return float(np.mean([getattr(life, name) for life in found]))

    path = np.array([life.ndcg for life in found])
    every = world.candidate_every * 18 // 4
    candidates = -(-world.cycles // world.candidate_every)
    return {
        "ndcg": [float(value) for value in path.mean(axis=0)[::every]],
        "ndcg_end": float(path[:, -1].mean()),
        "ndcg_mean": float(path.mean()),
        "promotions": mean("promotions"),
        "false_promotions": mean("false_promotions"),
        "rollbacks": mean("rollbacks"),
        "false_rollbacks": mean("false_rollbacks"),
        "kept_worse": mean("missed"),
        "oscillations": mean("flips"),
        "candidates": candidates,
        "judged_queries": candidates * world.judged,
        "probes": mean("probed"),
    }
