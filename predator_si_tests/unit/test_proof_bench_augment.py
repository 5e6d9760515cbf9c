"""`bench augment` on a small collection with tiny models: figures that are counted, arms that differ by what they say, tables between their marks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from predator_si.augment.teacher import ensemble_of
from predator_si.errors import BadInput
from predator_si.proof.augment_ablation import BEGIN, END, AblationPlan, ablate, write_tables
from predator_si.proof.bench_augment import Ground, bench_augment, sizes_for
from predator_si.proof.bench_labels import bench_labels
from predator_si.search.models import ModelStore
from predator_si.train.recipe import TrainingRecipe
from predator_si_tests.support.augment_ground import small_ground
from predator_si_tests.support.tiny_models import store_tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return small_ground(tmp_path_factory.mktemp("corpus") / "small")


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[ModelStore, str]:
    return store_tiny(tmp_path)


def test_the_speed_arm_counts_what_it_made_and_guards_the_evaluation(place: Ground):
    found = bench_augment(place, 300, 3)
    assert found["scale"] == "small" and found["wanted_examples"] == 300 and 150 <= found["examples"] <= 300
    assert found["seconds"] > 0 and found["peak_rss_mb"] > 10 and found["bytes"]["parquet"] > 0
    assert sum(found["groups_by_source"].values()) == found["groups"] == sum(found["yield"]["enough_negatives"].values())
    assert found["holds"] is (found["examples"] >= 297)
    dataset = place.build(sizes_for(300), 3)
    sealed = set(place.corpus.judgments(split="dev")["doc_id"]) | set(place.corpus.judgments(split="test")["doc_id"])
    assert not sealed & set(dataset.examples.filter(pl.col("label") == 1.0)["doc_id"])
    assert place.report.root_cause_analysis.affected_categories == ["shift"] and dataset.statistics["targeted_groups"] > 0
    with pytest.raises(BadInput, match="at least 60"):
        bench_augment(place, 10, 3)


def test_no_arm_begins_without_time_and_those_left_out_are_named(place: Ground, tiny: tuple[ModelStore, str]):
    store, start = tiny
    found = ablate(place, store, start, TrainingRecipe(max_length=16, epochs=0.2), AblationPlan(examples=60, dev_queries=8, depth=3, minutes=1e-6))
    assert [row["name"] for row in found["arms"]] == ["all"] and "without title" in found["left_out"]


def test_tables_stand_between_their_marks_and_the_rest_of_the_file_stays(tmp_path: Path):
    figures = {
        "corpus": "small", "scale": "small", "seed": 0, "cores": 2, "examples": 300, "seconds": 2.0, "peak_rss_mb": 500.0, "diversity_score": 0.9,
        "cluster_entropy": None, "yield": {"proposed": {"title": 10}, "round_trip": {"title": 8}},
    }  # fmt: skip
    path = tmp_path / "benchmarks.md"
    path.write_text(f"# Mine\n\nbefore\n{BEGIN}\nold\n{END}\nafter\n")
    write_tables(path, figures)
    text = path.read_text()
    assert text.startswith("# Mine\n\nbefore\n") and text.endswith(f"{END}\nafter\n") and "old" not in text
    assert "| left after | title |" in text and "| round_trip | 8 |" in text and "| unknown |" in text
    write_tables(path, figures)
    assert path.read_text() == text
    write_tables(tmp_path / "new.md", figures)
    assert BEGIN in (tmp_path / "new.md").read_text()
    path.write_text(f"{BEGIN} only")
    with pytest.raises(BadInput, match="Put the missing mark back"):
        write_tables(path, figures)


def test_groups_of_a_smaller_share_are_in_the_larger_one(place: Ground):
    from predator_si.proof.augment_ablation import _part_of

    base = place.build(sizes_for(120), 0)
    small, large = (set(_part_of(base, share, 0)().examples["group_id"]) for share in (0.25, 0.5))
    assert small < large and len(large) == np.round(0.5 * base.statistics["groups"])


def test_the_teachers_labels_are_timed_and_counted(place: Ground):
    teacher = ensemble_of(place.index, lambda pairs: np.array([len(set(query.split()) & set(text.split())) for query, text in pairs], float))
    found = bench_labels(place, teacher, 240, 0)
    assert found["wanted"] == 240 and 0 < found["examples"] <= 240 <= found["pairs"] + 120
    assert found["examples"] == found["log"]["examples"] + found["groups"]["examples"] and found["log"]["groups"] > 0
    assert found["pairs"] >= found["examples"], "of a log query more candidates are looked at than kept"
    assert found["seconds"] > 0 and found["holds"] is (found["examples"] >= 0.98 * 240)
    assert bench_augment(place, 60, 0, None, lambda: found)["labels"] == found
