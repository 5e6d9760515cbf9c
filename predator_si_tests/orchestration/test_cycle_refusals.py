"""A cycle from its evaluation on, through the real jobs, the real repository, reconciler and service; only the rerankers are simple: each knows one word.

What is tried here is to get a model past its gates, and what must happen when a step dies or the service does not follow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import polars as pl
import pytest

from predator_si.build import build_defs
from predator_si.control import Control
from predator_si.errors import Refused
from predator_si.orchestration import delivery
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.partitions import add_cycle, cycles
from predator_si.orchestration.steps import decide as deciding
from predator_si.orchestration.steps import improve, keep
from predator_si.proof.prepare import build_first_index
from predator_si.records import CycleState, Decision, Deployment, Evaluation, Rollback, ServingConfig, Verdict, WatchResult, utc_now
from predator_si.release.decide import decide_trial
from predator_si.release.deny import DENY_FILE, parse_deny
from predator_si.release.recompute import collect_evidence
from predator_si.release.release_file import parse_release
from predator_si.search.traffic import replay
from predator_si.settings import Settings, load_settings
from predator_si.statistics import candidate_level
from predator_si.statistics.design import DEFAULT_DESIGN
from predator_si.train.tracking import NullTracker
from predator_si_tests.support.platform import load_word_reranker, machines, on_free_port, open_cycle, prepare, tiny_scale, word_model, write_toy_corpus

GOOD, SAME, BAD = 3.0, 0.0, -3.0


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


@pytest.fixture(scope="module")
def storage() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as found:
        yield found


@pytest.fixture
def instance(storage: dg.DagsterInstance) -> dg.DagsterInstance:
    storage.wipe()
    for key in storage.get_dynamic_partitions(str(cycles.name)):
        storage.delete_dynamic_partition(str(cycles.name), key)
    return storage


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


# --------------------------------------------------------------------------- the gates


def test_a_better_model_goes_all_the_way(stage: Stage) -> None:
    cycle_id = stage.released()
    new = ServingConfig.read(stage.folder(cycle_id) / "challenger.json").model
    assert stage.by_git() == stage.served() == (new, None)
    assert stage.commits(cycle_id) == ["trial", "promote"]
    assert stage.tracker.alias("champion") == new
    for _ in range(2):
        stage.traffic(20)
        watched = stage.run("watch_job", cycle_id)
        assert watched.success
    pages = f"http://127.0.0.1:{stage.loop.settings.ports.api}"
    told = {name: value for name, value in metadata(watched, "watch").items() if str(value).startswith("http")}
    commits = {
        f"{step}_commit": f"{pages}/operations/commits/{stage.loop.repo.find_commit(cycle_id, name)}"
        for step, name in (("trial", "trial"), ("release", "promote"))
    }
    assert told == {
        "operations_page": f"{pages}/operations/cycles/{cycle_id}",
        "report": f"{pages}/cycles/{cycle_id}",
        "trial_page": f"{pages}/cycles/{cycle_id}/trial",
        **commits,
    }
    assert stage.state(cycle_id) is CycleState.STABLE, WatchResult.read(stage.folder(cycle_id) / "watch.json").reason
    states = [record.payload["to"] for record in stage.loop.control.records(500, cycle_id=cycle_id) if record.action.startswith("cycle_")]
    assert states == ["opened", "evaluated", "on_trial", "decided", "released", "watching", "stable"]
    assert stage.loop.control.verify() == []


def test_a_model_that_is_not_better_ends_before_anything_is_committed(stage: Stage) -> None:
    """The blocking check stops the patch inside the run; the patch asset alone commits nothing afterwards."""
    cycle_id, head = stage.evaluated(SAME), stage.head()
    result = stage.run("cycle_trial_job", cycle_id)
    assert not result.success
    assert "cycle__trial_patch" not in {event.step_key for event in result.all_events if event.event_type_value == "STEP_START"}
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["ndcg_superior"].passed and checks["ndcg_superior"].severity is dg.AssetCheckSeverity.ERROR
    assert stage.state(cycle_id) is CycleState.REJECTED
    for asset in ("trial_patch", "helm_patch"):
        alone = stage.alone(asset, cycle_id)
        if alone.success:
            assert metadata(alone, asset)["committed"] is False
    deployed = stage.alone("deployment", cycle_id)
    assert deployed.success and metadata(deployed, "deployment")["deployed"] is False
    assert (stage.head(), stage.by_git(), stage.served()) == (head, (stage.old, None), (stage.old, None))
    assert stage.commits(cycle_id) == []


def test_a_worse_model_is_rejected_with_its_numbers(stage: Stage) -> None:
    cycle_id = stage.evaluated(BAD)
    assert not stage.run("cycle_trial_job", cycle_id).success
    cycle = stage.loop.control.cycle(cycle_id)
    assert cycle.state is CycleState.REJECTED and cycle.reason.startswith("rejected: proven worse: ndcg_not_worse")


def test_a_trial_is_not_judged_before_its_traffic(stage: Stage) -> None:
    cycle_id = stage.on_trial()
    stage.traffic(30)
    result = stage.run("cycle_judge_job", cycle_id)
    assert not result.success and f"trial of {cycle_id}: the trial has 30 of 100 requests" in failure(result)
    assert stage.state(cycle_id) is CycleState.ON_TRIAL


def test_a_held_challenger_is_taken_off_the_trial(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inconclusive trial: the challenger may not go on serving to people."""
    cycle_id = stage.judged()
    path = stage.folder(cycle_id) / "ab_test_results.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"verdict": "inconclusive", "reason": "too few clicks"}))
    stage.run("cycle_release_job", cycle_id)
    assert stage.state(cycle_id) is CycleState.REJECTED
    assert stage.by_git() == stage.served() == (stage.old, None)
    assert stage.commits(cycle_id) == ["trial", "rollback"]
    assert "trial_ended" in stage.actions(cycle_id)
    assert parse_deny(stage.loop.repo.show(DENY_FILE)) == [], "held is not denied: it may come back with more data"


