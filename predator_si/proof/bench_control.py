"""How the control plane holds under load: reads while a cycle trains, many triggers at once, a stop in the middle of training.

What belongs here: asking a small live platform (API, Dagster's webserver and daemon, search service, reconciler; tiny models), and counting. What must not:
the platform's making (``proof.drill.ground``).

Everything goes the real way: triggers and stops over HTTP, cycles by the daemon's sensors, training in a run of its own at the lowest priority on one
thread. Training steps are those that MLflow logged.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from predator_si import background
from predator_si.api.client import OptimizerClient
from predator_si.api.graphql import UNFINISHED, DagsterGraphQL
from predator_si.errors import PredatorError, Unavailable
from predator_si.orchestration.loop import Loop, LoopPlan
from predator_si.proof.drill.ground import Ground
from predator_si.proof.drill.processes import Processes, wait_until
from predator_si.proof.http_load import Loaded, open_loop
from predator_si.proof.prepare import make_dagster_storage
from predator_si.provenance import provenance
from predator_si.records import CycleState
from predator_si.settings import load_settings

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
_VALUES = "selfImprovement:\n  maxCyclesPerDay: 96\n  api:\n    writesPerMinute: 100000\n    readsPerSecond: 100000\n"
_PATHS = ("/api/v1/optimizer/status", "/api/v1/optimizer/metrics")
_TO_TRAINING_SECONDS = 600.0
_LIMIT_MS, _LIMIT_STOP = 50.0, 5.0


@dataclass(frozen=True)
class ControlSizes:
    """How much is asked.

    Attributes
    ----------
    rate, seconds
        Of the reads.
    triggers
        At once.
    stops
        In the middle of training, one after another.
    """

    rate: float = 500.0
    seconds: float = 30.0
    triggers: int = 200
    stops: int = 100


SIZES = {"full": ControlSizes(), "small": ControlSizes(rate=200.0, seconds=5.0, triggers=50, stops=2)}


class ControlGround(Ground):
    """The drill's ground with the whole control plane on it, and cycles that train for hours if nobody stops them."""

    def __init__(self, home: Path, cache: Path, seed: int) -> None:
        super().__init__(home, cache, seed)
        values = home / "bench-values.yaml"
        home.mkdir(parents=True, exist_ok=True)
        values.write_text(_VALUES)
        asked = load_settings("local", home=home, values_file=values, env={"PREDATOR_SI_CACHE": str(cache)})
        self.settings = asked.model_copy(update={"ports": self.settings.ports, "search_url": self.settings.search_url})
        self.loop = Loop(self.settings)
        self.environment |= self.settings.environment() | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        self.processes = Processes(self.loop.home.logs, self.environment)
        self.url = f"http://127.0.0.1:{self.settings.ports.api}"

    def train_long(self) -> None:
        """From now on a training takes as many steps as a recipe may ask for: the tiny model makes each in some ten milliseconds."""
        path = self.loop.home.path / "plan.json"
        plan = LoopPlan.read(path)
        scale = plan.scale.model_copy(update={"epochs": 20.0, "groups_per_step": 1, "train_seconds": 14_000.0, "probe_queries": 30})
        path.write_text(plan.model_copy(update={"scale": scale}).to_json())

    def bring_up(self) -> None:
        """Everything that ``predator-si up`` starts but MLflow's server; the daemon, and with it every run, at the lowest priority."""
        from predator_si.orchestration.delivery import reconcile_command

        home, settings, python = self.loop.home, self.settings, sys.executable
        make_dagster_storage(settings)
        words = ["--home", str(home.path), "--contour", self.loop.contour]
        self.processes.start("reconciler", reconcile_command(settings), self.in_force)
        search = [python, "-m", "predator_si.search", *words, "--port", str(settings.ports.search), "--threads", "1"]
        self.processes.start("search", search, self.answers)
        workspace = ["-w", str(home.workspace)]
        webserver = [python, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(settings.ports.dagster), *workspace]
        self.processes.start("dagster", webserver, lambda: _answers(f"http://127.0.0.1:{settings.ports.dagster}/server_info"))
        self.processes.start("daemon", background.command([python, "-m", "dagster._daemon", "run", *workspace]), lambda: True)
        self.processes.start("api", [python, "-m", "predator_si.api", *words, "--port", str(settings.ports.api)], lambda: _answers(f"{self.url}/health"))

    def measure_once(self) -> None:
        """Traffic, and the first snapshot: what a cycle is diagnosed from."""
        from predator_si.orchestration.steps import observe
        from predator_si.search.traffic import replay

        for part in ("base", "shift"):
            replay(self.loop.search_url, self.loop.corpus, part, n=60, seed=self.seed)
        observe.take_snapshot(self.loop)

    def steps(self) -> int:
        """Training steps that MLflow knows of, over all runs of this home."""
        path = self.loop.home.mlflow / "mlflow.db"
        if not path.is_file():
            return 0
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as connection:
                rows = connection.execute("SELECT MAX(step) FROM metrics WHERE key = 'loss' GROUP BY run_uuid").fetchall()
        except sqlite3.Error:
            return 0
        return sum(int(row[0]) for row in rows if row[0] is not None)

    def commits(self) -> int:
        """Commits of cycles: trials and releases."""
        cycles = self.loop.control.cycles(999, self.loop.contour)
        self.loop.repo.sync()
        return sum(self.loop.repo.find_commit(cycle.cycle_id, stage) is not None for cycle in cycles for stage in ("trial", "promote"))


