"""Each drill at its small scale, on one ground: real search service, real reconciler, real MLflow, tiny models; nothing may be violated."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from predator_si.proof.drill import invariants
from predator_si.proof.drill.ground import Ground
from predator_si.proof.drill.load import Load
from predator_si.proof.drill.plan import DrillPlan
from predator_si.proof.drill.run import drill_under
from predator_si_tests.support.waiting import wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(900)]
NUMBER = (int, float)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ground, Load, Path]]:
    out = tmp_path_factory.mktemp("drills")
    ground = Ground.prepare(out / "ground", out / "cache", seed=1)
    with ground.running() as load:
        yield ground, load, out
    assert not [name for name in ("search", "reconciler") if ground.processes.lives(name)]


def drilled(place: tuple[Ground, Load, Path], name: str, n: int | None = None) -> dict[str, Any]:
    """A drill's figures, none of which names a violation."""
    ground, load, out = place
    found = drill_under(load, ground, DrillPlan.of(name, "small", n, seed=7), out)
    assert found["violations"] == 0, found["violated"]
    assert found["requests"] > 0 and found["failed_requests"] == 0
    assert json.loads((out / f"drill-{name}.json").read_text())["n"] == found["n"] == len(json.loads((out / f"drill-{name}.json").read_text())["each"])
    assert f"Drill: {name}" in (out / f"drill-{name}.html").read_text()
    return found


def test_rollback(place: tuple[Ground, Load, Path]) -> None:
    found = drilled(place, "rollback")
    assert found["n"] == 3 and found["within_goal"] is None
    for phase in ("detect", "commit", "sync", "ready"):
        assert found["phases"][phase]["n"] == 3 and 0 <= found["phases"][phase]["p95"] < 120
    assert isinstance(found["p95_seconds"], NUMBER) and math.isfinite(found["p95_seconds"])
    ground, _, _ = place
    denied = [record for record in ground.loop.control.records(500) if record.action == "rollback"]
    assert denied and all(record.payload["verified"] for record in denied)


def test_swap(place: tuple[Ground, Load, Path]) -> None:
    found = drilled(place, "swap")
    assert found["n"] == 4 and found["phases"]["ready"]["n"] == 4
    assert found["rss_slope_mb_per_1000"] is None and "samples" in found["rss_slope_unknown"]


def test_a_champion_that_nobody_decided_is_found(place: tuple[Ground, Load, Path]) -> None:
    """The drill's eyes are open: a release file changed behind the platform's back is a violation until it is put back."""
    ground, _, _ = place
    file = ground.loop.home.release_file(ground.loop.contour)
    stranger = ground.sibling(12_345)
    commit = ground.loop.repo.change(lambda files: {file.name: files[file.name].replace(ground.champion, stranger)}, "nobody decided this")
    assert commit is not None
    ground.wait_settled()
    found = invariants.violations(invariants.observe(ground.loop, tracker=ground.tracker, by_hand=ground.by_hand()))
    assert f"{commit[:12]} made {stranger} the champion, and no cycle knows of it" in found
    assert f"Git's champion is {stranger}, the registry's is {ground.champion}" in found
    back = ground.loop.repo.change(lambda files: {file.name: files[file.name].replace(stranger, ground.champion)}, "back")
    assert back is not None
    ground.by_hand({commit, back})
    ground.wait_settled()
    assert invariants.violations(invariants.observe(ground.loop, tracker=ground.tracker, by_hand=ground.by_hand())) == []


def test_kill(place: tuple[Ground, Load, Path]) -> None:
    """One cycle from its opening through training and trial to its end, and one back; each of the four processes dies once on the way."""
    found = drilled(place, "kill")
    assert found["killed"] == dict.fromkeys(("run worker", "search", "reconciler", "api"), 1) and found["unreached"] == 0
    assert found["n"] == 2 and set(found["ended"]) <= {"stable", "rejected", "rolled_back"} and found["ended"]["rolled_back"] == 1
    ground, _, _ = place
    (road,) = [cycle for cycle in ground.loop.control.cycles(50, "local") if cycle.state.value in ("stable", "rejected")]
    names = {path.name for path in ground.loop.artifacts(road.cycle_id).iterdir()}
    assert {"diagnostic_report.json", "augmented_dataset.parquet", "training.json", "evaluation.json", "decision-trial.json"} <= names
    assert ground.loop.serving().model == ground.champion


def test_a_killed_process_is_gone_and_comes_back(place: tuple[Ground, Load, Path]) -> None:
    ground, _, _ = place
    before = ground.processes.pid("reconciler")
    ground.processes.kill("reconciler")
    assert not ground.processes.lives("reconciler")
    ground.processes.start_again("reconciler")
    ground.processes.wait_ready("reconciler")
    assert ground.processes.pid("reconciler") != before
    wait_until(ground.in_force, 60, "the new reconciler's first look")


def test_partition(place: tuple[Ground, Load, Path]) -> None:
    found = drilled(place, "partition")
    assert found["n"] == 3


def test_race(place: tuple[Ground, Load, Path]) -> None:
    found = drilled(place, "race")
    assert found["n"] == 4
    ground, _, _ = place
    assert ground.loop.control.kill_switch(ground.loop.contour) is False, "a drill leaves no switch on"
