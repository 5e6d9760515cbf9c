"""The trainings of a cycle: the contour's recipes share its time, dev queries judge on the way and choose at the end, and a killed run repeats none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from predator_si.errors import BadInput, Missing
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import improve, recipes, teach
from predator_si.settings import Settings
from predator_si.train.tracking import NullTracker
from predator_si_tests.orchestration.test_steps_recipes import CYCLE, examples, home, with_training
from predator_si_tests.orchestration.test_steps_trainer import ready

TWO = "{recipes: [{data: all}, {data: people, loss: listwise, pace: 2.0}], averages: [0.5]}"


def mixed(loop: Loop) -> pl.DataFrame:
    """Half of the groups are made up; the teacher scored all."""
    source = pl.when(pl.col("group_id") < 30).then(pl.lit("clicks")).otherwise(pl.lit("title"))
    return examples(loop, scored=True).with_columns(source=source)


def two_courses(settings: Settings, tmp_path: Path) -> tuple[Loop, str]:
    """A cycle with its data, in a contour of two recipes."""
    home(settings)
    loop = Loop(with_training(settings, tmp_path, TWO))
    cycle_id = ready(loop)
    mixed(loop).write_parquet(loop.artifacts(cycle_id) / "augmented_dataset.parquet")
    return loop, cycle_id


def test_the_contours_recipes_share_time_and_money_and_what_the_data_cannot_give_is_left_out(settings: Settings, tmp_path: Path) -> None:
    plain = home(settings)
    champion, made = plain.serving().model, mixed(plain)
    alone = recipes.courses_of(plain, CYCLE, champion, made, None)
    assert [one.name for one in alone] == ["all"] and alone[0].examples.equals(made)
    loop = Loop(with_training(settings, tmp_path, TWO))
    whole = recipes.recipe_of(loop, CYCLE, champion, made, None)
    first, second = recipes.courses_of(loop, CYCLE, champion, made, None)
    assert (first.name, second.name) == ("all, distil, pace 1", "people, listwise, pace 2")
    assert first.examples.height == made.height and set(second.examples["source"]) == {"clicks"}
    assert whole.seconds is not None and whole.usd is not None
    assert first.recipe.seconds == second.recipe.seconds == pytest.approx(whole.seconds / 2) and first.recipe.usd == pytest.approx(whole.usd / 2)
    assert second.recipe.learning_rate == pytest.approx(2 * whole.learning_rate)
    made_up = made.with_columns(source=pl.lit("title"))
    assert [one.name for one in recipes.courses_of(loop, CYCLE, champion, made_up, None)] == ["all, distil, pace 1"], "nobody clicked"
    margins = Loop(with_training(settings, tmp_path, "{recipes: [{loss: distil}, {loss: margin_mse}, {data: people}]}"))
    untaught = made.with_columns(teacher_score=pl.lit(None, pl.Float64))
    assert [one.name for one in recipes.courses_of(margins, CYCLE, champion, untaught, None)] == ["people, listwise, pace 1"], "no teacher, no margins"


def test_every_training_is_made_once_and_the_chosen_candidate_is_named_with_its_own(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, cycle_id = two_courses(settings, tmp_path)
    found = improve.train_model(loop, cycle_id, NullTracker())
    standings = pl.read_json(loop.artifacts(cycle_id) / "candidates.json")["standings"].explode().struct.unnest()
    assert standings.height == 4, "two trainings, each whole and averaged"
    assert (
        found.digest in set(standings["name"])
        and found.digest in found.candidates.values()
        and found.course in ("all, distil, pace 1", "people, listwise, pace 2")
    )

    def never(*given: object, **more: object) -> None:
        raise AssertionError("a training that was finished is not repeated")

    monkeypatch.setattr("predator_si.train.trainer.fine_tune", never)
    again = improve.train_model(loop, cycle_id, NullTracker())
    assert again.model_copy(update={"tracker_run": found.tracker_run}) == found
    mixed(loop).head(80).write_parquet(loop.artifacts(cycle_id) / "augmented_dataset.parquet")
    with pytest.raises(AssertionError, match="not repeated"):
        improve.train_model(loop, cycle_id, NullTracker())


def test_a_training_that_diverges_is_left_out_and_when_all_do_the_cycle_has_no_model(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, cycle_id = two_courses(settings, tmp_path)
    broken = {"all, distil, pace 1"}
    plain = recipes.courses_of

    def courses_of(*given: Any) -> list[recipes.Course]:
        """Some of the trainings with a teacher whose scores no loss survives: float32 ends at 3.4e38."""
        wild = pl.when(pl.col("label") > 0).then(3e38).otherwise(-3e38).alias("teacher_score")
        hot = {"loss": "mse", "learning_rate": 1e-2}
        return [
            replace(one, examples=one.examples.with_columns(wild), recipe=one.recipe.model_copy(update=hot)) if one.name in broken else one
            for one in plain(*given)
        ]

    monkeypatch.setattr(recipes, "courses_of", courses_of)
    found = improve.train_model(loop, cycle_id, NullTracker())
    assert found.course == "people, listwise, pace 2" and found.digest in loop.models
    assert len(found.diverged) == 1 and found.diverged[0].startswith("all, distil, pace 1: the loss is")
    broken.add("people, listwise, pace 2")
    before = [card.digest for card in loop.models.cards()]
    with pytest.raises(BadInput, match=r"all, distil, pace 1: the loss is .* people, listwise, pace 2: the loss is"):
        improve.train_model(loop, cycle_id, NullTracker())
    assert [card.digest for card in loop.models.cards()] == before


def test_dev_queries_that_choose_nothing_judge_on_the_way_and_the_best_weights_are_kept(settings: Settings, tmp_path: Path) -> None:
    plain = home(settings)
    assert recipes.judge_of(plain) is None, "the laptop's time goes into training"
    loop = Loop(with_training(settings, tmp_path, "{evaluations: 4, patience: 1}"))
    asked: list[str] = []

    def score(pairs: list[tuple[str, str]]) -> object:
        asked.extend(query for query, _ in pairs)
        return pl.Series([float(len(text)) for _, text in pairs], dtype=pl.Float32).to_numpy()

    judge = recipes.judge_of(loop)
    if judge is None:  # the toy collection's dev queries all choose: fewer of them leave some to judge
        path = loop.home.path / "plan.json"
        path.write_text(loop.plan.model_copy(update={"scale": loop.plan.scale.model_copy(update={"dev_queries": 10})}).to_json())
        loop = Loop(loop.settings)
        judge = recipes.judge_of(loop)
    assert judge is not None and 0.0 <= judge(score) <= 1.0  # type: ignore[arg-type]
    chosen_on = recipes.frozen_sample(loop.corpus.queries(split="dev", part="shift"), loop.plan.scale.dev_queries, loop.plan.scale.seed + 1)["text"].to_list()
    assert asked and not set(asked) & set(chosen_on)
    cycle_id = ready(loop)
    found = improve.train_model(loop, cycle_id, NullTracker())
    assert 1 <= len(found.evaluations) <= 4 and found.best_step == max(found.evaluations, key=lambda one: (one[1], -one[0]))[0]


def test_a_larger_teacher_votes_where_the_contour_names_one(settings: Settings, tmp_path: Path) -> None:
    plain = home(settings)
    assert teach.larger_teacher(plain) is None and "larger" not in teach.home_teacher(plain).name
    folder = plain.models.path(plain.serving().model)
    loop = Loop(with_training(settings, tmp_path, f"{{teacherModel: '{folder}'}}"))
    pairs = [("one query", "a text"), ("one query", "another text")]
    larger = teach.larger_teacher(loop)
    assert larger is not None and larger(pairs).shape == (2,) and "larger" in teach.home_teacher(loop).name
    with pytest.raises(Missing, match=r"training\.teacherModel 'no-such-model' is neither a fetched model nor a model folder"):
        teach.larger_teacher(Loop(with_training(settings, tmp_path, "{teacherModel: no-such-model}")))


def test_early_exit_is_calibrated_on_enough_queries_of_people_and_on_no_judged_one(settings: Settings, tmp_path: Path) -> None:
    plain = home(settings)
    asked = pl.DataFrame({"query": [f"a question {number}" for number in range(70)], "source": ["log"] * 65 + ["title"] * 5})
    assert recipes.early_exit_of(plain, asked) is None, "not asked for"
    loop = Loop(with_training(settings, tmp_path, "{earlyExit: true}"))
    found = recipes.early_exit_of(loop, asked)
    assert found is not None and len(found.queries) == 65
    judged = loop.corpus.queries(split="dev")["text"].to_list()[:10]
    some = pl.DataFrame({"query": [*judged, *asked["query"].to_list()[:55]], "source": ["clicks"] * (len(judged) + 55)})
    assert recipes.early_exit_of(loop, some) is None, "without the judged ones too few are left to prove a threshold"