# --------------------------------------------------------------------------- forged evidence


def promote(folder: Path, stage: str) -> None:
    """Write ``promote`` over a decision's verdict."""
    path = folder / f"decision-{stage}.json"
    decision = Decision.read(path)
    path.write_text(decision.model_copy(update={"verdict": Verdict.PROMOTE}).to_json())


def forge_check(stage: Stage, cycle_id: str, asset: str) -> None:
    """Write a passed check by hand, as anybody with GraphQL can."""
    key = dg.AssetKey(["cycle", asset])
    stage.instance.report_runless_asset_event(dg.AssetCheckEvaluation(asset_key=key, check_name="ndcg_superior", passed=True, partition=cycle_id))


def test_a_forged_verdict_and_a_forged_check_commit_nothing(stage: Stage) -> None:
    cycle_id, head = stage.evaluated(SAME), stage.head()
    folder = stage.folder(cycle_id)
    evaluation = Evaluation.read(folder / "evaluation.json")
    honest = decide_trial(evaluation, trigger="ndcg_at_10_down", policy="full", evidence=collect_evidence(folder, "trial"))
    assert honest.verdict is not Verdict.PROMOTE
    stage.loop.save(cycle_id, "decision-trial.json", honest)
    promote(folder, "trial")
    forge_check(stage, cycle_id, "trial_decision")
    result = stage.alone("trial_patch", cycle_id)
    assert not result.success and "the stored trial verdict is promote, its evidence gives inconclusive" in failure(result)
    assert (stage.head(), stage.served()) == (head, (stage.old, None))
    assert stage.state(cycle_id) is CycleState.EVALUATED


