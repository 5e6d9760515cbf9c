"""The page of a trial says what was found, and its plots are small and there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from predator_si.errors import BadInput
from predator_si.experiment.plan import after_look, begin, chain
from predator_si.records import Verdict
from predator_si.reports.sequences import confidence_sequences, evidence_over_checks
from predator_si.reports.trial import write_trial_page
from predator_si_tests.support.trials import END, stored_trial
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


def test_plots_are_small_and_say_when_there_is_nothing(tmp_path: Path) -> None:
    result = stored_trial(tmp_path)
    drawn = confidence_sequences(result.paths)
    assert drawn.startswith(b"\x89PNG") and 5_000 < len(drawn) < 120_000
    assert evidence_over_checks({"errors": [0.1, 2.0], "ndcg": [1.0, 12.0]}, {"errors": 9.2, "ndcg": 8.1}).startswith(b"\x89PNG")
    with pytest.raises(BadInput, match="nothing was measured yet"):
        confidence_sequences([{"metric": "x", "kind": "relative", "direction": "max", "margin": 0.1, "points": []}])
    with pytest.raises(BadInput, match="no check was made yet"):
        evidence_over_checks({"errors": []}, {"errors": 1.0})
