"""What a long life leaves behind goes once a day, and nothing that somebody may still need."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from predator_si.backup import create_backup, drop_older
from predator_si.control import Control
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.partitions import add_cycle
from predator_si.orchestration.reporting import retention_job
from predator_si.orchestration.steps.clear import Cleared, clear_history
from predator_si.records import CycleState, utc_now
from predator_si.settings import Settings
from predator_si_tests.support.platform import ndcg_trigger

NOW = utc_now()
LONG_AGO = NOW - timedelta(days=401)


@dg.op
def nothing() -> None: ...


@dg.job
def nothing_job() -> None:
    nothing()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


class Aged(Loop):
    """A loop whose control database believes to live at another time."""

    when = NOW

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.control = Control(self.home.ensure().control_db, clock=lambda: self.when)

    def cycle(self, instance: dg.DagsterInstance, when: datetime, state: CycleState | None) -> str:
        """A cycle of that time with files and a partition, ended in a state, or still active."""
        self.when = when
        cycle_id = self.control.open_cycle("local", ndcg_trigger(), "test", "r").cycle_id
        if state is not None:
            if state is CycleState.STABLE:
                self.control.transition(cycle_id, CycleState.RELEASED, "r", "loop")
                self.control.champion_changed("local", f"sha256:{cycle_id[-3:]:0>64}", "released", cycle_id=cycle_id)
            self.control.transition(cycle_id, state, "r", "loop")
        add_cycle(instance, cycle_id)
        self.save(cycle_id, "evaluation.json", {"n": 1})
        self.when = NOW
        return cycle_id


def snapshot(loop: Loop, when: datetime) -> Path:
    loop.home.snapshots.mkdir(parents=True, exist_ok=True)
    path = loop.home.snapshots / f"local-{when:%Y%m%dT%H%M%S%f}.json"
    path.write_text("{}")
    path.with_suffix(".parquet").write_text("x")
    return path


def test_what_is_old_goes_and_what_is_needed_stays(settings: Settings, instance: dg.DagsterInstance) -> None:
    loop = Aged(settings)
    rejected = loop.cycle(instance, LONG_AGO, CycleState.REJECTED)
    served = loop.cycle(instance, LONG_AGO, CycleState.STABLE)
    lately = loop.cycle(instance, NOW - timedelta(days=3), CycleState.REJECTED)
    active = loop.cycle(instance, LONG_AGO, None)
    old, new = snapshot(loop, LONG_AGO), snapshot(loop, NOW)
    elsewhere = loop.home.snapshots / f"edge-oracle-{LONG_AGO:%Y%m%dT%H%M%S%f}.json"
    elsewhere.write_text("{}")
    done = nothing_job.execute_in_process(instance=instance)

    assert clear_history(loop, instance, NOW) == Cleared(runs=0, partitions=1, cycles=1, snapshots=1)
    kept = {path.name for path in loop.home.artifacts.iterdir()}
    assert kept == {served, lately, active} == set(instance.get_dynamic_partitions("cycles"))
    assert (old.exists(), old.with_suffix(".parquet").exists(), new.exists(), elsewhere.exists()) == (False, False, True, True)
    assert loop.control.cycle(rejected).state is CycleState.REJECTED, "the control database keeps the cycle"
    (record,) = loop.control.records_of("history_cleared")
    assert record.payload["cycles"] == 1 and record.payload["snapshots"] == 1
    assert clear_history(loop, instance, NOW) == Cleared() and len(loop.control.records_of("history_cleared")) == 1
    assert instance.get_run_by_id(done.run_id) is not None
    later = clear_history(loop, instance, NOW + timedelta(days=401))
    assert later.runs == 1 and instance.get_run_by_id(done.run_id) is None
    assert new.exists(), "the newest snapshot stays, however old"
    assert {path.name for path in loop.home.artifacts.iterdir()} == {served, active}


def test_the_job_does_it(settings: Settings, instance: dg.DagsterInstance) -> None:
    loop = Aged(settings)
    loop.cycle(instance, LONG_AGO, CycleState.REJECTED)
    assert retention_job.execute_in_process(instance=instance, resources={"loop": loop}).success
    assert loop.control.records_of("history_cleared")[0].payload["partitions"] == 1


def test_the_newest_backups_stay(settings: Settings, tmp_path: Path) -> None:
    loop = Loop(settings)
    loop.control.append("note", "test")
    store = tmp_path / "store"
    made = [create_backup(loop.home, str(store), "local", now=NOW - timedelta(days=days))[0].rsplit("/", 1)[1] for days in (5, 4, 3, 2)]
    other = create_backup(loop.home, str(store), "edge-oracle", now=NOW - timedelta(days=9))[0].rsplit("/", 1)[1]
    (store / made[2] / "manifest.json").unlink()  # cut short: it is no backup, and counts as none
    (store / "local-notes").mkdir()
    assert drop_older(str(store), "local", 2) == made[:1]
    assert {path.name for path in store.iterdir()} == {*made[1:], other, "local-notes"}
    assert drop_older(str(store), "local", 2) == [] and drop_older(str(store), "local", 1) == made[1:3]
