"""The sensor that takes events in between two ticks."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import dagster as dg

from predator_si.build import build_defs
from predator_si.monitor.intake import read_window
from predator_si.orchestration.loop import Loop
from predator_si.records import SearchEvent, utc_now
from predator_si.search.personal import open_vault
from predator_si.search.spool import EventSpool
from predator_si.settings import Settings, load_settings
from predator_si_tests.support.platform import fake_model, prepare


def look(settings: Settings, instance: dg.DagsterInstance) -> str:
    """What the sensor says."""
    definitions = build_defs(settings)
    sensor = next(one for one in definitions.sensors or [] if one.name == "intake_sensor")
    with dg.build_sensor_context(instance=instance, repository_def=definitions.get_repository_def()) as context:
        found = sensor.evaluate_tick(context)
    assert not found.run_requests
    return str(found.skip_message)


def test_events_are_in_the_raw_layer_before_the_tick_and_are_taken_once(tmp_path: Path) -> None:
    settings = load_settings("local", tmp_path / "home", env={})
    loop, now = Loop(settings), utc_now()
    with dg.DagsterInstance.ephemeral() as instance:
        assert "was not prepared" in look(settings, instance)
        assert not loop.home.telemetry.exists(), "a home without a loop is left alone"
        prepare(loop, fake_model(loop, "champion"))
        spool = EventSpool(loop.home.events, vault=open_vault(loop.home.path))
        spool.start()
        spool.add_search(SearchEvent(query_id="q1", user_query="how to sort", timestamp=now - timedelta(seconds=1), latency_ms=3.0, status=200))
        spool.close()
        assert look(settings, instance).startswith("1 events taken in, 0 set aside")
        assert read_window(loop.home.telemetry, now - timedelta(minutes=1), now).search["query_id"].to_list() == ["q1"]
        assert look(settings, instance).startswith("0 events taken in")
