"""Trials that nobody sees, and trials that everybody judges without knowing: what they show, what they hold, and that they come out the same again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from predator_si.experiment import judge_again
from predator_si.experiment.evidence import anonymise, read_evidence, write_evidence
from predator_si.experiment.interleave import judge_interleave
from predator_si.experiment.shadow import judge_shadow
from predator_si.records import ExperimentResult, Verdict
from predator_si.search.events import EventFrames
from predator_si_tests.support.trials import END, WHEN, interleaved, shadowed
from predator_si_tests.support.windows import CHALLENGER, CHAMPION, START


def in_shadow(events: EventFrames, challenger: str = CHALLENGER, **more: Any) -> ExperimentResult:
    return judge_shadow(events, CHAMPION, challenger, **(WHEN | {"asks_proof": False} | more))


def merged(events: EventFrames, challenger: str = CHALLENGER, **more: Any) -> ExperimentResult:
    return judge_interleave(events, CHAMPION, challenger, **(WHEN | more))


@pytest.mark.parametrize(
    ("events", "verdict", "word"),
    [
        ({"ratio": 0.5}, Verdict.PROMOTE, "within the margin"),
        ({"ratio": 1.5}, Verdict.REJECT, "harm"),
        ({"ratio": 0.5, "failed": 0.3}, Verdict.REJECT, "shown to be above 1%"),
        ({"n": 25, "ratio": 0.5}, Verdict.INCONCLUSIVE, "25 requests scored by both models, 30 are needed"),
        ({"dropped": 0.8, "n": 400}, Verdict.INCONCLUSIVE, "invalid: 3"),
        ({"shadow_digest": "sha256:" + "d" * 64}, Verdict.INCONCLUSIVE, "scored by other models"),
    ],
)
def test_a_trial_in_shadow(events: dict[str, Any], verdict: Verdict, word: str) -> None:
    found = in_shadow(shadowed(**events))
    assert found.verdict is verdict and word in found.reason, found.reason
    assert found.mode == "shadow" and found.sample_ratio_p is None


def test_shadow_asks_for_proof_where_the_contour_does_and_ends_at_its_maximum() -> None:
    open_one = in_shadow(shadowed(), asks_proof=True)
    assert open_one.verdict is Verdict.INCONCLUSIVE and "not yet shown" in open_one.reason
    last = in_shadow(shadowed(), asks_proof=True, longest="7 days or 120 requests")
    assert last.verdict is Verdict.REJECT and "not shown within 7 days or 120 requests, so not shipped" in last.reason
    assert in_shadow(shadowed(1500), asks_proof=True).verdict is Verdict.PROMOTE


def test_equal_times_and_no_event_in_shadow_show_nothing() -> None:
    same = shadowed(served_ms=50.0, shadow_ms=50.0)
    assert in_shadow(same).verdict is Verdict.INCONCLUSIVE
    empty = EventFrames(same.search, same.actions, same.quarantine, 0, same.losses)
    assert in_shadow(empty).verdict is Verdict.INCONCLUSIVE
    assert in_shadow(shadowed(), now=END + timedelta(days=1)).reason.startswith("invalid: the newest event")


@pytest.mark.parametrize(
    ("events", "verdict", "word"),
    [
        ({"liked": 0.75}, Verdict.PROMOTE, "preferred"),
        ({"liked": 0.25}, Verdict.REJECT, "people prefer the champion"),
        ({"liked": 0.5, "n": 100}, Verdict.INCONCLUSIVE, "open"),
        ({"n": 40}, Verdict.INCONCLUSIVE, "40 merged lists, 50 are needed"),
        ({"fell_back": True}, Verdict.REJECT, "a model failed in 400 of 400"),
        ({"candidate_digest": "sha256:" + "d" * 64}, Verdict.INCONCLUSIVE, "merged from other models"),
        ({"teams": ["champion"] * 5}, Verdict.INCONCLUSIVE, "not drafted fairly"),
    ],
)
def test_an_interleaved_trial(events: dict[str, Any], verdict: Verdict, word: str) -> None:
    found = merged(interleaved(**events))
    assert found.verdict is verdict and word in found.reason, found.reason


def test_a_client_counts_once_in_an_interleaved_trial() -> None:
    found = merged(interleaved(n=300, liked=0.8, per_client=100))
    assert found.requests["clients"] <= 3 < found.requests["decisive"] and found.verdict is Verdict.INCONCLUSIVE


def test_an_equal_ranking_is_seldom_called_worse() -> None:
    rejected = sum(merged(interleaved(n=150, liked=0.5, seed=seed)).verdict is Verdict.REJECT for seed in range(20))
    assert rejected == 0  # level .001 each: one of twenty has probability below .02


@pytest.mark.parametrize("events", [shadowed(), interleaved(n=120)], ids=["shadow", "interleave"])
def test_the_verdict_comes_out_the_same_from_stored_evidence(tmp_path: Path, events: EventFrames) -> None:
    plain = anonymise(events, START, END)
    result = in_shadow(plain) if plain.shadows.height else merged(plain)
    stored = result.model_copy(update={"evidence": write_evidence(tmp_path, plain, "trial/1-x")})
    known = ExperimentResult.model_validate_json(stored.to_json())
    assert judge_again(known, read_evidence(tmp_path, known.evidence)).to_json() == stored.to_json()
    kinds = {"search": events.search, "actions": events.actions, "exposures": events.exposures, "shadows": events.shadows}
    shuffled = replace(events, **{name: frame.sample(fraction=1, shuffle=True, seed=1) for name, frame in kinds.items()})
    again = anonymise(shuffled, START, END)
    assert (in_shadow(again) if again.shadows.height else merged(again)).to_json() == result.to_json()
