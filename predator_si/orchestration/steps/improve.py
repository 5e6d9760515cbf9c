"""A better model, a faster one, and the proof on sealed queries."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from predator_si.augment import read_examples, read_manifest, update_manifest
from predator_si.errors import BadInput, Missing
from predator_si.evaluate import compare, evaluate_model, holdout_queries, seal_of
from predator_si.evaluate.actions import FirstStageOnly
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import aliases, describe, permission, recipes
from predator_si.orchestration.steps.observe import frozen_sample
from predator_si.orchestration.steps.trial import design_of
from predator_si.orchestration.traces import traced
from predator_si.records import Cycle, CycleState, Evaluation, ModelCard, Record, ServingConfig
from predator_si.release.decide import is_tried
from predator_si.search.adaptive_depth import DepthRule, kept_rule
from predator_si.search.models import ModelStore
from predator_si.search.rerank import Reranker, load_reranker
from predator_si.train.fit import Diverged, Trained
from predator_si.train.recipe import TrainingRecipe
from predator_si.train.throughput import throughput
from predator_si.train.tracking import ExperimentTracker

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
_CALIBRATION_PAIRS = 40


class TrainingResult(Record):
    """``training.json``: what a cycle's training made."""

    start: str
    digest: str
    steps: int
    pairs: int
    seconds: float
    losses: list[float]
    bf16: bool
    resumed_from: int
    candidates: dict[float, str] = Field(default_factory=dict)
    evaluations: list[tuple[int, float]] = Field(default_factory=list)
    best_step: int | None = None
    ended: str = "steps"
    groups: int = 0
    replayed: int = 0
    left_out: int = 0
    tokens: int = 0
    device: str = "cpu"
    trainer: str = "lean"
    course: str = "all"
    """Name of the training that this is, of those of the cycle."""
    diverged: list[str] = Field(default_factory=list)
    """Trainings of the cycle that gave nothing, because their loss was not a number any more."""
    tracker_run: str
    erased_examples: int = 0
    """Rows of the data set that could not be trained on, because their client was erased or their key had expired."""


class StandIn:
    """A checked twin under the name of the model it stands for: identical weights, scored by a faster backend.

    ``digest`` is the served model's, ``card`` the twin's, so that cached scores stay apart.
    """

    def __init__(self, digest: str, twin: Reranker) -> None:
        self.digest = digest
        self.card: ModelCard = twin.card
        self._twin = twin

    def score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """The twin's logits."""
        return self._twin.score(query, texts)

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """The twin's logits."""
        return self._twin.score_pairs(pairs)


def offline_reranker(loop: Loop, digest: str) -> Reranker:
    """The model, or its checked twin where it has one: what the offline stages score with."""
    twin = loop.models.twin(digest)
    if twin is None:
        return load_reranker(loop.models.path(digest))
    return StandIn(digest, load_reranker(loop.models.path(twin)))


def depth_rule(loop: Loop, config: ServingConfig) -> DepthRule | None:
    """When a side of a comparison stops scoring; null where it never does."""
    return kept_rule(loop.models.path(config.model)) if config.early_exit else None


def served_reranker(loop: Loop, digest: str) -> Reranker:
    """The model as it would serve, twin or not: for its times."""
    return load_reranker(loop.models.path(digest))


def trainable(loop: Loop, digest: str) -> str:
    """The torch weights behind a served model.

    Raises
    ------
    Missing
        They are not in the store.
    """
    card = loop.models.card(digest)
    source = digest if card.backend.startswith("torch") else card.source_digest
    if source is None or source not in loop.models:
        raise Missing(
            f"the torch weights behind {digest} ({source}) are not in the model store, so nothing can be trained from it. Restore the store from its backup."
        )
    return source


