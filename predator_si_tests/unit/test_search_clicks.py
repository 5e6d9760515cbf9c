import numpy as np
import pytest

from predator_si.errors import BadInput
from predator_si.search.clicks import ClickModel

RANKING = [f"d{i}" for i in range(8)]
GRADES = {"d0": 1.0, "d2": 2.0, "d5": 3.0}
MODEL = ClickModel(eta=0.8, max_grade=3.0, attraction_floor=0.1, attraction_ceiling=0.9)


def test_click_frequencies_follow_examination_times_attraction() -> None:
    rng, n = np.random.default_rng(1), 20_000
    counts = np.zeros(len(RANKING))
    for _ in range(n):
        for click in MODEL.clicks(RANKING, GRADES, rng):
            counts[click.position - 1] += 1
    grades = np.array([GRADES.get(d, 0.0) for d in RANKING])
    # Written out independently of the class.
    expected = np.arange(1, 9) ** -0.8 * (0.1 + 0.8 * (2.0**grades - 1) / 7.0)
    deviations = (counts / n - expected) / np.sqrt(expected * (1 - expected) / n)
    assert np.abs(deviations).max() < 4.5, deviations


def test_clicks_at_two_positions_are_independent() -> None:
    rng, n = np.random.default_rng(2), 20_000
    seen = np.array([[p in {c.position for c in MODEL.clicks(RANKING, GRADES, rng)} for p in (1, 3)] for _ in range(n)], float)
    assert abs(np.corrcoef(seen.T)[0, 1]) < 4.5 / np.sqrt(n)


def test_eta_zero_examines_everything_and_a_grade_above_the_highest_counts_as_it() -> None:
    flat = ClickModel(eta=0.0)
    assert [flat.examination(p) for p in (1, 5, 100)] == [1.0, 1.0, 1.0]
    assert flat.attraction(7.0) == flat.attraction(1.0) == pytest.approx(0.9)


def test_dwell_is_longer_on_what_is_relevant() -> None:
    rng = np.random.default_rng(3)
    dwell: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(4000):
        for click in MODEL.clicks(RANKING, GRADES, rng):
            dwell[GRADES.get(click.object_id, 0) == 3.0].append(click.dwell_seconds)
    assert np.median(dwell[True]) == pytest.approx(60.0, rel=0.15)
    assert np.median(dwell[False]) < 30


def test_ratings_rise_with_the_position_of_the_relevant_document_and_some_searches_are_not_rated() -> None:
    model = ClickModel(rating_rate=0.5)
    rng = np.random.default_rng(4)

    def ratings(ranking: list[str]) -> list[int | None]:
        return [model.rating(ranking, {"r": 1.0}, rng) for _ in range(4000)]

    top, low, never = ratings(["r", "x"]), ratings(["x", "x", "x", "r"]), ratings(["x", "y"])
    means = [np.mean([r for r in part if r is not None]) for part in (top, low, never)]
    assert means[0] > means[1] + 0.5 > means[2] + 0.5
    assert means[2] == pytest.approx(2.0, abs=0.1)
    assert sum(r is None for r in top) / 4000 == pytest.approx(0.5, abs=0.04)
    assert {r for part in (top, low, never) for r in part if r is not None} <= {1, 2, 3, 4, 5}


def test_the_same_generator_state_gives_the_same_user() -> None:
    one, other = (MODEL.clicks(RANKING, GRADES, np.random.default_rng(9)) for _ in range(2))
    assert one == other


@pytest.mark.parametrize("wrong", [{"eta": -1}, {"attraction_floor": 0.9, "attraction_ceiling": 0.1}, {"rating_rate": 1.2}, {"max_grade": 0}])
def test_parameters_that_are_no_probabilities_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="click model"):
        ClickModel(**wrong)
