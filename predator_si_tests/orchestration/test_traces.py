"""Jobs, steps and functions of a cycle, run by Dagster, come out as one tree; each ended cycle is sent once, and a collector that is away is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest

from predator_si.errors import Unavailable
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.traces import send_ended, traced
from predator_si.records import CycleState, utc_now
from predator_si.settings import Settings
from predator_si_tests.support.platform import open_cycle
from predator_si_tests.support.trace_peers import collector
from predator_si_tests.support.waiting import free_port


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as found:
        yield found


@traced
def inner(loop: Loop, cycle_id: str) -> int:
    return 1


@traced
def outer(loop: Loop, cycle_id: str) -> int:
    return inner(loop, cycle_id=cycle_id) + 1


def run(loop: Loop, cycle_id: str, instance: dg.DagsterInstance) -> None:
    @dg.asset(key=["cycle", "evaluation"])
    def evaluation() -> None:
        assert outer(loop, cycle_id) == 2

    assert dg.materialize([evaluation], instance=instance, tags={"dagster/partition": cycle_id}).success


def test_one_tree_sent_once_and_again_after_a_collector_was_away(settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("predator_si.notify.trace_export.SECONDS", 1.0)
    loop = Loop(settings)
    cycle = open_cycle(loop.control).cycle_id
    monkeypatch.setenv("PREDATOR_SI_TRACES", f"http://127.0.0.1:{free_port()}/v1/traces")
    run(loop, cycle, instance)
    assert send_ended(loop, instance) == 0, "it goes on"
    loop.control.transition(cycle, CycleState.REJECTED, "x", "loop")
    with pytest.raises(Unavailable):
        send_ended(loop, instance)
    with collector() as peer:
        monkeypatch.setenv("PREDATOR_SI_TRACES", f"{peer.address}/v1/traces")
        assert send_ended(loop, instance) == 0, "it is asked again after a pause"
        later = utc_now() + timedelta(minutes=11)
        assert (send_ended(loop, instance, later), send_ended(loop, instance, later)) == (1, 0)
    names = {span.span_id: span.name for span in peer.spans}
    road = {span.name: names.get(span.parent_span_id) for span in peer.spans}
    assert road["inner"] == "outer" and road["outer"] == "cycle__evaluation" and names[next(iter(names))] == f"cycle {cycle}"
    job = road["cycle__evaluation"]
    assert job is not None and road[job] == f"cycle {cycle}"
