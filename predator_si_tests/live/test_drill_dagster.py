"""Dagster's daemon and code server are killed under a real cycle, and what is started again is seen to work before it counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from predator_si.proof.drill.blows import BACK, Blow
from predator_si.proof.drill.figures import Tally
from predator_si.proof.drill.ground import Ground
from predator_si.proof.drill.kill_dagster import CODE_SERVER, DAEMON, kill_dagster
from predator_si.records import CycleState

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(900)]
BLOWS = (Blow(CODE_SERVER, BACK, "git push 1 after"), Blow(DAEMON, BACK, "watch_job queued"), Blow(DAEMON, BACK, "git push 2 before"))


def test_daemon_and_code_server_die_and_the_cycle_ends(tmp_path: Path) -> None:
    """The code server right after the release's push; the daemon over a run in its queue, and in another run's worker right before the way back's push."""
    ground, tally, told = Ground.prepare(tmp_path / "ground", tmp_path / "cache", seed=1), Tally(), list[int]()
    with ground.running() as load:
        load.pause = 0.1
        found = kill_dagster(ground, [BACK], 0, 7, tally, told.append, known=BLOWS)
    assert tally.violations == [] and sum(told) == 3
    assert found.killed[CODE_SERVER] == 1 and found.killed[DAEMON] >= 1 and found.planned == 3
    assert set(found.ends) == {"rolled_back"} and {cycle.state for cycle in ground.loop.control.cycles(9, "local")} == {CycleState.ROLLED_BACK}
    came_back = [one for row in tally.rows for one in row["came_back"]]
    assert len(came_back) == sum(found.killed.values())
    assert all(one["old_pid"] != one["new_pid"] and one["sign_of_life"] and one["seconds"] > 0 for one in came_back)
    beats = [one["sign_of_life"] for one in came_back if one["killed"] == DAEMON]
    assert all({"SENSOR", "QUEUED_RUN_COORDINATOR"} == set(beat) for beat in beats)
    assert {"git push 1 after", "git push 2 before"} <= {one["point"] for one in came_back}, "two runs of one cycle: their pushes are counted together"
    assert not [name for name in (DAEMON, CODE_SERVER, "search", "reconciler") if ground.processes.lives(name)]