def test_an_opening_that_the_ledger_does_not_know_proves_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    cycle_id, head = stage.evaluated(GOOD), stage.head()
    decision = deciding.decide(stage.loop, cycle_id, "trial")
    (claim,) = [gate for gate in decision.gates if gate.criterion.name == "ndcg_significant"]
    holdout = Evaluation.read(stage.folder(cycle_id) / "evaluation.json").holdout
    assert decision.verdict is Verdict.PROMOTE and holdout is not None
    assert claim.limit == holdout.level == 2 * candidate_level(holdout.opening.candidate, DEFAULT_DESIGN.promotion_alpha_per_month)
    assert decision.given == {"trigger": "ndcg_at_10_down", "latency_target_ms": deciding.latency_target_ms(stage.loop), "level": claim.limit, "margin": 0.01}
    (noted,) = [record for record in stage.loop.control.records(500, cycle_id=cycle_id) if record.action == "decision_trial"]
    assert noted.payload["given"] == decision.given, "the ledger knows what it was given: a record that says something else was edited"
    monkeypatch.setattr(stage.loop.control, "sealed_opening", lambda *_: None)
    with pytest.raises(Refused, match="its evidence gives inconclusive"):
        deciding.commit(stage.loop, cycle_id, "trial")
    assert stage.head() == head


def edit_evaluation(folder: Path) -> None:
    path = folder / "evaluation.json"
    found = json.loads(path.read_text())
    found["ndcg_difference"] |= {"estimate": 0.2, "low": 0.1, "high": 0.3, "p_value": 0.001}
    path.write_text(json.dumps(found))


def edit_scores(folder: Path) -> None:
    path = folder / Evaluation.read(folder / "evaluation.json").per_query
    pl.read_parquet(path).with_columns(ndcg_challenger=pl.lit(1.0)).write_parquet(path)


def edit_trial(folder: Path) -> None:
    path = folder / "ab_test_results.json"
    path.write_text(path.read_text().replace('"simulated": true', '"simulated": false'))


def edit_latency(folder: Path) -> None:
    path = folder / "latency.json"
    found = json.loads(path.read_text())
    found["challenger"]["p95_ms"] = 0.1
    path.write_text(json.dumps(found))


def drop_scores(folder: Path) -> None:
    (folder / Evaluation.read(folder / "evaluation.json").per_query).unlink()


def forget_evidence(folder: Path) -> None:
    path = folder / "decision-promote.json"
    path.write_text(Decision.read(path).model_copy(update={"evidence": {}}).to_json())


def rename_challenger(folder: Path) -> None:
    path = folder / "decision-promote.json"
    decision = Decision.read(path)
    path.write_text(decision.model_copy(update={"challenger": decision.challenger.model_copy(update={"depth": 1})}).to_json())


def call_it_a_drill(folder: Path) -> None:
    path = folder / "decision-promote.json"
    path.write_text(Decision.read(path).model_copy(update={"drill": True}).to_json())


def another_stage(folder: Path) -> None:
    (folder / "decision-promote.json").write_text((folder / "decision-trial.json").read_text())


def edit_and_rehash(folder: Path) -> None:
    """The evaluation's numbers, with its sha256 in the decision put right: the scores still tell."""
    edit_evaluation(folder)
    path = folder / "decision-promote.json"
    path.write_text(Decision.read(path).model_copy(update={"evidence": collect_evidence(folder, "promote")}).to_json())


FORGERIES = [
    (edit_evaluation, "evaluation.json is not the file that cycle"),
    (edit_scores, "is not the file that cycle"),
    (edit_trial, "ab_test_results.json is not the file that cycle"),
    (edit_latency, "latency.json is not the file that cycle"),
    (drop_scores, "cannot be read"),
    (forget_evidence, "names no sha256 for evaluation.json"),
    (rename_challenger, "the decision is about other models than its evaluation"),
    (call_it_a_drill, "is a drill, and no drill is going on"),
    (another_stage, "is a decision for trial, not for promote"),
    (edit_and_rehash, "its per-query scores give"),
]