@traced
def train_model(loop: Loop, cycle_id: str, tracker: ExperimentTracker, on_progress: Progress | None = None) -> TrainingResult:
    """Fine-tune from the champion's weights on the cycle's data, once for each of the contour's recipes; goes on from a checkpoint of a killed run.

    Of all that the trainings and their averages with the starting weights give, the candidate is kept that dev queries prefer, corrected for having looked.
    A training that diverges is left out.

    Raises
    ------
    BadInput
        No example can be read any more, or every training diverged.
    """
    permission.require(loop, "train", cycle_id=cycle_id)
    folder, trainer = loop.artifacts(cycle_id), recipes.trainer_of(loop, cycle_id)
    path = folder / "augmented_dataset.parquet"
    examples, erased = read_examples(path, loop.vault())
    if examples.is_empty():
        raise BadInput(f"{path}: none of its {erased} rows can be read any more, their clients were erased. Run the synthetic_dataset asset again.")
    start = trainable(loop, loop.serving().model)
    replayed = recipes.replay_of(loop, cycle_id, examples)
    courses, judge = recipes.courses_of(loop, cycle_id, start, examples, replayed), recipes.judge_of(loop)
    recipe = courses[0].recipe
    dataset_id = str(read_manifest(folder / "dataset_manifest.yaml")["dataset_id"])
    facts = {"start": start, "dataset": dataset_id, "examples": examples.height, "erased": erased, "trainings": "; ".join(one.name for one in courses)}
    run = tracker.start(cycle_id, f"train {cycle_id}", {**recipe.model_dump(), **facts})
    status = "FAILED"
    try:
        made: list[Trained] = []
        walked: list[recipes.Course] = []
        diverged: list[str] = []
        for number, course in enumerate(courses):
            before = sum(one.steps for one in made)

            def on_loss(step: int, loss: float, before: int = before) -> None:
                if step % 10 == 0:
                    tracker.log_metrics({"loss": loss}, before + step)

            train = partial(
                trainer.train,
                loop.models,
                start,
                course.examples,
                course.recipe,
                folder / "training" / str(number) if len(courses) > 1 else folder / "training",
                name=f"reranker {cycle_id}",
                earlier=replayed.examples if replayed is not None else None,
                judge=judge,
                should_stop=loop.should_stop(cycle_id),
                on_progress=on_progress,
                on_loss=on_loss,
            )
            try:
                made.append(_once(folder / "training" / f"trained-{number}.json", loop.models, start, course, train) if len(courses) > 1 else train())
                walked.append(course)
            except Diverged as error:
                diverged.append(f"{course.name}: {error}")
                log.warning("%s: a training diverged and is left out: %s", cycle_id, diverged[-1])
        if not made:
            raise BadInput(" ".join(diverged))
        choice = recipes.choose_candidate(loop, cycle_id, [one.candidates for one in made])
        number = next((at for at, one in enumerate(made) if choice is not None and choice.chosen in one.candidates.values()), 0)
        trained, recipe = made[number], walked[number].recipe
        _log_training(tracker, made, trained, loop.models.path(start))
        tracker.log_file(folder / "dataset_manifest.yaml")
        if choice is not None:
            trained = replace(trained, digest=choice.chosen)
            tracker.log_table({name: [getattr(one, name) for one in choice.standings] for name in ("name", "change", "mean", "gain", "error")}, "candidates")
        tracker.register(trained.digest, loop.models.path(trained.digest), {"cycle": cycle_id, "dataset": dataset_id})
        status = "FINISHED"
    finally:
        tracker.end(status)  # type: ignore[arg-type]
    result = TrainingResult(start=start, tracker_run=run, erased_examples=erased, course=walked[number].name, diverged=diverged, **vars(trained))
    _keep_run(loop, folder / f"mlflow_run_{run}", result, recipe)
    update_manifest(folder / "dataset_manifest.yaml", mlflow={"run_id": run, "artifact_uri": tracker.url() or ""})
    loop.save(cycle_id, "training.json", result)
    return result


