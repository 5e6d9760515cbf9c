"""An override bends the gate that it names, at once and for its time, and says so."""

from __future__ import annotations

from datetime import timedelta

import pytest

from predator_si.errors import BadInput
from predator_si.monitor import Skip, Start
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.metadata import check_results, gate_specs
from predator_si.orchestration.steps import observe
from predator_si.records import Answer, utc_now
from predator_si.settings import Settings
from predator_si_tests.support.platform import fake_model, prepare, write_baseline, write_snapshot


@pytest.fixture
def loop(settings: Settings) -> Loop:
    found = Loop(settings)
    champion = fake_model(found, "first")
    prepare(found, champion)
    write_baseline(found, champion)
    write_snapshot(found, champion, values={"ndcg_at_10": 0.5})  # 17% below the baseline of 0.6
    return found


def ndcg(loop: Loop, minutes: float = 0.0) -> Answer:
    snapshot = loop.snapshots(1)[-1]
    return next(gate.answer for gate in observe.gates(loop, snapshot, utc_now() + timedelta(minutes=minutes)) if gate.criterion.metric == "ndcg_at_10")


def test_a_milder_gate_starts_nothing_until_its_override_ends(loop: Loop) -> None:
    assert ndcg(loop) is Answer.FAIL and isinstance(observe.next_step(loop), Start)
    loop.control.override_gate("local", "ndcg_at_10", 0.45, "api:ann", "a known gap", old=None, expires_in=timedelta(minutes=20))
    assert ndcg(loop) is Answer.PASS
    assert isinstance(observe.next_step(loop), Skip)
    assert ndcg(loop, 19) is Answer.PASS and ndcg(loop, 21) is Answer.FAIL, "it ends by itself"


def test_a_stricter_gate_fails_at_once_and_names_who_made_it_so(loop: Loop) -> None:
    loop.control.override_gate("local", "p95_latency_ms", 80.0, "api:ann", "the launch", old=800.0)
    gates = observe.gates(loop, loop.snapshots(1)[-1])
    found = next(gate for gate in gates if gate.criterion.metric == "p95_latency_ms")
    assert found.answer is Answer.FAIL and "overridden: 80 instead of 800 until" in found.reason and "api:ann: the launch" in found.reason
    specs = gate_specs(["observe", "metrics_snapshot"], loop.settings.quality_gates, blocking=False)
    checks = {check.check_name: check.passed for check in check_results(["observe", "metrics_snapshot"], gates, specs)}
    assert checks["p95_latency_ms_max"] is False and checks["error_rate_max"] is True


def test_the_check_of_a_relative_gate_shows_what_stands_in_for_it(loop: Loop) -> None:
    loop.control.override_gate("local", "ndcg_at_10", 0.45, "api:ann", "a known gap", old=None)
    specs = gate_specs(["observe", "metrics_snapshot"], loop.settings.quality_gates, blocking=False)
    gates = observe.gates(loop, loop.snapshots(1)[-1])
    check = next(one for one in check_results(["observe", "metrics_snapshot"], gates, specs) if one.check_name == "ndcg_at_10_relative")
    assert check.passed and "0.45 instead of -3% of the baseline" in str(check.metadata["reason"].value)


def test_an_override_for_no_time_is_refused(loop: Loop) -> None:
    with pytest.raises(BadInput, match="lasts up to"):
        loop.control.override_gate("local", "ndcg_at_10", 0.45, "api:ann", "r", old=None, expires_in=timedelta(0))
