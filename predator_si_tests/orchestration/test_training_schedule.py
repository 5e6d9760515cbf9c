"""Training by the calendar: what is counted as new, what forbids it, and the cycle that the schedule opens. The clock is the test's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from predator_si.build import build_defs
from predator_si.monitor import Skip
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.op_tags import TRIGGER
from predator_si.orchestration.partitions import cycles
from predator_si.orchestration.steps import learn
from predator_si.records import CycleState, Trigger
from predator_si.release.decide import signal_of
from predator_si.settings import Settings, load_settings
from predator_si_tests.support.platform import fake_model, open_cycle, prepare, write_baseline, write_snapshot
from predator_si_tests.support.raw_layer import store_rows
from predator_si_tests.support.windows import action, search

MONDAY = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


def settings_with(home: Path, tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "more.yaml"
    file.write_text(f"selfImprovement:\n{text}")
    return load_settings("local", home=home, values_file=file, env={})


def made(settings: Settings) -> Loop:
    loop = Loop(settings)
    champion = fake_model(loop, "champion")
    prepare(loop, champion, prepared_at=MONDAY - timedelta(days=3))
    write_baseline(loop, champion, ndcg_at_10=0.6)
    write_snapshot(loop, champion, created_at=MONDAY - timedelta(minutes=5))
    return loop


@pytest.fixture
def loop(settings: Settings) -> Loop:
    return made(settings)


def traffic(loop: Loop, n: int, at: datetime, *, clicks: int = 0, first: int = 0, **more: Any) -> None:
    """``n`` searches, a second apart from ``at`` on, the first ``clicks`` of them clicked."""
    rows = [search(first + i, timestamp=at + timedelta(seconds=i), **more) for i in range(n)]
    store_rows(loop.home, rows, [action(f"r{first + i}", timestamp=at + timedelta(seconds=i)) for i in range(clicks)])


def reasons(answer: Trigger | Skip) -> str:
    assert isinstance(answer, Skip)
    return answer.reason


def test_enough_new_searches_open_a_cycle_and_too_few_do_not(loop: Loop) -> None:
    traffic(loop, 199, MONDAY - timedelta(days=2))
    assert "199 searches and 0 clicks and ratings since 2026-11-20 03:00 UTC, 200 of either are needed" in reasons(learn.next_training(loop, MONDAY))
    traffic(loop, 1, MONDAY - timedelta(hours=1), first=500)
    answer = learn.next_training(loop, MONDAY)
    assert isinstance(answer, Trigger) and answer.type == "schedule" and "200 searches" in answer.reason
    assert (answer.metric, answer.value, answer.baseline) == ("ndcg_at_10", 0.6, 0.6) and signal_of(answer.type) == "ndcg_at_10"


def test_probes_failures_and_what_was_learned_from_before_are_not_new(loop: Loop) -> None:
    traffic(loop, 300, MONDAY - timedelta(hours=3), probe=True)
    traffic(loop, 300, MONDAY - timedelta(hours=5), first=1000, status=503, results=[])
    traffic(loop, 300, MONDAY - timedelta(days=3, hours=1), first=2000)  # before the home was prepared
    assert "0 searches" in reasons(learn.next_training(loop, MONDAY))
    traffic(loop, 250, MONDAY - timedelta(hours=30), first=3000)
    assert isinstance(learn.next_training(loop, MONDAY), Trigger)
    cycle = loop.control.open_cycle("local", open_trigger(), "test", "a test", now=MONDAY - timedelta(hours=26))
    loop.save(cycle.cycle_id, "training.json", {})
    loop.control.transition(cycle.cycle_id, CycleState.REJECTED, "a test", "test", now=MONDAY - timedelta(hours=25))
    assert learn.last_training(loop) == MONDAY - timedelta(hours=26)
    assert "0 searches" in reasons(learn.next_training(loop, MONDAY)), "the cycle trained on them"


def test_labels_count_too(tmp_path: Path, settings: Settings) -> None:
    loop = made(settings_with(settings.home, tmp_path, "  training: {newQueries: 50}\n"))
    traffic(loop, 40, MONDAY - timedelta(hours=3), clicks=40)
    assert "40 searches and 40 clicks" in reasons(learn.next_training(loop, MONDAY))
    store_rows(loop.home, [], [action(f"r{i}", "rating", value=5.0, timestamp=MONDAY - timedelta(hours=3)) for i in range(10)])
    answer = learn.next_training(loop, MONDAY)
    assert isinstance(answer, Trigger) and "50 clicks and ratings" in answer.reason


def test_the_same_policy_holds_as_for_a_failed_gate(loop: Loop) -> None:
    traffic(loop, 250, MONDAY - timedelta(hours=3))
    loop.control.set_kill_switch("local", True, "anna", "something smells")
    assert "the kill switch is on" in reasons(learn.next_training(loop, MONDAY))
    loop.control.set_kill_switch("local", False, "anna", "fine")
    cycle = loop.control.open_cycle("local", open_trigger(), "test", "a test", now=MONDAY - timedelta(minutes=30))
    assert f"cycle {cycle.cycle_id} is opened: one cycle at a time" in reasons(learn.next_training(loop, MONDAY))
    loop.control.transition(cycle.cycle_id, CycleState.FAILED, "a test", "test")
    answer = learn.next_training(loop, MONDAY)
    assert "the interval is 1:00:00" in reasons(answer) and isinstance(answer, Skip) and answer.retry_at == MONDAY + timedelta(minutes=30)
    assert isinstance(learn.next_training(loop, MONDAY + timedelta(hours=1)), Trigger)


def test_without_a_snapshot_nothing_is_trained_for(settings: Settings) -> None:
    loop = Loop(settings)
    prepare(loop, fake_model(loop, "champion"), prepared_at=MONDAY - timedelta(days=3))
    traffic(loop, 250, MONDAY - timedelta(hours=3))
    assert "no metrics snapshot yet" in reasons(learn.next_training(loop, MONDAY))


# --------------------------------------------------------------------------- the schedule


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as found:
        yield found


def schedule_of(settings: Settings) -> dg.ScheduleDefinition:
    found = next(one for one in build_defs(settings).schedules or [] if one.name == "training_schedule")
    assert isinstance(found, dg.ScheduleDefinition)
    return found


def tick(settings: Settings, instance: dg.DagsterInstance) -> Any:
    definitions = build_defs(settings)
    context = dg.build_schedule_context(instance, scheduled_execution_time=MONDAY, repository_def=definitions.get_repository_def())
    with context:
        return schedule_of(settings).evaluate_tick(context)


def test_a_tick_opens_a_cycle_with_its_partition_and_the_next_one_waits_for_it(loop: Loop, instance: dg.DagsterInstance) -> None:
    traffic(loop, 250, MONDAY - timedelta(hours=3))
    (request,) = tick(loop.settings, instance).run_requests
    cycle = loop.control.active_cycle("local")
    assert cycle is not None and cycle.trigger.type == "schedule" and cycle.actor == "training_schedule"
    assert request.partition_key == cycle.cycle_id and request.tags[TRIGGER] == "schedule"
    assert cycle.cycle_id in instance.get_dynamic_partitions(str(cycles.name))
    again = tick(loop.settings, instance)
    assert not again.run_requests and "one cycle at a time" in again.skip_message


def test_a_tick_with_nothing_new_says_so(loop: Loop, instance: dg.DagsterInstance) -> None:
    found = tick(loop.settings, instance)
    assert not found.run_requests and "nothing new to learn from" in found.skip_message and loop.control.cycles() == []


def test_the_contour_says_when_and_whether(tmp_path: Path, settings: Settings) -> None:
    local = schedule_of(settings)
    assert local.default_status is dg.DefaultScheduleStatus.STOPPED and local.cron_schedule == "0 3 * * 1"
    weekly = schedule_of(settings_with(settings.home, tmp_path, '  training: {schedule: "30 2 * * 6"}\n'))
    assert weekly.default_status is dg.DefaultScheduleStatus.RUNNING and weekly.cron_schedule == "30 2 * * 6" and weekly.execution_timezone == "UTC"
    off = schedule_of(settings_with(settings.home, tmp_path, '  enabled: false\n  training: {schedule: "30 2 * * 6"}\n'))
    assert off.default_status is dg.DefaultScheduleStatus.STOPPED
    assert load_settings("compute-nvidia", home=settings.home, env={}).values.training.schedule == "0 3 * * 1"
    assert load_settings("dev-mac", home=settings.home, env={}).enabled is False


def open_trigger() -> Trigger:
    return Trigger(type="ndcg_at_10_down", metric="ndcg_at_10", value=0.4, baseline=0.6, delta=-0.2, actions=(), reason="a test")


def test_a_cycle_that_somebody_else_opened_meanwhile_is_a_skip(loop: Loop, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    from predator_si.orchestration import schedules

    open_cycle(loop.control)
    monkeypatch.setattr(schedules, "next_training", lambda loop, now: open_trigger())
    found = tick(loop.settings, instance)
    assert not found.run_requests and found.skip_message.startswith("unknown: contour local: cycle")
