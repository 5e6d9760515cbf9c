"""Labels keep their origin; several origins together need a policy that says so."""

from __future__ import annotations

import polars as pl
import pytest

from predator_si.errors import BadInput
from predator_si.monitor.judgments import JudgmentSet, judged_scores


def labels(rows, **more):
    return pl.DataFrame(rows, schema=["query_id", "doc_id", "relevance"], orient="row").with_columns(pl.col("relevance").cast(pl.Float64), **more)


HUMAN = JudgmentSet.of(labels([("q", "a", 3.0), ("q", "b", 0.0)]), "human", scale=3)
CLICK = JudgmentSet.of(labels([("q", "a", 0.1), ("q", "c", 0.8)]), "click")
RUN = pl.DataFrame({"query_id": ["q"] * 3, "doc_id": ["c", "b", "a"], "rank": [1, 2, 3]})


def test_origins_are_not_mixed_without_a_policy():
    both = HUMAN + CLICK
    assert both.counts == {"human": 2, "click": 2}
    with pytest.raises(BadInput, match=r"human 2, click 2.*not mixed silently"):
        both.resolved()
    with pytest.raises(BadInput, match="not mixed silently"):
        judged_scores(RUN, both)
    with pytest.raises(BadInput, match="origin click"):
        both.resolved(prefer=("human", "llm"))
    assert both.only("click").resolved().counts == {"click": 2}


def test_a_policy_prefers_and_the_source_names_every_origin_with_its_count():
    found = (HUMAN + CLICK).resolved(prefer=("human", "llm", "click"))
    assert dict(found.frame.select("doc_id", "relevance").iter_rows()) == {"a": 1.0, "b": 0.0, "c": 0.8}  # 3 of 3 is 1: scales differ
    assert found.counts == {"human": 2, "click": 1}
    assert "human 2, click 1" in found.source and "human > llm > click" in found.source and "0..1" in found.source
    turned = (HUMAN + CLICK).resolved(prefer=("click", "human"))
    assert dict(turned.frame.select("doc_id", "relevance").iter_rows())["a"] == 0.1


def test_metrics_follow_the_labels_that_were_chosen():
    alone, source = judged_scores(RUN, HUMAN, ["nDCG@10"])
    assert alone["nDCG@10"].to_list() == pytest.approx([0.5])  # the only relevant document stands third
    assert source.source == "judgments: human 2"
    mixed, _ = judged_scores(RUN, HUMAN + CLICK, ["nDCG@10"], prefer=("human", "click"))
    assert mixed["nDCG@10"].item() == pytest.approx((0.8 + 0.5) / (1 + 0.8 / 1.5849625007))


def test_several_judges_of_one_origin_are_averaged():
    two = JudgmentSet(labels([("q", "a", 3.0), ("q", "a", 1.0)], origin=pl.lit("human"), scale=pl.lit(3.0), judge=pl.Series(["ann", "bob"])))
    assert two.resolved().frame["relevance"].to_list() == [2.0] and two.resolved().counts == {"human": 1}


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (labels([("q", "a", 4.0)], origin=pl.lit("human"), scale=pl.lit(3.0)), "outside their scale"),
        (labels([("q", "a", float("nan"))], origin=pl.lit("human")), "outside their scale"),
        (labels([("q", "a", None)], origin=pl.lit("human")), "outside their scale"),
        (labels([("q", "a", 1.0)], origin=pl.lit("oracle")), "unknown origin 'oracle'"),
        (labels([("q", "a", 1.0), ("q", "a", 0.0)], origin=pl.lit("human")), "labelled twice"),
        (labels([("q", "a", 1.0)]), "no column origin"),
    ],
)
def test_bad_labels_are_refused(frame, said):
    with pytest.raises(BadInput, match=said):
        JudgmentSet(frame)
