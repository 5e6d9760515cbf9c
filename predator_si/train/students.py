"""Smaller models that learn to rank as a larger one does: layers are dropped, and what was lost is taught again in the domain.

What belongs here: what a student is asked and by which order of sizes it comes about. What must not: the training loop (``fit``), teachers
(``augment.teacher``), measuring what the student is worth (``evaluate.optimise``).

No judgment takes part: queries come from the log or are synthetic, and what they are taught are the teacher's scores (Hinton, Vinyals and Dean 2015, with the
softmax over the documents of one query).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, model_validator

from predator_si.corpora.text import digest_lines
from predator_si.errors import BadInput
from predator_si.records import Record
from predator_si.search.models import ModelStore
from predator_si.search.retrieve import Candidates
from predator_si.train.fit import fine_tune
from predator_si.train.layers import kept_layers, layer_count
from predator_si.train.recipe import TrainingRecipe

_LADDER = "students.json"


class StudentPlan(Record):
    """Which students are made, and how."""

    layers: tuple[int, ...] = (6, 4, 3)
    """Encoder layers of each, the largest first."""
    keep: Literal["first", "spaced"] = "spaced"
    """Which layers of its start a student keeps."""
    staged: bool = True
    """Each student starts from the one before; else all start from the teacher's weights."""
    recipe: TrainingRecipe = TrainingRecipe(loss="distil", learning_rate=1e-4, epochs=2.0, max_length=128)
    seconds: float | None = Field(default=None, gt=0)
    """Of training, all students together: each gets the share that its layers have, so that all see about as many pairs."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.layers or list(self.layers) != sorted(set(self.layers), reverse=True) or self.layers[-1] < 1:
            raise ValueError(f"layers {self.layers}: numbers of layers, the largest first, each once, 1 at least")
        if self.recipe.average_with_start or self.recipe.averages:
            raise ValueError("a student is not averaged with its start: a model that lacks layers ranks nothing before it is trained")
        if self.recipe.layers is not None:
            raise ValueError("the recipe of a student has no layers: the plan says how many")
        return self


class Student(Record):
    """One smaller model, and what making it took."""

    layers: int
    digest: str
    start: str
    """Digest of the model whose layers were dropped."""
    pairs: int
    seconds: float
    loss: float
    """Mean of the last ten steps."""


def distillation_groups(
    queries: Sequence[str],
    candidates: Sequence[Candidates],
    teacher_scores: Sequence[npt.NDArray[np.floating]],
    *,
    per_group: int = 8,
    best: int = 3,
    seed: int = 0,
) -> pl.DataFrame:
    """Training groups: of each query the teacher's best candidates and a random sample of the others, so that easy and hard ones are both seen.

    Parameters
    ----------
    queries, candidates, teacher_scores
        Aligned; scores are those of the candidates, higher is more relevant, comparable within their query.
    per_group, best
        Documents of a query, and how many of them are the teacher's best. Queries with fewer than two candidates, or scored all alike, are left out.

    Returns
    -------
    pl.DataFrame
        ``group_id, query, doc_id, text, label`` (1 for the teacher's best, 0 else), ``teacher_score, source`` ("log").

    Raises
    ------
    BadInput
        The three are not aligned, a score is not a number, or nothing is left.
    """
    if not per_group >= 2 or not 1 <= best <= per_group:
        raise BadInput(f"groups of {per_group} with the best {best}: a group has two documents at least, and no more best ones than documents.")
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number, (query, own, scores) in enumerate(zip(queries, candidates, teacher_scores, strict=True)):
        if len(own.doc_ids) != len(scores) or not np.isfinite(scores).all():
            raise BadInput(f"query {number}: {len(scores)} teacher scores for {len(own.doc_ids)} candidates, all of which must be numbers. Score them again.")
        if len(scores) < 2 or np.ptp(scores) == 0:
            continue
        order = np.argsort(-np.asarray(scores), kind="stable")
        others = rng.permutation(order[best:])[: per_group - best]
        for place, chosen in enumerate([*order[:best], *others]):
            facts = {"group_id": number, "query": query, "doc_id": own.doc_ids[chosen], "text": own.texts[chosen]}
            rows.append({**facts, "label": 1.0 if place == 0 else 0.0, "teacher_score": float(scores[chosen]), "source": "log"})
    if not rows:
        raise BadInput("no query has candidates that the teacher tells apart: there is nothing to learn. Give more queries.")
    return pl.DataFrame(rows)


def distil(
    store: ModelStore,
    teacher: str,
    groups: pl.DataFrame,
    plan: StudentPlan,
    work: Path,
    *,
    name: str,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Student]:
    """Make the plan's students, the largest first, and store them.

    Parameters
    ----------
    teacher
        Digest of the torch model that the students start from. Its scores need not be what they are taught: an ensemble's may stand in ``groups``.
    groups
        As :func:`distillation_groups` makes them, or a dataset with teacher scores.
    work
        Folder for checkpoints: a run that was killed goes on with the student it was at, and does not make those again that were done.
    on_progress
        Called with (done, total) steps of the student at work.

    Raises
    ------
    Refused
        ``should_stop`` said so; the checkpoint stays.
    BadInput
        As ``fit.fine_tune``, a body whose layers cannot be dropped, or a plan with more layers than the teacher has.
    """
    there = layer_count(store.path(teacher))
    if plan.layers[0] > there:
        raise BadInput(f"a student of {plan.layers[0]} layers: {store.card(teacher).name} has {there}. Ask for fewer layers.")
    work.mkdir(parents=True, exist_ok=True)
    key = digest_lines([plan.model_dump_json(), teacher, *(json.dumps(row, default=str) for row in groups.iter_rows())])
    done = _finished(work / _LADDER, key, store)
    start = done[-1].digest if done and plan.staged else teacher
    for layers in plan.layers[len(done) :]:
        began = time.monotonic()
        seconds = None if plan.seconds is None else plan.seconds * layers / sum(plan.layers)
        kept = None if layers == layer_count(store.path(start)) else layers
        recipe = plan.recipe.model_copy(update={"layers": kept, "keep": plan.keep, "seconds": seconds})
        folder = work / f"{layers}-layers"
        trained = fine_tune(store, start, groups, recipe, folder, name=f"{name}, {layers} layers", should_stop=should_stop, on_progress=on_progress)
        student = Student(
            layers=layers,
            digest=trained.digest,
            start=start,
            pairs=trained.pairs,
            seconds=time.monotonic() - began,
            loss=float(np.mean(trained.losses[-10:])),
        )
        done.append(student)
        _write(work / _LADDER, key, done)
        if plan.staged:
            start = trained.digest
    return done


def dropped(teacher_layers: int, plan: StudentPlan) -> list[list[int]]:
    """Which of the teacher's layers each student keeps, in the plan's order."""
    found, current = [], list(range(teacher_layers))
    for layers in plan.layers:
        own = current if plan.staged else list(range(teacher_layers))
        current = [own[number] for number in kept_layers(len(own), layers, plan.keep)]
        found.append(current)
    return found


def _finished(path: Path, key: str, store: ModelStore) -> list[Student]:
    """Students that an earlier run with the same plan, teacher and data made, as far as the store still has them."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        found = [Student.model_validate(entry) for entry in said["students"]] if said["key"] == key else []
    except (OSError, ValueError, KeyError, TypeError):  # nothing, or nothing whole: they are made again
        return []
    whole: list[Student] = []
    for student in found:
        if student.digest not in store:
            break
        whole.append(student)
    return whole


def _write(path: Path, key: str, students: Sequence[Student]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"key": key, "students": [student.model_dump(mode="json") for student in students]}, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
