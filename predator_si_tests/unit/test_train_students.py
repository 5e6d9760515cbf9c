"""Students: what they are asked, which layers they keep, and that a killed run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from scipy.stats import spearmanr

from predator_si.errors import BadInput, Refused
from predator_si.search.models import ModelStore
from predator_si.search.rerank import load_reranker
from predator_si.search.retrieve import Candidates
from predator_si.train import students as making
from predator_si.train.layers import layer_count
from predator_si.train.recipe import TrainingRecipe
from predator_si.train.students import StudentPlan, distil, distillation_groups, dropped
from predator_si_tests.support.tiny_models import TOPICS, store_tiny, toy_texts

TEXTS = toy_texts()
RECIPE = TrainingRecipe(loss="distil", learning_rate=2e-3, epochs=6.0, max_length=32, groups_per_step=4, checkpoint_every=1)
PLAN = StudentPlan(layers=(3, 2, 1), recipe=RECIPE)


def lists(n: int) -> list[Candidates]:
    ids, ranks = [f"d{i}" for i in range(len(TEXTS))], np.arange(1, len(TEXTS) + 1)
    return [Candidates(ids, TEXTS, 1.0 / (60.0 + ranks), ranks, ranks) for _ in range(n)]


def teacher(n: int) -> list[np.ndarray]:
    """The first document is best, each further one worse: learnable from the text alone."""
    return [-np.arange(len(TEXTS), dtype=float) for _ in range(n)]


def groups_of(n: int = 16) -> pl.DataFrame:
    asked = [f"{TOPICS[number % len(TOPICS)]} please" for number in range(n)]
    return distillation_groups(asked, lists(n), teacher(n), per_group=6, best=2)


@pytest.fixture
def four(tmp_path: Path) -> tuple[ModelStore, str]:
    return store_tiny(tmp_path, layers=4, hidden=32)


# --------------------------------------------------------------------------- what is asked


def test_groups_hold_the_teachers_best_and_a_sample_of_the_rest():
    found = groups_of(8)
    assert found.group_by("group_id").len()["len"].to_list() == [6] * 8
    for number, own in enumerate(found.partition_by("group_id", maintain_order=True)):
        scores = dict(zip(lists(1)[0].doc_ids, teacher(8)[number], strict=True))
        best = sorted(scores.values(), reverse=True)[:2]
        assert own["teacher_score"].to_list()[:2] == best
        assert own["label"].to_list() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0] and own["doc_id"].n_unique() == 6
        assert all(row["teacher_score"] == scores[row["doc_id"]] for row in own.iter_rows(named=True))
        assert all(row["text"] == TEXTS[int(row["doc_id"][1:])] for row in own.iter_rows(named=True))
    assert groups_of(8).equals(found), "the same seed, the same groups"
    assert not distillation_groups(["q"] * 8, lists(8), teacher(8), per_group=6, best=2, seed=1)["doc_id"].equals(found["doc_id"])


def test_queries_that_teach_nothing_are_left_out_and_bad_scores_refused():
    flat, one = np.zeros(len(TEXTS)), Candidates(["d0"], ["text"], np.ones(1), np.ones(1, np.int64), np.ones(1, np.int64))
    found = distillation_groups(["flat", "single", "good"], [*lists(1), one, *lists(1)], [flat, np.ones(1), teacher(1)[0]])
    assert found["query"].unique().to_list() == ["good"]
    with pytest.raises(BadInput, match="nothing to learn"):
        distillation_groups(["flat"], lists(1), [flat])
    with pytest.raises(BadInput, match="query 0: 1 teacher scores for 8"):
        distillation_groups(["q"], lists(1), [np.ones(1)])
    with pytest.raises(BadInput, match="must be numbers"):
        distillation_groups(["q"], lists(1), [np.full(len(TEXTS), np.nan)])
    with pytest.raises(BadInput, match="no more best ones"):
        distillation_groups(["q"], lists(1), teacher(1), per_group=3, best=4)


# --------------------------------------------------------------------------- which layers


def test_which_layers_of_the_teacher_each_student_keeps():
    ladder: dict[str, Any] = {"layers": (6, 4, 3), "recipe": RECIPE}
    assert dropped(12, StudentPlan(**ladder, staged=False)) == [[0, 2, 4, 7, 9, 11], [0, 4, 7, 11], [0, 6, 11]]
    assert dropped(12, StudentPlan(**ladder)) == [[0, 2, 4, 7, 9, 11], [0, 4, 7, 11], [0, 7, 11]]
    assert dropped(12, StudentPlan(**ladder, keep="first")) == [list(range(6)), list(range(4)), list(range(3))]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"layers": ()}, "largest first"),
        ({"layers": (2, 3)}, "largest first"),
        ({"layers": (2, 2)}, "largest first"),
        ({"layers": (2, 0)}, "largest first"),
        ({"recipe": RECIPE.model_copy(update={"average_with_start": 0.5})}, "not averaged"),
        ({"recipe": RECIPE.model_copy(update={"layers": 2})}, "the plan says"),
    ],
)
def test_plans_that_make_no_sense_are_refused(more: dict[str, Any], says: str):
    with pytest.raises(ValidationError, match=says):
        StudentPlan(**more)


# --------------------------------------------------------------------------- making them


@pytest.mark.parametrize("staged", [True, False])
def test_students_have_fewer_layers_and_rank_as_the_teacher_said(four: tuple[ModelStore, str], tmp_path: Path, staged: bool):
    store, start = four
    found = distil(store, start, groups_of(), PLAN.model_copy(update={"staged": staged}), tmp_path / "work", name="student")
    assert [student.layers for student in found] == [layer_count(store.path(student.digest)) for student in found] == [3, 2, 1]
    assert [student.start for student in found] == ([start, found[0].digest, found[1].digest] if staged else [start] * 3)
    assert all(student.pairs == 16 * 6 * 6 for student in found)

    def alike(digest: str) -> float:
        model = load_reranker(store.path(digest))
        return float(np.mean([spearmanr(model.score(f"{topic} please", TEXTS), teacher(1)[0]).statistic for topic in TOPICS]))

    assert alike(found[-1].digest) > 0.6 > alike(start) + 0.2, "even one layer learns a rule as simple as this; the start knows nothing of it"


def test_a_student_may_keep_all_layers_and_no_more(four: tuple[ModelStore, str], tmp_path: Path):
    store, start = four
    short = RECIPE.model_copy(update={"epochs": 0.5})
    found = distil(store, start, groups_of(4), StudentPlan(layers=(4,), recipe=short), tmp_path / "work", name="same size")
    assert layer_count(store.path(found[0].digest)) == 4 and found[0].digest != start
    with pytest.raises(BadInput, match="a student of 5 layers: tiny-0 has 4"):
        distil(store, start, groups_of(4), StudentPlan(layers=(5,), recipe=short), tmp_path / "more", name="too many")


def test_a_run_that_was_stopped_goes_on_where_it_was_and_ends_the_same(four: tuple[ModelStore, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store, start = four
    plan, asked = PLAN.model_copy(update={"layers": (3, 2), "recipe": RECIPE.model_copy(update={"epochs": 1.0})}), groups_of()
    whole = distil(store, start, asked, plan, tmp_path / "whole", name="student")
    calls = iter(range(1_000))
    steps_of_one = 4

    def stop() -> bool:  # within the second student
        return next(calls) >= steps_of_one + 2

    with pytest.raises(Refused, match="told to stop"):
        distil(store, start, asked, plan, tmp_path / "cut", name="student", should_stop=stop)
    made: list[int | None] = []
    real = making.fine_tune

    def spying(*given: Any, **more: Any) -> Any:
        found = real(*given, **more)
        made.append(found.resumed_from)
        return found

    monkeypatch.setattr(making, "fine_tune", spying)
    again = distil(store, start, asked, plan, tmp_path / "cut", name="student")
    assert [student.digest for student in again] == [student.digest for student in whole]
    assert len(made) == 1 and made[0] >= 1, "the first was done, the second goes on from its checkpoint"
    distil(store, start, asked, plan, tmp_path / "cut", name="student")
    assert len(made) == 1, "nothing is made twice"
    distil(store, start, groups_of(4), plan, tmp_path / "cut", name="student")
    assert len(made) == 3, "other data, other students"
    (tmp_path / "cut" / "students.json").write_text("{")
    distil(store, start, asked, plan.model_copy(update={"layers": (3,)}), tmp_path / "cut", name="student")
    assert len(made) == 4


def test_time_is_shared_by_layers(four: tuple[ModelStore, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given: list[float] = []
    real = making.fine_tune

    def spying(store: Any, start: Any, examples: Any, recipe: TrainingRecipe, *rest: Any, **more: Any) -> Any:
        given.append(recipe.seconds or 0.0)
        return real(store, start, examples, recipe, *rest, **more)

    monkeypatch.setattr(making, "fine_tune", spying)
    distil(*four, groups_of(4), PLAN.model_copy(update={"seconds": 60.0}), tmp_path / "work", name="student")
    assert given == [30.0, 20.0, 10.0]