def test_each_forged_file_is_refused_and_the_honest_ones_are_not(stage: Stage) -> None:
    """One cycle, decided; each forgery is tried on its files alone, then they are put back, and the release goes through."""
    cycle_id = stage.judged()
    deciding.decide(stage.loop, cycle_id, "promote")
    folder, head = stage.folder(cycle_id), stage.head()
    kept = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for forge, words in FORGERIES:
        forge(folder)
        result = stage.alone("helm_patch", cycle_id)
        assert not result.success, forge.__name__
        assert words in failure(result), (forge.__name__, failure(result))
        assert stage.head() == head, forge.__name__
        for path, data in kept.items():
            path.write_bytes(data)
    assert stage.alone("helm_patch", cycle_id).success
    assert stage.alone("deployment", cycle_id).success
    assert stage.state(cycle_id) is CycleState.RELEASED and stage.served()[0] != stage.old


def test_a_denied_model_is_not_released(stage: Stage) -> None:
    cycle_id = stage.judged()
    new = ServingConfig.read(stage.folder(cycle_id) / "challenger.json").model
    entry = f'denied:\n- {{digest: "{new}", sourceDigest: null, cycle: si_2026_01_01_001, reason: it was worse, at: "2026-01-01T00:00:00+00:00"}}\n'
    stage.loop.repo.sync()
    stage.loop.repo.change(lambda files: {DENY_FILE: entry}, "deny it by hand")
    result = stage.run("cycle_release_job", cycle_id)
    assert not result.success and "deny list" in failure(result)
    assert stage.by_git()[0] == stage.old


# --------------------------------------------------------------------------- kill switch


def test_the_kill_switch_stops_patches_and_work(stage: Stage) -> None:
    cycle_id, head = stage.evaluated(GOOD), stage.head()
    stage.loop.control.set_kill_switch("local", True, "anna", "stop")
    result = stage.run("cycle_trial_job", cycle_id)
    assert not result.success and "the kill switch is on, nothing is released" in failure(result)
    assert stage.loop.should_stop(cycle_id)()
    assert stage.head() == head
    stage.loop.control.set_kill_switch("local", False, "anna", "go on")
    assert stage.run("cycle_trial_job", cycle_id).success, "the same cycle goes on"
    assert stage.state(cycle_id) is CycleState.ON_TRIAL


def test_the_kill_switch_stops_a_release_and_never_watch_or_rollback(stage: Stage) -> None:
    cycle_id = stage.judged()
    stage.loop.control.set_kill_switch("local", True, "anna", "stop")
    result = stage.run("cycle_release_job", cycle_id)
    assert not result.success and "the kill switch is on" in failure(result) and stage.by_git()[0] == stage.old
    stage.loop.control.set_kill_switch("local", False, "anna", "go on")
    assert stage.run("cycle_release_job", cycle_id).success
    stage.loop.control.set_kill_switch("local", True, "anna", "stop again")
    degrade(stage, cycle_id)
    assert stage.run("watch_job", cycle_id).success
    back = stage.run("rollback_job", cycle_id)
    assert back.success, failure(back)
    assert stage.state(cycle_id) is CycleState.ROLLED_BACK and stage.served() == (stage.old, None)


def degrade(stage: Stage, cycle_id: str) -> None:
    """Somebody releases another model behind the loop's back: the service does not serve what was released."""
    stage.loop.repo.sync()
    stage.traffic(20)
    new = ServingConfig.read(stage.folder(cycle_id) / "challenger.json").model
    other = word_model(stage.loop, "somebody-elses", SAME)
    text = stage.loop.release_text()
    stage.loop.repo.change(lambda files: {stage.loop.release_name: text.replace(new, other)}, "by hand")
    delivery.confirm(f"{stage.loop.search_url}/info", other, "champion", 20.0, cycle_id=cycle_id, stage="promote", commit="x")
    stage.run("watch_job", cycle_id)
    stage.loop.repo.change(lambda files: {stage.loop.release_name: text}, "and back")
    delivery.confirm(f"{stage.loop.search_url}/info", new, "champion", 20.0, cycle_id=cycle_id, stage="promote", commit="x")


# --------------------------------------------------------------------------- drill, watch, rollback

DRILL = {"ops": {f"cycle__{name}": {"config": {"drill": True}} for name in ("release_decision", "helm_patch")}}
HALF = {"ops": {"cycle__release_decision": {"config": {"drill": True}}}}


