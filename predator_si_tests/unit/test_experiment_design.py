"""Each number of a design does something: its field is read where verdicts are made, and a trial's levels are the design's, shared by what is asked."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import predator_si
from predator_si.errors import BadInput
from predator_si.experiment.guardrails import default_guardrails
from predator_si.records import Answer, ExperimentResult, Verdict
from predator_si.release.watch import WatchPlan
from predator_si.statistics.design import DEFAULT_DESIGN, Design
from predator_si_tests.unit.test_experiment_ab import judged, trial

GOOD = trial(slow=0.93, quality=1.0)


def test_each_number_is_read_somewhere() -> None:
    root = Path(predator_si.__file__).parent
    own = root / "statistics" / "design.py"
    others = "\n".join(path.read_text() for path in root.rglob("*.py") if path != own)
    bodies = dict(re.findall(r"    @property\n    def (\w+)\(self\).*?:\n(.*?)(?=\n    @|\n    def |\Z)", own.read_text(), re.S))
    used = {name for name in bodies if re.search(rf"\.{name}\b", others)}
    for one in fields(Design):
        by_property = any(re.search(rf"self\.{one.name}\b", bodies[name]) for name in used)
        assert by_property or re.search(rf"\.{one.name}\b", others), f"design.{one.name} changes nothing: wire it, or delete it"


def test_records_of_earlier_designs_are_still_read_and_settings_may_not_name_what_is_gone() -> None:
    plan = WatchPlan(cycle_id="si_2026_11_22_001", released_digest="sha256:x", design=DEFAULT_DESIGN.replaced({"errors_alpha": 0.001}))
    stored = plan.model_dump(mode="json")
    stored["design"] |= {"ndcg_burn_in": 30, "trial_tuned_for": 1000}
    assert WatchPlan.model_validate(stored) == plan
    with pytest.raises(BadInput, match="design has no ndcg_burn_in"):
        DEFAULT_DESIGN.replaced({"ndcg_burn_in": 30})
    with pytest.raises(BadInput, match="design has no unheard_of"):
        Design.kept({"unheard_of": 1})


def faster(alpha: float, **more: Any) -> bool:
    found = judged(GOOD, design=DEFAULT_DESIGN.replaced({"superiority_alpha": alpha}), **more)
    return next(gate for gate in found.success if gate.criterion.metric == "avg_latency_ms").answer is Answer.PASS


def test_the_metrics_that_may_be_better_share_one_level() -> None:
    alone = {"guardrails": [rule for rule in default_guardrails("local") if rule.criterion.metric == "avg_latency_ms"]}
    low, high = 1e-30, 0.49
    assert faster(high, **alone) and not faster(low, **alone)
    while high / low > 1.3:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if faster(middle, **alone) else (middle, high)
    assert faster(1.5 * high, **alone) and not faster(1.5 * high), "with two more metrics asked each has a third of the level"
    assert faster(4.0 * high), "and a third of four times the level suffices again"


def split_gate(found: ExperimentResult) -> Any:
    return next(gate for gate in found.quality if gate.criterion.name == "sample_ratio")


def test_the_split_is_judged_at_the_designs_level_and_strength() -> None:
    p = split_gate(judged(GOOD, split=0.26)).value
    assert 0.0 < p < 0.2
    for alpha, answer in ((2.0 * p, Answer.FAIL), (p / 2.0, Answer.PASS)):
        gate = split_gate(judged(GOOD, split=0.26, design=DEFAULT_DESIGN.replaced({"sample_ratio_alpha": alpha})))
        assert (gate.answer, gate.limit) == (answer, alpha)
    assert split_gate(judged(GOOD, split=0.26, design=DEFAULT_DESIGN.replaced({"sample_ratio_strength": 5.0}))).value != p


def test_what_is_new_fills_no_minimum() -> None:
    n = GOOD.search.height
    assert judged(GOOD, min_sample=n // 2).verdict is not Verdict.INCONCLUSIVE or "the trial needs" not in judged(GOOD, min_sample=n // 2).reason
    found = judged(GOOD, min_sample=n // 2, novelty=timedelta(hours=0.9))
    assert found.verdict is Verdict.INCONCLUSIVE and f"the trial needs {n // 2}" in found.reason
