"""`bench react` on a small live platform: rows that the guard sees and rows that only the tick does, found, acted upon, and the action's effect measured.

A sample of five rows, one of each kind: a depth, an index build of each sort, ingest workers, and a row that trains. The three that are left to the command
take longest (latency and cost weigh exports of the model) or add nothing (NDCG trains as satisfaction does).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from predator_si.monitor import TRIGGERS
from predator_si_tests.support.command_line import CommandLine

pytestmark = [pytest.mark.live, pytest.mark.slow]
RULES = {rule.type: rule for rule in TRIGGERS}
ROWS = {
    "error_rate_up": ("depth_zero", {"reranker.depth": 0}),
    "index_errors_up": ("retry", None),
    "recall_at_20_down": ("repair_index", None),
    "etl_lag_seconds_up": ("add_workers", {"ingest.workers": 2}),
    "user_satisfaction_down": ("diagnose", None),
}
"""What the loop does first, and what that changes in the release file where the name of an index build does not differ from run to run."""


def test_faults_are_found_and_acted_upon_and_the_action_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "react.json"
    chosen = [word for signal in ROWS for word in ("--signal", signal)]
    answer = CommandLine(tmp_path / "home", capsys)("bench", "react", "--scale", "small", "--rows-only", *chosen, "--json", file)
    assert answer.code == 0, answer.err or answer.out
    found = json.loads(file.read_text())
    rows = {row["signal"]: row for row in found["rows"]}
    assert list(rows) == [rule.type for rule in TRIGGERS if rule.type in ROWS] and {"scale", "cores", "versions", "seed"} <= found.keys()
    for signal, (action, changes) in ROWS.items():
        row, rule = rows[signal], RULES[signal]
        assert row["action"] == action, (signal, row["why"])
        assert row["limit_seconds"] == rule.react_within_seconds and row["seconds"] <= row["limit_seconds"]
        assert row["seconds"] == pytest.approx(row["counted_seconds"] + row["measured_seconds"]) and row["measured_seconds"] > 0
        assert row["seconds"] == pytest.approx(sum(part["seconds"] for part in row["parts"]))
        first = "service_guard_sensor" if rule.watched_each_minute else "snapshot_schedule"
        counted = [part["name"] for part in row["parts"] if part["how"] != "measured"]
        assert counted[0] == first and sum(name.startswith(("dequeue", "launch")) for name in counted) == 4
        if action == "diagnose":
            assert row["effect"] is None and row["after"] is None and "train" in row["effect_why"]
            continue
        assert row["effect"] == pytest.approx(row["after"] - row["before"]) and row["in_force_seconds"] > 0
        helped = row["effect"] > 0 if signal == "recall_at_20_down" else row["effect"] < 0
        assert helped, (signal, row["before"], row["after"])
        assert changes is None or row["changes"] == changes
    assert rows["index_errors_up"]["after"] == 0 and rows["index_errors_up"]["changes"].keys() == {"index.build"}
    assert rows["recall_at_20_down"]["after"] > 0.9 > rows["recall_at_20_down"]["before"] and rows["recall_at_20_down"]["changes"].keys() == {"index.build"}
    assert found["actions"] == [] or all(one["effect"] is None and one["effect_why"] for one in found["actions"]), "no other action was asked for"
    assert not (tmp_path / "home" / "control.db").exists(), "the bench has a home of its own"


def test_a_row_that_does_not_exist_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = CommandLine(tmp_path / "home", capsys)("bench", "react", "--signal", "moon_phase")
    assert answer.code == 2 and "ndcg_at_10_down" in answer.err
