"""The probe panel: frozen within a period, partly exchanged by the calendar, never a sealed query."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from predator_si.errors import BadInput, Refused
from predator_si.monitor import evaluate_gate
from predator_si.monitor.judgments import panel, panel_of, same_panel, with_panels
from predator_si.records import Baseline, Criterion, Metric, MetricsSnapshot

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
WEEK = timedelta(days=7)


def pool(n: int = 400, split: str = "dev") -> pl.DataFrame:
    return pl.DataFrame({"query_id": [f"q{i}" for i in range(n)], "text": [f"query {i}" for i in range(n)]}).with_columns(
        part=pl.when(pl.int_range(pl.len()) % 4 == 0).then(pl.lit("shift")).otherwise(pl.lit("base")), split=pl.lit(split)
    )


def ids(found) -> set[str]:
    return set(found.queries["query_id"].to_list())


def test_a_panel_is_frozen_for_its_period_whatever_the_order_of_the_pool():
    wanted = {"base": 60, "shift": 30}
    first = panel(pool(), wanted, MONDAY)
    last = panel(pool().sample(fraction=1.0, shuffle=True, seed=3), wanted, MONDAY + WEEK - timedelta(microseconds=1))
    assert first.queries["query_id"].to_list() == last.queries["query_id"].to_list() and first.panel_id == last.panel_id
    assert first.counts == {"base": 60, "shift": 30} and (first.starts, first.ends) == (MONDAY, MONDAY + WEEK)
    assert same_panel(first.source, last.source) is None and panel_of(f"judged probes over HTTP, {first.source}, 0 of 90 failed") == first.panel_id


@pytest.mark.parametrize("stays", [1, 2, 4])
def test_the_turn_of_the_calendar_exchanges_one_part_in_so_many(stays: int):
    shared = [
        len(ids(panel(pool(4000), {"base": 200}, MONDAY + i * WEEK, stays=stays)) & ids(panel(pool(4000), {"base": 200}, MONDAY + (i + 1) * WEEK, stays=stays)))
        for i in range(6)
    ]
    kept = (stays - 1) / stays
    expected = kept + (1 - kept) * 200 / 3000  # of the exchanged ones some come back by chance
    assert abs(sum(shared) / 6 / 200 - expected) < 0.02 and all(n >= 200 * kept for n in shared)
    here, there = panel(pool(), {"base": 60}, MONDAY, stays=stays), panel(pool(), {"base": 60}, MONDAY + WEEK, stays=stays)
    assert here.panel_id in (same_panel(here.source, there.source) or "")


def test_all_of_the_pool_are_asked_in_the_long_run():
    seen: set[str] = set()
    for i in range(40):
        seen |= ids(panel(pool(), {"base": 75, "shift": 25}, MONDAY + i * WEEK))
    assert len(seen) > 0.99 * 400


def test_a_smaller_panel_of_the_same_period_is_part_of_the_larger_and_a_small_part_gives_what_it_has():
    small, large = panel(pool(), {"base": 20, "shift": 10}, MONDAY), panel(pool(), {"base": 90, "shift": 999}, MONDAY)
    assert ids(small) < ids(large) and large.counts == {"base": 90, "shift": 100}
    assert same_panel(small.source, large.source) is None
    assert same_panel(small.source, "judged probes over HTTP") is not None  # a reference that names no panel cannot be taken for the same one


@pytest.mark.parametrize("split", ["test", "train", None])
def test_sealed_queries_never_become_probes(split):
    mixed = pl.concat([pool(20), pool(1, "dev").with_columns(query_id=pl.lit("sealed"), split=pl.lit(split, dtype=pl.String))])
    with pytest.raises(Refused, match="sealed"):
        panel(mixed, {"base": 5}, MONDAY)


def test_nothing_to_ask_is_an_error():
    with pytest.raises(BadInput, match="no judged dev queries"):
        panel(pool(), {"base": 0}, MONDAY)
    with pytest.raises(BadInput, match="stays"):
        panel(pool(), {"base": 5}, MONDAY, stays=0)


def test_a_gate_says_when_its_baseline_was_measured_on_other_probes():
    def gate(current: str, reference: str) -> str:
        metric = Metric(name="ndcg_at_10", value=0.5, n=90, ci_low=0.45, ci_high=0.55, source=f"judged probes over HTTP, {current}", age_seconds=0.0)
        snapshot = MetricsSnapshot(
            snapshot_id="s", contour="local", created_at=MONDAY, window_start=MONDAY, window_end=MONDAY, champion="m", metrics={"ndcg_at_10": metric}
        )
        known = Baseline(champion="m", created_at=MONDAY, windows=4, values={"ndcg_at_10": 0.6}, sources={"ndcg_at_10": reference})
        rule = Criterion(name="ndcg_at_10_relative", metric="ndcg_at_10", direction="min", kind="relative", threshold=-0.03)
        return with_panels([evaluate_gate(rule, snapshot, known, MONDAY)], snapshot, known)[0].reason

    here, there = panel(pool(), {"base": 60}, MONDAY).source, panel(pool(), {"base": 60}, MONDAY + WEEK).source
    assert "part of the difference may be the queries" in gate(here, there)
    assert "queries" not in gate(here, here) and "queries" not in gate("no panel", "none")
