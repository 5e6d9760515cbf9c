"""A snapshot is corrected by events that came late, keeps what it said before, and stays what it is when nothing came."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest

from predator_si.monitor import PriceTable
from predator_si.monitor.intake import Intake
from predator_si.monitor.snapshot import snapshot_of
from predator_si.monitor.sources import EventFiles
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.remeasure import counted, remeasure, revisions
from predator_si.search.events import ACTION_SCHEMA, SEARCH_SCHEMA
from predator_si_tests.support.windows import CHAMPION, START, action, search


def drop(loop, name, rows, actions=()):
    """Events of other services, as a folder of files brings them."""
    folder = loop.home.path / "outside"
    folder.mkdir(exist_ok=True)
    pl.DataFrame(rows, schema=SEARCH_SCHEMA, orient="row").write_parquet(folder / f"search-{name}.parquet")
    if actions:
        pl.DataFrame(actions, schema=ACTION_SCHEMA, orient="row").write_parquet(folder / f"action-{name}.parquet")


def take_in(loop, now):
    return Intake(loop.home.telemetry, None).run([EventFiles(loop.home.path / "outside")], now)


def snapshot(loop, start, end):
    found = counted(loop, start, end, end)
    prices = PriceTable(usd_per_vcpu_hour=loop.settings.prices.usd_per_vcpu_hour)
    made = snapshot_of(found, start, end, end, champion=CHAMPION, contour="local", prices=prices, ingest={"lag_seconds": 7.0})
    (loop.home.snapshots / f"{made.snapshot_id}.json").write_text(made.to_json())
    return made


@pytest.fixture
def loop(settings):
    return Loop(settings)


def test_late_events_correct_the_window_they_belong_to_and_no_other(loop):
    rows = [search(i, client_id=f"c{i % 7}", latency_ms=100.0 + i) for i in range(0, 1800, 10)]
    drop(loop, "first", rows, [action("r0", timestamp=START + timedelta(seconds=3))])
    middle, end = START + timedelta(minutes=15), START + timedelta(minutes=30)
    take_in(loop, end + timedelta(seconds=1))
    first, second = snapshot(loop, START, middle), snapshot(loop, middle, end)
    assert first.metrics["avg_latency_ms"].n == 90 and first.revision == 1
    now = end + timedelta(minutes=20)
    assert remeasure(loop, (), now) == [] and list(revisions(loop, first.snapshot_id)) == []

    drop(loop, "late", [search(10_000 + i, timestamp=START + timedelta(seconds=5 + i), status=503, results=[]) for i in range(10)])
    report = take_in(loop, now)
    assert report.dirty == (START,) and report.late == 10
    corrected = remeasure(loop, report.dirty, now)
    assert [(one.snapshot_id, one.revision) for one in corrected] == [(first.snapshot_id, 2)]
    stored = loop.snapshots()
    assert stored[0].metrics["error_rate"].value == pytest.approx(10 / 100) and stored[1] == second
    assert stored[0].metrics["etl_lag_seconds"] == first.metrics["etl_lag_seconds"]  # seen once, at its time
    assert [one.metrics["error_rate"].value for one in revisions(loop, first.snapshot_id)] == [0.0]
    assert take_in(loop, now).dirty == () and remeasure(loop, (), now) == []


def test_clicks_that_come_after_the_snapshot_settle_it(loop):
    drop(loop, "first", [search(i) for i in range(0, 600, 10)])
    end = START + timedelta(minutes=10)
    take_in(loop, end)
    first = snapshot(loop, START, end)
    assert first.metrics["click_through"].value is None
    drop(loop, "clicks", [search(700)], [action("r590", timestamp=end + timedelta(seconds=4))])
    report = take_in(loop, end + timedelta(minutes=1))
    assert report.dirty == ()  # the 15-minute window is still open
    [corrected] = remeasure(loop, report.dirty, end + timedelta(minutes=1))
    assert corrected.metrics["click_through"].value == pytest.approx(1 / 60) and corrected.revision == 2
