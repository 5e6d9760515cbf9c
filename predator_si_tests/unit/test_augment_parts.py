"""Click correction and MinHash: each against numbers worked out by hand or another implementation."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.augment import click_estimates
from predator_si.augment.generators.clicks import propose_from_clicks
from predator_si.augment.minhash import NearDuplicates, character_shingles, jaccard, signatures, word_shingles
from predator_si.errors import BadInput
from predator_si.search.clicks import ClickModel


def log(*rows: tuple[str, list[str], list[str], object]) -> pl.DataFrame:
    return pl.DataFrame(
        {"text": [r[0] for r in rows], "clicked": [r[1] for r in rows], "impressions": [r[2] for r in rows], "dwell": [r[3] for r in rows]},
        schema_overrides={"clicked": pl.List(pl.String), "impressions": pl.List(pl.String)},
    )


class TestClicks:
    def test_estimate_is_weighted_clicks_over_examinations_plus_prior(self):
        shown = ["a", "b", "c"]
        frame = click_estimates(log(("Sort a list", ["b"], shown, [60.0]), ("sort a list!", ["b", "a"], shown, [15.0, 3.0]), ("sort a list!", [], shown, [])))
        rows = {row["doc_id"]: row for row in frame.to_dicts()}
        assert rows["b"]["examination"] == pytest.approx(3 / 2)
        assert rows["b"]["estimate"] == pytest.approx((1.0 + 0.25) / (1.5 + 1.0))
        assert rows["a"]["estimate"] == pytest.approx(0.01 / (3.0 + 1.0))
        assert rows["c"]["clicks"] == 0 and rows["c"]["impressions"] == 3
        assert set(frame["query"]) == {"sort a list!"}, "the most frequent spelling speaks for all"

    def test_examination_is_clipped(self):
        frame = click_estimates(log(("q x", ["d20"], [f"d{i}" for i in range(1, 31)], [90.0])), clip=5.0)
        assert frame.filter(pl.col("doc_id") == "d20")["examination"][0] == pytest.approx(0.2)

    def test_unknown_dwell_counts_in_full_and_one_number_serves_all_clicks(self):
        without = pl.DataFrame({"text": ["q x"], "clicked": [["a"]], "impressions": [["a", "b"]]})
        assert click_estimates(without)["estimate"][0] == pytest.approx(0.5)
        assert click_estimates(without.with_columns(dwell=15.0))["estimate"][0] == pytest.approx(0.125)
        assert click_estimates(without.with_columns(dwell=pl.Series([None], dtype=pl.List(pl.Float64))))["estimate"][0] == pytest.approx(0.5)

    def test_correction_finds_the_attractive_document_below_a_clicked_top(self):
        """Simulated position-based clicks: the second-rate document always stands first, the best one at rank 5."""
        rng = np.random.default_rng(0)
        attraction = np.array([0.3, 0.05, 0.05, 0.05, 0.9, 0.05, 0.05, 0.05, 0.05, 0.05])
        ids = [f"d{i}" for i in range(1, 11)]
        rows = []
        for _ in range(400):
            clicked = [doc for doc, hit in zip(ids, rng.random(10) < attraction / np.arange(1, 11), strict=True) if hit]
            rows.append(("find me", clicked, ids, [60.0] * len(clicked)))
        raw = pl.Series([doc for row in rows for doc in row[1]]).value_counts(sort=True)
        assert raw[raw.columns[0]][0] == "d1", "raw clicks choose the wrong one"
        proposals, counts = propose_from_clicks(log(*rows), frozenset({"find"}))
        assert [p.doc_id for p in proposals] == ["d5"]
        assert proposals[0].weight == pytest.approx(0.9, abs=0.1)
        assert proposals[0].targeted and "d1" in proposals[0].excluded
        assert counts == {"searches": 400, "distinct_queries": 1, "clicked_queries": 1, "above_floor": 1}

    def test_positives_of_the_replayed_traffic_are_mostly_right(self):
        """The traffic's own click model, two searches a query: noise clicks and position bias must not decide."""
        model, rng, rows = ClickModel(), np.random.default_rng(0), []
        for number in range(600):
            ranking = [f"n{number}-{i}" for i in range(20)]
            ranking[int(rng.integers(0, 10))] = f"right{number}"
            for _ in range(2):
                clicks = model.clicks(ranking, {f"right{number}": 1.0}, rng)
                rows.append((f"question number{number}", [c.object_id for c in clicks], ranking, [c.dwell_seconds for c in clicks]))
        proposals, _ = propose_from_clicks(log(*rows), frozenset())
        right = [p.doc_id.startswith("right") for p in proposals]
        assert np.mean(right) > 0.95 and sum(right) > 200

    def test_ragged_dwell_and_missing_columns_are_refused(self):
        with pytest.raises(BadInput, match="row 0: dwell"):
            click_estimates(log(("q x", ["a"], ["a"], [1.0, 2.0])))
        with pytest.raises(BadInput, match="impressions"):
            click_estimates(pl.DataFrame({"text": ["q"], "clicked": [["a"]]}))


class TestMinHash:
    @settings(max_examples=25, deadline=None)
    @given(st.sets(st.integers(0, 400), min_size=5, max_size=60), st.sets(st.integers(0, 400), min_size=5, max_size=60))
    def test_signature_agreement_estimates_jaccard(self, one: set[int], other: set[int]):
        rows = signatures([frozenset(one), frozenset(other)])
        assert np.mean(rows[0] == rows[1]) == pytest.approx(len(one & other) / len(one | other), abs=0.25)

    def test_agrees_with_comparing_every_pair(self):
        rng = np.random.default_rng(1)
        words = [f"w{i}" for i in range(60)]
        texts: list[str] = []
        for _ in range(150):
            base = list(rng.choice(words, 12))
            texts += [" ".join(base), " ".join([*base[:-1], str(rng.choice(words))])]
        bags = character_shingles(texts)
        index = NearDuplicates(0.8)
        index.add_all(bags[:150])
        expected = [any(jaccard(bag, other) >= 0.8 for other in bags[:150]) for bag in bags[150:]]
        assert index.similar(bags[150:]) == expected

    def test_first_of_similar_texts_stays_and_empty_ones_resemble_nothing(self):
        texts = ["Return the mean of an array", "return the mean, of an array!", "open a file", "!!", "??"]
        assert NearDuplicates(0.8).add_unless_similar(character_shingles(texts)) == [True, False, True, True, True]

    def test_word_order_matters_for_documents_not_for_case(self):
        one, other, third = word_shingles(["A b c d e", "a B c d E", "e d c b a"])
        assert one == other and jaccard(one, third) == 0.0
