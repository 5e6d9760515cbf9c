"""Ranking measures equal ir_measures, with ties, missing queries and unjudged documents."""

from __future__ import annotations

import ir_measures
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput
from predator_si.measures import discounts, per_query

DOCS = [f"d{i}" for i in range(12)] + ["Ї", "z", "𝛂"]
QUERIES = [f"q{i}" for i in range(6)]
SCORES = st.one_of(st.integers(0, 3).map(float), st.floats(-1e3, 1e3, allow_nan=False), st.sampled_from([1.0, 1.0 + 1e-9, 1.0 + 1e-6]))


@st.composite
def runs_and_judgments(draw):
    judged = draw(st.dictionaries(st.tuples(st.sampled_from(QUERIES), st.sampled_from(DOCS)), st.integers(0, 3), min_size=1, max_size=30))
    scored = draw(st.dictionaries(st.tuples(st.sampled_from(QUERIES), st.sampled_from(DOCS)), SCORES, min_size=1, max_size=50))
    judgments = pl.DataFrame([(q, d, float(r)) for (q, d), r in judged.items()], schema=["query_id", "doc_id", "relevance"], orient="row")
    run = pl.DataFrame([(q, d, s) for (q, d), s in scored.items()], schema=["query_id", "doc_id", "score"], orient="row")
    return run, judgments


def reference(run: pl.DataFrame, judgments: pl.DataFrame, measures: list) -> dict:
    qrels = pd.DataFrame(judgments.with_columns(pl.col("relevance").cast(pl.Int64)).to_dicts())
    return {(m.query_id, str(m.measure)): m.value for m in ir_measures.iter_calc(measures, qrels, pd.DataFrame(run.to_dicts()))}


@settings(max_examples=150, deadline=None)
@given(runs_and_judgments())
def test_equals_ir_measures(case):
    run, judgments = case
    names = ["nDCG@3", "nDCG@10", "R@5", "R@20", "P@1", "P@10"]
    ours = per_query(run, judgments, names)
    theirs = reference(run, judgments, [ir_measures.parse_measure(name) for name in names])
    assert ours["query_id"].to_list() == judgments["query_id"].unique(maintain_order=True).to_list()
    for row in ours.iter_rows(named=True):
        for name in names:
            assert row[name] == pytest.approx(theirs[row["query_id"], name], abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(runs_and_judgments())
def test_reciprocal_rank_equals_trec_eval_cut_off(case):
    # ir_measures' RR@k comes from the MS MARCO script, which breaks ties the other way; its RR without cutoff is trec_eval's.
    run, judgments = case
    ours = per_query(run, judgments, ["RR@2", "MRR@2"])
    theirs = reference(run, judgments, [ir_measures.RR])
    for query, ours_rr, alias in ours.iter_rows():
        full = theirs[query, "RR"]
        assert ours_rr == alias == pytest.approx(full if full >= 1 / 2 else 0.0, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(runs_and_judgments())
def test_exponential_gain_equals_ir_measures_with_mapped_gains(case):
    run, judgments = case
    ours = per_query(run, judgments, ["nDCG(exp)@10"])
    measure = ir_measures.nDCG(gains={0: 0, 1: 1, 2: 3, 3: 7}) @ 10
    theirs = reference(run, judgments, [measure])
    for query, value in ours.iter_rows():
        assert value == pytest.approx(theirs[query, str(measure)], abs=1e-9)


def test_reciprocal_rank_without_ties_equals_ms_marco():
    rng = np.random.default_rng(0)
    scored = [(q, d, float(s)) for q in QUERIES for d, s in zip(DOCS, rng.permutation(len(DOCS)), strict=True)]
    run = pl.DataFrame(scored, schema=["query_id", "doc_id", "score"], orient="row")
    judgments = pl.DataFrame([(q, DOCS[i], 1.0) for i, q in enumerate(QUERIES)], schema=["query_id", "doc_id", "relevance"], orient="row")
    theirs = reference(run, judgments, [ir_measures.RR @ 5])
    for query, value in per_query(run, judgments, ["RR@5"]).iter_rows():
        assert value == pytest.approx(theirs[query, "RR@5"], abs=1e-9)


def test_missing_query_scores_zero_and_unjudged_query_is_left_out():
    run = pl.DataFrame({"query_id": ["a", "x"], "doc_id": ["1", "1"], "score": [1.0, 1.0]})
    judgments = pl.DataFrame({"query_id": ["a", "b"], "doc_id": ["1", "1"], "relevance": [1.0, 1.0]})
    assert per_query(run, judgments, ["nDCG@10", "R@20"]).rows() == [("a", 1.0, 1.0), ("b", 0.0, 0.0)]


def test_rank_orders_when_there_is_no_score():
    run = pl.DataFrame({"query_id": ["a", "a"], "doc_id": ["1", "2"], "rank": [2, 1]})
    judgments = pl.DataFrame({"query_id": ["a"], "doc_id": ["1"], "relevance": [1.0]})
    assert per_query(run, judgments, ["RR@10"])["RR@10"].item() == 0.5


def test_discounts_are_trec_evals():
    assert discounts(3) == pytest.approx([1.0, 1 / np.log2(3), 0.5])


@pytest.mark.parametrize(
    ("run", "measures", "said"),
    [
        ({"query_id": ["a"], "doc_id": ["1"]}, ["nDCG@10"], "rank"),
        ({"query_id": ["a"], "doc_id": ["1"], "score": [float("nan")]}, ["nDCG@10"], "NaN"),
        ({"query_id": ["a", "a"], "doc_id": ["1", "1"], "score": [1.0, 2.0]}, ["nDCG@10"], "twice"),
        ({"query_id": ["a"], "doc_id": ["1"], "score": [1.0]}, ["nDCG"], "unknown measure"),
        ({"query_id": ["a"], "doc_id": ["1"], "score": [1.0]}, ["R(exp)@5"], "unknown measure"),
        ({"query_id": ["a"], "doc_id": ["1"], "score": ["high"]}, ["R@5"], "not numbers"),
    ],
)
def test_bad_input_is_named(run, measures, said):
    judgments = pl.DataFrame({"query_id": ["a"], "doc_id": ["1"], "relevance": [1.0]})
    with pytest.raises(BadInput, match=said):
        per_query(pl.DataFrame(run), judgments, measures)