def bench_control(
    folder: Path,
    cache: Path,
    *,
    scale: str = "full",
    seed: int = 0,
    sizes: ControlSizes | None = None,
    say: Say = lambda text: None,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """The figures of ``bench control`` (CONTRACT.md section 7).

    Parameters
    ----------
    folder
        The bench's own home; an earlier one there is removed.
    sizes
        Instead of those of the scale.

    Raises
    ------
    PredatorError
        The small platform does not come up, or a cycle does not get to its training.
    """
    asked = sizes or SIZES[scale]
    rng = random.Random(seed)
    ground = ControlGround.prepare(folder, cache, seed, say)
    assert isinstance(ground, ControlGround)
    ground.train_long()
    try:
        say("the platform comes up")
        ground.bring_up()
        ground.measure_once()
        say(f"{asked.triggers} triggers at once")
        started, cycles = asyncio.run(_trigger(ground, asked.triggers))
        say("the cycle goes on to its training")
        run_id = _to_training(ground)
        say(f"{asked.rate:g} reads a second for {asked.seconds:g} s while it trains")
        before = ground.steps()
        loaded: Loaded = asyncio.run(open_loop("127.0.0.1", ground.settings.ports.api, _PATHS, asked.rate, asked.seconds))
        steps = ground.steps() - before
        stops: list[float] = []
        late = 0
        for number in range(asked.stops):
            say(f"stop {number + 1} of {asked.stops}")
            if number or not _lives(ground, run_id):
                run_id = _to_training(ground)
            time.sleep(rng.random() * 3.0)  # somewhere in the training, not always at the same place
            while not _lives(ground, run_id):  # it was done: a stop of nothing would be a quick one
                run_id = _to_training(ground)
            stops.append(_stop(ground, run_id))
            late += ground.commits()
            on_progress(number + 1, asked.stops)
    finally:
        ground.processes.end_all()
    p99 = loaded.percentile(99)
    slowest = max(stops, default=None)
    return {
        "requests_per_second": round(loaded.per_second, 1),
        "p50_ms": loaded.percentile(50),
        "p99_ms": p99,
        "errors": loaded.errors,
        "requests": len(loaded.milliseconds) + loaded.errors,
        "training_steps": steps,
        "triggers": asked.triggers,
        "cycles_started": cycles,
        "triggers_answered_started": started,
        "stops": len(stops),
        "stop_seconds": [round(one, 3) for one in stops],
        "stop_max_seconds": slowest,
        "released_after_stop": late,
        "within": p99 is not None and p99 < _LIMIT_MS and loaded.errors == 0 and cycles == 1 and late == 0 and (slowest is None or slowest <= _LIMIT_STOP),
        "client": "open loop, asyncio, 16 connections, time from the moment a request was due",
        **provenance(scale, seed),
    }


async def _trigger(ground: ControlGround, count: int) -> tuple[int, int]:
    """How many of ``count`` triggers at once say that they started a cycle, and how many cycles there are then."""
    before = len(ground.loop.control.cycles(999))
    async with httpx.AsyncClient(base_url=ground.url, timeout=300.0, trust_env=False, limits=httpx.Limits(max_connections=count)) as client:
        said = await asyncio.gather(*(client.post("/api/v1/optimizer/trigger", json={"force": True, "reason": "bench control"}) for _ in range(count)))
    broken = [answer for answer in said if answer.status_code >= 400]
    if broken:
        raise Unavailable(f"{len(broken)} of {count} triggers failed: HTTP {broken[0].status_code}: {broken[0].text[:300]}")
    return sum(answer.json()["status"] == "started" for answer in said), len(ground.loop.control.cycles(999)) - before


def _to_training(ground: ControlGround) -> str:
    """Begin a cycle where none is active, let the loop bring it to its training, and wait for the first steps; the run's id.

    Raises
    ------
    Unavailable
        It does not get there.
    """
    with OptimizerClient(ground.url, seconds=60.0) as client:
        client.start("bench control")
        if ground.loop.control.active_cycle(ground.loop.contour) is None:
            client.trigger(force=True, reason="bench control")
    found: list[str] = []
    before = ground.steps()

    def trains() -> bool:
        cycle = ground.loop.control.active_cycle(ground.loop.contour)
        if cycle is None:  # three ended trainings are a failed cycle: the next one begins
            with OptimizerClient(ground.url, seconds=60.0) as client:
                client.trigger(force=True, reason="bench control")
            return False
        if cycle.state is not CycleState.PREPARED:
            return False
        try:
            runs = [run for run in _runs(ground, cycle.cycle_id) if run.job == "cycle_train_job" and run.status == "STARTED"]
        except PredatorError:
            return False  # a busy webserver: asked again
        found[:] = [run.run_id for run in runs]
        return bool(runs) and ground.steps() > before

    wait_until(trains, _TO_TRAINING_SECONDS, "a training that makes steps", every=0.5)
    return found[0]


def _stop(ground: ControlGround, run_id: str) -> float:
    """Press the kill switch by HTTP; the seconds until the training's run has ended."""
    began = time.monotonic()
    with OptimizerClient(ground.url, seconds=60.0) as client:
        client.stop("bench control")
    wait_until(lambda: not _lives(ground, run_id), 120.0, "the end of the training", every=0.05)
    return time.monotonic() - began


def _lives(ground: ControlGround, run_id: str) -> bool:
    """Whether a run has not ended; as long as nobody can say, it has not."""
    try:
        return any(run.run_id == run_id for run in _runs(ground))
    except PredatorError:
        return True


def _runs(ground: ControlGround, cycle_id: str | None = None) -> list[Any]:
    async def ask() -> list[Any]:
        async with DagsterGraphQL(f"http://127.0.0.1:{ground.settings.ports.dagster}") as dagster:
            return [run for run in await dagster.runs(cycle_id=cycle_id) if run.status in UNFINISHED]

    return asyncio.run(ask())


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
