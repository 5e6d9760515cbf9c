"""The position-based model against simulated clicks whose truth is known: the values, their intervals, and what must stay unknown."""

from __future__ import annotations

import time

import numpy as np
import polars as pl
import pytest

from predator_si.errors import BadInput
from predator_si.monitor import click_quality
from predator_si.monitor.judgments import attractiveness, fit_position_bias, impressions
from predator_si.search.clicks import ClickModel
from predator_si_tests.support.windows import action, frames, search

DOCS = 10


def clicks(seed, *, queries=60, requests=2500, clients=150, eta=1.0, rankers=2, eager=0.0, examination=None):
    """Impressions of two rankers that order the same documents differently, each better than chance: attraction falls with the position."""
    rng = np.random.default_rng(seed)
    q, client = rng.integers(0, queries, requests), rng.integers(0, clients, requests)
    gamma = 0.05 + 0.85 * rng.beta(0.6, 1.5, (queries, DOCS))
    orders = np.stack([np.argsort(-(gamma + rng.normal(0.0, 0.4, gamma.shape)), axis=1) for _ in range(rankers)])
    shown = orders[rng.integers(0, rankers, requests), q]
    theta = 1.0 / np.arange(1, DOCS + 1) ** eta if examination is None else np.asarray(examination)
    habit = np.exp(eager * rng.normal(size=clients))[client, None] if eager else 1.0
    clicked = rng.random((requests, DOCS)) < np.minimum(theta * gamma[q[:, None], shown] * habit, 1.0)
    return (
        pl.DataFrame(
            {
                "request": np.repeat(np.arange(requests), DOCS),
                "client": np.repeat(client, DOCS),
                "query": np.repeat(q, DOCS),
                "doc_id": shown.ravel(),
                "position": np.tile(np.arange(1, DOCS + 1), requests),
                "clicked": clicked.ravel(),
            }
        ).with_columns(pl.col("client", "query", "doc_id").cast(pl.String)),
        theta,
        gamma,
    )


def intervals(found):
    return np.array([[p.low, p.propensity, p.high] for p in found.positions if p.propensity is not None], float)


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """Ten propensities in each of several simulations; the nominal rate is 95%, the band is that of so few."""
    covered, asked, off = 0, 0, []
    for seed in range(4):
        shown, theta, _ = clicks(seed, requests=1500)
        found = fit_position_bias(shown, groups=8)
        for position in found.positions[1:]:
            if position.propensity is not None:
                asked += 1
                covered += position.low <= theta[position.position - 1] <= position.high
                off.append(np.log(position.propensity / theta[position.position - 1]))
    assert asked >= 27 and covered / asked >= 0.85
    assert abs(np.mean(off)) < 0.08  # no systematic error, although better documents stand further up


def test_the_power_law_needs_fewer_clicks_and_finds_the_simulators_eta():
    found = [fit_position_bias(clicks(seed, requests=700, eta=0.7)[0], shape="power", groups=8) for seed in range(3)]
    assert all(one.reason is None and one.weights(10) is not None for one in found)
    assert np.mean([one.eta() for one in found]) == pytest.approx(0.7, abs=0.15)
    assert sum(one.positions[4].low <= 5.0**-0.7 <= one.positions[4].high for one in found) >= 2


def test_a_page_that_is_examined_otherwise_is_found_by_the_free_shape_only():
    truth = [1.0, 0.9, 0.8, 0.3, 0.25, 0.2, 0.2, 0.15, 0.15, 0.15]  # a fold after the third
    shown, _, _ = clicks(3, requests=3000, examination=truth)
    free = fit_position_bias(shown, groups=8)
    values = [one.propensity for one in free.positions]
    assert values[2] / values[3] > 1.8 and values[2] == pytest.approx(0.8, abs=0.15)
    power = fit_position_bias(shown, shape="power", groups=8)
    assert power.positions[2].propensity < 0.72


def test_what_never_moved_says_nothing():
    """One ranking for each query: click rates fall with the position, and nothing can say whether for bias or for relevance."""
    shown, _, _ = clicks(0, rankers=1)
    found = fit_position_bias(shown)
    assert "two positions" in found.reason and found.weights(10) is None and found.eta() is None
    assert all(one.propensity is None and one.reason for one in found.positions) and found.positions[0].clicks > 100


def test_positions_without_a_chain_to_the_first_stay_unknown():
    shown, _, _ = clicks(1, requests=1200)
    rng = np.random.default_rng(0)
    # Documents move within 1..5 and within 6..10, never across.
    halves = shown.filter(pl.col("position") <= 5).vstack(
        shown.filter(pl.col("position") > 5).with_columns(doc_id=pl.col("doc_id") + "-low", clicked=pl.Series(rng.random(1200 * 5) < 0.2))
    )
    found = fit_position_bias(halves, groups=5)
    assert [one.propensity is not None for one in found.positions] == [True] * 5 + [False] * 5
    assert all("no chain" in one.reason for one in found.positions[5:])