def _once(path: Path, models: ModelStore, start: str, course: recipes.Course, train: Callable[[], Trained]) -> Trained:
    """One of several trainings; a run that was killed in a later one does not repeat it."""
    facts = {"start": start, "recipe": course.recipe.model_dump(mode="json"), "data": str(course.examples.hash_rows().sum())}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["facts"] == facts and all(digest in models for digest in known["trained"]["candidates"].values()):
            said = known["trained"]
            candidates = {float(share): digest for share, digest in said["candidates"].items()}
            return Trained(**{**said, "candidates": candidates, "evaluations": [(step, value) for step, value in said["evaluations"]]})
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or cut short by what killed the run
    trained = train()
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".part")
    written.write_text(json.dumps({"facts": facts, "trained": asdict(trained)}), encoding="utf-8")
    written.replace(path)
    return trained


def _log_training(tracker: ExperimentTracker, made: Sequence[Trained], chosen: Trained, start: Path) -> None:
    """What all trainings took, how the chosen one ended, and how fast it computed."""
    loss = float(np.mean(chosen.losses[-10:] or [np.nan]))
    tracker.log_metrics({"pairs": sum(one.pairs for one in made), "train_seconds": sum(one.seconds for one in made), "final_loss": loss}, None)
    tracker.log_metrics({"groups": chosen.groups, "groups_left_out": chosen.left_out}, None)
    if chosen.best_step is not None:
        tracker.log_metrics({"best_step": chosen.best_step, "best_dev_ndcg_at_10": max(value for _, value in chosen.evaluations)}, None)
    if chosen.seconds > 0:
        speed = throughput(chosen, start)
        share = {} if speed.peak_share is None else {"bf16_peak_share": speed.peak_share}
        tracker.log_metrics({"tokens_per_second": speed.tokens_per_second, **share}, None)


def _keep_run(loop: Loop, folder: Path, result: TrainingResult, recipe: TrainingRecipe) -> None:
    """What the tracker knows of a run, as files: metrics, parameters, and the model as a link into the model store, where its bytes are."""
    folder.mkdir(exist_ok=True)
    facts = {"run_id": result.tracker_run, "parameters": recipe.model_dump(mode="json"), "model": result.digest, "start": result.start,
             "metrics": {"pairs": result.pairs, "train_seconds": result.seconds, "steps": result.steps, "loss": result.losses}}  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(facts, indent=2) + "\n")
    link = folder / "model"
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(loop.models.path(result.digest), folder), target_is_directory=True)


@traced
def shrink_model(loop: Loop, cycle_id: str, tracker: ExperimentTracker, on_progress: Progress | None = None) -> Any:
    """Choose the fastest backend that keeps the trained model's ranking; the cycle is then trained, and its challenger is named."""
    from predator_si.evaluate.optimise import optimise

    scale, corpus, said = loop.plan.scale, loop.corpus, loop.settings.values.training
    trained = TrainingResult.read(loop.artifacts(cycle_id) / "training.json")
    queries = frozen_sample(corpus.queries(split="dev", part="shift"), scale.dev_queries, scale.seed + 1)
    examples = read_examples(loop.artifacts(cycle_id) / "augmented_dataset.parquet", loop.vault())[0]
    found = optimise(
        loop.models,
        trained.digest,
        scale.max_length,
        queries,
        corpus.judgments(split="dev"),
        loop.index().candidates,
        scale.depth,
        loop.serving().fusion_weight,
        students=recipes.make_students(loop, cycle_id, trained.digest, examples, on_progress),
        lengths=[length for length in said.lengths if length < scale.max_length],
        depths=[depth for depth in said.depths if depth < scale.depth],
        early_exit=recipes.early_exit_of(loop, examples),
        calibration=_calibration(examples, scale.seed) if scale.models == "real" else (),
        scores_cache=loop.pair_scores,
        seed=scale.seed,
        on_progress=on_progress,
        should_stop=loop.should_stop(cycle_id),
    )
    loop.save(cycle_id, "optimisation.json", found)
    serving = loop.serving()
    challenger = ServingConfig(model=found.chosen, depth=found.depth, fusion_weight=serving.fusion_weight, early_exit=found.early_exit)
    loop.save(cycle_id, "challenger.json", challenger)
    scores = _dev_scores(loop, cycle_id, challenger, queries)
    describe.register_challenger(loop, tracker, cycle_id, challenger, scores, trained=trained.digest, why=found.reason, variants=found.variants)
    loop.control.transition(
        cycle_id,
        CycleState.TRAINED,
        f"challenger {found.chosen}: {found.reason}",
        "loop",
        {"challenger": found.chosen, "trained": trained.digest, "mlflow_run": trained.tracker_run},
    )
    aliases.settle(loop, tracker, cycle_id)
    return found


