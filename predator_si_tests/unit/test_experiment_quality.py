"""Bad input of a trial: held with the reason, never a verdict; and what is judged twice, or in another order, gives the same record bit by bit."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from predator_si.errors import BadInput, Missing, Refused
from predator_si.experiment import judge_again
from predator_si.experiment.evidence import FILES, anonymise, read_evidence, write_evidence
from predator_si.records import Answer, ExperimentResult, Verdict
from predator_si.search.events import EventFrames
from predator_si_tests.support.windows import CHALLENGER, START, action, frames, search
from predator_si_tests.unit.test_experiment_ab import END, gate, judged, trial

THEIRS = {"variant": "candidate", "model_digest": CHALLENGER}


def changed(events: EventFrames, **columns: pl.Expr) -> EventFrames:
    return EventFrames(events.search.with_columns(**columns), events.actions, events.quarantine, events.lost, events.losses)


def held(events: EventFrames, word: str, **more: Any) -> ExperimentResult:
    found: ExperimentResult = judged(events, **more)
    assert found.verdict is Verdict.INCONCLUSIVE and found.reason.startswith("invalid"), found.reason
    assert word in found.reason
    assert found.would_change[0].startswith("Nothing that is measured")
    return found


GOOD = trial(slow=0.3, quality=1.1)


def test_a_client_with_two_fifths_of_the_traffic_is_no_person() -> None:
    assert judged(GOOD).verdict is Verdict.PROMOTE
    bot = changed(GOOD, client_id=pl.when(pl.int_range(pl.len()) % 5 < 2, pl.col("variant") == "champion").then(pl.lit("bot")).otherwise("client_id"))
    share = bot.search.filter(pl.col("client_id") == "bot").height / bot.search.height
    assert 0.3 < share < 0.45
    held(bot, "that is a program")


def test_a_variant_that_is_relabelled_half_way() -> None:
    late = pl.int_range(pl.len()) >= pl.len() // 2
    other = pl.when(pl.col("variant") == "champion").then(pl.lit("candidate")).otherwise(pl.lit("champion"))
    held(changed(GOOD, variant=pl.when(late).then(other).otherwise("variant")), "given to another model")


def test_a_digest_that_changes_during_the_trial() -> None:
    late = (pl.int_range(pl.len()) >= pl.len() // 2) & (pl.col("variant") == "candidate")
    found = held(changed(GOOD, model_digest=pl.when(late).then(pl.lit("sha256:" + "d" * 64)).otherwise("model_digest")), "third model")
    assert found.requests["other"] > 50


def test_a_clock_that_goes_backwards() -> None:
    back = pl.when(pl.col("seq") >= 500).then(pl.col("timestamp") - timedelta(minutes=5)).otherwise("timestamp")
    held(changed(GOOD, timestamp=back), "clock went backwards")
    little = pl.when(pl.col("seq") % 10 == 0).then(pl.col("timestamp") - timedelta(seconds=30)).otherwise("timestamp")
    assert judged(changed(GOOD, timestamp=little)).verdict is Verdict.PROMOTE, "requests that overlap end in another order than they began"


def test_duplicated_events() -> None:
    twice = EventFrames(pl.concat([GOOD.search, GOOD.search[:3]]), GOOD.actions, GOOD.quarantine, 0, GOOD.losses)
    held(twice, "3 of 1003 requests were recorded twice")


def test_events_in_another_order_give_the_same_record() -> None:
    shuffled = EventFrames(
        GOOD.search.sample(fraction=1.0, shuffle=True, seed=1), GOOD.actions.sample(fraction=1.0, shuffle=True, seed=2), GOOD.quarantine, 0, GOOD.losses
    )
    assert judged(shuffled).to_json() == judged(GOOD).to_json()


def test_lost_and_stale_events() -> None:
    held(EventFrames(GOOD.search, GOOD.actions, GOOD.quarantine, 50, GOOD.losses), "stored nowhere")
    held(GOOD, "the data are stale", now=END + timedelta(hours=2))


def test_an_empty_arm_holds() -> None:
    alone = frames([search(i) for i in range(300)])
    held(alone, "sample-ratio")
    few = judged(frames([search(i) for i in range(15)] + [search(20 + i, **THEIRS) for i in range(1)]), min_sample=10)
    assert few.verdict is Verdict.INCONCLUSIVE and gate(few, "avg_latency_ms").answer is Answer.UNKNOWN


def test_zero_variance_shows_nothing() -> None:
    rows = [search(i, **(THEIRS if i % 5 == 0 else {})) for i in range(1000)]
    found = judged(frames(rows, [action(f"r{i}") for i in range(1000)]))
    latency = gate(found, "avg_latency_ms")
    assert found.verdict is Verdict.INCONCLUSIVE and latency.answer is Answer.UNKNOWN and "a spread that was never seen" in latency.reason


def test_one_observation_shows_nothing() -> None:
    one = judged(frames([search(0)]), min_sample=1)
    assert one.verdict is Verdict.INCONCLUSIVE and one.guardrails[0].answer is Answer.UNKNOWN and not any(g.answer is Answer.PASS for g in one.guardrails)
    assert all(point["low"] is None for path in one.paths if path["metric"] == "p95_latency_ms" for point in path["points"])


def test_a_slice_that_is_worse_than_its_margin_rejects_what_the_mean_would_pass() -> None:
    """Long queries take six times as long under the challenger, all others a third: the mean is better, the slice is not."""
    rng = np.random.default_rng(3)
    rows, clicks = [], []
    for i in range(4000):
        theirs, long = rng.random() < 0.2, rng.random() < 0.06
        slow = (6.0 if long else 0.3) if theirs else 1.0
        rows.append(search(i % 3500, query_id=f"q{i}", client_id=f"c{i}", seq=i, latency_ms=float(rng.lognormal(np.log(100 * slow), 0.4)),
                           query_words=9 if long else 3, **(THEIRS if theirs else {})))  # fmt: skip
        if rng.random() < 0.5:
            clicks.append(action(f"q{i}", object_id="d1"))
    rows.sort(key=lambda row: row["timestamp"])
    events = frames([row | {"seq": number} for number, row in enumerate(rows)], clicks)
    found = judged(events)
    assert gate(found, "avg_latency_ms").answer is Answer.PASS and gate(found, "avg_latency_ms").value < 0
    assert found.verdict is Verdict.REJECT and "slice words 6+" in found.reason
    by_name = {(row["name"], row["metric"]): row["answer"] for row in found.slices}
    assert by_name["words 6+", "avg_latency_ms"] == "fail" and by_name["words 3-5", "avg_latency_ms"] == "pass"


def test_the_first_part_of_a_trial_can_be_left_out() -> None:
    """In its first quarter of an hour everybody clicks what is new; after it fewer do."""
    rows, clicks = [], []
    rng = np.random.default_rng(0)
    for i in range(3000):
        theirs = rng.random() < 0.2
        rows.append(search(i, client_id=f"c{i}", latency_ms=float(rng.lognormal(4, 0.3)), **(THEIRS if theirs else {})))
        if rng.random() < ((0.95 if i < 900 else 0.2) if theirs else 0.6):
            clicks.append(action(f"r{i}", object_id="d0"))
    events = frames(rows, clicks)
    assert gate(judged(events), "click_through").value > gate(judged(events, novelty=timedelta(minutes=15)), "click_through").value
    assert gate(judged(events, novelty=timedelta(minutes=15)), "click_through").answer is Answer.FAIL
    assert judged(events, novelty=timedelta(minutes=15)).requests["champion"] > 2000, "validity and errors count from the beginning"


# --------------------------------------------------------------------------- evidence


def stored(folder: Path) -> ExperimentResult:
    plain = anonymise(GOOD, START, END)
    result: ExperimentResult = judged(plain)
    return result.model_copy(update={"evidence": write_evidence(folder, plain)})


def test_the_verdict_is_the_same_bit_by_bit_from_the_stored_evidence(tmp_path: Path) -> None:
    result = stored(tmp_path)
    assert set(result.evidence) == {FILES["search"], FILES["action"]}
    known = ExperimentResult.model_validate_json(result.to_json())
    again = judge_again(known, read_evidence(tmp_path, known.evidence, lost=known.inputs["lost"]))
    assert again.to_json() == result.to_json()
    assert judged(GOOD).verdict is result.verdict and judged(GOOD).guardrails == result.guardrails, "numbers instead of names change nothing"


def test_the_evidence_names_nobody(tmp_path: Path) -> None:
    stored(tmp_path)
    found = pl.read_parquet(tmp_path / FILES["search"])
    assert found["user_query"].null_count() == found["session_id"].null_count() == found.height == 1000
    assert found["client_id"].str.contains(r"^c\d{9}$").all() and not set(found["query_id"]) & set(GOOD.search["query_id"])
    assert anonymise(anonymise(GOOD, START, END), START, END).search.equals(anonymise(GOOD, START, END).search)


def test_evidence_that_was_touched_or_lost_gives_no_verdict(tmp_path: Path) -> None:
    result = stored(tmp_path)
    path = tmp_path / FILES["search"]
    pl.read_parquet(path).with_columns(latency_ms=pl.col("latency_ms") * 0.5).write_parquet(path)
    with pytest.raises(Refused, match="its sha256 differs"):
        read_evidence(tmp_path, result.evidence)
    path.unlink()
    with pytest.raises(Missing, match="evidence of a verdict"):
        read_evidence(tmp_path, result.evidence)
    with pytest.raises(BadInput, match="no inputs"):
        judge_again(result.model_copy(update={"inputs": {}}), GOOD)


def test_what_would_change_the_verdict_is_said_with_numbers() -> None:
    waiting = judged(trial(n=1500), contour="edge-oracle")
    assert waiting.verdict is Verdict.INCONCLUSIVE
    assert any("error_rate" in line and "requests in all" in line for line in waiting.would_change), waiting.would_change
    assert "100 more requests" in " ".join(judged(trial(n=100)).would_change)
    assert any("avg_latency_ms" in line and "would fail if" in line for line in judged(GOOD).would_change)