@pytest.mark.parametrize("config", [None, HALF], ids=["none", "half"])
def test_a_drill_needs_to_be_said_to_both(stage: Stage, config: dict[str, Any] | None) -> None:
    head = stage.head()
    cycle_id, result = stage.drilled(config)
    assert not result.success
    assert stage.head() == head and stage.served() == (stage.old, None)
    if config is HALF:
        assert "is a drill, and no drill is going on" in failure(result)
        assert stage.state(cycle_id) is CycleState.DECIDED
    else:
        assert stage.state(cycle_id) is CycleState.REJECTED


def test_a_cycle_that_is_no_drill_cannot_be_called_one(stage: Stage) -> None:
    """Whoever may launch a job may write ``drill: true`` into its configuration; the ledger says what was opened as a drill, and with which model."""
    cycle_id = stage.evaluated(BAD)
    head = stage.head()
    result = stage.run("cycle_release_job", cycle_id, DRILL)
    assert not result.success and "was not opened as a drill" in failure(result)
    forged = decide_trial(Evaluation.read(stage.folder(cycle_id) / "evaluation.json"), trigger="ndcg_at_10_down", policy="full", drill=True)
    evidence = collect_evidence(stage.folder(cycle_id), "promote")
    stage.loop.save(cycle_id, "decision-promote.json", forged.model_copy(update={"stage": "promote", "evidence": evidence}))
    stage.loop.control.transition(cycle_id, CycleState.DECIDED, "forged", "test")
    result = stage.alone("helm_patch", cycle_id, {"ops": {"cycle__helm_patch": {"config": {"drill": True}}}})
    assert not result.success and "was not opened as a drill" in failure(result)
    assert stage.head() == head and stage.served() == (stage.old, None)


def test_a_drill_releases_its_own_model_only(stage: Stage) -> None:
    cycle_id, result = stage.drilled(None)
    assert not result.success
    evaluation = Evaluation.read(stage.folder(cycle_id) / "evaluation.json")
    other = word_model(stage.loop, "somebody-elses", BAD)
    stage.loop.save(cycle_id, "evaluation.json", evaluation.model_copy(update={"challenger": evaluation.challenger.model_copy(update={"model": other})}))
    with pytest.raises(Refused, match="is not the model of this drill"):
        deciding.decide(stage.loop, cycle_id, "promote", drill=True)