def _dev_scores(loop: Loop, cycle_id: str, challenger: ServingConfig, queries: pl.DataFrame) -> pl.DataFrame:
    """The challenger on each dev query that chose it: its pair scores are remembered, so nothing is scored twice."""
    model = offline_reranker(loop, challenger.model)
    judgments, candidates = loop.corpus.judgments(split="dev"), loop.index().candidates
    rule, store, should_stop = depth_rule(loop, challenger), loop.pair_scores, loop.should_stop(cycle_id)
    return evaluate_model(queries, judgments, candidates, model, challenger, rule=rule, scores_cache=store, should_stop=should_stop)


def _calibration(examples: pl.DataFrame, seed: int) -> list[tuple[str, str]]:
    """Some of the pairs that were trained on, for the ranges of an int8 export: never dev or test queries."""
    return list(examples.select("query", "text").sample(min(_CALIBRATION_PAIRS, examples.height), seed=seed).iter_rows())


@traced
def evaluate_challenger(loop: Loop, cycle_id: str, on_progress: Progress | None = None) -> tuple[Evaluation, pl.DataFrame]:
    """Champion and challenger on this month's sealed test queries of what changed: same index and candidates. Opening the seal is a ledger record.

    A cycle that only brings the service back is compared on dev queries: its decision does not ask which ranks better.
    """
    scale, corpus = loop.plan.scale, loop.corpus
    challenger = ServingConfig.read(loop.artifacts(cycle_id) / "challenger.json")
    if not is_tried(loop.judged_as(cycle_id)):
        return _evaluate_repair(loop, cycle_id, challenger, on_progress)
    loop.control.open_sealed(cycle_id, corpus.name, "loop")
    opening = loop.control.sealed_opening(cycle_id, corpus.name)
    if opening is None:
        raise Missing(f"cycle {cycle_id}: the ledger does not know the opening of {corpus.name} that was just written. Run `predator-si audit verify`.")
    pool = corpus.queries(split="test", part="shift")
    queries, *place = holdout_queries(pool, scale.test_queries, opening.rotation, scale.seed)
    evaluation, frame = _compare(loop, loop.control.cycle(cycle_id), challenger, queries, "test", on_progress)
    note = f"ladder/{corpus.name}/{opening.period}"
    holdout, told = seal_of(evaluation, frame, opening, (place[0], place[1]), pool.height, loop.control.get_note(note), design_of(loop))
    loop.control.set_note(note, told)
    evaluation = evaluation.model_copy(update={"holdout": holdout})
    loop.save(cycle_id, "evaluation.json", evaluation)
    loop.control.transition(
        cycle_id,
        CycleState.EVALUATED,
        # what goes to channels, pages and programs is the Ladder's word; the exact scores are evidence of the decision and stay in its files
        f"compared on {evaluation.n_queries} sealed queries; best NDCG@10 that may be told: {holdout.told:.4f}{' (raised)' if holdout.rose else ''}",
        "loop",
        {"test_openings": opening.opening, "holdout": holdout.model_dump()},
    )
    return evaluation, frame


