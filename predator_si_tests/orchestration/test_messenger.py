"""The messenger: from a ledger record to Slack's wire, costs into the ledger, a dead channel that holds nothing up, and the budget that stops cycles."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from predator_si.home import Home
from predator_si.monitor import Skip
from predator_si.notify import Event
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.messenger import messenger_sensor
from predator_si.orchestration.metering import metered, settle_costs, spent_in_month
from predator_si.orchestration.steps import observe
from predator_si.orchestration.steps.tell import collect, tell
from predator_si.records import CycleState, utc_now
from predator_si.reports.costs import MeteredWork, add_work
from predator_si.settings import load_settings
from predator_si_tests.support.chat_peers import slack
from predator_si_tests.support.platform import fake_model, open_cycle, prepare, write_baseline, write_snapshot
from predator_si_tests.support.waiting import free_port


@pytest.fixture
def loop(home: Home, tmp_path: Path) -> Loop:
    file = tmp_path / "more.yaml"
    file.write_text("selfImprovement:\n  monitoring: {slackWebhook: team-slack}\n  budget: {usdPerMonth: 0.5}\n")
    found = Loop(load_settings("local", home=home.path, values_file=file, env={}))
    champion = fake_model(found, "champion")
    prepare(found, champion)
    write_snapshot(found, champion)
    write_baseline(found, champion)
    return found


def tick(loop: Loop) -> str:
    with dg.DagsterInstance.ephemeral() as instance:
        found = messenger_sensor(loop.settings).evaluate_tick(dg.build_sensor_context(instance=instance))
    assert not found.run_requests
    return str(found.skip_message)


def test_from_the_ledger_to_slack_and_old_stories_are_not_told(loop: Loop, monkeypatch: pytest.MonkeyPatch):
    loop.control.append("rollback", "loop", None, "an old story", {"verified": True, "to": "sha256:x"})
    with slack() as peer:
        monkeypatch.setenv("TEAM_SLACK", peer.address)
        assert "0 messages told" in tick(loop)
        cycle = open_cycle(loop.control).cycle_id
        loop.control.append("rollback", "loop", cycle, "ndcg fell", {"verified": True, "to": "sha256:good"})
        assert "2 messages told" in tick(loop)
        assert "0 messages told" in tick(loop)
    assert ["got worse" in str(body) for body in peer.taken] == [False, True], "the critical one goes first"
    log = (loop.home.logs / "optimizer.log").read_text()
    assert f"AutoOptimizer CRITICAL {cycle} rollback" in log
    assert peer.address not in log and "verysecretpartofit" not in log


def test_a_dead_channel_fails_nothing_and_the_message_goes_out_later(loop: Loop, monkeypatch: pytest.MonkeyPatch):
    with slack() as peer:
        monkeypatch.setenv("TEAM_SLACK", f"http://127.0.0.1:{free_port()}/services/verysecretpartofit")
        collect(loop, utc_now())
        loop.control.set_kill_switch("local", True, "olena", "stop")
        assert "1 on their way, 1 not taken" in tick(loop)
        monkeypatch.setenv("TEAM_SLACK", peer.address)
        later = Loop(loop.settings)  # as after a restart
        assert tell(later, utc_now() + timedelta(minutes=2)).sent == 1
    assert "stopped by olena" in str(peer.taken)
    assert "verysecretpartofit" not in (loop.home.logs / "optimizer.log").read_text()


def test_where_cost_may_start_nothing_people_are_told(home: Home, loop: Loop, tmp_path: Path):
    file = tmp_path / "told.yaml"
    file.write_text("selfImprovement:\n  kubecost: {costOptimization: false}\n")
    champion = fake_model(loop, "champion")
    write_snapshot(loop, champion, values={"cost_per_1k_requests": 9.0})
    assert "Below its gate" not in str(collect(loop, utc_now())), "a cycle begins instead"
    told = Loop(load_settings("local", home=home.path, values_file=file, env={}))
    write_snapshot(told, champion, values={"cost_per_1k_requests": 9.0})
    (event,) = [one for one in collect(told, utc_now()) if "Below its gate" in one.title]
    assert "cost_per_1k_requests" in event.title and "kubecost.costOptimization is false" in event.text


def test_without_a_secret_the_loop_goes_on_and_says_so(loop: Loop):
    assert loop.notify(Event(kind="budget", severity="info", title="t", text="x", next_step="n", key="k"))
    assert loop.channels == [] and "TEAM_SLACK" in (loop.home.logs / "optimizer.log").read_text()
    loop.home.outbox.unlink()
    loop.home.outbox.mkdir()
    assert loop.notify(Event(kind="budget", severity="info", title="t", text="x", next_step="n", key="k2")) is False


def test_a_released_model_that_nobody_watches_is_told(loop: Loop):
    collect(loop, utc_now())
    cycle = open_cycle(loop.control).cycle_id
    loop.control.transition(cycle, CycleState.RELEASED, "x", "loop")
    kinds = [event.kind for event in collect(loop, utc_now() + timedelta(hours=2))]
    assert "unwatched_release" in kinds and "stale_data" in kinds


def test_work_is_metered_costs_go_into_the_ledger_once_and_the_budget_stops_cycles(loop: Loop):
    cycle = open_cycle(loop.control).cycle_id
    with pytest.raises(ZeroDivisionError), metered(loop, cycle, "a stretch"):
        sum(number * number for number in range(200_000))
        _ = 1 // 0
    costs = (loop.home.artifacts / cycle / "costs.json").read_text()
    assert '"what": "a stretch"' in costs and '"estimated"' in costs
    (failed,) = loop.control.records_of("step_failed")
    assert failed.reason == "ZeroDivisionError" and failed.payload["what"] == "a stretch" and failed.payload["cost_usd"] > 0
    loop.control.transition(cycle, CycleState.REJECTED, "x", "loop")
    cycles = loop.control.cycles()
    assert (settle_costs(loop, cycles), settle_costs(loop, cycles)) == (1, 0)
    (record,) = [one for one in loop.control.records(cycle_id=cycle) if one.action == "cycle_cost"]
    spent = spent_in_month(loop, utc_now())
    assert record.payload["total_cost_usd"] == pytest.approx(spent) and 0 < spent < 0.01
    work = MeteredWork(at=utc_now(), what="twenty hours", cpu_seconds=20 * 3600.0, gpu_seconds=0, seconds=1)
    loop.save(cycle, "costs.json", add_work(None, cycle, [work], vcpu_hour=0.04, gpu_hour=1.2, llm_usd=0.01))
    assert settle_costs(loop, cycles) == 1 and spent_in_month(loop, utc_now()) == pytest.approx(0.81)
    write_snapshot(loop, str(loop.serving().model), values={"ndcg_at_10": 0.3})
    answer = observe.next_step(loop, force=True)  # whoever insists passes the interval, and not the budget
    assert isinstance(answer, Skip) and "0.81 USD were spent this month" in "; ".join(answer.reasons)
    assert "budget" in [event.kind for event in collect(loop, utc_now())]