@pytest.fixture
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty probes show that a guess fell by a fifth at a level of one in fifty, not of one in two thousand."""
    monkeypatch.setattr(keep, "design_of", lambda loop: DEFAULT_DESIGN.replaced({"ndcg_alpha": 0.02}))


@pytest.mark.usefixtures("few_probes")
def test_a_drill_is_released_watched_and_taken_back(stage: Stage) -> None:
    cycle_id, result = stage.drilled(DRILL)
    assert result.success, failure(result)
    bad = ServingConfig.read(stage.folder(cycle_id) / "challenger.json").model
    assert (stage.served() == (bad, None) and stage.tracker.alias("champion") != bad) or stage.served() == (bad, None)
    decision = Decision.read(stage.folder(cycle_id) / "decision-promote.json")
    assert decision.drill and decision.reason.startswith("DRILL, pushed past the gates") and decision.verdict is not Verdict.PROMOTE
    assert stage.loop.control.sealed_openings("toy") == 0, "an exercise does not break the seal"
    stage.traffic(20)
    watched = stage.run("watch_job", cycle_id)
    assert watched.success
    failed = [check for check in watched.get_asset_check_evaluations() if not check.passed and check.severity is dg.AssetCheckSeverity.ERROR]
    assert [check.check_name for check in failed] == ["ndcg"]
    back = stage.run("rollback_job", cycle_id)
    assert back.success, failure(back)
    record = Rollback.read(stage.folder(cycle_id) / "rollback.json")
    assert record.verified and (record.from_digest, record.to_digest) == (bad, stage.old) and record.denied[0] == bad
    assert stage.by_git() == stage.served() == (stage.old, None)
    assert [entry.digest for entry in parse_deny(stage.loop.repo.show(DENY_FILE))] == [bad]
    assert stage.commits(cycle_id) == ["promote", "rollback"]
    assert stage.tracker.alias("champion") == stage.old
    assert stage.state(cycle_id) is CycleState.ROLLED_BACK
    assert (stage.folder(cycle_id) / "report.html").is_file() and (stage.folder(cycle_id) / "manifest.json").is_file()
    # once more: nothing is committed twice, and the verdict stays
    head = stage.head()
    assert stage.run("rollback_job", cycle_id).success and stage.head() == head


def test_a_forged_watch_takes_nothing_back(stage: Stage) -> None:
    cycle_id = stage.released()
    stage.traffic(20)
    assert stage.run("watch_job", cycle_id).success
    path = stage.folder(cycle_id) / "watch.json"
    path.write_text(WatchResult.read(path).model_copy(update={"answer": "rollback", "reason": "I want my old model back"}).to_json())
    head = stage.head()
    result = stage.run("rollback_job", cycle_id)
    assert not result.success and "the watch's own numbers say continue" in failure(result)
    assert stage.head() == head and stage.state(cycle_id) is CycleState.WATCHING


# --------------------------------------------------------------------------- deaths and a service that does not follow


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


def test_steps_that_die_are_finished_by_the_next_run(stage: Stage) -> None:
    """One cycle that dies again and again, each time a little later; between a push and its record too, the same commit is found and there is one."""
    cycle_id = stage.evaluated(GOOD)
    for action in ("patch_trial", "deployment_trial", "cycle_on_trial"):
        killed(stage, "cycle_trial_job", cycle_id, action)
        assert stage.state(cycle_id) is CycleState.EVALUATED
    assert stage.run("cycle_trial_job", cycle_id).success
    assert stage.state(cycle_id) is CycleState.ON_TRIAL and stage.commits(cycle_id) == ["trial"]
    stage.traffic(100)
    killed(stage, "cycle_judge_job", cycle_id, "cycle_decided")
    assert stage.run("cycle_judge_job", cycle_id).success
    for action in ("decision_promote", "patch_promote", "deployment_promote", "cycle_released"):
        killed(stage, "cycle_release_job", cycle_id, action)
        assert stage.state(cycle_id) is CycleState.DECIDED
    result = stage.run("cycle_release_job", cycle_id)
    assert result.success, failure(result)
    new = ServingConfig.read(stage.folder(cycle_id) / "challenger.json").model
    assert stage.state(cycle_id) is CycleState.RELEASED and stage.by_git() == stage.served() == (new, None)
    assert stage.commits(cycle_id) == ["trial", "promote"]
    assert stage.loop.control.verify() == []


@pytest.mark.usefixtures("few_probes")
def test_a_rollback_that_died_is_finished_and_commits_once(stage: Stage) -> None:
    cycle_id, result = stage.drilled(DRILL)
    assert result.success
    stage.traffic(20)
    assert stage.run("watch_job", cycle_id).success
    for action in ("rollback", "cycle_rolled_back"):
        killed(stage, "rollback_job", cycle_id, action)
        assert stage.state(cycle_id) is CycleState.WATCHING
    assert stage.run("rollback_job", cycle_id).success
    assert stage.state(cycle_id) is CycleState.ROLLED_BACK and stage.commits(cycle_id) == ["promote", "rollback"]
    assert stage.served() == (stage.old, None)


def killed(stage: Stage, job: str, cycle_id: str, action: str) -> None:
    """Run a job that dies right before it would write ``action`` into the ledger."""
    with pytest.MonkeyPatch.context() as patched:
        die_at(patched, action)
        result = stage.run(job, cycle_id)
    assert not result.success and f"Died: {action}" in failure(result)


@pytest.mark.parametrize("which", ["trial", "promote"])
def test_a_model_that_the_service_cannot_load_is_taken_back(stage: Stage, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """The service's word counts: a commit that it does not follow is reversed, and the cycle is not released."""
    cycle_id = stage.evaluated(GOOD) if which == "trial" else stage.judged()

    def another(url: str, digest: str, variant: str, seconds: float, **more: Any) -> Deployment:
        forward = more["stage"] != "rollback"
        return _confirm(url, "sha256:" + "9" * 64 if forward else digest, variant, 1.0 if forward else seconds, **more)

    monkeypatch.setattr(delivery, "confirm", another)
    result = stage.run("cycle_trial_job" if which == "trial" else "cycle_release_job", cycle_id)
    assert not result.success and "The commit was taken back" in failure(result)
    assert stage.by_git() == stage.served() == (stage.old, None)
    assert stage.commits(cycle_id)[-1] == "rollback"
    assert stage.state(cycle_id) is CycleState.FAILED and stage.loop.control.active_cycle("local") is None
    assert parse_deny(stage.loop.repo.show(DENY_FILE)) == [], "the service failed, not the model"
    assert stage.loop.control.verify() == []


