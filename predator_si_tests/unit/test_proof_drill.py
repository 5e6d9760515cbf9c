"""What a drill counts and judges: every invariant fires on the state that it forbids, and on no other."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput, Missing, Unavailable
from predator_si.home import Home
from predator_si.proof.drill.effects import Line, Listener
from predator_si.proof.drill.figures import GOALS, Tally, figures, memory_slope, quantile, within_goal
from predator_si.proof.drill.invariants import Commit, CycleFacts, Observed, violations
from predator_si.proof.drill.plan import DRILLS, SCALES, DrillPlan
from predator_si.proof.drill.processes import Processes
from predator_si.proof.drill.report import write_page
from predator_si.records import CycleState
from predator_si_tests.support.command_line import CommandLine

OLD, BAD, NEW = (f"sha256:{letter * 64}" for letter in "abc")
FIRST, SECOND = "si_2026_11_22_001", "si_2026_11_22_002"
SEED = Commit("0" * 40, None, None, OLD, None, frozenset())
RELEASED = Commit("1" * 40, FIRST, "promote", BAD, None, frozenset())
BACK = Commit("2" * 40, FIRST, "rollback", OLD, None, frozenset({BAD}))
TAKEN_BACK = CycleFacts(FIRST, CycleState.ROLLED_BACK, BAD, True)
HEALTHY = Observed((SEED, RELEASED, BACK), (TAKEN_BACK,), OLD, (OLD, None), OLD, registry_asked=True)


def changed(**what: object) -> list[str]:
    return violations(dataclasses.replace(HEALTHY, **what))  # type: ignore[arg-type]


def cycle(state: CycleState, challenger: str | None = BAD, decided: bool = True) -> CycleFacts:
    return CycleFacts(FIRST, state, challenger, decided)


def test_a_healthy_state_violates_nothing():
    assert violations(HEALTHY) == []
    on_its_way = Observed((SEED, RELEASED), (cycle(CycleState.WATCHING),), BAD, (BAD, None), BAD, registry_asked=True)
    assert violations(on_its_way) == []
    on_trial = Commit("3" * 40, SECOND, "trial", OLD, NEW, frozenset({BAD}))
    trying = CycleFacts(SECOND, CycleState.ON_TRIAL, NEW, False)
    assert changed(commits=(*HEALTHY.commits, on_trial), cycles=(trying, TAKEN_BACK), served=(OLD, NEW)) == []


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"applied": BAD}, "the applied file's is"),
        ({"served": (BAD, None)}, "the service serves"),
        ({"served": (OLD, NEW)}, "the service's is"),
        ({"alias": BAD}, "the registry's is"),
        ({"alias": None}, "the registry's is None"),
        ({"reigning": (OLD, BAD)}, "2 champions at once"),
        ({"ledger": ("record 3: the hash is wrong",)}, "ledger: record 3"),
        ({"lease": "lease 'cycle-local' is held"}, "lease: "),
        ({"broken_files": ("watch.json: cut short",)}, "file: "),
        ({"repository": "missing blob"}, "repository: "),
        ({"cycles": (dataclasses.replace(TAKEN_BACK, decided=False),)}, "had not been decided"),
        ({"cycles": (dataclasses.replace(TAKEN_BACK, challenger=NEW),)}, "the challenger of"),
        ({"cycles": ()}, "no cycle knows of it"),
        ({"cycles": (cycle(CycleState.STABLE),)}, "and Git has taken it back"),
        ({"cycles": (cycle(CycleState.WATCHING),)}, "Git's champion is"),
    ],
)
def test_each_rule_fires(what: dict[str, object], said: str):
    found = changed(**what)
    assert any(said in one for one in found), found


def test_an_asked_registry_alone_is_believed():
    assert changed(alias=None, registry_asked=False) == []


def test_two_watched_releases_are_two_champions():
    other = CycleFacts(SECOND, CycleState.RELEASED, NEW, True)
    released = Commit("3" * 40, SECOND, "promote", NEW, None, frozenset())
    found = violations(Observed((SEED, RELEASED, released), (other, cycle(CycleState.WATCHING)), NEW, (NEW, None), NEW, registry_asked=True))
    assert found == [f"two releases are watched at once: {SECOND}, {FIRST}"]


def test_a_release_that_ended_otherwise_is_still_in_git():
    for state in (CycleState.FAILED, CycleState.REJECTED, CycleState.CANCELLED, CycleState.ROLLED_BACK):
        found = violations(Observed((SEED, RELEASED), (cycle(state),), BAD, (BAD, None), BAD, registry_asked=True))
        assert found == [f"{FIRST} is {state.value}, and Git still has its release"]


def test_a_cycle_that_says_released_without_a_commit():
    found = violations(Observed((SEED,), (cycle(CycleState.RELEASED, OLD),), OLD, (OLD, None), OLD))
    assert found == [f"{FIRST} is released, and Git has no commit of its release"]


def test_who_made_a_champion_is_asked_commit_by_commit():
    stranger = Commit("9" * 40, None, None, NEW, None, frozenset())
    by_nobody = Observed((SEED, stranger), (), NEW, (NEW, None), NEW)
    assert violations(by_nobody) == [f"{'9' * 12} made {NEW} the champion, and no cycle knows of it"]
    assert violations(dataclasses.replace(by_nobody, by_hand=frozenset({stranger.sha}))) == []
    wrong_way = dataclasses.replace(BACK, champion=NEW, denied=frozenset())
    assert f"{'2' * 12} rolled {FIRST} back to {NEW}, not to {OLD}" in changed(commits=(SEED, RELEASED, wrong_way), applied=NEW, served=(NEW, None), alias=NEW)
    by_trial = Commit("4" * 40, FIRST, "trial", NEW, None, frozenset())
    assert any("in stage trial" in one for one in changed(commits=(SEED, by_trial)))


def test_a_release_whose_stored_reverse_leads_nowhere():
    watched = dataclasses.replace(cycle(CycleState.WATCHING), way_back=BAD)
    seen = Observed((SEED, RELEASED), (watched,), BAD, (BAD, None), BAD, registry_asked=True)
    assert violations(seen) == [f"{FIRST} is watching, and its stored reverse leads back to {BAD}: there is no way back"]
    assert violations(dataclasses.replace(seen, cycles=(dataclasses.replace(watched, way_back=OLD),))) == []


def test_a_stage_is_committed_once():
    twice = dataclasses.replace(BACK, sha="5" * 40)
    assert changed(commits=(SEED, RELEASED, BACK, twice)) == [f"{FIRST} committed its stage rollback twice, last as {'5' * 12}"]


def test_what_is_denied_is_neither_released_nor_served():
    back_again = Commit("6" * 40, SECOND, "promote", BAD, None, frozenset({BAD}))
    again = CycleFacts(SECOND, CycleState.WATCHING, BAD, True)
    found = violations(Observed((*HEALTHY.commits, back_again), (again, TAKEN_BACK), BAD, (BAD, None), BAD, registry_asked=True))
    assert f"{BAD} is on the deny list and released" in found and f"{BAD} is on the deny list and served" in found
    by_its_source = dataclasses.replace(HEALTHY, commits=(SEED, RELEASED, dataclasses.replace(BACK, denied=frozenset({NEW}))), sources={OLD: NEW})
    assert f"{OLD} is on the deny list and released" in violations(by_its_source)


def test_nothing_is_on_trial_without_a_cycle_that_tries_it():
    left = Commit("7" * 40, SECOND, "trial", OLD, NEW, frozenset())
    rejected = CycleFacts(SECOND, CycleState.REJECTED, NEW, False)
    found = changed(commits=(*HEALTHY.commits, left), cycles=(rejected, TAKEN_BACK), served=(OLD, NEW))
    assert found == [f"{NEW} is on trial by Git, and no cycle is"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.001, 100.0), min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_is_a_value_that_a_share_does_not_pass(values: list[float], q: float):
    found = quantile(values, q)
    assert found in values
    assert sum(value <= found for value in values) >= q * len(values) - 1e-9
    assert sum(value < found for value in values) < q * len(values) + 1e-9


def test_a_way_back_that_was_never_seen_is_infinite():
    assert quantile([0.1] * 18 + [float("inf")] * 2, 0.95) == float("inf")
    assert quantile([], 0.5) is None


@pytest.mark.parametrize(
    ("slow", "n", "goal", "reached"),
    [(1, 20, 2.0, True), (2, 20, 2.0, False), (10, 200, 2.0, True), (11, 200, 2.0, False), (0, 19, 2.0, None), (19, 19, 2.0, None), (0, 20, None, None)],
)
def test_a_goal_is_reached_when_nineteen_of_twenty_keep_it(slow: int, n: int, goal: float | None, reached: bool | None):
    assert within_goal([2.0] * (n - slow) + [2.01] * slow, goal) is reached
    assert within_goal([2.0] * (n - slow) + [float("inf")] * slow, goal) is reached


def ways_back(seconds: float, n: int) -> Tally:
    """A drill that violated nothing, and took so long."""
    tally = Tally(n=n)
    for phase, value in (("detect", 9.0), ("commit", 9.0), ("sync", 0.5), ("ready", seconds - 0.5)):
        tally.phases[phase] += [value] * n
    return tally


def test_a_leak_is_found_and_noise_is_none():
    rng = np.random.default_rng(3)
    leak = [(number, 300.0 + 0.05 * number + rng.normal(0, 2)) for number in range(0, 1000, 5)]
    found = memory_slope(leak)
    assert found.low is not None and found.high is not None and 40 < found.low < 50 < found.high < 60
    flat = [memory_slope([(number, 300.0 + rng.normal(0, 2)) for number in range(0, 1000, 5)]) for _ in range(200)]
    inside = np.mean([one.low < 0 < one.high for one in flat if one.low is not None and one.high is not None])
    assert 0.9 <= inside <= 0.99
    warming = [(number, 300.0 + min(number, 150)) for number in range(0, 1000, 5)]
    assert abs(memory_slope(warming).estimate or 0.0) < 1e-6, "what fills at the beginning is no leak"
    short = memory_slope(leak[:30])
    assert short.estimate is None and "are needed" in str(short.reason)


def test_the_figures_have_the_keys_of_the_contract(tmp_path: Path):
    tally = Tally()
    for number, phase in itertools.product(range(3), ("detect", "commit", "sync", "ready")):
        tally.phases[phase].append(0.1 * (number + 1))
    tally.note("rollback 1", [])
    tally.note("rollback 2", ["the old digest was not verified"])
    found = figures(DrillPlan.of("rollback", "small"), tally, 1.0)
    wanted = {
        "n",
        "violations",
        "requests",
        "failed_requests",
        "p50_seconds",
        "p95_seconds",
        "phases",
        "rss_slope_mb_per_1000",
        "scale",
        "cores",
        "versions",
        "seed",
    }
    assert wanted <= found.keys() and found["phases"].keys() == {"detect", "commit", "sync", "ready"}
    assert (found["n"], found["violations"], found["p50_seconds"], found["rss_slope_mb_per_1000"]) == (2, 1, pytest.approx(0.4), None)
    json.dumps(found)
    text = write_page(tmp_path, found, tally).read_text()
    assert "rollback 2: the old digest was not verified" in text and "data:image/png" in text and "<script" not in text


def test_plans():
    assert set(SCALES["full"]) == set(SCALES["small"]) == set(DRILLS)
    assert DrillPlan.of("swap", "full").n == 1000 and DrillPlan.of("swap", "full", 7).n == 7
    assert DrillPlan.of("kill", "full").n >= 30
    for name, scale, n in (("unplug", "full", None), ("swap", "huge", None), ("swap", "full", 0), ("kill", "full", -1)):
        with pytest.raises(BadInput):
            DrillPlan.of(name, scale, n)


def test_a_worker_says_where_it_is_and_waits_to_be_told(tmp_path: Path):
    said: list[str] = []
    with Listener() as listener:

        def work() -> None:
            line = Line(listener.path)
            for text in ("before git push", "after git push", "before git push"):
                line.tell(text)
                said.append(text)
            line.end("rolled_back")

        thread = threading.Thread(target=work)
        thread.start()
        with listener.worker(10.0) as worker:
            points = []
            while (effect := worker.next()) is not None:
                assert len(said) == len(points), "it waits for the answer"
                points.append(effect.point)
                worker.go()
            assert worker.pid == os.getpid() and worker.ended == "rolled_back"
        thread.join(10)
        with pytest.raises(Unavailable, match="no worker called in"):
            listener.worker(0.05)
    assert points == ["git push 1 before", "git push 1 after", "git push 2 before"]
    assert not Path(listener.path).exists()


def test_a_worker_that_dies_says_nothing_more():
    with Listener() as listener:
        code = f"from predator_si.proof.drill.effects import Line; Line({listener.path!r}).tell('before git push')"
        process = subprocess.Popen([sys.executable, "-c", code])
        with listener.worker(60.0) as worker:
            assert worker.next() is not None and worker.pid == process.pid
            worker.kill()
            assert worker.next() is None and worker.ended == "gone"
        assert process.wait(30) == -signal.SIGKILL


def test_the_command_refuses_what_is_not_a_drill(home: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    run = CommandLine(home.path, capsys)
    unknown = run("drill", "unplug")
    assert unknown.code == 2 and "rollback, swap, kill, partition, race" in unknown.err
    assert run("drill", "swap", "--n", 0).code == 2
    (tmp_path / "swap").mkdir()
    (tmp_path / "swap" / "thesis.txt").write_text("mine")
    theirs = run("drill", "swap", "--out", tmp_path)
    assert theirs.code == 2 and "not the home of an earlier drill" in theirs.err and (tmp_path / "swap" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(("violated", "code"), [([], 0), (["rollback 1: the old digest was not verified"], 1)])
def test_the_command_ends_with_1_when_a_rule_was_broken(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, violated: list[str], code: int
):
    tally = Tally(n=1, violations=violated)
    monkeypatch.setattr("predator_si.proof.drill.run.run_drill", lambda plan, *_: figures(plan, tally, 1.0))
    run = CommandLine(home.path, capsys)
    told = run("drill", "rollback", "--n", 1)
    assert told.code == code and f"{len(violated)} violations" in told.out and all(one in told.out for one in violated)
    machine = run("drill", "rollback", "--n", 1, "--scale", "small", "--json", "-")
    assert machine.code == code and machine.json["violations"] == len(violated) and machine.json["scale"] == "small"


@pytest.mark.parametrize(("seconds", "n", "code", "said"), [(2.0, 20, 0, "reached"), (2.5, 20, 1, "missed"), (2.5, 3, 0, None)])
def test_the_command_ends_with_1_when_the_goal_was_missed(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: float, n: int, code: int, said: str | None
):
    monkeypatch.setattr("predator_si.proof.drill.run.run_drill", lambda plan, *_: figures(plan, ways_back(seconds, n), 1.0))
    run = CommandLine(home.path, capsys)
    told = run("drill", "rollback")
    assert told.code == code and ("goal, P95 within 2 s" in told.out) is (said is not None) and (said or "") in told.out
    found = figures(DrillPlan.of("rollback", "full"), ways_back(seconds, n), 1.0)
    assert (found["goal_seconds"], found["within_goal"]) == (2.0, {"reached": True, "missed": False, None: None}[said])
    page = write_page(tmp_path, found, ways_back(seconds, n)).read_text()
    assert "goal: P95 within 2 s" in page and (said or "not judged") in page
    swaps = figures(DrillPlan.of("swap", "full"), ways_back(seconds, n), 1.0)
    assert set(GOALS) == {"rollback"} and (swaps["goal_seconds"], swaps["within_goal"]) == (None, None)
    assert "goal: " not in write_page(tmp_path, swaps, ways_back(seconds, n)).read_text()


def test_processes_are_killed_started_again_and_ended(tmp_path: Path):
    processes = Processes(tmp_path / "logs", {**os.environ, "WORD": "hello"})
    sign = tmp_path / "sign"
    code = f"import os, pathlib, time; pathlib.Path({str(sign)!r}).write_text(os.environ['WORD']); time.sleep(600)"
    processes.start("sleeper", [sys.executable, "-c", code], sign.exists)
    first = processes.pid("sleeper")
    processes.kill("sleeper")
    assert not processes.lives("sleeper") and sign.read_text() == "hello"
    sign.unlink()
    processes.start_again("sleeper")
    processes.wait_ready("sleeper", 60.0)
    assert processes.lives("sleeper") and processes.pid("sleeper") != first
    processes.end_all()
    assert not processes.lives("sleeper")
    with pytest.raises(Missing, match="there are sleeper"):
        processes.start_again("baker")
    with pytest.raises(Unavailable, match="ended with 3: no bread today"):
        processes.start("baker", [sys.executable, "-c", "import sys; sys.stderr.write('no bread today'); sys.exit(3)"], lambda: False)
