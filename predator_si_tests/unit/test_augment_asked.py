"""What people asked and chose: queries of the log, and clicks under fitted propensities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.augment.generators.clicks import ClickedAnswers, click_estimates, click_rates, propose_from_clicks
from predator_si.augment.generators.log import LogQueries, distinct_queries
from predator_si.augment.material import Material
from predator_si.augment.minhash import character_shingles, jaccard
from predator_si.augment.recipe import Guard, Proposal
from predator_si.errors import BadInput
from predator_si.records import DiagnosticReport
from predator_si.records.cycle import DistributionChange, RootCause, XaiInsights


def log(*rows: tuple[str, list[str], str | None], shown: Sequence[str] = ("a", "b", "c")) -> pl.DataFrame:
    return pl.DataFrame(
        {"text": [r[0] for r in rows], "clicked": [r[1] for r in rows], "impressions": [list(shown) for _ in rows], "sealed": [r[2] for r in rows]},
        schema={"text": pl.String, "clicked": pl.List(pl.String), "impressions": pl.List(pl.String), "sealed": pl.String},
    )


class ByCategory:
    """Finds five documents of the category that the query's last word names."""

    doc_ids: ClassVar[list[str]] = [f"{name}{n}" for name in ("torch", "numpy") for n in range(5)]

    def text(self, doc_id: str) -> str:
        return doc_id

    def candidates(self, queries: Sequence[str], depth: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(doc_ids=[i for i in self.doc_ids if i.startswith(q.split()[-1])][:depth], texts=[]) for q in queries]


def material(searches: pl.DataFrame, words: Sequence[str] = (), categories: Sequence[str] = (), of: Mapping[str, str] | None = None) -> Material:
    report = DiagnosticReport(
        cycle_id="si_2026_11_22_001",
        timestamp=datetime(2026, 11, 22, tzinfo=UTC),
        trigger="ndcg_at_10_down",
        current_value=0.5,
        baseline=0.6,
        delta=-0.1,
        root_cause_analysis=RootCause(
            type="domain_shift", affected_categories=list(categories), distribution_change=DistributionChange(new_tokens=[], coverage=0.9)
        ),
        xai_insights=XaiInsights(low_coverage_tokens=[], importance_scores=dict.fromkeys(words, 0.5), suggested_action="augment"),
        recommended_actions=[],
    )
    documents = pl.DataFrame({"doc_id": ByCategory.doc_ids, "title": "", "text": ByCategory.doc_ids})
    return Material(report, searches, documents, ByCategory(), Guard([], set()), categories=of or {})


def proposed(generator: LogQueries | ClickedAnswers, of: Material, wanted: int = 100, seed: int = 0) -> list[Proposal]:
    return list(generator.propose(of, wanted, np.random.default_rng(seed)))


class TestLogQueries:
    def test_near_duplicates_are_one_query_with_their_counts_clicks_and_the_commonest_spelling(self):
        rows = [("Sort a long list of tuples", ["a"], "t1"), ("sort a long list of tuples!", ["b"], "t2"), ("sort a long list of tuples!", [], "t3"),
                ("sort a long list of tuple", ["c"], "t4"), ("open a file", [], None)]  # fmt: skip
        first, second = distinct_queries(log(*rows))
        assert (first.text, first.searches, first.spellings, first.clicked, first.sealed) == ("sort a long list of tuples!", 4, 2, {"a", "b", "c"}, "t2")
        assert (second.text, second.searches, second.clicked, second.sealed) == ("open a file", 1, frozenset(), None)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.lists(st.sampled_from(["sort", "sorted", "list", "lists", "table", "tables"]), min_size=1, max_size=5).map(" ".join), max_size=25))
    def test_leaders_resemble_no_other_leader_and_everybody_is_counted_once(self, texts: list[str]):
        found = distinct_queries(log(*((text, [], None) for text in texts)))
        assert sum(query.searches for query in found) == len(texts)
        bags = character_shingles([query.text for query in found])
        assert not [1 for at, one in enumerate(bags) for other in bags[:at] if jaccard(one, other) >= 0.8]
        assert [query.searches for query in found] == sorted((query.searches for query in found), reverse=True)

    def test_frequent_first_with_weak_words_before_all(self):
        searches = log(*[("open a file", [], None)] * 3, ("merge two tables", ["a"], "sealed-m"), *[("cast a tensor", [], None)] * 2)
        generator = LogQueries()
        found = proposed(generator, material(searches, words=["tables"]))
        assert [(p.query, p.targeted) for p in found] == [("merge two tables", True), ("open a file", False), ("cast a tensor", False)]
        assert all(p.doc_id == "" and p.source == "log" and p.weight == 1.0 for p in found)
        assert found[0].sealed == "sealed-m" and found[0].excluded == {"a"} and [p.method for p in found] == ["query with clicks", "query", "query"]
        assert generator.counts == {"searches": 6, "distinct_queries": 3, "merged": 0, "of_wrong_length": 0, "targeted": 1}
        assert [p.query for p in proposed(generator, material(searches, words=["tables"]), wanted=2)] == ["merge two tables", "open a file"]
        assert proposed(generator, material(searches), wanted=0) == []

    def test_queries_that_find_a_weak_category_are_targeted(self):
        searches = log(*[("add arrays in numpy", [], None)] * 2, ("add arrays in torch", [], None))
        of = {doc_id: doc_id[:-1] for doc_id in ByCategory.doc_ids}
        assert [(p.query, p.targeted) for p in proposed(LogQueries(), material(searches, categories=["torch"], of=of))] == [
            ("add arrays in torch", True),
            ("add arrays in numpy", False),
        ]

    def test_any_script_and_odd_texts(self):
        searches = log(("как отсортировать список", [], None), ("表を ソート する", [], None), ("???", [], None), ("", [], None), ("word", [], None))
        generator = LogQueries()
        assert {p.query for p in proposed(generator, material(searches))} == {"как отсортировать список", "表を ソート する"}
        assert generator.counts["of_wrong_length"] == 1, "one word is too little; no word at all is no query"

    def test_equal_seeds_give_equal_orders(self):
        searches = log(*((f"question number {n} about things", [], None) for n in range(0, 4000, 97)))
        orders = [[p.query for p in proposed(LogQueries(), material(searches), seed=seed)] for seed in (1, 1, 2)]
        assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2])

    def test_an_empty_log_gives_nothing_and_one_without_text_is_refused(self):
        assert proposed(LogQueries(), material(pl.DataFrame())) == []
        with pytest.raises(BadInput, match="no column text"):
            distinct_queries(pl.DataFrame({"query": ["x"]}))
        assert distinct_queries(pl.DataFrame({"text": ["sort a list"]}))[0].clicked == frozenset(), "clicks and tokens are optional"


