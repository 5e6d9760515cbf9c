"""Percentiles cover, and histogram bins add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predator_si.errors import BadInput
from predator_si.measures import latency_histogram, percentiles


def test_percentile_values_are_numpys():
    values = np.random.default_rng(0).lognormal(4, 1, 501)
    frame = percentiles(values, (0.5, 0.95))
    assert frame["value"].to_list() == pytest.approx(list(np.quantile(values, [0.5, 0.95])))
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()


def test_percentile_interval_covers():
    rng, true = np.random.default_rng(1), np.exp(1.6448536)
    held = 0
    for _ in range(400):
        row = percentiles(rng.lognormal(0, 1, 300), (0.95,)).row(0, named=True)
        held += row["low"] <= true <= row["high"]
    assert 0.93 <= held / 400 <= 0.995


def test_small_sample_has_no_upper_bound():
    frame = percentiles(np.arange(100.0), (0.5, 0.99))
    assert frame["high"].to_list()[1] is None and frame["high"].to_list()[0] is not None
    assert percentiles(np.arange(367.0), (0.99,))["high"].item() is None
    assert percentiles(np.arange(368.0), (0.99,))["high"].item() == 367.0


@pytest.mark.parametrize("bad", [[], [1.0, float("inf")]])
def test_percentiles_refuse(bad):
    with pytest.raises(BadInput):
        percentiles(bad)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_histogram_counts_every_value(values):
    frame = latency_histogram(values)
    assert frame["count"].sum() == len(values)
    assert frame["share"].sum() == pytest.approx(1.0)
    for low, high, count, _ in frame.iter_rows():
        assert count == sum(low <= value < high for value in values)


def test_histogram_of_nothing_is_empty_and_negative_is_refused():
    assert latency_histogram([]).height == 0
    with pytest.raises(BadInput):
        latency_histogram([-1.0])
