"""The weekly report as an asset, its schedule, and the commands over a real home."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from predator_si.orchestration.loop import Loop
from predator_si.orchestration.reporting import report_schedules, weekly_report
from predator_si.orchestration.steps.week import last_week
from predator_si.records import CycleState, utc_now
from predator_si.settings import Settings
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.platform import fake_model, open_cycle, prepare, write_snapshot


@pytest.fixture
def loop(settings: Settings) -> Loop:
    found = Loop(settings)
    champion = fake_model(found, "champion")
    prepare(found, champion)
    _, end = last_week(utc_now())
    for hour in range(3, 30, 3):
        write_snapshot(found, champion, created_at=end - timedelta(hours=hour))
    return found


def test_the_asset_writes_both_files_and_sends_once(loop: Loop):
    for expected in (True, False):
        result = dg.materialize([weekly_report], resources={"loop": loop}, selection=[weekly_report])
        (event,) = result.get_asset_materialization_events()
        metadata = event.materialization.metadata
        assert metadata["put_into_the_outbox"].value is expected and "## Next Week Priorities" in str(metadata["report"].value)
        assert str(metadata["ndcg_at_10_history"].value).startswith("![ndcg_at_10](data:image/png")
    assert sorted(path.suffix for path in loop.home.reports.iterdir()) == [".html", ".md"]
    (told,) = [one for one in loop.outbox.history() if one["event"]["kind"] == "report"]
    assert told["again"] == 1


def test_the_schedule_skips_a_home_that_was_not_prepared(settings: Settings):
    schedule, copies, cleared = report_schedules(settings)
    assert cleared.cron_schedule == "30 3 * * *" and copies.cron_schedule == "0 2 * * *"
    assert schedule.cron_schedule == "0 8 * * 1"
    context = dg.build_schedule_context(scheduled_execution_time=utc_now())
    found = schedule.evaluate_tick(context)
    assert not found.run_requests and "was not prepared" in str(found.skip_message)


def test_the_commands(loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cycle = open_cycle(loop.control).cycle_id
    loop.control.transition(cycle, CycleState.REJECTED, "no gain", "loop")
    cli = CommandLine(loop.home.path, capsys)
    kpis = cli("report", "kpis", "--json").json
    assert (kpis["cycles"], kpis["rejected"], kpis["success"], kpis["total_cost_usd"]) == (1, 1, 0.0, None) and kpis["notes"]
    table = cli("report", "before-after", "--json").json
    assert [row["metric"] for row in table["rows"]] == ["ndcg_at_10", "p95_latency_ms", "cost_per_1k_requests", "downtime_minutes_per_day"]
    assert table["rows"][0]["after"]["value"] == pytest.approx(0.6) and table["rows"][0]["answer"] == "open" and table["rows"][2]["unit"] == "USD"
    week = cli("report", "week", "--json", "--html", tmp_path / "week.html").json
    assert week["kpis"]["cycles"] == 1 and week["chapters"][0]["heading"] == "Summary"
    assert cycle in (tmp_path / "week.html").read_text() and f"| {cycle} |" in cli("report", "week").out
    assert cli("report", "kpis", "--from", "yesterday").code == 2 and cli("report", "kpis", "--from", "2026-11-02", "--to", "2026-11-01").code == 2
    assert cli("notify", "test").code == 1 and cli("notify", "list", "--json").json == []