_confirm = delivery.confirm

# --------------------------------------------------------------------------- approval


@pytest.fixture
def careful(start: Callable[[Settings], Stage], settings: Settings, tmp_path: Path) -> Stage:
    """Contour ``local`` where a person approves."""
    file = tmp_path / "careful.yaml"
    file.write_text("selfImprovement:\n  manualApprovalRequired: true\n")
    return start(load_settings("local", home=settings.home, values_file=file, env={}))


def test_a_release_waits_for_its_approval_and_keeps_it(careful: Stage) -> None:
    cycle_id = careful.judged()
    head = careful.head()
    result = careful.run("cycle_release_job", cycle_id)
    assert result.success, failure(result)
    assert metadata(result, "helm_patch").items() >= {"committed": False, "reason": "the release waits for a person's approval"}.items()
    assert metadata(result, "deployment")["deployed"] is False
    assert careful.state(cycle_id) is CycleState.AWAITING_APPROVAL and careful.head() == head
    assert careful.run("cycle_release_job", cycle_id).success and careful.head() == head, "asking again is no approval"
    deciding.give_approval(careful.loop, cycle_id, "olena", "the numbers convince me")
    result = careful.run("cycle_release_job", cycle_id)
    assert result.success, failure(result)
    assert careful.state(cycle_id) is CycleState.RELEASED and careful.served()[0] != careful.old
    decision = Decision.read(careful.folder(cycle_id) / "decision-promote.json")
    assert (decision.approved_by, decision.approval_required) == ("olena", True)


def test_a_person_may_say_no(careful: Stage) -> None:
    cycle_id = careful.judged()
    with pytest.raises(Refused, match="waits for nobody's approval"):
        deciding.refuse_approval(careful.loop, cycle_id, "olena", "too early")
    with pytest.raises(Refused, match="waits for nobody's approval"):
        deciding.give_approval(careful.loop, cycle_id, "olena", "too early")
    assert careful.run("cycle_release_job", cycle_id).success
    deciding.refuse_approval(careful.loop, cycle_id, "olena", "not before the freeze")
    assert careful.state(cycle_id) is CycleState.REJECTED and careful.served() == careful.by_git() == (careful.old, None)
    assert "olena refused the release: not before the freeze" in careful.loop.control.cycle(cycle_id).reason
    assert "approval_rejected" in careful.actions(cycle_id)


def test_an_approval_that_nobody_gave_is_refused(careful: Stage) -> None:
    """Neither by writing a name into the decision nor by writing that none is needed: the ledger knows who approved."""
    cycle_id = careful.judged()
    assert careful.run("cycle_release_job", cycle_id).success
    path, head = careful.folder(cycle_id) / "decision-promote.json", careful.head()
    honest = Decision.read(path)
    for forged in ({"approved_by": "olena", "approved_at": utc_now()}, {"approval_required": False, "approved_by": "olena"}):
        path.write_text(honest.model_copy(update=forged).to_json())
        result = careful.alone("helm_patch", cycle_id)
        assert not result.success and "approval" in failure(result), forged
        assert careful.head() == head
    path.write_text(honest.to_json())
    assert metadata(careful.alone("helm_patch", cycle_id), "helm_patch")["committed"] is False
