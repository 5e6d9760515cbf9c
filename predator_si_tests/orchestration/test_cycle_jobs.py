"""One whole cycle and a drill through the real jobs on tiny things: a two-layer reranker that learns one word from clicks, on sixty documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
import httpx
import polars as pl
import pytest
import yaml

from predator_si.augment import read_examples
from predator_si.build import build_defs
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.partitions import add_cycle
from predator_si.orchestration.steps import improve
from predator_si.privacy import TOKEN
from predator_si.proof.prepare import build_first_index
from predator_si.records import CycleState, Decision, Evaluation, ExperimentResult, Rollback, ServingConfig, Verdict, WatchResult
from predator_si.release.deny import DENY_FILE, parse_deny
from predator_si.release.release_file import parse_release
from predator_si.search.tiny import tiny_cross_encoder
from predator_si.search.traffic import replay
from predator_si.settings import Settings
from predator_si.train.damage import damage
from predator_si.train.export import export
from predator_si.train.tracking import NullTracker
from predator_si_tests.support.platform import machines, on_free_port, open_cycle, prepare, slow_torch, tiny_scale, write_toy_corpus
from predator_si_tests.support.stage import DRILL, die_at, failure, metadata

pytestmark = pytest.mark.slow
LENGTH = 64


class Loops:
    """The home, its machines and its jobs."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.loop, self.instance, self.tracker = Loop(settings), instance, NullTracker()
        corpus = write_toy_corpus(self.loop.home.corpus / "toy")
        texts = pl.read_parquet(corpus / "documents.parquet")["text"].to_list()
        folder = tiny_cross_encoder(self.loop.home.path / "tiny", texts, seed=1, layers=2, hidden=64, max_length=128)
        raw = self.loop.models.add(folder, name="tiny", backend="torch-fp32", max_length=LENGTH)
        self.champion = export(self.loop.models, raw, "torch-fp32", LENGTH)
        self.scale = tiny_scale(max_length=LENGTH, champion_length=LENGTH, trial_requests=200)
        prepare(self.loop, self.champion, self.scale, corpus)
        build_first_index(self.loop, part=None)
        self.tracker.register(self.champion, self.loop.models.path(self.champion))
        self.tracker.set_alias("champion", self.champion)
        self.definitions = build_defs(settings, loop=self.loop, tracker=self.tracker)
        self._seed = 0

    def run(self, job: str, cycle_id: str | None = None, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
        if cycle_id is not None:
            add_cycle(self.instance, cycle_id)
        result = self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=cycle_id, run_config=config, raise_on_error=False
        )
        assert result.success, f"{job}: {failure(result)}"
        return result

    def traffic(self, part: str, n: int) -> None:
        self._seed += 1
        assert replay(self.loop.search_url, self.loop.corpus, part, n=n, seed=self._seed).failed == 0  # type: ignore[arg-type]

    def served(self) -> tuple[str, str | None]:
        variants = httpx.get(f"{self.loop.search_url}/info", trust_env=False).json()["variants"]
        return variants["champion"]["model_sha"], variants["candidate"]["model_sha"] if variants["candidate"] else None

    def by_git(self) -> tuple[str, str | None]:
        found = parse_release(self.loop.release_text(), self.loop.release_name).reranker
        return found.champion, found.candidate

    def state(self, cycle_id: str) -> CycleState:
        return self.loop.control.cycle(cycle_id).state

    def json(self, cycle_id: str, name: str) -> Any:
        return json.loads((self.loop.artifacts(cycle_id) / name).read_text())


@pytest.fixture
def loops(settings: Settings) -> Iterator[Loops]:
    with dg.instance_for_test() as instance:
        made = Loops(on_free_port(settings), instance)
        with machines(made.loop, embedder=made.loop.plan.embedder, load_reranker=slow_torch(0.012)):
            yield made


