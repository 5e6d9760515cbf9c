"""A home whose champion guesses, with its machines running and the jobs over it; and a process that dies where a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from predator_si.build import build_defs
from predator_si.control import Control
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.partitions import add_cycle
from predator_si.orchestration.steps import improve, keep
from predator_si.proof.prepare import build_first_index
from predator_si.records import CycleState, ServingConfig
from predator_si.release.release_file import parse_release
from predator_si.search.traffic import replay
from predator_si.settings import Settings
from predator_si.statistics.design import DEFAULT_DESIGN
from predator_si.train.tracking import NullTracker
from predator_si_tests.support.dagster_instance import instance as instance
from predator_si_tests.support.dagster_instance import storage as storage
from predator_si_tests.support.platform import load_word_reranker, machines, on_free_port, open_cycle, prepare, tiny_scale, word_model, write_toy_corpus

GOOD, SAME, BAD = 3.0, 0.0, -3.0
DRILL = {"ops": {f"cycle__{name}": {"config": {"drill": True}} for name in ("release_decision", "helm_patch")}}


class Stage:
    """A home whose champion guesses, with its machines running, and the jobs over it."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, corpus: Path, likes: float = SAME, **weights: float) -> None:
        self.loop, self.instance, self.tracker = Loop(settings), instance, NullTracker()
        self.old = word_model(self.loop, "guesses", likes, **{"seconds": 0.01, **weights})
        prepare(self.loop, self.old, tiny_scale(trial_requests=100, test_queries=50, latency_requests=60), corpus)
        build_first_index(self.loop, part=None)
        self.tracker.register(self.old, self.loop.models.path(self.old))
        self.tracker.set_alias("champion", self.old)
        self.definitions = build_defs(settings, loop=self.loop, tracker=self.tracker)
        self.seed = 0

    # ------------------------------------------------------------ driving

    def run(self, job: str, cycle_id: str, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
        return self.definitions.resolve_job_def(job).execute_in_process(instance=self.instance, partition_key=cycle_id, run_config=config, raise_on_error=False)

    def alone(self, asset: str, cycle_id: str, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
        """Materialize one asset without the rest of its job, as anybody can in the UI."""
        job = self.definitions.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            instance=self.instance, partition_key=cycle_id, asset_selection=[dg.AssetKey(["cycle", asset])], run_config=config, raise_on_error=False
        )

    def evaluated(self, likes: float, name: str = "candidate") -> str:
        """A cycle whose challenger likes the right word so much, evaluated on the sealed queries."""
        digest = word_model(self.loop, name, likes)
        self.tracker.register(digest, self.loop.models.path(digest))
        cycle_id = open_cycle(self.loop.control).cycle_id
        add_cycle(self.instance, cycle_id)
        serving = self.loop.serving()
        self.loop.save(cycle_id, "challenger.json", ServingConfig(model=digest, depth=serving.depth, fusion_weight=serving.fusion_weight))
        assert self.run("cycle_evaluate_job", cycle_id).success
        return cycle_id

    def on_trial(self, likes: float = GOOD, name: str = "candidate") -> str:
        cycle_id = self.evaluated(likes, name)
        result = self.run("cycle_trial_job", cycle_id)
        assert result.success, failure(result)
        assert self.state(cycle_id) is CycleState.ON_TRIAL
        return cycle_id

    def judged(self, likes: float = GOOD, name: str = "candidate") -> str:
        cycle_id = self.on_trial(likes, name)
        self.traffic(100)
        result = self.run("cycle_judge_job", cycle_id)
        assert result.success, failure(result)
        assert self.state(cycle_id) is CycleState.DECIDED
        return cycle_id

    def released(self, likes: float = GOOD, name: str = "candidate") -> str:
        cycle_id = self.judged(likes, name)
        result = self.run("cycle_release_job", cycle_id)
        assert result.success, failure(result)
        assert self.state(cycle_id) is CycleState.RELEASED, self.loop.control.cycle(cycle_id).reason
        return cycle_id

    def drilled(self, config: dict[str, Any] | None) -> tuple[str, dg.ExecuteInProcessResult]:
        """A damaged model on the release job, with a run configuration."""
        digest = word_model(self.loop, "damaged", BAD)
        cycle_id = open_cycle(self.loop.control, "drill", actions=("drill",)).cycle_id
        add_cycle(self.instance, cycle_id)
        serving = self.loop.serving()
        improve.evaluate_drill(self.loop, cycle_id, ServingConfig(model=digest, depth=serving.depth, fusion_weight=serving.fusion_weight))
        return cycle_id, self.run("cycle_release_job", cycle_id, config)

    def traffic(self, n: int) -> None:
        self.seed += 1
        result = replay(self.loop.search_url, self.loop.corpus, "shift", n=n, seed=self.seed)
        assert result.failed == 0, result.failures

    # ------------------------------------------------------------ looking

    def state(self, cycle_id: str) -> CycleState:
        return self.loop.control.cycle(cycle_id).state

    def folder(self, cycle_id: str) -> Path:
        return self.loop.artifacts(cycle_id)

    def head(self) -> str:
        self.loop.repo.sync()
        return self.loop.repo.head()

    def by_git(self) -> tuple[str, str | None]:
        """(champion, candidate) by Git."""
        found = parse_release(self.loop.release_text(), self.loop.release_name).reranker
        return found.champion, found.candidate

    def served(self) -> tuple[str, str | None]:
        """(champion, candidate) by the service."""
        variants = httpx.get(f"{self.loop.search_url}/info", trust_env=False).json()["variants"]
        return variants["champion"]["model_sha"], variants["candidate"]["model_sha"] if variants["candidate"] else None

    def commits(self, cycle_id: str) -> list[str]:
        log = self.loop.repo._git("log", "--format=%(trailers:key=Predator-Stage,valueonly,separator=%x2c)", f"--grep=Predator-Cycle: {cycle_id}", self.head())
        return log.split()[::-1]

    def actions(self, cycle_id: str) -> list[str]:
        return [record.action for record in self.loop.control.records(500, cycle_id=cycle_id)]


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Why a run failed, with the causes."""
    texts = []
    for event in result.all_events:
        if event.event_type_value == "STEP_FAILURE":
            error: Any = event.event_specific_data.error  # type: ignore[union-attr]
            while error is not None:
                texts.append(error.message)
                error = error.cause
    return "\n".join(texts)


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """An asset's materialization metadata as plain values."""
    (event,) = [event for event in result.get_asset_materialization_events() if event.asset_key == dg.AssetKey(["cycle", asset])]
    return {name: value.value for name, value in event.materialization.metadata.items()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_corpus(tmp_path_factory.mktemp("corpus") / "toy")


@pytest.fixture
def start(instance: dg.DagsterInstance, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Settings], Stage]]:
    """Starts the machines of a home with its settings."""
    monkeypatch.setattr(improve, "load_reranker", load_word_reranker)
    monkeypatch.setattr(Loop, "confirm_seconds", 20.0)
    with ExitStack() as running:

        def begin(settings: Settings) -> Stage:
            made = Stage(on_free_port(settings), instance, corpus)
            running.enter_context(machines(made.loop, embedder=made.loop.plan.embedder, load_reranker=load_word_reranker))
            return made

        yield begin


