"""Where a drill's blows fall, and how it counts what a cycle's workers do."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.proof.drill import effects
from predator_si.proof.drill.blows import BACK, ROADS, WHOLE, Blow, Road, choose, deal, share_out
from predator_si.proof.drill.effects import Line, Listener, place_of
from predator_si.proof.drill.invariants import violations
from predator_si.proof.drill.marked import marked
from predator_si_tests.unit.test_proof_drill import HEALTHY, TAKEN_BACK, changed

POINTS = {WHOLE: [f"control append {number} before" for number in range(50)], BACK: [f"git push {number} after" for number in range(20)]}
OWN = {WHOLE: ("applied x 1 before", "applied x 1 after"), BACK: ("applied x 1 before",)}


def test_each_victim_gets_its_number_and_a_third_of_them_at_writes_of_its_own():
    blows = choose("reconciler", POINTS, 6, seed=3, own=OWN)
    assert len(blows) == len(set(blows)) == 6 and sum(blow.own for blow in blows) == 2
    assert blows == choose("reconciler", POINTS, 6, seed=3, own=OWN) and blows != choose("reconciler", POINTS, 6, seed=4, own=OWN)
    assert [blow.point for blow in choose("search", POINTS, 6, seed=3)] != [blow.point for blow in choose("daemon", POINTS, 6, seed=3)]
    many = choose("reconciler", POINTS, 40, seed=3, own=OWN)
    assert len(many) == 40 and sum(blow.own for blow in many) == 3, "there are no more writes of its own"
    every = choose("reconciler", POINTS, 0, seed=3, own=OWN)
    assert len(every) == len(set(every)) == 73 and len(choose("search", POINTS, 0, seed=3)) == 70


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 9))
def test_blows_are_shared_out_over_cycles_of_their_road(n: int, few: int, seed: int):
    own = {BACK: [f"own {number} before" for number in range(few)]}
    blows = [blow for victim in ("search", "reconciler") for blow in choose(victim, POINTS, n, seed, own)]
    shared = {road: share_out(blows, road, POINTS[road]) for road in ROADS}
    assert Counter(blow for cycles in shared.values() for mine in cycles for blow in mine) == Counter(blows)
    for road, cycles in shared.items():
        assert all(mine and all(blow.road == road for blow in mine) for mine in cycles)
        for mine in cycles:
            assert len(mine) <= road.blows + 2 * few, "one more at most for each victim's own writes"
            assert max(Counter(blow.victim for blow in mine if blow.own).values(), default=0) <= 1, "one paper, one moment"
            places = [POINTS[road].index(blow.point) for blow in mine if not blow.own]
            assert places == sorted(places)


def test_a_blow_that_was_not_reached_gets_one_more_cycle_and_then_another_point():
    blows = choose("run worker", POINTS, 12, seed=1)
    met: Counter[Blow] = Counter()
    told: list[int] = []
    numbers: list[int] = []

    def strike(road: Road, mine: list[Blow], number: int) -> list[Blow]:
        numbers.append(number)
        met.update(mine)
        return [blow for blow in mine if blow != blows[0] and (blow != blows[1] or met[blow] == 2)]

    fallen = deal(blows, POINTS, strike, told.append)
    instead = set(fallen) - set(blows)
    assert set(fallen) == {*blows[1:], *instead} and len(fallen) == sum(told) - 1 == 12
    assert [(blow.victim, blow.road, blow.own) for blow in instead] == [("run worker", blows[0].road, False)]
    assert met == Counter(dict.fromkeys([*blows, *instead], 1) | {blows[0]: 2, blows[1]: 2}) and len(numbers) == len(set(numbers))


def test_no_other_point_is_tried_where_every_one_was_or_for_ever():
    every = choose("search", POINTS, 0, seed=1)
    cycles: list[int] = []

    def never(road: Road, mine: list[Blow], number: int) -> list[Blow]:
        cycles.append(len(mine))
        return []

    assert deal(every, POINTS, never, lambda _: None) == [] and sum(cycles) == 2 * len(every)
    cycles.clear()
    assert deal(choose("search", POINTS, 5, seed=1), POINTS, never, lambda _: None) == [] and sum(cycles) == 4 * 5


def test_a_cycle_is_counted_over_all_its_workers():
    """The third worker of a cycle goes on counting where the second stopped; one that was killed before a push did not push."""
    with Listener() as listener:

        def run(*texts: str, die: bool = False) -> list[str]:
            code = f"from predator_si.proof.drill.effects import Line; line = Line({listener.path!r}); [line.tell(text) for text in {texts!r}]; line.end('x')"
            process = subprocess.Popen([sys.executable, "-c", code])
            points = []
            with listener.worker(60.0) as worker:
                while (effect := worker.next()) is not None:
                    points.append(effect.point)
                    if die and effect.point == points[0]:
                        worker.kill()
                    worker.go()
            process.wait(30)
            return points

        assert run("before git push", "after git push") == ["git push 1 before", "git push 1 after"]
        assert run("before git push", "after git push", die=True) == ["git push 2 before"]
        assert run("before git push", "after git push") == ["git push 2 before", "git push 2 after"]
        listener.new_cycle()
        assert run("before git push") == ["git push 1 before"]


def test_two_threads_of_a_worker_stand_at_one_place_at_a_time():
    with Listener() as listener:
        done: list[str] = []

        def work() -> None:
            line = Line(listener.path)

            def one(name: str) -> None:
                for _ in range(20):
                    line.tell(f"before {name}")
                    line.tell(f"after {name}")
                done.append(name)

            threads = [threading.Thread(target=one, args=(name,)) for name in ("push", "write")]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            line.end("over")

        thread = threading.Thread(target=work)
        thread.start()
        seen = []
        with listener.worker(10.0) as worker:
            while (effect := worker.next()) is not None:
                seen.append(effect.point)
                worker.go()
        thread.join(30)
    assert len(seen) == 80 and sorted(done) == ["push", "write"] and {"push 20 after", "write 20 after"} <= set(seen)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("artifacts/si_2026_11_22_001/watch.json", "file watch.json"),
        ("applied/release-local.yaml", "applied release-local.yaml"),
        ("applied/status.json", None),
        ("models/0a1b", "model stored"),
        ("models/0a1b/README.md", None),
        ("snapshots/x.json", None),
        ("../elsewhere/artifacts/x", None),
    ],
)
def test_what_a_file_that_takes_its_place_is_called(tmp_path: Path, target: str, name: str | None):
    assert place_of(tmp_path / "home", Path(os.path.normpath(tmp_path / "home" / target))) == name


def test_a_process_ends_itself_at_the_write_that_was_planned(tmp_path: Path):
    paper, home = tmp_path / "doom", tmp_path / "home"
    (home / "applied").mkdir(parents=True)
    code = (
        "from pathlib import Path; from predator_si.proof.drill import effects; import sys;"
        f"effects.install_writes(effects.doomed(Path({str(paper)!r})), Path({str(home)!r}));"
        f"folder = Path({str(home / 'applied')!r});"
        "[((folder / 'new').write_text(str(n)), (folder / 'new').replace(folder / 'release-local.yaml')) for n in range(4)]"
    )
    process = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert process.returncode == 0 and (home / "applied" / "release-local.yaml").read_text() == "3", "nothing was planned"
    for moment, left in (("before", "1"), ("after", "2")):
        effects.doom(paper, moment, "applied release-local.yaml", count=3)
        process = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
        assert process.returncode == -signal.SIGKILL and not paper.exists()
        assert (home / "applied" / "release-local.yaml").read_text() == left


def test_a_marked_command_runs_the_same_module_with_the_same_words(tmp_path: Path):
    command = marked([sys.executable, "-m", "json.tool", "--compact"], tmp_path / "doom", tmp_path)
    done = subprocess.run(command, input='{"a": 1}', capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, '{"a":1}')


def test_what_a_killed_training_may_not_leave():
    assert changed(trainings=("4f",)) == ["training: MLflow run 4f is called running, and nobody runs it"]
    assert changed(cycles=(dataclasses.replace(TAKEN_BACK, openings=2),)) == [f"{TAKEN_BACK.cycle_id} opened the sealed queries 2 times"]
    assert violations(dataclasses.replace(HEALTHY, cycles=(dataclasses.replace(TAKEN_BACK, openings=1),))) == []
