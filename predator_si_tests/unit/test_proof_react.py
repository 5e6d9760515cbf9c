"""`bench react` without a platform: what it covers, what it counts, and what it calls unknown."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from predator_si.monitor import TRIGGERS
from predator_si.proof.bench_react import FAULTS, _measured_by
from predator_si.proof.react.effects import SCENARIOS, UNKNOWN, WITHOUT_PATCH, Effects, Planted, Reading, effect_of, metric_of
from predator_si.proof.react.faults import ANY, CURSED, Faults, RefusingEmbedder
from predator_si.proof.react.waits import Waits

RULES = {rule.type: rule for rule in TRIGGERS}
PLANTED = Planted("a fault", lambda: None, "none", lambda snapshot: Reading(None, 0))


def test_each_action_of_the_trigger_table_is_measured_or_says_why_not() -> None:
    every = {action for rule in TRIGGERS for action in rule.actions}
    groups = (set(SCENARIOS), set(UNKNOWN), set(WITHOUT_PATCH))
    assert every <= set.union(*groups) and set(SCENARIOS) | set(UNKNOWN) <= every
    assert sum(map(len, groups)) == len(set.union(*groups)), "no action is in two groups"
    assert all(action in RULES[signal].actions for action, (signal, _) in SCENARIOS.items())


def test_each_row_has_a_fault_and_each_fault_can_be_planted() -> None:
    assert set(FAULTS) == set(RULES)
    assert all(hasattr(Effects, f"_{fault}") for fault in (*FAULTS.values(), *(fault for _, fault in SCENARIOS.values())))
    assert all(metric_of(signal) in RULES[signal].metrics for signal in FAULTS)


@pytest.mark.parametrize(
    ("signal", "took", "action"),
    [
        ("p95_latency_ms_up", "quantise", "quantise"),
        ("p95_latency_ms_up", "quantise, cut_depth", None),
        ("cost_per_1k_requests_up", "quantise", "cheaper_variant"),
        ("error_rate_up", "depth_zero", "depth_zero"),
    ],
)
def test_what_a_row_took_stands_for_an_action_of_its_own(signal: str, took: str, action: str | None) -> None:
    assert _measured_by({"action": took}, RULES[signal]) == action


@pytest.mark.parametrize("signal", sorted(RULES))
def test_the_way_from_a_fault_to_an_action_has_its_waits_by_name(signal: str) -> None:
    waits = Waits(guard=60.0, tick=900.0, gates=60.0, daemon=5.0, dequeue=5.0, launch=4.0)
    parts = waits.parts(RULES[signal])
    first = "service_guard_sensor" if RULES[signal].watched_each_minute else "snapshot_schedule"
    assert parts[0].name == first and parts[0].how == "counted"
    assert sum(part.seconds for part in parts) == (60 + 5 if RULES[signal].watched_each_minute else 900) + 60 + 5 + 2 * (5 + 4)
    assert [part.how for part in parts if part.name.startswith("launch")] == ["measured once"] * 2
    assert sum(part.name.startswith("dequeue") for part in parts) == 2


def test_an_effect_is_a_difference_or_unknown_with_its_reason() -> None:
    known = effect_of("error_rate_up", PLANTED, Reading(0.75, 60, 0.6, 0.9), Reading(0.25, 80))
    assert (known["before"], known["after"], known["effect"], known["effect_why"]) == (0.75, 0.25, -0.5, None)
    assert known["metric"] == "error_rate" and known["n"] == [60, 80] and known["before_ci"] == [0.6, 0.9]
    blind = effect_of("error_rate_up", PLANTED, Reading(0.75, 60), Reading(None, 0, reason="nobody searched"))
    assert blind["effect"] is None and blind["effect_why"] == "unknown: nobody searched"
    never = effect_of("ndcg_at_10_down", PLANTED, Reading(0.4, 60), None, "its actions train")
    assert never["after"] is None and never["effect"] is None and never["effect_why"] == "its actions train"


def test_faults_hurt_whom_they_are_meant_for_and_can_be_mended() -> None:
    faults = Faults(slow={"a": 0.1, ANY: 0.01}, burns={"c": 0.01}, refuses=True, everywhere=True)
    assert faults.seconds("a", 10) == pytest.approx(1.1) and faults.seconds("b", 10) == pytest.approx(0.1)
    faults.slow = {}
    before = time.thread_time()
    faults.score("c", 3)
    assert time.thread_time() - before >= 0.03
    cursed, plain = SimpleNamespace(text=f"{CURSED} words"), SimpleNamespace(text="words")
    with pytest.raises(ValueError, match="planted"):
        faults.prepare([plain, cursed])
    faults.prepare([plain])
    embedder = RefusingEmbedder(SimpleNamespace(name="inner", encode=lambda texts: list(texts)), faults)
    assert embedder.name == "inner" and embedder.encode(["words"]) == ["words"]
    with pytest.raises(ValueError, match="planted"):
        embedder.encode([cursed.text])
    faults.mend()
    assert faults == Faults() and embedder.encode([cursed.text]) == [cursed.text]
