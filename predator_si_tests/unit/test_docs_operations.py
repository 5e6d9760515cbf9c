"""Every command that docs/alerts.md and docs/operations.md show is run on a prepared home and answers as they say; every value they name exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from predator_si.contour import ContourValues
from predator_si.orchestration.loop import Loop
from predator_si.records import CycleState
from predator_si.settings import Settings
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.platform import fake_model, open_cycle, prepare, write_snapshot

DOCS = Path(__file__).resolve().parents[2] / "docs"


def shown(name: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture
def loop(settings: Settings) -> Loop:
    found = Loop(settings)
    champion = fake_model(found, "champion")
    prepare(found, champion)
    write_snapshot(found, champion)
    found.control.transition(open_cycle(found.control).cycle_id, CycleState.REJECTED, "no gain", "loop")
    return found


def test_every_shown_command_runs(loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    lines = shown("alerts.md") + shown("operations.md")
    assert len(lines) >= 12 and all(line.startswith("predator-si ") for line in lines)
    cli, cycle, backup = CommandLine(loop.home.path, capsys), loop.control.cycles()[0].cycle_id, ""
    for line in lines:
        line = line.replace("/mnt/backups/local-20261123T020000Z", backup).replace("/mnt/backups", str(tmp_path / "store")).replace("si_2026_11_23_001", cycle)
        line = re.sub(r"2026-11-(\d\d)", r"2025-01-\1", line)
        answer = cli(*shlex.split(line)[1:])
        expected = 1 if line == "predator-si notify test" else 0  # this contour has no channel, and the page says what 1 means
        assert answer.code == expected, f"{line}: {answer.err}{answer.out}"
        if " backup create " in line:
            backup = answer.out.split(": ")[0].splitlines()[0]
    assert (tmp_path / "week.html").is_file() and (tmp_path / "ledger.parquet").is_file() and (tmp_path / "restored" / "control.db").is_file()


def test_the_shown_values_are_accepted():
    (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "alerts.md").read_text(encoding="utf-8"), re.DOTALL)
    found = ContourValues.model_validate(yaml.safe_load(block)["selfImprovement"])
    assert found.notify.channels == ("slack", "apprise") and found.monitoring.slack_webhook == "team-slack"


def test_every_kind_of_event_is_in_the_table():
    from typing import get_args

    from predator_si.notify.event import Kind

    assert set(get_args(Kind)) == set(re.findall(r"^\| `(\w+)` \|", (DOCS / "alerts.md").read_text(encoding="utf-8"), re.MULTILINE))