def _evaluate_repair(loop: Loop, cycle_id: str, challenger: ServingConfig, on_progress: Progress | None) -> tuple[Evaluation, pl.DataFrame]:
    scale, cycle = loop.plan.scale, loop.control.cycle(cycle_id)
    queries = frozen_sample(loop.corpus.queries(split="dev", part="shift"), scale.watch_probes, scale.seed)
    evaluation, frame = _compare(loop, cycle, challenger, queries, "dev", on_progress, champion_may_fail=True)
    said = f"NDCG@10 {evaluation.ndcg_champion:.4f} -> {evaluation.ndcg_challenger:.4f} on {evaluation.n_queries} dev queries; it does not decide"
    loop.control.transition(cycle_id, CycleState.EVALUATED, said, "loop", {"difference": evaluation.ndcg_difference.model_dump()})
    return evaluation, frame


def evaluate_drill(loop: Loop, cycle_id: str, challenger: ServingConfig) -> Evaluation:
    """The same comparison for a drill's model, on dev queries: the seal is not broken for an exercise. The ledger then names this model as the drill's."""
    scale, corpus = loop.plan.scale, loop.corpus
    loop.control.append("drill_model", "drill", cycle_id, "a deliberately damaged model", {"digest": challenger.model})
    loop.save(cycle_id, "challenger.json", challenger)
    queries = frozen_sample(corpus.queries(split="dev", part="shift"), scale.watch_probes, scale.seed)
    evaluation, _ = _compare(loop, loop.control.cycle(cycle_id), challenger, queries, "dev", None)
    loop.control.transition(cycle_id, CycleState.EVALUATED, f"drill: NDCG@10 {evaluation.ndcg_champion:.4f} -> {evaluation.ndcg_challenger:.4f}", "drill")
    return evaluation


def _side(loop: Loop, config: ServingConfig, *, may_fail: bool = False) -> tuple[ServingConfig, Reranker]:
    """A configuration with its reranker; one that cannot score is compared as what the service makes of it, the first stage's order."""
    try:
        model = FirstStageOnly(config.model) if config.depth == 0 else offline_reranker(loop, config.model)
        if may_fail and config.depth > 0:
            model.score_pairs([("does it score", "this text")])
    except Exception:  # a backend fails in its own ways; whichever it is, the model does not score
        if not may_fail:
            raise
        return config.model_copy(update={"depth": 0, "early_exit": False}), FirstStageOnly(config.model)
    return config, model


@traced
def _compare(
    loop: Loop,
    cycle: Cycle,
    challenger: ServingConfig,
    queries: pl.DataFrame,
    split: str,
    on_progress: Progress | None,
    *,
    champion_may_fail: bool = False,
) -> tuple[Evaluation, pl.DataFrame]:
    corpus = loop.corpus
    champion, champion_model = _side(loop, loop.serving(), may_fail=champion_may_fail)
    _, challenger_model = _side(loop, challenger)
    judgments = corpus.judgments(split=split)
    packages = corpus.documents().select("doc_id", slice="package")
    slices: dict[str, set[str]] = {}
    for query_id, name in judgments.filter(pl.col("relevance") > 0).join(packages, on="doc_id").select("query_id", "slice").iter_rows():
        slices.setdefault(name, set()).add(query_id)
    chosen = set(queries["query_id"].to_list())
    evaluation, frame = compare(
        corpus.name,
        split,
        queries,
        judgments,
        loop.index().candidates,
        champion_model,
        challenger_model,
        (champion, challenger),
        rules=(depth_rule(loop, champion), depth_rule(loop, challenger)),
        challenger_candidates=loop.index(challenger.index).candidates if challenger.index is not None else None,
        cycle_id=cycle.cycle_id,
        slices={name: members for name, members in sorted(slices.items()) if members & chosen},
        scores_cache=loop.pair_scores,
        on_progress=on_progress,
        should_stop=loop.should_stop(cycle.cycle_id),
    )
    frame.write_parquet(loop.artifacts(cycle.cycle_id) / evaluation.per_query)
    loop.save(cycle.cycle_id, "evaluation.json", evaluation)
    return evaluation, frame