def test_the_power_law_is_found_wherever_documents_moved():
    shown, _, _ = clicks(2, requests=9000)
    inner = shown.filter(pl.col("position").is_between(2, 8))
    assert "position 1" in fit_position_bias(inner, groups=4).reason
    found = fit_position_bias(inner, shape="power", groups=8)
    assert found.weights(10) is not None and found.eta() == pytest.approx(1.0, abs=0.25)


def test_too_few_clients_or_clicks_are_said():
    few, _, _ = clicks(0, clients=5)
    assert "5 clients" in fit_position_bias(few).reason
    assert "90 are needed" in fit_position_bias(clicks(0, requests=30)[0], shape="power").reason
    sparse = fit_position_bias(clicks(0, requests=60)[0])
    assert sparse.weights(10) is None and any("clicks on documents that were also shown elsewhere" in (one.reason or "") for one in sparse.positions)
    nothing = fit_position_bias(few.head(0))
    assert nothing.reason is not None and nothing.requests == 0
    with pytest.raises(BadInput, match="no column clicked"):
        fit_position_bias(few.drop("clicked"))


def test_attractiveness_is_calibrated_and_draws_rare_pairs_to_their_like():
    shown, theta, gamma = clicks(5, requests=6000)
    found = attractiveness(shown, theta).with_columns(
        truth=pl.struct("query", "doc_id").map_elements(lambda pair: gamma[int(pair["query"]), int(pair["doc_id"])], return_dtype=pl.Float64)
    )
    sure = found.filter(pl.col("examined") > 20)
    assert sure.height > 200 and np.corrcoef(sure["attractiveness"], sure["truth"])[0, 1] > 0.9
    assert abs((found["attractiveness"] - found["truth"]).mean()) < 0.03
    rare = attractiveness(shown.head(DOCS * 60), theta)
    assert rare["attractiveness"].min() > 0.0 and rare["attractiveness"].max() < 1.0
    raw = (found["clicks"] / found["impressions"]).to_numpy()
    assert np.abs(found["attractiveness"].to_numpy() - found["truth"].to_numpy()).mean() < np.abs(raw - found["truth"].to_numpy()).mean() / 2


def test_the_search_services_own_users_are_recovered_from_its_events():
    """From events to propensities to the metric: the click model of the traffic replay, asked through the same columns that the service writes."""
    model, rng = ClickModel(eta=1.0, attraction_floor=0.05, attraction_ceiling=0.9), np.random.default_rng(7)
    rows, actions, truth = [], [], []
    for i in range(1500):
        query = int(rng.integers(0, 30))
        ids = [f"d{query}-{rank}" for rank in range(DOCS)]
        relevant = {f"d{query}-{query % 4}": 1.0}
        ranking = ids if rng.random() < 0.5 else [*ids[5:], *ids[:5]][:: 1 if query % 2 else -1]
        results = [{"object_id": doc, "score": 1.0, "first_stage_score": None, "rerank_score": None} for doc in ranking]
        rows.append(search(i, user_query=f"query {query}", client_id=f"c{i % 100}", results=results))
        truth.append(1.0 / np.log2(ranking.index(next(iter(relevant))) + 2.0))
        actions += [action(f"r{i}", object_id=click.object_id) for click in model.clicks(ranking, relevant, rng)]
    events = frames(rows, actions)
    found = fit_position_bias(impressions(events.search, events.actions), shape="power", groups=8)
    assert found.eta() == pytest.approx(1.0, abs=0.2)
    weights = found.weights(10)
    quality = click_quality(events.search, events.actions, propensities=list(weights))
    noise = 0.05 * sum(1.0 / np.log2(r + 1) for r in range(1, 11))  # clicks on what is useless, corrected for position as well
    assert quality["value"].mean() == pytest.approx(0.85 * np.mean(truth) + noise, rel=0.15)


@pytest.mark.slow
def test_a_million_impressions_are_fitted_in_bounded_time():
    shown, theta, _ = clicks(0, queries=5000, requests=100_000, clients=5000)
    begun = time.perf_counter()
    found = fit_position_bias(shown, groups=4)
    assert shown.height == 1_000_000 and time.perf_counter() - begun < 90
    values = intervals(found)
    assert len(values) == DOCS and np.abs(np.log(values[:, 1] / theta)).max() < 0.15
