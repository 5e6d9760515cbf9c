"""What `bench react` counts instead of sitting through it is what the platform's own sensors, schedule and run queue say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from predator_si.orchestration.loop import Loop
from predator_si.proof.react import waits
from predator_si.settings import Settings

GRAPH = json.loads((Path(__file__).parent / "asset_graph.json").read_text())["sensors"]


def test_waits_are_read_from_sensors_schedule_and_queue(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "measure_launch", lambda ground: 3.5)
    loop = Loop(settings)
    loop.home.ensure()
    path = loop.home.dagster / "dagster.yaml"
    queue = "  class: PredatorRunCoordinator\n"
    assert queue in path.read_text()
    path.write_text(path.read_text().replace(queue, f"{queue}  config:\n    dequeue_interval_seconds: 2\n"))
    found = waits.waits_of(cast(Any, SimpleNamespace(settings=settings, loop=loop)))
    assert (found.guard, found.gates) == (GRAPH["service_guard_sensor"]["seconds"], GRAPH["quality_gate_sensor"]["seconds"])
    assert (found.tick, found.dequeue, found.launch) == (900.0, 2.0, 3.5) and found.daemon > 0
