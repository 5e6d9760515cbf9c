"""`bench control` on a small live platform: a few reads while a cycle trains, a few triggers at once, a stop in the middle of training, twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from predator_si_tests.support.command_line import CommandLine

pytestmark = [pytest.mark.live, pytest.mark.slow]


def test_reads_are_answered_one_cycle_begins_and_a_stop_releases_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "control.json"
    cli = CommandLine(tmp_path / "home", capsys)
    answer = cli("bench", "control", "--scale", "small", "--rate", "40", "--seconds", "2", "--triggers", "20", "--stops", "2", "--json", file)
    found = json.loads(file.read_text())
    assert answer.code == (0 if found["within"] else 1), answer.err  # whether it is within its limits depends on what else this machine does now
    assert {"scale", "cores", "versions", "seed", "p50_ms", "p99_ms", "requests_per_second"} <= found.keys()
    assert found["errors"] == 0 and found["requests"] == 80
    assert found["triggers"] == 20 and found["cycles_started"] == found["triggers_answered_started"] == 1
    assert found["stops"] == len(found["stop_seconds"]) == 2 and found["stop_max_seconds"] < 60
    assert max(found["stop_seconds"]) == pytest.approx(found["stop_max_seconds"], abs=0.001)
    assert found["released_after_stop"] == 0
    assert not (tmp_path / "home" / "control.db").exists(), "the bench has a home of its own"
