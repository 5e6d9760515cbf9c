"""`predator-si demo --scale small`, killed with SIGKILL in prepare, train and release, and then run to its end in the same home."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from predator_si.control import Control
from predator_si.orchestration.loop import Loop
from predator_si.proof.prepare import prepare_home
from predator_si.records import Cycle, CycleState, ServingConfig
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.release_file import parse_release
from predator_si.settings import DEMO_SCALES, load_settings
from predator_si_tests.support.waiting import free_port

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.timeout(1500)]
_START_SECONDS = 300.0
_DEMO_SECONDS = 420.0
_DIGEST = "sha256:"


class Demos:
    """Demos of one home, each in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.home, self.folder = folder / "home", folder
        self.port = free_port()
        self.count = 0
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        self.count += 1
        command = [sys.executable, "-m", "predator_si.cli", "--home", str(self.home), "demo", "--scale", "small", "--json", str(self.figures)]
        environment = {**os.environ, "PREDATOR_SI_PORTS": f"search={self.port}"}
        with self.log.open("wb") as stream:
            self._running = subprocess.Popen(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
        return self._running

    @property
    def figures(self) -> Path:
        return self.folder / f"demo-{self.count}.json"

    @property
    def log(self) -> Path:
        return self.folder / f"demo-{self.count}.log"

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def kill_when(self, ready: Callable[[], bool]) -> None:
        """Start a demo, and kill its whole group with SIGKILL at the first moment that ``ready`` sees."""
        process = self.start()
        deadline = time.monotonic() + _START_SECONDS
        while not ready():
            assert process.poll() is None, f"the demo ended by itself with {process.returncode}: {self.tail()}"
            assert time.monotonic() < deadline, f"the moment never came: {self.tail()}"
            time.sleep(0.01)
        self.end()
        assert process.returncode == -signal.SIGKILL

    def end(self) -> None:
        """Kill what runs: the group of the demo, then by their ids the services that it had started, which live in groups of their own."""
        if self._running is not None and self._running.poll() is None:
            os.killpg(self._running.pid, signal.SIGKILL)
            self._running.wait(30)
        for process in self.services():
            process.kill()
            process.wait(30)

    def services(self) -> list[psutil.Process]:
        """The reconciler and the search service of this home, and nobody else's."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if str(self.home) in words and {"predator_si.search", "predator_si.release.reconcile"} & set(words):
                found.append(process)
        return found

    # ------------------------------------------------------------ looking, from outside

    @property
    def control(self) -> Control:
        return Control(self.home / "control.db")

    def newest(self) -> Cycle:
        """The newest cycle."""
        return self.control.cycles(1)[0]

    def _newest_state(self) -> tuple[str, str] | None:
        """Id and state of the newest cycle, read without a lock that the demo could feel."""
        try:
            with closing(sqlite3.connect(f"file:{self.home / 'control.db'}?mode=ro", uri=True)) as connection:
                return connection.execute("SELECT cycle_id, state FROM cycles ORDER BY cycle_id DESC LIMIT 1").fetchone()
        except sqlite3.OperationalError:
            return None  # not made yet

    def at(self, number: int, state: CycleState, *artifacts: str) -> Callable[[], bool]:
        """Whether the ``number``-th cycle of this home is in a state, with these artifacts written."""

        def reached() -> bool:
            cycle_id, found = self._newest_state() or ("", "")
            if not cycle_id.endswith(f"_{number:03d}") or found != state:
                return False
            return all((self.home / "artifacts" / cycle_id / name).exists() for name in artifacts)

        return reached

    def released(self) -> str:
        """The champion by Git."""
        repo = GitOpsRepo(self.home / "gitops.git", self.folder / "looking")
        repo.sync()
        return parse_release(repo.show("release-local.yaml"), "release-local.yaml").reranker.champion

    def promoted_by(self, cycle_id: str) -> str | None:
        repo = GitOpsRepo(self.home / "gitops.git", self.folder / "looking")
        repo.sync()
        return repo.find_commit(cycle_id, "promote")


@pytest.fixture
def demos(tmp_path: Path) -> Iterator[Demos]:
    made = Demos(tmp_path)
    yield made
    made.end()
    assert made.services() == []


def test_killed_three_times_and_then_run_to_its_end(demos: Demos) -> None:
    """No half release after any kill, the artifacts and the ledger stay, and the next demo in the same home works."""
    demos.kill_when(demos.at(1, CycleState.OPENED, "diagnostic_report.json"))
    first = whole(demos, {CycleState.OPENED, CycleState.PREPARED})
    demos.kill_when(demos.at(2, CycleState.PREPARED, "training"))
    second = whole(demos, {CycleState.PREPARED, CycleState.TRAINED})
    demos.kill_when(demos.at(3, CycleState.DECIDED, "decision-promote.json"))
    third = whole(demos, {CycleState.DECIDED, CycleState.RELEASED})
    assert (demos.home / "artifacts" / third / "evaluation.json").is_file()

    process = demos.start()
    code = process.wait(_DEMO_SECONDS)
    assert code == 0, demos.tail()
    assert demos.services() == [], "a demo that ends leaves no process"
    for cycle_id, artifact in ((first, "diagnostic_report.json"), (second, "dataset_manifest.yaml"), (third, "decision-promote.json")):
        assert demos.control.cycle(cycle_id).state is CycleState.FAILED
        assert (demos.home / "artifacts" / cycle_id / artifact).is_file()
    figures = json.loads(demos.figures.read_text())
    has_the_keys_of_the_contract(figures)
    kept_what_it_promised(demos, figures)

    # and once more in a home whose demo ended well: set up anew, by a commit, with everything kept
    loop = prepare_home(load_settings("local", home=demos.home, env=os.environ), DEMO_SCALES["small"])
    assert demos.released() == figures["old_digest"] == loop.serving().model
    assert demos.control.cycle(figures["cycle_id"]).state is CycleState.STABLE and figures["released_digest"] in loop.models
    assert demos.control.verify() == []


def whole(demos: Demos, states: set[CycleState]) -> str:
    """What must hold right after a kill: the ledger is whole, and Git has a promoted model only by that cycle's own commit."""
    cycle = demos.newest()
    assert cycle.state in states
    assert demos.control.verify() == []
    champion, commit = demos.released(), demos.promoted_by(cycle.cycle_id)
    path = demos.home / "artifacts" / cycle.cycle_id / "challenger.json"
    challenger = ServingConfig.read(path).model if path.is_file() else None
    assert (champion == challenger) is (commit is not None)
    if cycle.state in (CycleState.RELEASED, CycleState.WATCHING):
        assert champion == challenger
    for name in ("evaluation.json", "decision-trial.json", "decision-promote.json", "diagnostic_report.json", "training.json"):
        artifact = path.with_name(name)
        assert not artifact.exists() or json.loads(artifact.read_text()), "whole, or not there"
    return cycle.cycle_id


def has_the_keys_of_the_contract(figures: dict[str, Any]) -> None:
    """CONTRACT.md section 7, ``demo``."""
    number = (int, float)
    kinds: dict[str, Any] = {
        "cycle_id": str, "seconds": number, "peak_rss_mb": number, "ndcg_before": number, "ndcg_after": number, "ndcg_gain_ci": list, "n_queries": int,
        "p95_before_ms": number, "p95_after_ms": number, "ndcg_noninferior": bool, "requests": int, "failed_requests": int, "old_digest": str,
        "released_digest": str, "commit": str, "drill": dict, "artifacts": str, "scale": str, "cores": int, "versions": dict, "seed": int,
    }  # fmt: skip
    of_drill: dict[str, Any] = {
        "rolled_back": bool, "requests": int, "failed_requests": int, "bad_digest": str, "digest_after": str, "seconds_to_old_digest": number,
    }  # fmt: skip
    for found, wanted in ((figures, kinds), (figures["drill"], of_drill)):
        wrong = {name: found.get(name) for name, kind in wanted.items() if not isinstance(found.get(name), kind)}
        assert not wrong
    assert len(figures["ndcg_gain_ci"]) == 2 and all(isinstance(end, number) for end in figures["ndcg_gain_ci"])


def kept_what_it_promised(demos: Demos, figures: dict[str, Any]) -> None:
    """The numbers that the issue asks for at any scale, and that they agree with Git and the ledger."""
    drill, scale = figures["drill"], DEMO_SCALES["small"]
    assert figures["scale"] == "small" and figures["seed"] == scale.seed
    assert figures["failed_requests"] == 0 and drill["failed_requests"] == 0
    assert figures["requests"] >= scale.trial_requests + scale.watch_requests and drill["requests"] >= scale.drill_requests
    assert figures["ndcg_gain_ci"][0] > 0 and figures["ndcg_after"] > figures["ndcg_before"] and figures["ndcg_noninferior"]
    assert figures["p95_after_ms"] > 0 and figures["peak_rss_mb"] < 6 * 1024
    assert drill["rolled_back"] and drill["seconds_to_old_digest"] > 0
    assert drill["digest_after"] == figures["released_digest"] == demos.released()
    assert len({figures["old_digest"], figures["released_digest"], drill["bad_digest"]}) == 3
    assert all(digest.startswith(_DIGEST) for digest in (figures["old_digest"], figures["released_digest"], drill["bad_digest"]))
    cycle = demos.control.cycle(figures["cycle_id"])
    assert cycle.state is CycleState.STABLE
    assert demos.promoted_by(cycle.cycle_id) == figures["commit"]
    artifacts = Path(figures["artifacts"])
    assert artifacts == demos.home / "artifacts" / cycle.cycle_id
    assert (artifacts / "report.html").stat().st_size > 10_000 and (artifacts / "manifest.json").is_file() and (artifacts / "demo.json").is_file()
    states = [record.payload["to"] for record in demos.control.records(500, cycle_id=cycle.cycle_id) if record.action.startswith("cycle_")]
    assert states == ["opened", "prepared", "trained", "evaluated", "on_trial", "decided", "released", "watching", "stable"]
    drilled = next(cycle for cycle in demos.control.cycles(1))
    assert drilled.state is CycleState.ROLLED_BACK and Loop(load_settings("local", home=demos.home, env={})).control.active_cycle("local") is None
