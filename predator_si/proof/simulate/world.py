"""Real numbers to draw lives from: per-query scores and request times, and how an effect is put into them.

What belongs here: reading the tables, populations with a wanted mean, drawing. What must not: any decision.

An effect is put into real paired scores by exponential tilting: query ``q`` is drawn with probability in proportion to ``exp(t d_q)``, ``d_q`` its
difference, ``t`` such that the mean difference is the wanted one. Of all populations with that mean it is the nearest to the measured one (in
Kullback-Leibler divergence; Csiszár 1975, "I-divergence geometry of probability distributions"), and every drawn number is one that was measured: ties,
skew and tails stay real. A population of mean 0 is a null one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.errors import BadInput, Missing

QUALITY, TIMES, SOURCES = "quality.parquet", "times.parquet", "sources.json"
TABLES = Path(__file__).parent / "tables"
"""What this project was measured on; ``simulate --tables DIR`` takes others."""
TWICE = ("full, ms", "full again, ms")
"""Columns of one model's times on the same requests, measured twice."""
Floats = npt.NDArray[np.float64]
_LABELS = ("collection", "query_id", "split")
_MOVED = 5
"""Queries on which two rankers must differ to be a pair worth judging."""
_EFFECTIVE = 0.4
"""Share of its queries that a tilted population must still rest on (Kish's effective size): beyond that it is no longer the measured one."""
_STEPS = 80


def write_sources(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write where the tables come from; returns it."""
    path.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return facts


@dataclass(frozen=True)
class Tables:
    """What was measured.

    Attributes
    ----------
    quality
        ``collection, query_id, split`` and NDCG@10 under each ranker, 0..1.
    times
        ``collection, query_id`` and milliseconds of rerank calls, :data:`TWICE` among them.
    sources
        Where they come from.
    """

    quality: pl.DataFrame
    times: pl.DataFrame
    sources: dict[str, Any]

    @property
    def rankers(self) -> list[str]:
        """Names of the rankers."""
        return [name for name in self.quality.columns if name not in _LABELS]


def read_tables(folder: Path = TABLES) -> Tables:
    """The tables of a folder.

    Raises
    ------
    Missing
        A file is not there.
    BadInput
        A file cannot be read, a column is missing, a score lies outside 0..1, a time is not positive, or a test query is in it.
    """
    absent = [name for name in (QUALITY, TIMES, SOURCES) if not (folder / name).is_file()]
    if absent:
        raise Missing(f"{folder}: {', '.join(absent)} missing; `predator-si simulate --measure {folder}` makes the tables.")
    try:
        quality, times = pl.read_parquet(folder / QUALITY), pl.read_parquet(folder / TIMES)
        sources = json.loads((folder / SOURCES).read_text(encoding="utf-8"))
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise BadInput(f"{folder}: the tables cannot be read ({str(error).splitlines()[0]}). Make them again with `simulate --measure`.") from error
    if not set(_LABELS) <= set(quality.columns) or len(quality.columns) < len(_LABELS) + 2 or not {"collection", *TWICE} <= set(times.columns):
        raise BadInput(f"{folder}: {QUALITY} needs {', '.join(_LABELS)} and two rankers, {TIMES} needs collection, {' and '.join(TWICE)}.")
    if quality["split"].is_in(["test"]).any():
        raise BadInput(f"{folder}: {QUALITY} holds test queries; these stay sealed. Measure dev and train queries.")
    scores = quality.drop(_LABELS).to_numpy()
    spent = times.select(TWICE).to_numpy()
    if not (np.isfinite(scores).all() and scores.min() >= 0.0 and scores.max() <= 1.0 and np.isfinite(spent).all() and spent.min() > 0.0):
        raise BadInput(f"{folder}: a score is not a number in 0..1, or a time is not positive. Make the tables again with `simulate --measure`.")
    return Tables(quality, times, sources)


@dataclass(frozen=True)
class Population:
    """Two rankers on one collection, drawn so that their mean difference is a wanted one.

    Attributes
    ----------
    old, new
        NDCG@10 per query, 0..1.
    weight
        Probability of each query.
    effect
        The mean of ``new - old`` under ``weight``.
    """

    collection: str
    rankers: tuple[str, str]
    old: Floats
    new: Floats
    weight: Floats
    effect: float

    @property
    def difference(self) -> Floats:
        """``new - old`` per query."""
        return self.new - self.old

    @property
    def sd(self) -> float:
        """Standard deviation of the paired difference."""
        return float(np.sqrt(self.weight @ (self.difference - self.effect) ** 2))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Numbers of queries, drawn independently."""
        return np.minimum(np.searchsorted(np.cumsum(self.weight), rng.random(shape), side="right"), self.weight.size - 1)


def tilt(values: Floats, mean: float) -> Floats | None:
    """Probabilities in proportion to ``exp(t values)`` under which the mean is ``mean``; null where no such lie in reach.

    Parameters
    ----------
    values
        n numbers.
    """
    if not values.min() < mean < values.max():
        return None

    def weights(t: float) -> Floats:
        power = t * values
        raw = np.exp(power - power.max())
        return np.asarray(raw / raw.sum(), dtype=np.float64)

    # The mean under t rises with t.
    reach = 60.0 / max(float(np.ptp(values)), 1e-12)
    low, high = -reach, reach
    if not weights(low) @ values <= mean <= weights(high) @ values:
        return None
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        if weights(middle) @ values < mean:
            low = middle
        else:
            high = middle
    return weights(0.5 * (low + high))


def populations(tables: Tables, effect: float, *, must: bool = True) -> list[Population]:
    """Every pair of rankers on every collection, in both directions, tilted to ``effect``; those that cannot carry it are left out.

    Raises
    ------
    BadInput
        None can, and one ``must``.
    """
    found = []
    for (collection,), part in tables.quality.group_by("collection", maintain_order=True):
        for names in permutations(tables.rankers, 2):
            old, new = (part[name].to_numpy().astype(np.float64) for name in names)
            difference = new - old
            if np.count_nonzero(difference) < _MOVED:
                continue
            weight = tilt(difference, effect)
            if weight is not None and 1.0 / (weight @ weight) >= _EFFECTIVE * weight.size:
                found.append(Population(str(collection), names, old, new, weight, effect))
    if not found and must:
        raise BadInput(f"no pair of rankers in the tables carries a mean difference of {effect:+g}; measure more queries or other rankers.")
    return found


def shares(lives: int, parts: int) -> list[int]:
    """``lives`` divided as evenly as can be."""
    return [lives // parts + (place < lives % parts) for place in range(parts)]


def divided(found: Sequence[Population], lives: int, most: int) -> Iterator[tuple[Population, int]]:
    """``lives`` divided over the populations, in portions of at most ``most``."""
    for population, share in zip(found, shares(lives, len(found)), strict=True):
        for start in range(0, share, most):
            yield population, min(most, share - start)


@dataclass(frozen=True)
class Clock:
    """Request times: what a request took, and the log ratio of two equal models on the same request.

    Attributes
    ----------
    ms
        Times of requests.
    log_ratios
        Of one model measured twice on each request, in both directions: their mean is exactly 0.
    """

    ms: Floats
    log_ratios: Floats


def clock(tables: Tables) -> Clock:
    """The times of a table."""
    first, second = (tables.times[name].to_numpy().astype(np.float64) for name in TWICE)
    ratios = np.log(second / first)
    return Clock(np.concatenate([first, second]), np.concatenate([ratios, -ratios]))
