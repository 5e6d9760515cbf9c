"""The position-based click model: how likely each position is examined, how attractive each document is to each query.

What belongs here: fitting by EM, intervals, what cannot be identified. What must not: reading events (``impressions``), metrics made with it (``clicks``).

A click is examination times attraction, ``P(click | query, document, position) = theta(position) * gamma(query, document)`` (Craswell, Zoeter, Taylor and
Ramsey, WSDM 2008; EM as in Chuklin, Markov and de Rijke, "Click Models for Web Search", 2015, section 4). Only products are seen, so ``theta(1)`` is set
to 1: everything is relative to the first position. What separates the two factors is the same pair shown at different positions (swaps, a changed
ranking); pairs that never moved say nothing about positions and take no part in fitting them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from predator_si.errors import BadInput
from predator_si.monitor.judgments.click_em import GRID, ClickEM, Floats, kinds_of_pairs, sums
from predator_si.records import Record

MOVED_CLICKS = 30
"""Clicks at a position, on pairs that were also shown elsewhere, below which nothing is said about it."""
GROUPS = 15
"""Groups of clients of the jackknife."""
_LEAST_CLIENTS = 10
WIDEST = 4.0
"""High over low from which a propensity is called unknown."""
_PAIRS = 6_000
"""Moved pairs used at most, those shown most: enough for any precision that matters, and the time stays bounded."""
_REFIT_TOLERANCE = 1e-5
_REFIT_ROUNDS = 100
"""Refits start from the whole fit and serve the interval only: a hundredth of its width is precise enough."""
_MIXING = 60


class PositionPropensity(Record):
    """Examination of one position relative to the first; null with a reason where the clicks cannot tell."""

    position: int = Field(ge=1)
    propensity: float | None
    low: float | None = None
    high: float | None = None
    impressions: int
    clicks: int
    moved_clicks: int
    """Clicks on pairs that were shown at another position too."""
    reason: str | None = None


class PositionBias(Record):
    """Fitted examination propensities: what they were fitted on, and how sure they are.

    ``reason`` says why nothing is known at all; otherwise each position speaks for itself.
    """

    positions: tuple[PositionPropensity, ...]
    requests: int
    clients: int
    pairs: int
    moved_pairs: int
    simulated: bool = False
    window_start: datetime | None = None
    window_end: datetime | None = None
    fitted_at: datetime | None = None
    shape: Literal["free", "power"] = "free"
    rounds: int = 0
    converged: bool = False
    reason: str | None = None

    def weights(self, k: int) -> Floats | None:
        """Propensities of positions 1..k, or null when one of them is unknown."""
        found = [one.propensity for one in self.positions[:k] if one.propensity is not None]
        return np.array(found) if len(found) == k else None

    def eta(self) -> float | None:
        """The exponent of ``1 / position**eta`` nearest to the propensities, by least squares on logs weighted by clicks; null without two positions."""
        known = [(one.position, one.propensity, one.moved_clicks) for one in self.positions if one.propensity is not None and one.position > 1]
        if not known:
            return None
        place, value, weight = (np.array(column, float) for column in zip(*known, strict=True))
        return float(-(weight * np.log(place) * np.log(value)).sum() / (weight * np.log(place) ** 2).sum())


def fit_position_bias(
    shown: pl.DataFrame,
    *,
    k: int = 10,
    shape: Literal["free", "power"] = "free",
    groups: int = GROUPS,
    confidence: float = 0.95,
    min_clicks: int = MOVED_CLICKS,
    window: tuple[datetime, datetime] | None = None,
    fitted_at: datetime | None = None,
    simulated: bool = False,
    seed: int = 0,
) -> PositionBias:
    """Examination propensities of the first ``k`` positions.

    EM over the pairs that moved. The attraction of a pair is a draw from a distribution on a grid, one distribution for each height at which pairs are shown
    (what stands further down is less attractive), fitted along: a rare pair is drawn to its like, and many pairs with few impressions each do not
    bias the positions, as they would with one free number each (Neyman and Scott 1948). Intervals come from the
    delete-a-group jackknife on logs (Quenouille 1956), once over clients and once over queries: whole ones are left out, so the habits of people and the
    choice of queries are in the interval, which is the wider of the two.

    Parameters
    ----------
    shown
        As :func:`~predator_si.monitor.judgments.impressions.impressions` gives it: ``client``, ``query``, ``doc_id``, ``position``, ``clicked``.
    shape
        ``free``: a number for each position. ``power``: ``position**-eta`` with one number, which needs far fewer clicks, and is wrong where examination
        does not fall like that.
    groups
        Of the jackknife; fewer where there are fewer clients.
    min_clicks
        Moved clicks that a position needs.

    Returns
    -------
    PositionBias
        With ``reason`` set and no propensity known when no pair was seen at two positions or fewer than ten clients are behind it.

    Raises
    ------
    BadInput
        A column is missing.
    """
    lacking = [name for name in ("client", "query", "doc_id", "position", "clicked") if name not in shown.columns]
    if lacking:
        raise BadInput(f"position bias: no column {', '.join(lacking)}; there are {', '.join(shown.columns)}.")
    numbered = _numbered(shown.filter(pl.col("position") <= k))
    totals = {int(p): (int(n), int(c)) for p, n, c in numbered.group_by("position").agg(pl.len(), pl.col("clicked").sum()).iter_rows()}
    everywhere = _moved(numbered)
    seen = {int(p): int(c) for p, c in everywhere.group_by("position").agg(pl.col("clicked").sum()).iter_rows()}
    clients = numbered["client"].n_unique()
    reasons: dict[int, str | None] = {
        p: f"{seen.get(p, 0)} clicks on documents that were also shown elsewhere, {min_clicks} are needed" if seen.get(p, 0) < min_clicks else None
        for p in range(1, k + 1)
    }
    usable = _moved(everywhere.filter(pl.col("position").is_in([p for p, why in reasons.items() if why is None])))
    linked = _linked(usable)
    reasons |= {p: "no chain of documents that moved links it to position 1" for p, why in reasons.items() if why is None and p not in linked}
    problem = None
    if everywhere.is_empty():
        problem = "no document was shown to the same query at two positions, so position and attraction cannot be told apart"
    elif clients < _LEAST_CLIENTS:
        problem = f"{clients} clients are behind the clicks, {_LEAST_CLIENTS} are needed to know how they differ"
    elif shape == "power":
        # Any pair that moved tells of the one exponent, wherever it moved.
        problem = None if sum(seen.values()) >= 3 * min_clicks else f"{sum(seen.values())} clicks on documents that moved, {3 * min_clicks} are needed"
    elif reasons[1] is not None:
        problem = f"position 1, which the others are measured against: {reasons[1]}"
    elif len(linked) < 2:
        problem = "no other position is linked to position 1 by documents that moved"
    if problem is not None:
        reasons, fit = dict.fromkeys(reasons, problem), _Fit({}, frozenset(), 0, False)
    else:
        kept = everywhere if shape == "power" else _moved(usable.filter(pl.col("position").is_in(linked)))
        fit = _fit(kept, list(range(1, k + 1)) if shape == "power" else linked, groups, confidence, seed, power=shape == "power")
        reasons = {p: _unsure(p, fit) if p in fit.found else why for p, why in reasons.items()}
    found = {p: values for p, values in fit.found.items() if reasons[p] is None}
    return PositionBias(
        positions=tuple(
            PositionPropensity(
                position=p,
                propensity=found[p][0] if p in found else None,
                low=found[p][1] if p in found else None,
                high=found[p][2] if p in found else None,
                impressions=totals.get(p, (0, 0))[0],
                clicks=totals.get(p, (0, 0))[1],
                moved_clicks=seen.get(p, 0),
                reason=reasons[p],
            )
            for p in range(1, k + 1)
        ),
        requests=numbered["request"].n_unique() if "request" in numbered.columns else 0,
        clients=clients,
        pairs=numbered["pair"].n_unique(),
        moved_pairs=everywhere["pair"].n_unique(),
        simulated=simulated,
        window_start=window[0] if window else None,
        window_end=window[1] if window else None,
        fitted_at=fitted_at,
        shape=shape,
        rounds=fit.rounds,
        converged=fit.converged,
        reason=problem,
    )


def _unsure(position: int, fit: _Fit) -> str | None:
    if not fit.converged:
        return "the fit did not converge: the clicks hardly tell positions apart"
    if position in fit.border:
        return "the clicks do not tell it from position 1"
    _, low, high = fit.found[position]
    return f"its 95% interval [{low:.3g}, {high:.3g}] spans more than a factor of {WIDEST:g}" if high > WIDEST * low else None


def best_position_bias(shown: pl.DataFrame, **more: Any) -> PositionBias:
    """A number for each position where the clicks give one for all, else the power law where they give that, else the first with its reasons.

    Takes what :func:`fit_position_bias` takes, except ``shape``.
    """
    free = fit_position_bias(shown, shape="free", **more)
    if free.weights(len(free.positions)) is not None:
        return free
    power = fit_position_bias(shown, shape="power", **more)
    return power if power.weights(len(power.positions)) is not None else free


def attractiveness(shown: pl.DataFrame, propensities: Floats) -> pl.DataFrame:
    """How attractive each document is to each query, positions corrected for: what a click judgment is made of.

    With the propensities given, the mean of the pair's attraction given its clicks; a rare pair is drawn to what pairs at its height are like.

    Parameters
    ----------
    shown
        As in :func:`fit_position_bias`; positions beyond the propensities are left out.
    propensities
        Of positions 1, 2, ...; in (0, 1].

    Returns
    -------
    pl.DataFrame
        ``query``, ``doc_id``, ``attractiveness`` (0..1), ``examined`` (expected examinations behind it), ``impressions``, ``clicks``.
    """
    theta = np.clip(np.asarray(propensities, np.float64), 1e-6, 1.0)
    cells = (
        _numbered(shown.filter(pl.col("position") <= theta.size))
        .group_by("pair", "position")
        .agg(pl.col("query").first(), pl.col("doc_id").first(), shown=pl.len().cast(pl.Float64), clicked=pl.col("clicked").sum().cast(pl.Float64))
        .with_columns(theta=pl.col("position").replace_strict({i + 1: float(t) for i, t in enumerate(theta)}, return_dtype=pl.Float64))
        .sort("pair", "position")
    )
    if cells.is_empty():
        estimate = np.empty(0)
    else:
        model = ClickEM(cells["pair"].to_numpy(), cells["position"].to_numpy() - 1, kinds_of_pairs(cells), np.arange(1.0, theta.size + 1.0))
        counts = cells["shown"].to_numpy(), cells["clicked"].to_numpy()
        weights = model.start()[1]
        for _ in range(_MIXING):
            weights = model.step(theta, weights, *counts)[1]  # the propensities stay as given
        estimate = model.classes(theta, weights, *counts) @ GRID
    merged = cells.group_by("pair", maintain_order=True).agg(
        pl.col("query").first(),
        pl.col("doc_id").first(),
        examined=(pl.col("shown") * pl.col("theta")).sum(),
        impressions=pl.col("shown").sum().cast(pl.Int64),
        clicks=pl.col("clicked").sum().cast(pl.Int64),
    )
    return merged.with_columns(attractiveness=pl.Series(estimate, dtype=pl.Float64)).drop("pair")


@dataclass(frozen=True)
class _Fit:
    """Propensity, low and high of each position; whether a refit lay on the border (examined as often as the first position)."""

    found: dict[int, tuple[float, float, float]]
    border: frozenset[int]
    rounds: int
    converged: bool


def _fit(moved: pl.DataFrame, places: list[int], groups: int, confidence: float, seed: int, *, power: bool) -> _Fit:
    from scipy.stats import t

    rng = np.random.default_rng(seed)
    heaviest = moved.group_by("pair").len().sort("len", "pair", descending=[True, False]).head(_PAIRS).select("pair")
    moved = moved.join(heaviest, on="pair", how="semi") if moved["pair"].n_unique() > _PAIRS else moved
    lots = {unit: _lots(moved, unit, groups, rng) for unit in ("client", "query")}
    parts = (
        moved.with_columns(_client=lots["client"], _query=lots["query"])
        .group_by("pair", "position", "_client", "_query")
        .agg(shown=pl.len().cast(pl.Float64), clicked=pl.col("clicked").sum().cast(pl.Float64))
        .sort("pair", "position", "_client")
        .with_columns(cell=pl.struct("pair", "position").rle_id(), pair=pl.col("pair").rle_id())
    )
    cells = parts.group_by("cell", maintain_order=True).agg(pl.col("pair").first(), pl.col("position").first(), pl.col("shown").sum())
    order = {p: i for i, p in enumerate(places)}
    pair, place = cells["pair"].cast(pl.Int64).to_numpy(), cells["position"].replace_strict(order, return_dtype=pl.Int64).to_numpy()
    model = ClickEM(pair, place, kinds_of_pairs(cells), np.array(places, float), power)
    cell, shown, clicked = parts["cell"].to_numpy(), parts["shown"].to_numpy(), parts["clicked"].to_numpy()

    def counts(keep: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
        return sums(cell, shown * keep, cells.height), sums(cell, clicked * keep, cells.height)

    theta, weights, rounds, converged = model.fit(*model.start(), *counts(np.ones(cell.size, bool)))
    logs, refits, pseudo = np.log(theta), [np.log(theta)], {}
    for unit in lots:
        group = parts[f"_{unit}"].to_numpy()
        number = int(group.max()) + 1
        left = []
        for g in range(number):
            left.append(np.log(model.fit(theta, weights, *counts(group != g), _REFIT_TOLERANCE, _REFIT_ROUNDS)[0]))
        refits += left
        pseudo[unit] = number * logs - (number - 1) * np.array(left)
    border = frozenset(p for p, i in order.items() if i > 0 and (np.array(refits)[:, i] > -1e-4).any())
    halves = [float(t.ppf((1.0 + confidence) / 2.0, len(x) - 1)) * x.std(axis=0, ddof=1) / np.sqrt(len(x)) for x in pseudo.values() if len(x) > 1]
    half = np.max(halves, axis=0)
    value, low, high = (np.minimum(np.exp(x), 1.0) for x in (logs, logs - half, logs + half))
    return _Fit({p: (float(value[i]), float(low[i]), float(high[i])) for p, i in order.items()}, border, rounds, converged)


def _lots(moved: pl.DataFrame, unit: str, groups: int, rng: np.random.Generator) -> pl.Series:
    """A group for each client, or query, by lot and as even as can be."""
    names = moved[unit].unique().sort()
    drawn = pl.DataFrame({unit: names, "lot": rng.permutation(len(names)) % min(groups, len(names))})
    return moved.join(drawn, on=unit, how="left", maintain_order="left")["lot"]


def _numbered(shown: pl.DataFrame) -> pl.DataFrame:
    """With a number for each (query, document)."""
    pairs = shown.select("query", "doc_id").unique(maintain_order=True).with_row_index("pair").with_columns(pl.col("pair").cast(pl.Int64))
    return shown.join(pairs, on=["query", "doc_id"], how="left", maintain_order="left")


def _moved(numbered: pl.DataFrame) -> pl.DataFrame:
    """Impressions of pairs that were seen at two positions or more."""
    places = numbered.group_by("pair").agg(pl.col("position").n_unique())
    return numbered.join(places.filter(pl.col("position") > 1).select("pair"), on="pair", how="semi", maintain_order="left")


def _linked(moved: pl.DataFrame) -> list[int]:
    """Positions that chains of moved pairs link to position 1, itself included where it has any."""
    sets = [set(places) for (places,) in moved.group_by("pair").agg(pl.col("position").unique().sort()).select("position").unique().iter_rows()]
    reached = {1} if any(1 in places for places in sets) else set()
    while True:
        grown = reached.union(*(places for places in sets if places & reached))
        if grown == reached:
            return sorted(reached)
        reached = grown
