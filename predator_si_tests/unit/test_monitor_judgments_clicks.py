"""Clicks over expected clicks, weights from fitted propensities, and votes: numbers by hand, and what one client must not be able to do."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from predator_si.errors import BadInput
from predator_si.monitor import click_quality
from predator_si.monitor.judgments import click_curve, coec, coec_of, feedback_judgments, impressions, votes_of
from predator_si.statistics import ratio_interval
from predator_si_tests.support.windows import START, action, frames, search


def test_impressions_are_what_was_shown_to_whom_and_clicked():
    rows = [search(0, client_id="c", user_query="  Read  FILE "), search(1, client_id=None), search(2, user_query=None)]
    events = frames(rows, [action("r0", object_id="d3"), action("r0", object_id="d3"), action("r0", object_id="unseen"), action("r2")])
    shown = impressions(events.search, events.actions, k=4)
    assert shown.height == 8  # the erased query says nothing
    clicked = shown.filter(pl.col("clicked"))
    assert clicked.select("client", "query", "doc_id", "position").rows() == [("c", "read file", "d3", 4)]
    assert set(shown["client"].to_list()) == {"c", "r1"}


def shown_frame(rows):
    return pl.DataFrame(rows, schema=["client", "variant", "query", "doc_id", "position", "clicked"], orient="row")


def test_coec_by_hand():
    one = [("c1", "a", "q", "x", 1, True), ("c2", "a", "q", "x", 1, True), ("c1", "a", "q", "y", 2, False)]
    other = [("c3", "b", "q", "y", 1, False), ("c3", "b", "q", "x", 2, True), ("c2", "a", "q", "y", 2, False)]
    shown = shown_frame([*one, *other])
    assert click_curve(shown, 3) == pytest.approx([2 / 3, 1 / 3, float("nan")], nan_ok=True)
    found = {doc: (value, clicks, expected) for doc, value, clicks, expected in coec(shown).select("doc_id", "coec", "clicks", "expected").iter_rows()}
    assert found["x"] == pytest.approx((3 / (2 / 3 + 2 / 3 + 1 / 3), 3, 5 / 3)) and found["y"][0] == 0.0
    by_variant = coec(shown, ("variant",))
    row = by_variant.filter(pl.col("variant") == "a").row(0, named=True)
    same = ratio_interval([1.0, 1.0], [1.0, 1.0])  # each of two clients: one click, one expected
    assert (row["coec"], row["low"], row["high"]) == pytest.approx((same.estimate, same.low, same.high))
    assert by_variant.filter(pl.col("variant") == "b")["low"].to_list() == [None]  # one client says nothing about how clients differ
    with pytest.raises(BadInput, match="without an expected click rate"):
        coec(shown, curve=np.array([0.5]))


def test_coec_interval_agrees_with_the_ratio_of_totals_and_covers_its_truth():
    rng, curve, hits = np.random.default_rng(0), np.array([0.5, 0.25]), 0
    for _ in range(200):
        n = 400
        client, place = rng.integers(0, 60, n), rng.integers(1, 3, n)
        # Clients differ in how much they click: what an interval over impressions would miss.
        eager = rng.uniform(0.4, 1.6, 60)
        clicked = rng.random(n) < 0.8 * curve[place - 1] * eager[client]
        shown = shown_frame([(f"c{c}", "a", "q", "d", int(p), bool(hit)) for c, p, hit in zip(client, place, clicked, strict=True)])
        interval, row = coec_of(shown, curve), coec(shown, ("variant",), curve=curve).row(0, named=True)
        assert (row["coec"], row["low"], row["high"]) == pytest.approx((interval.estimate, interval.low, interval.high))
        hits += interval.low <= 0.8 <= interval.high
    assert 0.90 <= hits / 200 <= 0.99


def test_click_weights_follow_the_fitted_propensities_and_are_clipped():
    events = frames([search(0), search(1), search(2)], [action("r0", object_id="d0"), action("r0", object_id="d9"), action("r1", object_id="d2")])
    fitted = [1.0, 0.8, 0.4, 0.3, 0.2, 0.2, 0.1, 0.1, 0.1, 0.001]
    found = click_quality(events.search, events.actions, propensities=fitted, clip=20.0)
    assert found["value"].to_list() == pytest.approx([1.0 + 20.0 / np.log2(11), 2.5 / 2, 0.0])
    weights = np.array([1.0, 20.0, 2.5])
    assert found["weight"].sum() ** 2 / found["squares"].sum() == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    plain = click_quality(events.search, events.actions, eta=1.0)
    same = click_quality(events.search, events.actions, propensities=[1.0 / r for r in range(1, 11)])
    assert plain["value"].to_list() == pytest.approx(same["value"].to_list())
    for wrong in ([1.0, 0.5], [*fitted[:9], 0.0], [*fitted[:9], 1.2]):
        with pytest.raises(BadInput, match="propensities"):
            click_quality(events.search, events.actions, propensities=wrong)


def votes(rows):
    frame = pl.DataFrame(rows, schema=["doc_id", "client", "kind", "value"], orient="row").with_columns(query_id=pl.lit("q"))
    return frame.with_columns(timestamp=START + pl.duration(seconds=pl.int_range(pl.len())))


def test_a_label_needs_several_clients_and_each_has_one_vote():
    rows = [("a", "c1", "mark", 1.0)] * 30 + [("a", "c2", "mark", 0.0), ("a", "c3", "rating", 1.0)] + [("b", "c1", "mark", 1.0)] * 30
    found = feedback_judgments(votes(rows))
    assert found.judgments.frame.select("doc_id", "origin").rows() == [("a", "feedback")] and found.too_few == 1
    assert found.judgments.frame["relevance"].item() == pytest.approx(1 / 3)
    changed = feedback_judgments(votes([*rows, ("a", "c1", "mark", 0.0)]))  # the newest vote of a client counts
    assert changed.judgments.frame["relevance"].item() == 0.0


def test_a_client_who_votes_on_everything_weighs_less():
    crowd = [(f"d{i}", f"c{j}", "mark", 0.0) for i in range(200) for j in (2 * i, 2 * i + 1)]
    eager = [(f"d{i}", "spammer", "mark", 1.0) for i in range(200)]
    found = feedback_judgments(votes(crowd + eager), client_cap=20.0)
    assert found.capped == 1 and found.judgments.height == 200
    assert found.judgments.frame["relevance"].max() == pytest.approx(0.1 / 2.1)  # one tenth of a vote against two
    assert feedback_judgments(votes(crowd + eager), client_cap=1000.0).judgments.frame["relevance"].max() == pytest.approx(1 / 3)


def test_conflicts_and_unusable_votes_are_reported():
    rows = [("a", f"c{i}", "rating", 5.0 if i % 2 else 1.0) for i in range(8)] + [("b", f"c{i}", "rating", 5.0) for i in range(4)]
    rows += [("b", None, "rating", 5.0), ("b", "c9", "rating", 6.0), ("b", "c9", "mark", 0.5), (None, "c9", "mark", 1.0), ("b", "c9", "shout", 1.0)]
    found = feedback_judgments(votes(rows), origin="human")
    assert found.refused == 5 and found.judgments.counts == {"human": 2}
    assert found.conflicts.select("doc_id", "mean", "clients").rows() == [("a", 0.5, 8)]


def test_votes_come_from_ratings_of_documents_that_were_shown():
    rows = [search(i, user_query="Same  query", client_id=f"c{i}") for i in range(4)]
    rated = [action(f"r{i}", "rating", object_id="d1", value=5.0, timestamp=START + timedelta(seconds=i)) for i in range(3)]
    rated += [action("r3", "rating", object_id="never", value=5.0), action("r3", "rating", object_id=None, value=1.0)]
    events = frames(rows, rated)
    found = feedback_judgments(votes_of(events.search, events.actions))
    assert found.judgments.frame.select("doc_id", "relevance", "query").rows() == [("d1", 1.0, "Same  query")]