def test_a_drop_is_diagnosed_mended_released_and_a_bad_model_taken_back(loops: Loops) -> None:
    loop = loops.loop
    loops.traffic("base", 30)
    loops.traffic("shift", 150)
    seen = loops.run("observe_job")
    (snapshot,) = loop.snapshots()
    assert snapshot.metrics["ndcg_at_10"].n == loops.scale.probe_queries and snapshot.metrics["avg_latency_ms"].n == 180
    assert snapshot.lost_events == 0 and snapshot.champion == loops.champion
    checks = {check.check_name: check.passed for check in seen.get_asset_check_evaluations()}
    assert checks["error_rate_max"] and checks["p95_latency_ms_max"]

    cycle_id = open_cycle(loop.control, value=snapshot.metrics["ndcg_at_10"].value).cycle_id
    prepared(loops, cycle_id)
    trained(loops, cycle_id)
    new = evaluated(loops, cycle_id)
    on_trial(loops, cycle_id, new)
    released(loops, cycle_id, new)
    stable(loops, cycle_id)
    drilled(loops, new)
    assert loop.control.verify() == []


def prepared(loops: Loops, cycle_id: str) -> None:
    """A run that dies after the data set was versioned is run again: one data set, one version."""
    with pytest.MonkeyPatch.context() as patched:
        die_at(patched, "cycle_prepared")
        with pytest.raises(AssertionError, match="Died: cycle_prepared"):
            loops.run("cycle_prepare_job", cycle_id)
    assert loops.state(cycle_id) is CycleState.OPENED
    result = loops.run("cycle_prepare_job", cycle_id)
    assert loops.state(cycle_id) is CycleState.PREPARED
    report = loops.json(cycle_id, "diagnostic_report.json")
    assert {"cycle_id", "timestamp", "trigger", "current_value", "baseline", "delta", "root_cause_analysis", "xai_insights", "recommended_actions"} <= set(
        report
    )
    assert {"type", "affected_categories", "distribution_change"} <= set(report["root_cause_analysis"])
    assert {"new_tokens", "coverage"} <= set(report["root_cause_analysis"]["distribution_change"])
    assert {"low_coverage_tokens", "importance_scores", "suggested_action"} <= set(report["xai_insights"])
    manifest = yaml.safe_load((loops.loop.artifacts(cycle_id) / "dataset_manifest.yaml").read_text())
    assert manifest["dataset_id"] == cycle_id.replace("si_", "aug_") and manifest["cycle_id"] == cycle_id
    assert {"created_at", "source", "method", "target_tokens", "statistics", "dvc", "mlflow"} <= set(manifest)
    assert {"type", "trigger", "base_documents"} <= set(manifest["source"]) and manifest["dvc"]["path"] and manifest["dvc"]["hash"]
    assert {"total_examples", "avg_length", "diversity_score", "yield"} <= set(manifest["statistics"])
    path = loops.loop.artifacts(cycle_id) / "augmented_dataset.parquet"
    clicked = pl.read_parquet(path).filter(pl.col("source") == "clicks")["query"]
    assert len(clicked) and clicked.str.contains(TOKEN).all(), "clients' queries are stored sealed"
    examples, erased = read_examples(path, loops.loop.vault())
    assert erased == 0 and examples.height == manifest["statistics"]["total_examples"] == metadata(result, "synthetic_dataset")["examples"]
    assert pl.read_csv(loops.loop.artifacts(cycle_id) / "augmented_dataset.csv").height == examples.height
    corpus = loops.loop.corpus
    judged = {text for split in ("dev", "test") for text in corpus.queries(split=split)["text"].to_list()}
    assert judged.isdisjoint(examples["query"].to_list()), "no judged query is trained on"