@pytest.fixture
def stage(start: Callable[[Settings], Stage], settings: Settings) -> Stage:
    return start(settings)


@pytest.fixture
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty probes show that a guess fell by a fifth at a level of one in fifty, not of one in two thousand."""
    monkeypatch.setattr(keep, "design_of", lambda loop: DEFAULT_DESIGN.replaced({"ndcg_alpha": 0.02}))


# --------------------------------------------------------------------------- deaths


class Died(BaseException):
    """A process that ends here and now: no ``except Exception`` catches it."""


def die_at(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    """The next ledger record of this action is never written, nor anything after it."""
    append, transition = Control.append, Control.transition

    def dying_append(self: Control, name: str, *rest: Any, **more: Any) -> Any:
        if name == action:
            raise Died(action)
        return append(self, name, *rest, **more)

    def dying_transition(self: Control, cycle_id: str, to: Any, *rest: Any, **more: Any) -> Any:
        if f"cycle_{CycleState(to).value}" == action:
            raise Died(action)
        return transition(self, cycle_id, to, *rest, **more)

    monkeypatch.setattr(Control, "append", dying_append)
    monkeypatch.setattr(Control, "transition", dying_transition)


def killed(stage: Stage, job: str, cycle_id: str, action: str) -> None:
    """Run a job that dies right before it would write ``action`` into the ledger."""
    with pytest.MonkeyPatch.context() as patched:
        die_at(patched, action)
        result = stage.run(job, cycle_id)
    assert not result.success and f"Died: {action}" in failure(result)
