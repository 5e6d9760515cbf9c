"""Cycles that begin with an action instead of training, through the real jobs, repository, reconciler and service: other settings, other models, workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from predator_si.evaluate.actions import ActionPlan, Option
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.partitions import add_cycle, cycles
from predator_si.orchestration.sensors import job_for, reason_to_wait
from predator_si.orchestration.steps import act, improve, keep
from predator_si.records import CycleState, Decision, Evaluation, ExperimentResult, ServingConfig, Verdict, WatchResult
from predator_si.release.release_file import parse_release
from predator_si.settings import Settings
from predator_si_tests.support.platform import load_word_reranker, machines, on_free_port, open_cycle, word_model, write_snapshot, write_toy_corpus
from predator_si_tests.support.stage import BAD, GOOD, Stage, failure

P95 = {"type": "p95_latency_ms_up", "metric": "p95_latency_ms", "value": 1500.0, "baseline": None, "delta": None}
RECALL = {"type": "recall_at_20_down", "metric": "recall_at_20"}
ERRORS = {"type": "error_rate_up", "metric": "error_rate", "actions": ("diagnose", "previous_model", "depth_zero")}
LAG = {"type": "etl_lag_seconds_up", "metric": "etl_lag_seconds", "actions": ("add_workers",)}
COST = {"type": "cost_per_1k_requests_up", "metric": "cost_per_1k_requests", "actions": ("cheaper_variant", "fewer_replicas")}


class Home(Stage):
    """A home whose champion knows the word, and takes its time for each text."""

    def acted(self, **trigger: Any) -> tuple[str, ActionPlan]:
        """A cycle of a trigger after its first job."""
        write_snapshot(self.loop, self.loop.serving().model)
        cycle_id = open_cycle(self.loop.control, **trigger).cycle_id
        add_cycle(self.instance, cycle_id)
        assert job_for(self.loop, cycle_id) == "cycle_act_job"
        result = self.alone("chosen_action", cycle_id)
        assert result.success, failure(result)
        return cycle_id, ActionPlan.read(self.folder(cycle_id) / act.PLAN)

    def onwards(self, cycle_id: str, *jobs: str) -> None:
        for job in jobs:
            assert job_for(self.loop, cycle_id) == job
            result = self.run(job, cycle_id)
            assert result.success, failure(result)

    def info(self) -> Any:
        return httpx.get(f"{self.loop.search_url}/info", trust_env=False).json()

    def watched(self, cycle_id: str) -> WatchResult:
        for _ in range(2):
            self.traffic(20)
            assert self.run("watch_job", cycle_id).success
        return WatchResult.read(self.folder(cycle_id) / "watch.json")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_corpus(tmp_path_factory.mktemp("corpus") / "toy")


@pytest.fixture(scope="module")
def dagster() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as found:
        yield found


@pytest.fixture
def begin(dagster: dg.DagsterInstance, toy: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Home]]:
    """Starts a home with a champion of these weights."""
    dagster.wipe()
    for key in dagster.get_dynamic_partitions(str(cycles.name)):
        dagster.delete_dynamic_partition(str(cycles.name), key)
    monkeypatch.setattr(improve, "load_reranker", load_word_reranker)
    monkeypatch.setattr(Loop, "confirm_seconds", 20.0)
    monkeypatch.setitem(act._MAKERS, "quantise", lambda loop, cycle, champion, queries: "no export of a word")
    with ExitStack() as running:

        def made(likes: float = GOOD, **weights: float) -> Home:
            home = Home(on_free_port(settings), dagster, toy, likes, **weights)
            running.enter_context(machines(home.loop, embedder=home.loop.plan.embedder, load_reranker=load_word_reranker))
            return home

        yield made


def test_a_slow_search_gets_a_smaller_depth_by_the_same_road_as_a_model(begin: Callable[..., Home]) -> None:
    home = begin(seconds=0.0, per_text=0.015)
    cycle_id, plan = home.acted(**P95, actions=("profile", "quantise", "cut_depth", "distil", "add_replicas"))
    assert plan.action == "cut_depth" and plan.config is not None and plan.config.depth < 8 and plan.config.model == home.old
    assert {one.action for one in plan.tried} == {"cut_depth"} and set(plan.not_built) == {"quantise", "add_replicas"}
    assert all(one.rerank_ratio is not None and one.ndcg_difference is not None for one in plan.tried)
    home.onwards(cycle_id, "cycle_evaluate_job", "cycle_trial_job")
    release = parse_release(home.loop.release_text(), home.loop.release_name).reranker
    assert (release.candidate, release.candidate_depth, release.depth) == (home.old, plan.config.depth, 8)
    arms = home.info()["variants"]
    assert (arms["champion"]["depth"], arms["candidate"]["depth"]) == (8, plan.config.depth), "one model, two depths"
    home.traffic(100)
    assert reason_to_wait(home.loop, cycle_id) is None
    home.onwards(cycle_id, "cycle_judge_job")
    trial = ExperimentResult.read(home.folder(cycle_id) / "ab_test_results.json")
    assert trial.verdict is Verdict.PROMOTE, trial.reason
    assert 5 < trial.requests["challenger"] < 50 < trial.requests["champion"], "the variant tells the arms of one model apart"
    home.onwards(cycle_id, "cycle_release_job")
    assert home.state(cycle_id) is CycleState.RELEASED, home.loop.control.cycle(cycle_id).reason
    assert (home.info()["depth"], home.info()["variants"]["candidate"]) == (plan.config.depth, None)
    assert parse_release(home.loop.release_text(), home.loop.release_name).reranker.candidate_depth is None
    assert home.watched(cycle_id).answer == "keep" and home.state(cycle_id) is CycleState.STABLE
    page = (home.folder(cycle_id) / "report.html").read_text()
    assert "Actions without training" in page and "4 of 8 candidates are reranked" in page and "only a cluster applies" in page
    assert home.tracker.aliases() == {"champion": home.old, "gold-1": home.old}

    home.loop.control.append("test", "test", None, "what was released is taken back by its settings alone")
    back = keep.take_back(home.loop, cycle_id, "a person wants it")
    assert back.verified and back.denied == [] and home.info()["depth"] == 8, "a model that stays is denied nothing"


def test_errors_bring_the_model_before_back_without_a_trial(begin: Callable[..., Home]) -> None:
    home = begin(SAME_AS_NOW)
    first = home.released(GOOD)
    home.watched(first)
    new = home.loop.serving().model
    cycle_id, plan = home.acted(**ERRORS)
    assert plan.action == "previous_model" and plan.config == ServingConfig(model=home.old, depth=8, fusion_weight=plan.champion.fusion_weight)
    assert [one.action for one in plan.tried] == ["previous_model", "depth_zero"] and new != home.old
    openings = home.loop.control.sealed_openings("toy")
    home.onwards(cycle_id, "cycle_evaluate_job", "cycle_release_job")
    assert home.served() == (home.old, None) and home.commits(cycle_id) == ["promote"], "no trial"
    assert home.loop.control.sealed_openings("toy") == openings and Evaluation.read(home.folder(cycle_id) / "evaluation.json").split == "dev"
    result = home.watched(cycle_id)
    assert result.answer == "keep" and not any(gate.criterion.name == "ndcg" and gate.value is not None for gate in result.gates)
    assert home.tracker.alias("champion") == home.old and home.tracker.alias("challenger") is None


def test_without_a_model_before_the_first_stage_answers_alone(begin: Callable[..., Home]) -> None:
    home = begin()
    cycle_id, plan = home.acted(**ERRORS)
    assert plan.action == "depth_zero" and "nothing was released before" in plan.not_built["previous_model"]
    home.onwards(cycle_id, "cycle_evaluate_job", "cycle_release_job")
    assert home.info()["depth"] == 0 and home.served() == (home.old, None)


def test_a_champion_that_cannot_score_does_not_stop_its_own_replacement(begin: Callable[..., Home], monkeypatch: pytest.MonkeyPatch) -> None:
    home = begin()

    def load(folder: Path) -> Any:
        raise RuntimeError("the backend is gone")

    monkeypatch.setattr(improve, "load_reranker", load)
    cycle_id, plan = home.acted(**ERRORS)
    assert plan.action == "depth_zero"
    home.onwards(cycle_id, "cycle_evaluate_job", "cycle_release_job")
    found = Evaluation.read(home.folder(cycle_id) / "evaluation.json")
    assert found.champion.depth == 0 and found.ndcg_difference.estimate == 0.0, "what people got was the first stage already"
    assert home.info()["depth"] == 0


def test_a_lag_gets_more_workers_and_the_watch_looks_at_the_lag(begin: Callable[..., Home]) -> None:
    home = begin()
    assert home.info()["ingest"]["workers"] == 1
    cycle_id, plan = home.acted(**LAG)
    assert plan.config is not None and plan.config.ingest_workers == 2 and plan.goal is None
    home.onwards(cycle_id, "cycle_evaluate_job", "cycle_release_job")
    assert home.info()["ingest"]["workers"] == 2 and parse_release(home.loop.release_text(), home.loop.release_name).ingest.workers == 2
    result = home.watched(cycle_id)
    assert result.answer == "keep" and [gate.value for gate in result.gates if gate.criterion.name == "lag"] == [0.0]
    back = keep.take_back(home.loop, cycle_id, "a person wants it")
    assert back.verified and home.info()["ingest"]["workers"] == 1


def test_where_nothing_helps_the_cycle_ends_and_says_what_was_tried(begin: Callable[..., Home]) -> None:
    home = begin()
    cycle_id, plan = home.acted(**RECALL, actions=("diagnose", "repair_index", "widen_candidates", "tune_fusion"))
    assert plan.config is None and not plan.train and len(plan.tried) > 5 and all(one.recall_difference is not None for one in plan.tried)
    assert home.state(cycle_id) is CycleState.REJECTED and "no action helps" in home.loop.control.cycle(cycle_id).reason
    assert plan.not_built == {"repair_index": "the index holds all 60 documents that were accepted, each with its newest text"}
    assert not (home.folder(cycle_id) / "challenger.json").exists() and home.tracker.alias("challenger") is None


def test_a_slow_search_that_no_setting_helps_is_trained_for(begin: Callable[..., Home], monkeypatch: pytest.MonkeyPatch) -> None:
    home = begin()
    monkeypatch.setitem(act._MAKERS, "cut_depth", lambda loop, cycle, champion, queries: "not here")
    cycle_id, plan = home.acted(**P95, actions=("profile", "quantise", "cut_depth", "distil", "add_replicas"))
    assert plan.train and plan.config is None and home.state(cycle_id) is CycleState.OPENED
    assert job_for(home.loop, cycle_id) == "cycle_prepare_job"


def test_a_worse_variant_that_was_chosen_is_rejected_and_keeps_no_alias(begin: Callable[..., Home], monkeypatch: pytest.MonkeyPatch) -> None:
    """Dev queries may be wrong: the sealed ones judge the choice again."""
    home = begin()
    worse = word_model(home.loop, "worse", BAD)
    maker = lambda loop, cycle, champion, queries: [Option("cheaper_variant", champion.model_copy(update={"model": worse}), "worse")]  # noqa: E731
    monkeypatch.setitem(act._MAKERS, "cheaper_variant", maker)
    monkeypatch.setattr(act, "choose", lambda goal, tried, target: (tried[0], "somebody insists"))
    cycle_id, plan = home.acted(**COST)
    assert plan.not_built.keys() == {"fewer_replicas"} and not plan.tried[0].passes
    assert home.tracker.alias("challenger") == worse
    home.onwards(cycle_id, "cycle_evaluate_job")
    home.run("cycle_trial_job", cycle_id)
    assert home.state(cycle_id) is CycleState.REJECTED
    assert Decision.read(home.folder(cycle_id) / "decision-trial.json").verdict is Verdict.REJECT
    assert home.tracker.aliases() == {"champion": home.old}, "a model that lost has no alias"
    assert home.tracker.tags[worse]["outcome"] == "rejected" and "proven worse" in home.tracker.tags[worse]["outcome_reason"]


SAME_AS_NOW = 0.0