def trained(loops: Loops, cycle_id: str) -> None:
    """Training that dies in the end is done again, and gives the same weights."""
    with pytest.MonkeyPatch.context() as patched:
        die_at(patched, "cycle_trained")
        with pytest.raises(AssertionError, match="Died: cycle_trained"):
            loops.run("cycle_train_job", cycle_id)
    first = loops.json(cycle_id, "training.json")["digest"]
    loops.run("cycle_train_job", cycle_id)
    again = loops.json(cycle_id, "training.json")
    assert again["digest"] == first and again["losses"][-1] < again["losses"][0]
    assert loops.state(cycle_id) is CycleState.TRAINED
    assert [run.status for run in loops.tracker.runs.values()] == ["FINISHED"] * 4, "the training and its challenger, twice"
    challenger = ServingConfig.read(loops.loop.artifacts(cycle_id) / "challenger.json").model
    assert loops.tracker.alias("challenger") == challenger and challenger in loops.loop.models
    assert loops.loop.models.card(challenger).source_digest is not None
    described(loops, cycle_id, challenger, first)
    manifest = yaml.safe_load((loops.loop.artifacts(cycle_id) / "dataset_manifest.yaml").read_text())
    assert manifest["mlflow"]["run_id"] == again["tracker_run"]
    kept = loops.loop.artifacts(cycle_id) / f"mlflow_run_{again['tracker_run']}"
    facts = json.loads((kept / "metrics.json").read_text())
    assert facts["model"] == first and facts["metrics"]["loss"] == again["losses"] and (kept / "model" / "predator.json").is_file()
    assert loops.served() == (loops.champion, None), "training serves nobody"


def described(loops: Loops, cycle_id: str, challenger: str, trained_digest: str) -> None:
    """The registry knows the challenger with its scores per dev query, its data and its card."""
    run = list(loops.tracker.runs.values())[-1]
    scores = run.tables["dev_per_query"]
    assert len(scores["query_id"]) == loops.scale.dev_queries and "text" not in scores
    assert run.metrics[-1][1]["dev_ndcg_at_10"] == pytest.approx(sum(scores["ndcg_at_10"]) / loops.scale.dev_queries)
    assert len(run.tables["variants"]["backend"]) >= 2 and "dev_per_query.parquet" in run.files
    manifest = yaml.safe_load((loops.loop.artifacts(cycle_id) / "dataset_manifest.yaml").read_text())
    tags = loops.tracker.tags[challenger]
    assert (tags["cycle"], tags["source"], tags["dataset"], tags["data_hash"]) == (cycle_id, trained_digest, manifest["dataset_id"], manifest["dvc"]["hash"])
    card = (loops.loop.models.path(challenger) / "README.md").read_text()
    assert manifest["dvc"]["hash"] in card and "dev_ndcg_at_10" in card and cycle_id in card and "| learning_rate |" in card


def evaluated(loops: Loops, cycle_id: str) -> str:
    """The sealed queries are opened once, and the ledger says so."""
    loops.run("cycle_evaluate_job", cycle_id)
    found = Evaluation.read(loops.loop.artifacts(cycle_id) / "evaluation.json")
    assert found.ndcg_difference.low > 0 and found.n_queries == loops.scale.test_queries and found.split == "test"
    frame = pl.read_parquet(loops.loop.artifacts(cycle_id) / found.per_query)
    assert frame.height == found.n_queries
    assert abs(float(frame["ndcg_challenger"].mean() or 0.0) - found.ndcg_challenger) < 1e-9  # type: ignore[arg-type]
    assert (found.champion.depth, found.champion.fusion_weight) == (found.challenger.depth, found.challenger.fusion_weight)
    assert loops.loop.control.sealed_openings("toy") == 1
    assert found.holdout is not None and found.holdout.opening.candidate == 1 and "can resolve" in found.power
    return found.challenger.model


def on_trial(loops: Loops, cycle_id: str, new: str) -> None:
    """Both serve, side by side."""
    result = loops.run("cycle_trial_job", cycle_id)
    assert all(check.passed or check.severity is dg.AssetCheckSeverity.WARN for check in result.get_asset_check_evaluations())
    assert Decision.read(loops.loop.artifacts(cycle_id) / "decision-trial.json").verdict is Verdict.PROMOTE
    assert loops.by_git() == loops.served() == (loops.champion, new)
    loops.traffic("shift", loops.scale.trial_requests)
    loops.run("cycle_judge_job", cycle_id)
    trial = ExperimentResult.read(loops.loop.artifacts(cycle_id) / "ab_test_results.json")
    assert trial.verdict is Verdict.PROMOTE, trial.reason
    assert trial.simulated and trial.requests["champion"] + trial.requests["challenger"] == loops.scale.trial_requests
    latency = loops.json(cycle_id, "latency.json")
    assert latency["champion"]["n"] == latency["challenger"]["n"] == loops.scale.latency_requests
    assert latency["challenger"]["p95_ms"] < latency["champion"]["p95_ms"]


