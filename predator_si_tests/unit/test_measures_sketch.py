"""The sketch keeps its promise: every rank within the stated relative error, for any distribution, also after windows were added."""

from __future__ import annotations

import json
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput
from predator_si.measures import Sketch, percentiles

LATENCIES = st.lists(st.one_of(st.floats(1e-3, 1e6), st.just(0.0), st.sampled_from([1.0, 10.0, 100.0])), min_size=1, max_size=300)


@settings(max_examples=100, deadline=None)
@given(LATENCIES, st.sampled_from([0.005, 0.01, 0.1]))
def test_every_rank_is_within_the_accuracy(values, accuracy):
    found = Sketch.of(values, accuracy).at_ranks(range(len(values)))
    assert np.all(np.abs(found - np.sort(values)) <= accuracy * np.sort(values) * (1 + 1e-9))


@settings(max_examples=50, deadline=None)
@given(st.lists(LATENCIES, min_size=1, max_size=6))
def test_adding_windows_equals_sketching_all(windows):
    together, apart = Sketch.of(np.concatenate(windows)), reduce(lambda a, b: a + b, (Sketch.of(window) for window in windows), Sketch.empty())
    assert together.n == apart.n
    assert together.at_ranks(range(together.n)).tolist() == apart.at_ranks(range(apart.n)).tolist()


def test_percentiles_and_their_bounds_are_within_half_a_percent_of_the_exact_ones():
    values = np.random.default_rng(0).lognormal(4, 0.7, 20_000)
    exact, found = percentiles(values), Sketch.of(values).percentiles()
    for column in ("value", "low", "high"):
        assert found[column].to_numpy() == pytest.approx(exact[column].to_numpy(), rel=0.0051)
    assert Sketch.of(np.arange(367.0)).percentiles((0.99,))["high"].item() is None


def test_it_is_small_and_survives_json():
    sketch = Sketch.of(np.random.default_rng(1).lognormal(4, 1, 100_000))
    text = json.dumps(sketch.to_dict())
    assert len(text) < 10_000
    assert Sketch.from_dict(json.loads(text)).at_ranks([0, 50_000]).tolist() == sketch.at_ranks([0, 50_000]).tolist()


def test_what_it_cannot_take_is_refused():
    for bad in ([1.0, -1.0], [float("nan")], [float("inf")]):
        with pytest.raises(BadInput, match="finite numbers"):
            Sketch.of(bad)
    with pytest.raises(BadInput, match="different bins"):
        Sketch.of([1.0], 0.01) + Sketch.of([1.0], 0.02)
    with pytest.raises(BadInput, match="no observations"):
        Sketch.empty().percentiles()
    with pytest.raises(BadInput, match="not a stored sketch"):
        Sketch.from_dict({"accuracy": 0.01})
    with pytest.raises(BadInput, match="ranks"):
        Sketch.of([1.0]).at_ranks([1])
