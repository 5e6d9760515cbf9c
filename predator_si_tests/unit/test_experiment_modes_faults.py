"""Bad input of trials in shadow and of merged lists: held with the reason, never a verdict; one test a fault, by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import polars as pl
import pytest

from predator_si.records import Answer, ExperimentResult, Verdict
from predator_si.search.events import EventFrames
from predator_si_tests.support.trials import END, interleaved, shadowed
from predator_si_tests.support.windows import CHAMPION, START
from predator_si_tests.unit.test_experiment_modes import in_shadow, merged

Judge = Callable[..., ExperimentResult]
_GOOD = [(in_shadow, shadowed(), "shadows"), (merged, interleaved(n=200), "exposures")]
MODES = pytest.mark.parametrize(("judge", "good", "kind"), _GOOD, ids=["shadow", "merged"])
LATE = pl.int_range(pl.len()) >= pl.len() // 2


def held(found: ExperimentResult, word: str) -> None:
    assert found.verdict is Verdict.INCONCLUSIVE and found.reason.startswith("invalid") and word in found.reason, found.reason


def changed(events: EventFrames, kind: str, **columns: Any) -> EventFrames:
    return replace(events, **{kind: getattr(events, kind).with_columns(**columns)})


@MODES
def test_what_is_good_is_judged(judge: Judge, good: EventFrames, kind: str) -> None:
    assert judge(good).verdict is Verdict.PROMOTE and all(gate.answer is Answer.PASS for gate in judge(good).quality)


@MODES
def test_a_request_that_was_recorded_twice(judge: Judge, good: EventFrames, kind: str) -> None:
    frame = getattr(good, kind)
    held(judge(replace(good, **{kind: pl.concat([frame, frame[:1]])})), "recorded twice")


@MODES
def test_events_in_another_order_give_the_same_record(judge: Judge, good: EventFrames, kind: str) -> None:
    shuffled = {name: getattr(good, name).sample(fraction=1.0, shuffle=True, seed=3) for name in ("search", "actions", kind)}
    assert judge(replace(good, **shuffled)).to_json() == judge(good).to_json()


@MODES
def test_a_clock_that_goes_backwards(judge: Judge, good: EventFrames, kind: str) -> None:
    at = pl.lit(START) + pl.duration(seconds=3 * pl.int_range(pl.len()))
    assert judge(changed(good, kind, timestamp=at)).verdict is Verdict.PROMOTE
    held(judge(changed(good, kind, timestamp=pl.when(LATE).then(at - timedelta(seconds=90)).otherwise(at))), "clock went backwards")


def test_a_queue_that_makes_requests_wait_is_no_clock_that_goes_backwards() -> None:
    """What is dropped is written at once, what is scored a hundred seconds later: their events carry the times of their requests."""
    good, waits = shadowed(300, dropped=0.3), pl.when(pl.col("status") == "scored").then(100_000.0)
    frame = good.shadows.with_columns(waited_ms=waits).sort(pl.col("timestamp") + pl.duration(milliseconds=pl.col("waited_ms").fill_null(0.0).cast(pl.Int64)))
    frame = frame.with_columns(seq=pl.int_range(pl.len()))
    found = in_shadow(replace(good, shadows=frame))
    assert found.verdict is Verdict.PROMOTE and all(gate.answer is Answer.PASS for gate in found.quality), found.reason
    late = pl.when(LATE).then(0.0).otherwise("waited_ms")  # the same without the waiting of the second half: then the times contradict the numbers
    held(in_shadow(replace(good, shadows=frame.with_columns(waited_ms=late))), "clock went backwards")


@MODES
def test_events_that_were_lost_and_events_that_are_old(judge: Judge, good: EventFrames, kind: str) -> None:
    held(judge(replace(good, lost=20)), "stored nowhere")
    held(judge(good, now=END + timedelta(days=1)), "stale")


@MODES
def test_a_client_with_two_fifths_of_the_traffic(judge: Judge, good: EventFrames, kind: str) -> None:
    bot = pl.when(pl.int_range(pl.len()) % 5 < 2).then(pl.lit("bot")).otherwise("client_id")
    held(judge(changed(good, "search", client_id=bot)), "that is a program")


@MODES
def test_a_digest_that_changes_half_way(judge: Judge, good: EventFrames, kind: str) -> None:
    name = "shadow_digest" if kind == "shadows" else "candidate_digest"
    held(judge(changed(good, kind, **{name: pl.when(LATE).then(pl.lit("sha256:" + "d" * 64)).otherwise(name)})), "other models")


@MODES
def test_two_models_that_change_places_half_way(judge: Judge, good: EventFrames, kind: str) -> None:
    old, new = ("served_digest", "shadow_digest") if kind == "shadows" else ("champion_digest", "candidate_digest")
    swapped = {old: pl.when(LATE).then(new).otherwise(old), new: pl.when(LATE).then(old).otherwise(new)}
    held(judge(changed(good, kind, **swapped)), "other models")


@MODES
def test_nothing_and_one_observation(judge: Judge, good: EventFrames, kind: str) -> None:
    none = judge(replace(good, **{kind: getattr(good, kind)[:0]}))
    assert none.verdict is Verdict.INCONCLUSIVE and not any(gate.answer is Answer.PASS for gate in none.guardrails)
    one = judge(replace(good, **{kind: getattr(good, kind)[:1]}), min_sample=1)
    assert one.verdict is Verdict.INCONCLUSIVE and not any(gate.answer is Answer.PASS for gate in one.success)


def test_equal_times_on_both_models_show_nothing() -> None:
    found = in_shadow(shadowed(served_ms=50.0, shadow_ms=50.0), longest="7 days")
    assert found.verdict is Verdict.REJECT and "latency_ratio" in found.reason, "a spread that was never seen is not zero; at the maximum it is not shipped"


def test_merged_lists_without_a_click_and_with_ties_only() -> None:
    good = interleaved(n=200)
    silent = merged(replace(good, actions=good.actions[:0]))
    assert silent.verdict is Verdict.INCONCLUSIVE and "no client has clicked more" in silent.reason and silent.requests["decisive"] == 0
    rows = []
    for query_id, results, teams in good.search.select("query_id", "results").join(good.exposures.select("query_id", "teams"), on="query_id").iter_rows():
        for team in ("champion", "candidate"):
            rows.append((query_id, results[teams.index(team)]["object_id"]))
    clicks = pl.DataFrame(rows, schema=["query_id", "object_id"], orient="row").with_columns(action_name=pl.lit("click"))
    ties = merged(replace(good, actions=pl.concat([good.actions[:0], clicks], how="diagonal")))
    assert ties.verdict is Verdict.INCONCLUSIVE and (ties.requests["decisive"], ties.requests["clients"]) == (0, 0)


@pytest.mark.parametrize("mode", ["shadow", "merged"])
def test_one_model_with_other_settings_is_judged_like_two(mode: str) -> None:
    """The chain tries a smaller depth of the same model too: both digests are the champion's."""
    found = (
        in_shadow(shadowed(shadow_digest=CHAMPION), challenger=CHAMPION)
        if mode == "shadow"
        else merged(interleaved(n=200, candidate_digest=CHAMPION), challenger=CHAMPION)
    )
    assert found.verdict is Verdict.PROMOTE and all(gate.answer is Answer.PASS for gate in found.quality), found.reason
