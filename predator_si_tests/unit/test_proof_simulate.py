"""The simulation: its draws have the effect that they claim, its bounds are exact, its fast boundaries are production's, and it can find a setting at fault."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from predator_si.errors import BadInput, Missing
from predator_si.proof.simulate import rivals
from predator_si.proof.simulate.agreement import promotion_agreement, watch_agreement
from predator_si.proof.simulate.counting import NEVER, earliest, exact_bounds, first_true, least_count, times
from predator_si.proof.simulate.loop import World, run_loop
from predator_si.proof.simulate.promoting import false_promotions, interleaving_power, levels, promoted
from predator_si.proof.simulate.run import SMALL, Sizes, broken, simulate
from predator_si.proof.simulate.watching import Deployment, Limits, detected, false_rollbacks, limits, observe, rolled_back
from predator_si.proof.simulate.world import TABLES, Tables, clock, divided, populations, read_tables, tilt
from predator_si.release.watch import WatchPlan, errors_log_e, slower_log_e
from predator_si.reports.characteristics import NEEDED, characteristics
from predator_si.statistics.design import DEFAULT_DESIGN
from predator_si.statistics.evidence import needed

TINY = dataclasses.replace(SMALL, deployments=12, at_limit=12, regressions=12, months=1, improvements=20, agreement=1, horizon=120, reach=400)
PLAN = WatchPlan(cycle_id="si_2026_01_01_001", released_digest="sha256:x", ndcg_margin=0.0, shadow_expected=True)


def written(folder: Path, queries: int = 80) -> Path:
    """Tables of made-up scores in the measured ones' form."""
    rng = np.random.default_rng(3)
    old = np.round(rng.beta(0.6, 0.6, queries), 2)
    moved = np.where(rng.random(queries) < 0.6, rng.normal(0, 0.25, queries), 0.0)
    names = [str(n) for n in range(queries)]
    quality = {"collection": ["made"] * queries, "query_id": names, "split": ["train"] * queries, "old": old, "new": np.clip(np.round(old + moved, 2), 0, 1)}
    spent = rng.lognormal(5.0, 0.3, queries)
    rows = {"collection": ["made"] * queries, "query_id": names, "full, ms": spent, "full again, ms": spent * rng.lognormal(0, 0.1, queries)}
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(quality).write_parquet(folder / "quality.parquet")
    pl.DataFrame(rows).write_parquet(folder / "times.parquet")
    (folder / "sources.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return read_tables(written(tmp_path_factory.mktemp("tables")))


@pytest.fixture(scope="module")
def bounds() -> Limits:
    return limits(PLAN, 300)


def test_the_stored_tables_are_real_scores_of_no_test_query():
    stored = read_tables(TABLES)
    assert stored.quality.height >= 300 and stored.quality["collection"].n_unique() >= 4
    assert set(stored.quality["split"]) == {"train"} and len(stored.rankers) >= 4
    assert stored.sources["queries"] == dict(stored.quality.group_by("collection").len().iter_rows())
    assert stored.sources["timed"] == dict(stored.times.group_by("collection").len().iter_rows())
    assert sum(path.stat().st_size for path in TABLES.iterdir()) < 400_000


@pytest.mark.parametrize("effect", [-0.1, -0.02, 0.0, 0.05])
def test_a_tilted_population_has_the_mean_and_is_the_nearest_one(tables: Tables, effect: float):
    from scipy.optimize import brentq

    for one in populations(tables, effect):
        assert one.weight @ one.difference == pytest.approx(effect, abs=1e-9)
        assert one.weight.sum() == pytest.approx(1.0) and one.weight.min() >= 0.0

        def gap(t: float, values: np.ndarray = one.difference) -> float:
            return float((np.exp(t * values) * (values - effect)).sum())

        raw = np.exp(brentq(gap, -60, 60) * one.difference)
        np.testing.assert_allclose(one.weight, raw / raw.sum(), atol=1e-7)


def test_an_effect_out_of_reach_is_refused(tables: Tables):
    assert tilt(np.array([0.0, 0.1]), 0.2) is None
    assert tilt(np.array([0.0, 0.0]), 0.0) is None
    with pytest.raises(BadInput, match="carries a mean difference"):
        populations(tables, -0.9)


def test_draws_follow_the_weights(tables: Tables):
    one = populations(tables, -0.05)[0]
    drawn = one.draw(np.random.default_rng(0), (200_000,))
    seen = np.bincount(drawn, minlength=one.weight.size) / drawn.size
    assert np.abs(seen - one.weight).max() < 5 * np.sqrt(one.weight.max() / drawn.size)


def test_all_lives_are_dealt_out(tables: Tables):
    found = populations(tables, 0.0)
    assert sum(some for _, some in divided(found, 1_001, 250)) == 1_001
    assert max(some for _, some in divided(found, 1_001, 250)) <= 250


@pytest.mark.parametrize(("events", "n"), [(0, 50_000), (3, 200), (200, 200)])
def test_bounds_are_those_of_clopper_and_pearson(events: int, n: int):
    theirs = stats.binomtest(events, n).proportion_ci(0.95, "exact")
    assert exact_bounds(events, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_miss_is_infinite():
    first = np.array([5] * 94 + [NEVER] * 6)
    found = times(first)
    assert (found["probability"], found["median"], found["p95"]) == (0.94, 5.0, None)
    assert times(np.array([5] * 95 + [NEVER] * 5))["p95"] == 5.0
    assert earliest(np.array([7, NEVER, NEVER]), np.array([9, 3, NEVER])).tolist() == [7, 3, NEVER]
    assert first_true(np.array([[False, True], [False, False]]), np.array([10, 20])).tolist() == [20, NEVER]


def test_the_boundary_is_where_production_has_its_proof(bounds: Limits):
    n = np.arange(1, 301)
    for count, proof in ((bounds.failures, True), (bounds.failures - 1, False)):
        kept = (count <= n) & (count >= 0)
        said = errors_log_e(PLAN, count[kept], n[kept]) >= needed(PLAN.level("errors"))
        assert said.all() if proof else not said.any()
    assert least_count(lambda k, size: 2 * k >= size, 5).tolist() == [1, 1, 2, 2, 3]


def test_fast_and_literal_evidence_of_slower_times_agree(tables: Tables, bounds: Limits):
    rng = np.random.default_rng(1)
    seen = observe("latency", Deployment(1.15, 0.0, 1e9), populations(tables, 0.0)[0], clock(tables), rng, 20, 300)
    fast = rolled_back(PLAN, bounds, "latency", seen)["slower"]
    n = np.broadcast_to(np.arange(1, 301), seen.paired.shape)
    log_e = slower_log_e(PLAN, n, np.cumsum(seen.paired, axis=1), np.cumsum(seen.paired**2, axis=1))
    assert first_true(log_e >= needed(PLAN.level("slower"))).tolist() == fast.tolist()
    assert (fast != NEVER).any()


def test_production_gives_the_same_answers_step_by_step(tables: Tables):
    found = [*populations(tables, 0.0), *populations(tables, -0.1)]
    agreed = watch_agreement(PLAN, found, clock(tables), 200.0, lives=12, checks=6, seed=2)
    assert agreed["differences"] == 0 and agreed["steps"] == 72
    assert 0 < agreed["rollbacks"] < 12, "both answers must occur, or nothing was compared"


def test_a_fast_way_that_is_not_production_would_be_noticed(tables: Tables, monkeypatch: pytest.MonkeyPatch):
    real = limits(PLAN, 360)
    wrong = dataclasses.replace(real, failures=real.failures + 2)
    monkeypatch.setattr("predator_si.proof.simulate.agreement.limits", lambda plan, horizon: wrong)
    found = populations(tables, 0.0)
    assert watch_agreement(PLAN, found, clock(tables), 200.0, lives=12, checks=6, seed=2)["differences"] > 0


def test_a_loose_level_shows_as_false_rollbacks(tables: Tables):
    found, at, truth = populations(tables, 0.0), clock(tables), Deployment(1.0, 0.005, 1e9)
    loose = PLAN.model_copy(update={"design": DEFAULT_DESIGN.replaced({"ndcg_alpha": 0.3})})
    many = false_rollbacks(loose, found, at, truth, lives=300, horizon=150, seed=0)
    few = false_rollbacks(PLAN, found, at, truth, lives=300, horizon=150, seed=0)
    assert many["questions"]["ndcg"]["lower"] > 0.02 > few["questions"]["ndcg"]["estimate"]
    assert few["estimate"] <= few["upper"] and few["worst_population"]["lives"] < 300
    assert few["rules"]["guide"]["estimate"] > 0.5, "looking at a noisy mean twelve times rolls back most good releases"


def test_what_is_worse_is_found_sooner_the_worse_it_is(tables: Tables):
    found, at = populations(tables, 0.0), clock(tables)
    p95 = []
    for factor in (1.5, 2.0, 4.0):
        own, others = detected(PLAN, found[:1], at, Deployment(factor, 0.005, 1e9), "latency", lives=30, horizon=120, seed=1)
        p95.append(own["p95"])
        assert own["probability"] == 1.0 and others["z_peeking"]["probability"] == 1.0
    assert p95 == sorted(p95) and p95[0] <= 60


def test_mann_whitney_counts_all_pairwise_differences():
    rng = np.random.default_rng(5)
    old = np.round(rng.beta(2, 2, (6, 40)), 1)
    new = np.round(np.clip(old - np.array([0.0, 0.0, 0.1, 0.2, 0.3, 0.4])[:, None] + rng.normal(0, 0.1, old.shape), 0, 1), 1)
    fast = rivals.mann_whitney(old, new, [40], lower_is_bad=True) != NEVER
    half = 2.3263478740408408 * np.sqrt(81 / (12 * 1600))
    slow = []
    for one, other in zip(old, new, strict=True):
        differences = np.sort((other[:, None] - one[None, :]).ravel())
        at = [differences[max(0, int(np.ceil(share * 1600 - 1e-9)) - 1)] for share in (0.5, 0.5 + half)]
        slow.append(at[1] < -0.25 * abs(at[0]))
    assert fast.tolist() == slow and fast.any() and not fast.all()


def test_the_screen_tells_nothing_else_than_the_exact_test(tables: Tables):
    alphas = levels(DEFAULT_DESIGN)
    assert alphas.size == 18 and alphas.sum() <= 0.01
    rng, one = np.random.default_rng(2), populations(tables, 0.05)[0]
    values = one.difference[one.draw(rng, (6, 40))]
    assert promoted(values, alphas[:6]).tolist() == promoted(values, alphas[:6], screen=False).tolist()
    agreed = promotion_agreement(PLAN, [*populations(tables, 0.0), *populations(tables, 0.1)], lives=8, seed=1)
    assert agreed["differences"] == 0 and agreed["promoted"] > 0


def test_months_are_made_of_their_candidates(tables: Tables):
    loose = DEFAULT_DESIGN.replaced({"promotion_alpha_per_month": 0.4, "promotion_candidates_per_month": 2})
    found = false_promotions(loose, populations(tables, 0.0), months=40, seed=3)
    candidate, month = found["candidate"]["estimate"], found["month"]["estimate"]
    assert found["candidate"]["lives"] == 80 and candidate <= month <= 2 * candidate and month > 0
    assert found["rules"]["guide"]["candidate"]["estimate"] > 0.2


def test_interleaving_finds_a_gain_and_pays_for_looking(tables: Tables):
    found = interleaving_power(DEFAULT_DESIGN, populations(tables, 0.05), 0.05, lives=200, horizon=2_000, seed=0)
    assert found["probability"] > 0.95 and 1.0 < found["ratio_to_fixed_n"] < 4.0


def test_the_same_seed_lives_the_same_ten_months(tables: Tables):
    world = World(cycles=60, worlds=2, judged=120)
    first, again = (run_loop(tables, PLAN, world, seed=4) for _ in range(2))
    assert first == again
    assert first["guide"]["false_promotions"] > first["ours"]["false_promotions"]
    assert first["ours"]["candidates"] == 15 and len(first["ours"]["ndcg"]) == 4


@pytest.fixture(scope="module")
def small(tables: Tables) -> dict[str, object]:
    return simulate(tables, PLAN, TINY)


def test_everything_together_has_the_contract_keys(small: dict[str, object]):
    contract = {"lives", "false_promotion_month", "false_rollback", "detection", "power", "reference_rules", "scale", "cores", "versions", "seed"}
    assert contract | set(NEEDED) <= set(small)
    rows = small["detection"]
    assert isinstance(rows, list) and {row["metric"] for row in rows} == {"ndcg", "latency", "errors"}
    assert {(row["metric"], row["effect"]) for row in rows} >= {("ndcg", -0.05), ("latency", 1.5), ("errors", 0.05)}
    assert all({"probability", "median", "p95", "horizon"} <= set(row) for row in rows)
    json.dumps(small, allow_nan=False)


def test_pictures_are_the_same_for_the_same_figures(small: dict[str, object]):
    first = characteristics(json.loads(json.dumps(small)), "png")
    assert set(first) == {"errors", "detection", "loop"} and first == characteristics(small, "png")
    assert all(picture.startswith(b"\x89PNG") and len(picture) < 80_000 for picture in first.values())


def test_a_promise_that_does_not_hold_is_named():
    fine = {"lower": 0.0, "upper": 0.0001, "estimate": 0.0}
    found = {"scale": "full", "false_promotion_month": fine, "false_rollback": fine, "false_rollback_at_limit": fine}
    found["trial"] = {"harmless": {**fine, "spent": 0.007, "better": fine}, "at_limit": [{**fine, "metric": "error_rate"}], "steps": [{}]}
    agreement = {"watch": {"differences": 0}, "promotion": {"differences": 0}, "trial": {"differences": 0}}
    assert broken({**found, "agreement": agreement}) == []
    assert "may be" in broken({**found, "false_rollback": {"lower": 0.0, "upper": 0.002, "estimate": 0.001}, "agreement": agreement})[0]
    surely = broken({**found, "scale": "small", "false_promotion_month": {"lower": 0.02, "upper": 0.5, "estimate": 0.1}, "agreement": agreement})
    assert "at least 2.00%" in surely[0]
    assert "differ from production" in broken({**found, "agreement": {**agreement, "trial": {"differences": 1}}})[0]
    trial = {
        "harmless": {**fine, "spent": 0.035, "better": fine},
        "at_limit": [{"lower": 0.06, "upper": 0.1, "estimate": 0.08, "metric": "error_rate"}],
        "steps": [{}] * 4,
    }
    worse, levels_of = broken({**found, "trial": trial, "agreement": agreement})
    assert "worse in error_rate by the margin is at least 6.00%" in worse and "4 steps add up to 3.50%" in levels_of


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [("split", "test", "stay sealed"), ("new", 1.5, "not a number in 0..1"), ("new", float("nan"), "not a number in 0..1")],
)
def test_tables_that_cannot_be_are_refused(tmp_path: Path, column: str, value: object, words: str):
    folder = written(tmp_path)
    pl.read_parquet(folder / "quality.parquet").with_columns(pl.lit(value).alias(column)).write_parquet(folder / "quality.parquet")
    with pytest.raises(BadInput, match=words):
        read_tables(folder)


def test_missing_and_broken_tables_are_named(tmp_path: Path):
    with pytest.raises(Missing, match="--measure"):
        read_tables(tmp_path)
    folder = written(tmp_path)
    (folder / "times.parquet").write_bytes(b"no parquet")
    with pytest.raises(BadInput, match="cannot be read"):
        read_tables(folder)


def test_sizes_of_the_full_scale_are_those_promised():
    from predator_si.proof.simulate.run import FULL

    assert isinstance(FULL, Sizes)
    assert FULL.deployments >= 50_000 and FULL.regressions >= 10_000 and FULL.agreement >= 200 and FULL.horizon == 3_000 and FULL.months * 18 >= 50_000
