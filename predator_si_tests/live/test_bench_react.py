"""`bench react` on a small live platform: a fault that the guard sees, and one that only the tick does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from predator_si.monitor import TRIGGERS
from predator_si.proof.bench_react import GUARD_SECONDS, SENSOR_SECONDS, TICK_SECONDS
from predator_si_tests.support.command_line import CommandLine

pytestmark = [pytest.mark.live, pytest.mark.slow]


def test_faults_are_found_and_acted_upon_within_their_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "react.json"
    cli = CommandLine(tmp_path / "home", capsys)
    answer = cli("bench", "react", "--scale", "small", "--signal", "error_rate_up", "--signal", "user_satisfaction_down", "--json", file)
    assert answer.code == 0, answer.err or answer.out
    found = json.loads(file.read_text())
    rows = {row["signal"]: row for row in found["rows"]}
    limits = {rule.type: rule.react_within_seconds for rule in TRIGGERS}
    assert list(rows) == ["error_rate_up", "user_satisfaction_down"] and {"scale", "cores", "versions", "seed"} <= found.keys()
    assert rows["error_rate_up"]["action"] == "depth_zero" and rows["user_satisfaction_down"]["action"] == "diagnose"
    assert rows["error_rate_up"]["counted_seconds"] == GUARD_SECONDS + SENSOR_SECONDS
    assert rows["user_satisfaction_down"]["counted_seconds"] == TICK_SECONDS + SENSOR_SECONDS
    for row in rows.values():
        assert row["seconds"] == row["counted_seconds"] + row["measured_seconds"] and row["measured_seconds"] > row["planting_seconds"] > 0
        assert row["limit_seconds"] == limits[row["signal"]] and row["seconds"] <= row["limit_seconds"]
    assert not (tmp_path / "home" / "control.db").exists(), "the bench has a home of its own"


def test_a_row_that_does_not_exist_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = CommandLine(tmp_path / "home", capsys)("bench", "react", "--signal", "moon_phase")
    assert answer.code == 2 and "ndcg_at_10_down" in answer.err