def released(loops: Loops, cycle_id: str, new: str) -> None:
    """Git, service, alias and record agree."""
    loops.run("cycle_release_job", cycle_id)
    decision = Decision.read(loops.loop.artifacts(cycle_id) / "decision-promote.json")
    assert decision.verdict is Verdict.PROMOTE and not decision.drill and {"evaluation.json", "latency.json", "ab_test_results.json"} <= set(decision.evidence)
    patch = yaml.safe_load((loops.loop.artifacts(cycle_id) / "helm_patch.yaml").read_text())
    assert patch["changes"]["reranker.champion"] == new and patch["reverse"]["reranker.champion"] == loops.champion
    assert loops.by_git() == loops.served() == (new, None)
    assert loops.tracker.alias("champion") == new
    assert loops.json(cycle_id, "deployment.json")["served_digest"] == new


def stable(loops: Loops, cycle_id: str) -> None:
    """Watched to the end; the report and the manifest list what there is."""
    for _ in range(2):
        loops.traffic("shift", 20)
        loops.run("watch_job", cycle_id)
    watch = WatchResult.read(loops.loop.artifacts(cycle_id) / "watch.json")
    assert watch.answer == "keep" and loops.state(cycle_id) is CycleState.STABLE, watch.reason
    assert loops.tracker.aliases() == {"champion": loops.by_git()[0], "gold-1": loops.by_git()[0]}
    assert watch.requests == 40 and watch.failed_requests == 0
    states = [record.payload["to"] for record in loops.loop.control.records(500, cycle_id=cycle_id) if record.action.startswith("cycle_")]
    assert states == ["opened", "prepared", "trained", "evaluated", "on_trial", "decided", "released", "watching", "stable"]
    folder = loops.loop.artifacts(cycle_id)
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "diagnostic_report.json", "dataset_manifest.yaml", "augmented_dataset.parquet", "augmented_dataset.csv", "evaluation.json", "ab_test_results.json",
        "decision-trial.json", "decision-promote.json", "helm_patch.yaml", "watch.json", "report.html", "manifest.json",
    }  # fmt: skip
    listed = loops.json(cycle_id, "manifest.json")
    text = json.dumps(listed)
    assert all(name in text for name in ("evaluation.json", "decision-promote.json", "helm_patch.yaml", "watch.json"))


def drilled(loops: Loops, new: str) -> None:
    """A damaged copy of the released model, pushed past the gates, is taken back."""
    loop = loops.loop
    bad = damage(loop.models, new, 20, LENGTH)
    cycle_id = open_cycle(loop.control, "drill", actions=("drill",)).cycle_id
    before = loop.serving()
    improve.evaluate_drill(loop, cycle_id, ServingConfig(model=bad, depth=before.depth, fusion_weight=before.fusion_weight))
    loops.run("cycle_release_job", cycle_id, DRILL)
    assert loops.served() == (bad, None)
    for _ in range(3):
        loops.traffic("shift", 20)
        loops.run("watch_job", cycle_id)
        if loops.json(cycle_id, "watch.json")["answer"] == "rollback":
            break
    loops.run("rollback_job", cycle_id)
    back = Rollback.read(loop.artifacts(cycle_id) / "rollback.json")
    assert back.verified and loops.by_git() == loops.served() == (new, None)
    assert loops.state(cycle_id) is CycleState.ROLLED_BACK and loops.tracker.alias("champion") == new
    assert loops.tracker.aliases() == {"champion": new, "gold-1": new}, "a model that was taken back has no alias"
    denied = {entry.digest for entry in parse_deny(loop.repo.show(DENY_FILE))}
    assert bad in denied and new not in denied
    assert loop.control.sealed_openings("toy") == 1
