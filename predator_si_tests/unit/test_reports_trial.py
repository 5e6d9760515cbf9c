"""The page of a trial says what was found, and its plots are small and there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from predator_si.errors import BadInput
from predator_si.experiment.interleave import judge_interleave
from predator_si.experiment.plan import after_look, begin, chain
from predator_si.experiment.shadow import judge_shadow
from predator_si.records import Verdict
from predator_si.reports.sequences import confidence_sequences, evidence_over_checks
from predator_si.reports.trial import resolutions, write_trial_page
from predator_si_tests.support.trials import END, WHEN, interleaved, shadowed, stored_trial
from predator_si_tests.support.windows import CHALLENGER, CHAMPION
from predator_si_tests.unit.test_experiment_plan import plan


def test_the_page_shows_the_verdict_its_sequences_and_what_would_change_it(tmp_path: Path) -> None:
    result = stored_trial(tmp_path)
    trial = after_look(begin(plan(steps=chain((), split=0.2, min_samples=200)), END), result, 400, END)
    text = write_trial_page(tmp_path, trial, result).read_text()
    assert result.verdict is Verdict.PROMOTE and "promote" in text and "simulated users" in text
    for heading in ("What would change this verdict", "Confidence sequences over the trial", "Validity, guardrails, success", "Sample", "Looks", "Evidence"):
        assert f"<h2>{heading}</h2>" in text
    assert "avg_latency_ms" in text and "sample-ratio p" in text and all(sha in text for sha in result.evidence.values())
    assert text.count("data:image/png;base64,") == 2, "one plot for each theme"
    assert not re.search(r"https?://", text) and "<script" not in text


def test_the_page_says_what_each_sequence_can_resolve(tmp_path: Path) -> None:
    result = stored_trial(tmp_path)
    newest = next(path for path in result.paths if path["metric"] == "avg_latency_ms")["points"][-1]
    half = (newest["high"] - newest["low"]) / 2
    assert f"avg_latency_ms: a change of about {half:.1%}, from 400 requests" in resolutions(result)
    assert "What this step can resolve:" in write_trial_page(tmp_path, begin(plan(), END), result).read_text()
    open_end = {"metric": "p95_latency_ms", "kind": "relative", "points": [{"n": 40, "estimate": 0.1, "low": None, "high": 0.4}]}
    points = {"metric": "error_rate", "kind": "absolute", "points": [{"n": 1200, "estimate": 0.0, "low": -0.01, "high": 0.02}]}
    said = resolutions(result.model_copy(update={"paths": [open_end, points]}))
    assert said == ["p95_latency_ms: nothing yet, its sequence is unbounded", "error_rate: a change of about 1.50 points, from 1,200 requests"]


def test_earlier_steps_of_the_chain_stay_on_the_page(tmp_path: Path) -> None:
    last, earlier = (
        stored_trial(tmp_path),
        [judge_shadow(shadowed(120, 0.5), CHAMPION, CHALLENGER, **WHEN), judge_interleave(interleaved(), CHAMPION, CHALLENGER, **WHEN)],
    )
    trial = after_look(begin(plan(steps=chain((), split=0.2, min_samples=200)), END), last, 400, END)
    text = write_trial_page(tmp_path, trial, last, earlier).read_text()
    for which, step in (("Step 1, shadow: ", earlier[0]), ("Step 2, interleave: ", earlier[1])):
        for heading in ("verdict", "Confidence sequences over the trial", "Validity, guardrails, success", "Sample"):
            assert f"<h2>{which}{heading}</h2>" in text
        assert all(gate.criterion.name in text for gate in [*step.quality, *step.guardrails])
    assert "the challenger won" in text and "of the champion&#39;s time" in text.replace("&#x27;", "&#39;"), "what each step found is still told"
    assert text.count("data:image/png;base64,") == 6, "one plot a step, for each theme"


def test_plots_are_small_and_say_when_there_is_nothing(tmp_path: Path) -> None:
    result = stored_trial(tmp_path)
    drawn = confidence_sequences(result.paths)
    assert drawn.startswith(b"\x89PNG") and 5_000 < len(drawn) < 120_000
    assert evidence_over_checks({"errors": [0.1, 2.0], "ndcg": [1.0, 12.0]}, {"errors": 9.2, "ndcg": 8.1}).startswith(b"\x89PNG")
    with pytest.raises(BadInput, match="nothing was measured yet"):
        confidence_sequences([{"metric": "x", "kind": "relative", "direction": "max", "margin": 0.1, "points": []}])
    with pytest.raises(BadInput, match="no check was made yet"):
        evidence_over_checks({"errors": []}, {"errors": 1.0})