def simulated(attraction: np.ndarray, examination: np.ndarray, searches: int, seed: int = 0, moves: bool = False) -> pl.DataFrame:
    """Position-based clicks on documents d0, d1, ... in that order, or (``moves``) in a random one each time."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(searches):
        order = rng.permutation(len(attraction)) if moves else np.arange(len(attraction))
        hits = rng.random(len(order)) < attraction[order] * examination
        rows.append(([f"d{i}" for i in order], [f"d{i}" for i, hit in zip(order, hits, strict=True) if hit]))
    return pl.DataFrame({"text": ["find it"] * searches, "clicked": [r[1] for r in rows], "impressions": [r[0] for r in rows]},
                        schema={"text": pl.String, "clicked": pl.List(pl.String), "impressions": pl.List(pl.String)})  # fmt: skip


class TestPropensities:
    STEEP = np.array([1.0, 0.25, 0.08, 0.04])
    """People who hardly look below the first result."""

    def test_fitted_propensities_recover_attractions_that_the_assumed_ones_get_wrong(self):
        attraction = np.array([0.3, 0.2, 0.8, 0.1])
        searches = simulated(attraction, self.STEEP, 3_000)

        def estimates(**how: object) -> list[float]:
            return click_estimates(searches, clip=100.0, **how).sort("doc_id")["estimate"].to_list()  # type: ignore[arg-type]

        assert estimates(propensities=self.STEEP.tolist()) == pytest.approx(attraction.tolist(), abs=0.08)
        assert int(np.argmax(estimates())) == 0, "1 / rank believes the top"
        fitted, _ = propose_from_clicks(searches, frozenset(), propensities=self.STEEP.tolist())
        assert [p.doc_id for p in fitted] == ["d2"] and fitted[0].excluded == {"d0", "d1", "d2", "d3"}
        generator = ClickedAnswers(self.STEEP.tolist())
        assert [p.doc_id for p in proposed(generator, material(searches))] == ["d2"]
        assert [p.doc_id for p in proposed(ClickedAnswers(), material(searches))] == ["d0"]
        assert generator.counts == {"searches": 3_000, "distinct_queries": 1, "clicked_queries": 1, "above_floor": 1}

    def test_beyond_the_known_positions_nothing_is_estimated(self):
        searches = log(("q x", ["c"], None), ("q x", ["a"], None))
        rows = {row["doc_id"]: row for row in click_estimates(searches, propensities=[1.0, 0.5]).to_dicts()}
        assert rows["a"]["estimate"] == pytest.approx(1 / 3) and rows["b"]["examination"] == pytest.approx(1.0)
        assert (rows["c"]["examination"], rows["c"]["estimate"], rows["c"]["clicks"]) == (0.0, 0.0, 1)

    def test_propensities_that_are_none_are_refused(self):
        for bad in ([], [1.0, 0.0], [1.0, float("nan")], [1.0, -0.2]):
            with pytest.raises(BadInput, match="above 0"):
                click_estimates(log(("q x", ["a"], None)), propensities=bad)

    def test_click_rates_are_the_propensities_where_every_document_was_everywhere(self):
        searches = simulated(np.array([0.9, 0.3, 0.6, 0.5]), self.STEEP, 20_000, moves=True)
        rates = click_rates(searches)
        assert rates is not None and rates == pytest.approx(self.STEEP.tolist(), rel=0.15)

    def test_click_rates_need_clicks_and_never_rise(self):
        assert click_rates(log(("q x", ["a"], None))) is None
        assert click_rates(log(*[("q x", ["b"], None)] * 40)) is None, "nothing is known of the first position"
        rising = log(*[("q x", ["a", "b"], None)] * 40, *[("q x", ["b"], None)] * 10, *[("q x", ["c"], None)] * 5)
        assert click_rates(rising) == [1.0, 1.0], "the second is no better seen than the first; five clicks say nothing about the third"


def test_weak_words_come_first_among_the_clicked():
    searches = log(*[("open a file", ["a"], None)] * 3, ("cast a tensor", ["a"], "token"), ("no click here", [], None))
    found = proposed(ClickedAnswers(), material(searches, words=["tensor"]))
    assert [(p.query, p.targeted, p.sealed) for p in found] == [("cast a tensor", True, "token"), ("open a file", False, None)]
    assert len(proposed(ClickedAnswers(), material(searches), wanted=1)) == 1
    assert proposed(ClickedAnswers(), material(pl.DataFrame())) == []
