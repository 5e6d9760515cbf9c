"""How a cycle trains: which recipe its data allow, what is replayed, which average is taken, which smaller models are made of it.

What belongs here: from the contour's and the home's settings to arguments of ``train``. What must not: the training itself, verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.augment.recipe import ASKED
from predator_si.errors import Missing, Refused
from predator_si.evaluate import evaluate_model, score_pairs
from predator_si.evaluate.ranking import gather, rerank_run
from predator_si.measures import per_query
from predator_si.orchestration.loop import OPENERS, Loop
from predator_si.orchestration.metering import spent_by_cycle, usd_per_hour
from predator_si.orchestration.steps.observe import frozen_sample
from predator_si.orchestration.traces import traced
from predator_si.records import CycleState, ModelCard, ServingConfig
from predator_si.search.rerank import fuse, load_reranker, reference_backend
from predator_si.train.fit import Judge, Score
from predator_si.train.recipe import TEACHER_LOSSES, TrainingRecipe
from predator_si.train.replay import EarlierData, earlier_data
from predator_si.train.select import Choice, Scored, choose
from predator_si.train.trainer import Trainer, trainer_named

if TYPE_CHECKING:
    from predator_si.evaluate.optimise import EarlyExit

_REPLAYED_CYCLES = 5
_TAUGHT_SHARE = 0.5
"""Share of the groups that a teacher must have scored before its margins are what is learned."""
_STUDENT_QUERIES = 300
_JUDGED_QUERIES, _LEAST_JUDGED, _JUDGED_DEPTH = 40, 20, 20
"""Dev queries that judge the weights so far: at most, at least for it to be worth it, and how deep: scoring them takes time from training."""
_EXIT_QUERIES, _LEAST_EXIT_QUERIES = 200, 60
"""With fewer than 60 no threshold can be proved (``evaluate.optimise.EarlyExit``)."""
_LEGS_WEIGHT = 0.5
"""Of the first stage in the scores that students are taught."""
_SMALLER = ("p95_latency_ms", "cost_per_1k_requests")
Progress = Callable[[int, int], None]


def recipe_of(loop: Loop, cycle_id: str, start: str, examples: pl.DataFrame, replayed: EarlierData | None) -> TrainingRecipe:
    """The home's scale, the contour's averages, replay and money; margins of the teacher where it has scored most of the groups, labels elsewhere.

    Raises
    ------
    Refused
        The cycle has spent what a cycle may.
    """
    from predator_si.train.layers import layer_count

    scale, said = loop.plan.scale, loop.settings.values.training
    limit, spent, price = loop.settings.values.budget.usd_per_cycle, spent_by_cycle(loop, cycle_id) or 0.0, usd_per_hour(loop)
    if spent >= limit:
        raise Refused(f"{cycle_id} has cost {spent:.2f} USD, and budget.usdPerCycle is {limit:g}: nothing is trained. Raise it, or give the loop cheaper data.")
    there = layer_count(loop.models.path(start))
    return TrainingRecipe(
        loss="distil" if taught_share(examples) >= _TAUGHT_SHARE else "listwise",
        learning_rate=scale.learning_rate,
        epochs=scale.epochs,
        groups_per_step=scale.groups_per_step,
        max_length=scale.max_length,
        frozen_layers=scale.frozen_layers,
        layers=scale.layers if scale.layers is not None and scale.layers < there else None,  # a second cycle does not cut again
        average_with_start=scale.average_with_start,
        averages=tuple(share for share in said.averages if share != scale.average_with_start),
        evaluations=said.evaluations,
        patience=said.patience if said.evaluations else None,
        replay_share=said.replay_share if replayed is not None and replayed.groups else 0.0,
        group_weights=said.trainer != "sentence-transformers",  # whose losses know none
        seconds=scale.train_seconds,
        usd=limit - spent if price > 0 else None,
        usd_per_hour=price or None,
        seed=scale.seed,
    )


class Present:
    """The weights as they are in the middle of a training, as something that scores."""

    def __init__(self, start: str, score: Score) -> None:
        self.digest = start
        self.card = ModelCard(name="in training", digest=start, backend="torch-fp32", max_length=1)
        self._score = score

    def score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Logits of one query against several texts."""
        return self._score([(query, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """Logits of pairs."""
        return self._score(pairs)


@dataclass(frozen=True)
class Course:
    """One training of a cycle: its name, its training groups, its recipe."""

    name: str
    examples: pl.DataFrame
    recipe: TrainingRecipe


def courses_of(loop: Loop, cycle_id: str, start: str, examples: pl.DataFrame, replayed: EarlierData | None) -> list[Course]:
    """The contour's recipes, or one as the data allow; they share time and money.

    What the data cannot give (margins without a teacher, what people did without people) is left out.
    """
    plain = recipe_of(loop, cycle_id, start, examples, replayed)
    people = examples.filter(pl.col("source").is_in(sorted(ASKED))) if "source" in examples.columns else examples
    found: list[Course] = []
    for one in loop.settings.values.training.recipes:
        own = people if one.data == "people" else examples
        loss = one.loss or ("distil" if taught_share(own) >= _TAUGHT_SHARE else "listwise")
        if own.is_empty() or (loss in TEACHER_LOSSES and not taught_share(own)):
            continue
        changed = {"loss": loss, "learning_rate": one.pace * plain.learning_rate}
        course = Course(f"{one.data}, {loss}, pace {one.pace:g}", own, TrainingRecipe(**{**plain.model_dump(), **changed}))
        if not any(course.recipe == other.recipe and own.height == other.examples.height for other in found):
            found.append(course)
    if len(found) < 2:
        return found or [Course("all", examples, plain)]
    parts = {name: value / len(found) for name in ("seconds", "usd") if (value := getattr(plain, name)) is not None}
    return [replace(course, recipe=course.recipe.model_copy(update=parts)) for course in found]


def judge_of(loop: Loop) -> Judge | None:
    """NDCG@10 of the weights so far on dev queries that no choice looks at; null where the contour asks for none, or too few are left."""
    if not loop.settings.values.training.evaluations:
        return None
    scale, serving = loop.plan.scale, loop.serving()
    pool = loop.corpus.queries(split="dev", part="shift")
    chosen_on = frozen_sample(pool, scale.dev_queries, scale.seed + 1)
    queries = frozen_sample(pool.join(chosen_on.select("query_id"), on="query_id", how="anti"), _JUDGED_QUERIES, scale.seed + 2)
    if queries.height < _LEAST_JUDGED:
        return None
    depth = max(1, min(serving.depth, _JUDGED_DEPTH))
    judged = gather(queries, loop.corpus.judgments(split="dev"), loop.index().candidates, depth)
    config = ServingConfig(model=serving.model, depth=depth, fusion_weight=serving.fusion_weight)

    def judge(score: Score) -> float:
        run = rerank_run(judged, Present(serving.model, score), config, skip_hopeless=True)
        return float(per_query(run, judged.judgments, ["nDCG@10"])["nDCG@10"].to_numpy().mean())

    return judge


def taught_share(examples: pl.DataFrame) -> float:
    """Share of the groups in which the teacher has scored at least two documents."""
    if "teacher_score" not in examples.columns or examples.is_empty():
        return 0.0
    scored = examples.group_by("group_id").agg(pl.col("teacher_score").is_not_null().sum().alias("n"))
    return float((scored["n"] >= 2).mean() or 0.0)  # type: ignore[arg-type]


def replay_of(loop: Loop, cycle_id: str, examples: pl.DataFrame) -> EarlierData | None:
    """Data of the newest cycles whose release proved itself; null without replay. What led to a rejected or taken-back model is never learned again."""
    if not loop.settings.values.training.replay_share:
        return None
    proven = [cycle.cycle_id for cycle in loop.control.cycles(200, loop.contour) if cycle.state is CycleState.STABLE and cycle.cycle_id != cycle_id]
    paths = [loop.home.artifacts / name / "augmented_dataset.parquet" for name in proven]
    there = [path for path in paths if path.is_file()][:_REPLAYED_CYCLES]
    if not there:
        return None
    judged = [text for split in ("dev", "test") for text in loop.corpus.queries(split=split)["text"].to_list()]
    return earlier_data(there, loop.vault(), judged, examples)


@traced
def choose_candidate(loop: Loop, cycle_id: str, trainings: Sequence[Mapping[float, str]]) -> Choice | None:
    """Which candidate to go on with, on dev queries, corrected for having looked at several; null where there is one.

    Parameters
    ----------
    trainings
        Of each training, share of the starting weights -> digest. The more of the start is in a candidate the less changes: the simplest is the one with the
        largest share, of the first training where several have it. ``Choice.chosen`` is a digest.
    """
    from predator_si.train.export import export

    candidates = {digest: share for training in reversed(trainings) for share, digest in training.items()}
    if len(candidates) < 2:
        return None
    order = {digest: number for number, training in reversed(list(enumerate(trainings))) for digest in training.values()}
    scale, corpus, serving = loop.plan.scale, loop.corpus, loop.serving()
    queries = frozen_sample(corpus.queries(split="dev", part="shift"), scale.dev_queries, scale.seed + 1)
    scored = []
    for digest, share in sorted(candidates.items(), key=lambda one: (one[1], order[one[0]])):
        fast = export(loop.models, digest, reference_backend(), scale.max_length)
        config = ServingConfig(model=fast, depth=serving.depth, fusion_weight=serving.fusion_weight)
        frame = evaluate_model(
            queries,
            corpus.judgments(split="dev"),
            loop.index().candidates,
            load_reranker(loop.models.path(fast)),
            config,
            scores_cache=loop.pair_scores,
            should_stop=loop.should_stop(cycle_id),
        )
        scored.append(Scored(digest, 1.0 - share + 1e-6 * order[digest], frame.sort("query_id")["ndcg_at_10"].to_numpy().astype(np.float64)))
    found = choose(scored, seed=scale.seed, resamples=scale.resamples)
    loop.save(cycle_id, "candidates.json", found)
    return found


def trainer_of(loop: Loop, cycle_id: str) -> Trainer:
    """Who trains a cycle: H2O LLM Studio where the contour switches it on for cycles like this one, else the contour's trainer.

    Raises
    ------
    Missing
        H2O LLM Studio is switched on, and the contour does not say where it is or what it tunes.
    """
    said, studio = loop.settings.values.training, loop.settings.values.h2o_studio
    by_itself = loop.control.cycle(cycle_id).actor in OPENERS
    if not studio.enabled or (by_itself and not studio.auto_trigger_training):
        if said.trainer == "pod":
            from predator_si.orchestration.pod_trainer import PodTrainer

            return PodTrainer(loop.settings)
        return trainer_named(said.trainer, said.processes)
    from predator_si.train.h2o import H2OTrainer, Studio

    if studio.folder is None or studio.backbone is None:
        raise Missing(
            "h2oStudio.enabled is true, but h2oStudio.folder and h2oStudio.backbone do not say where H2O LLM Studio is installed and which language model it "
            "tunes. Name both (docs/training.md), or switch it off: the loop's own trainer then trains."
        )
    return H2OTrainer(Studio(Path(studio.folder).expanduser(), studio.backbone, studio.command, studio.gpus))


def early_exit_of(loop: Loop, examples: pl.DataFrame) -> EarlyExit | None:
    """What early exit is calibrated on: queries that people asked, none of them judged; null where the contour does not want it, or there are too few."""
    from predator_si.evaluate.optimise import EarlyExit

    if not loop.settings.values.training.early_exit or "source" not in examples.columns:
        return None
    judged = {text for split in ("dev", "test") for text in loop.corpus.queries(split=split)["text"].to_list()}
    asked = examples.filter(pl.col("source").is_in(sorted(ASKED)))["query"].unique(maintain_order=True).to_list()
    queries = [text for text in asked if text not in judged][:_EXIT_QUERIES]
    return EarlyExit(queries) if len(queries) >= _LEAST_EXIT_QUERIES else None


def student_layers(loop: Loop, cycle_id: str, trained: str) -> tuple[int, ...]:
    """Encoder layers of the smaller models to make: the contour's, and for a cycle about time or money a half and a third where it names none."""
    from predator_si.train.layers import layer_count

    there = layer_count(loop.models.path(trained))
    wanted = loop.settings.values.training.students
    if not wanted and loop.control.cycle(cycle_id).trigger.metric in (*_SMALLER, "avg_latency_ms"):
        wanted = (there // 2, there // 3)
    return tuple(sorted({layers for layers in wanted if 1 <= layers < there}, reverse=True))


@traced
def make_students(loop: Loop, cycle_id: str, trained: str, examples: pl.DataFrame, on_progress: Progress | None = None) -> list[str]:
    """Smaller models taught by the trained one together with the first stage, on queries of the cycle's data; their digests, the largest first.

    The first stage's share is part of what is taught, so that a student learns what is served and not one model's errors alone.
    """
    from predator_si.train.export import export
    from predator_si.train.students import StudentPlan, distil, distillation_groups

    layers = student_layers(loop, cycle_id, trained)
    if not layers:
        return []
    scale, should_stop = loop.plan.scale, loop.should_stop(cycle_id)
    queries = examples["query"].unique(maintain_order=True).sample(min(_STUDENT_QUERIES, examples["query"].n_unique()), seed=scale.seed).to_list()
    found = loop.index().candidates(queries, scale.depth)
    teacher = load_reranker(loop.models.path(export(loop.models, trained, reference_backend(), scale.max_length)))
    pairs = [(query, text) for query, own in zip(queries, found, strict=True) for text in own.texts]
    scores = score_pairs(teacher, pairs, loop.pair_scores, should_stop=should_stop)
    ends = np.cumsum([len(own.texts) for own in found])[:-1]
    taught = [fuse(own, known.scores, _LEGS_WEIGHT / (1.0 + _LEGS_WEIGHT)) for own, known in zip(np.split(scores, ends), found, strict=True)]
    groups = distillation_groups(queries, found, taught, seed=scale.seed)
    recipe = TrainingRecipe(
        loss="distil",
        learning_rate=scale.learning_rate,
        epochs=scale.epochs,
        groups_per_step=scale.groups_per_step,
        max_length=scale.max_length,
        seed=scale.seed,
    )
    plan = StudentPlan(layers=layers, recipe=recipe, seconds=scale.train_seconds)
    folder = loop.artifacts(cycle_id) / "students"
    made = distil(loop.models, trained, groups, plan, folder, name=f"reranker {cycle_id}", should_stop=should_stop, on_progress=on_progress)
    loop.save(cycle_id, "students.json", {"students": [one.model_dump(mode="json") for one in made], "queries": len(queries)})
    return [one.digest for one in made]
