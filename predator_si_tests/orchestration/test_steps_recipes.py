"""How a cycle trains: the recipe that its data allow, what is replayed, which average is kept, which smaller models are made. Tiny models, real training."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from predator_si.errors import Refused
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import recipes
from predator_si.proof.prepare import build_first_index
from predator_si.records import CycleState, ServingConfig
from predator_si.reports.costs import add_work
from predator_si.search.tiny import tiny_cross_encoder
from predator_si.settings import Settings, load_settings
from predator_si.train.fit import fine_tune
from predator_si_tests.support.platform import open_cycle, prepare, tiny_scale, write_toy_corpus

LENGTH = 48
CYCLE = "si_2026_11_23_001"


@pytest.fixture
def loop(settings: Settings, tmp_path: Path) -> Loop:
    return home(settings)


def home(settings: Settings) -> Loop:
    loop = Loop(settings)
    corpus = write_toy_corpus(loop.home.corpus / "toy")
    texts = pl.read_parquet(corpus / "documents.parquet")["text"].to_list()
    folder = tiny_cross_encoder(loop.home.path / "tiny", texts, seed=1, layers=4, hidden=32, max_length=64)
    champion = loop.models.add(folder, name="tiny", backend="torch-fp32", max_length=LENGTH)
    prepare(loop, champion, tiny_scale(max_length=LENGTH, epochs=2.0, dev_queries=30, resamples=500), corpus)
    build_first_index(loop, part=None)
    return loop


def with_training(settings: Settings, tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "more.yaml"
    file.write_text(f"selfImprovement:\n  training: {text}\n")
    return load_settings("local", home=settings.home, values_file=file, env={})


def examples(loop: Loop, *, scored: bool = False, prefix: str = "") -> pl.DataFrame:
    """A group for each train query of the shift: the good document and three others."""
    queries = loop.corpus.queries(split="train", part="shift")
    good = dict(loop.corpus.judgments(split="train").select("query_id", "doc_id").iter_rows())
    rows: list[dict[str, Any]] = []
    for number, (query_id, text) in enumerate(queries.select("query_id", "text").iter_rows()):
        topic = good[query_id].rsplit("-", 1)[0]
        for place in range(4):
            doc_id = f"{topic}-{place}"
            label = float(doc_id == good[query_id])
            rows.append({"group_id": number, "query": prefix + text, "doc_id": doc_id, "text": loop.index().text(doc_id), "label": label,
                         "source": "clicks", "weight": 1.0, "teacher_score": 2.0 * label - place if scored else None})  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"teacher_score": pl.Float64})


def test_margins_are_learned_where_the_teacher_scored_most_and_labels_elsewhere(loop: Loop) -> None:
    champion = loop.serving().model
    plain, scored = examples(loop), examples(loop, scored=True)
    assert (recipes.taught_share(plain), recipes.taught_share(scored)) == (0.0, 1.0)
    assert recipes.recipe_of(loop, CYCLE, champion, plain, None).loss == "listwise"
    assert recipes.recipe_of(loop, CYCLE, champion, scored, None).loss == "distil"
    half = pl.concat([scored.filter(pl.col("group_id") < 24), plain.filter(pl.col("group_id") >= 24)])
    assert recipes.taught_share(half) == pytest.approx(24 / 60) and recipes.recipe_of(loop, CYCLE, champion, half, None).loss == "listwise"
    assert recipes.taught_share(plain.drop("teacher_score")) == 0.0
    one_each = scored.with_columns(teacher_score=pl.when(pl.col("doc_id").str.ends_with("-0")).then(pl.col("teacher_score")))
    assert recipes.taught_share(one_each) == 0.0, "one score has no margin"


def test_a_training_weighs_groups_and_has_what_is_left_of_the_cycles_money(loop: Loop, settings: Settings, tmp_path: Path) -> None:
    champion, made = loop.serving().model, examples(loop)
    recipe = recipes.recipe_of(loop, CYCLE, champion, made, None)
    assert recipe.group_weights and recipe.usd == 5.0 and recipe.usd_per_hour == pytest.approx(0.04 * (os.cpu_count() or 1))
    spent = add_work(None, CYCLE, [], vcpu_hour=0.04, gpu_hour=1.2, llm_usd=1.5)
    loop.save(CYCLE, "costs.json", spent)
    assert recipes.recipe_of(loop, CYCLE, champion, made, None).usd == pytest.approx(3.5)
    loop.save(CYCLE, "costs.json", spent.model_copy(update={"total_cost_usd": 5.0}))
    with pytest.raises(Refused, match=r"has cost 5.00 USD, and budget.usdPerCycle is 5: nothing is trained"):
        recipes.recipe_of(loop, CYCLE, champion, made, None)
    framework = Loop(with_training(settings, tmp_path, "{trainer: sentence-transformers}"))
    assert not recipes.recipe_of(framework, "si_2026_11_23_002", champion, made, None).group_weights, "its losses know no weights"


def test_only_data_of_releases_that_proved_themselves_are_replayed(loop: Loop) -> None:
    now = examples(loop)
    ends = {"stable": (CycleState.RELEASED, CycleState.STABLE), "rejected": (CycleState.REJECTED,), "back": (CycleState.RELEASED, CycleState.ROLLED_BACK)}
    for name, states in ends.items():
        cycle_id = open_cycle(loop.control).cycle_id
        examples(loop, prefix=f"{name} ").write_parquet(loop.artifacts(cycle_id) / "augmented_dataset.parquet")
        for state in states:
            loop.control.transition(cycle_id, state, "a test", "test")
    current = open_cycle(loop.control).cycle_id
    now.write_parquet(loop.artifacts(current) / "augmented_dataset.parquet")
    found = recipes.replay_of(loop, current, now)
    assert found is not None and found.examples is not None and found.groups == 60
    assert found.examples["query"].str.starts_with("stable ").all(), "poison that was rejected must not come back as replay"
    assert recipes.recipe_of(loop, CYCLE, loop.serving().model, now, found).replay_share == 0.25
    assert recipes.recipe_of(loop, CYCLE, loop.serving().model, now, None).replay_share == 0.0


def test_judged_queries_are_never_replayed(loop: Loop) -> None:
    cycle_id = open_cycle(loop.control).cycle_id
    judged = loop.corpus.queries(split="dev", part="shift")["text"].to_list()
    made = examples(loop, prefix="old ").with_columns(query=pl.when(pl.col("group_id") < 10).then(pl.lit(judged[0])).otherwise("query"))
    made.write_parquet(loop.artifacts(cycle_id) / "augmented_dataset.parquet")
    for state in (CycleState.RELEASED, CycleState.STABLE):
        loop.control.transition(cycle_id, state, "a test", "test")
    found = recipes.replay_of(loop, open_cycle(loop.control).cycle_id, examples(loop))
    assert found is not None and found.examples is not None and judged[0] not in found.examples["query"].to_list() and found.left_out["evaluation"] == 10


def test_the_average_that_dev_queries_prefer_is_kept_or_the_simplest(settings: Settings, tmp_path: Path) -> None:
    loop = home(with_training(settings, tmp_path, "{averages: [0.5, 0.9]}"))
    cycle_id, champion = open_cycle(loop.control).cycle_id, loop.serving().model
    made = examples(loop)
    recipe = recipes.recipe_of(loop, CYCLE, champion, made, None)
    assert recipe.averages == (0.5, 0.9)
    trained = fine_tune(loop.models, champion, made, recipe.model_copy(update={"epochs": 12.0}), tmp_path / "work", name="three")
    assert set(trained.candidates) == {0.0, 0.5, 0.9}
    found = recipes.choose_candidate(loop, cycle_id, [trained.candidates])
    assert found is not None and found.simplest == trained.candidates[0.9] and len(found.standings) == 3 and found.n_queries == 30
    means = {one.name: one.mean for one in found.standings}
    assert means[trained.candidates[0.0]] > means[trained.candidates[0.9]] + 0.1, "twelve epochs teach the word"
    assert found.chosen in (trained.candidates[0.0], trained.candidates[0.5]) and means[found.chosen] == max(means.values())
    assert json.loads((loop.artifacts(cycle_id) / "candidates.json").read_text())["chosen"] == found.chosen
    assert recipes.choose_candidate(loop, cycle_id, [{0.0: trained.digest}]) is None


def test_students_are_the_contours_and_a_cycle_about_time_makes_some_anyway(loop: Loop, settings: Settings, tmp_path: Path) -> None:
    champion = loop.serving().model
    relevance = open_cycle(loop.control).cycle_id
    assert recipes.student_layers(loop, relevance, champion) == () and recipes.make_students(loop, relevance, champion, examples(loop)) == []
    asked = Loop(with_training(settings, tmp_path, "{students: [2, 3, 9]}"))
    assert recipes.student_layers(asked, relevance, champion) == (3, 2), "no more layers than there are"
    loop.control.transition(relevance, CycleState.FAILED, "a test", "test")
    slow = open_cycle(loop.control, type="p95_latency_ms_up", metric="p95_latency_ms").cycle_id
    assert recipes.student_layers(loop, slow, champion) == (2, 1)
    made = recipes.make_students(loop, slow, champion, examples(loop))
    sizes = [json.loads((loop.models.path(digest) / "config.json").read_text())["num_hidden_layers"] for digest in made]
    assert sizes == [2, 1] and ServingConfig(model=made[0], depth=8).model in loop.models
    assert len(json.loads((loop.artifacts(slow) / "students.json").read_text())["students"]) == 2
