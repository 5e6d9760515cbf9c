"""H2O LLM Studio's file contract, with a stand-in for its process: what it is given, what it gives back, and how it may fail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml

from predator_si.errors import BadInput, Missing, Refused, Unavailable
from predator_si.search.models import ModelStore
from predator_si.search.rerank import load_reranker
from predator_si.train.fit import Trained
from predator_si.train.groups import read_groups
from predator_si.train.h2o import KEYS, H2OTrainer, Studio, check_settings, read_grades, write_files
from predator_si.train.recipe import TrainingRecipe
from predator_si_tests.support.tiny_models import store_tiny, toy_examples

RECIPE = TrainingRecipe(learning_rate=5e-3, epochs=4.0, groups_per_step=4, max_length=32)

# What `llm_studio/train.py -Y cfg.yaml` does with files, as its source says: reads the data frames with pandas, writes validation_predictions.csv (the
# validation data and a column pred_<answer> of text) and, at the very end, flags.json with status and info. A failure kills the process without a flag.
STAND_IN = """
import json, sys, time
from pathlib import Path
import pandas as pd
import yaml

assert sys.argv[-2] == "-Y"
cfg = yaml.safe_load(Path(sys.argv[-1]).read_text())
folder = Path(cfg["output_directory"])
folder.mkdir(parents=True, exist_ok=True)
(Path.cwd() / "starts").open("a").write("start\\n")
train = pd.read_csv(cfg["dataset"]["train_dataframe"], lineterminator="\\n")
assert train[cfg["dataset"]["answer_column"][0]].astype(float).notna().all() and train[cfg["dataset"]["prompt_column"][0]].notna().all()
how = (Path.cwd() / "how").read_text()
if how == "hang":
    time.sleep(600)
if how == "crash":
    print("CUDA out of memory", flush=True)
    sys.exit(-9)
val = pd.read_csv(cfg["dataset"]["validation_dataframe"], lineterminator="\\n")
val["pred_answer"] = [str(round(0.9 if "safe" in prompt else 0.1, 3)) for prompt in val["prompt"]]
if how == "rubbish":
    val.loc[3, "pred_answer"] = "NO ANSWER GENERATED"
if how == "short":
    val = val.drop(index=5)
val.sample(frac=1.0, random_state=1).to_csv(folder / "validation_predictions.csv", index=False)
if how != "no flag":
    (folder / "flags.json").write_text(json.dumps({"status": "finished", "info": "Runtime: 00:00:01"}))
"""


@pytest.fixture
def studio(tmp_path: Path) -> Callable[[str], Studio]:
    folder = tmp_path / "studio"
    folder.mkdir()
    (folder / "train.py").write_text(STAND_IN)

    def make(how: str) -> Studio:
        (folder / "how").write_text(how)
        return Studio(folder, backbone="some/small-language-model", command=(sys.executable, "train.py"), gpus=("0", "1"))

    return make


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[ModelStore, str]:
    return store_tiny(tmp_path, seed=2, hidden=32)


def train(tiny: tuple[ModelStore, str], work: Path, studio: Studio, recipe: TrainingRecipe = RECIPE, **options: Any) -> Trained:
    return H2OTrainer(studio).train(tiny[0], tiny[1], toy_examples(groups=48), recipe, work, name="H2O: one", **options)


@pytest.mark.live
def test_what_the_language_model_learned_ends_in_the_cross_encoder(tiny: tuple[ModelStore, str], tmp_path: Path, studio: Callable[[str], Studio]):
    store, start = tiny
    trained = train(tiny, tmp_path / "work", studio("well"))
    assert (trained.trainer, trained.groups) == ("h2o", 48)
    assert store.card(trained.digest).origin["recipe"]["loss"] == "distil"
    pairs = [("how to sort", "the sort function and the join table, safe"), ("how to sort", "the sort function and the join table, fast")]
    after, before = load_reranker(store.path(trained.digest)).score_pairs(pairs), load_reranker(store.path(start)).score_pairs(pairs)
    assert after[0] - after[1] > 2 > before[0] - before[1]
    left = sorted(path.name for path in (tmp_path / "work" / "h2o").iterdir())
    assert left == ["grades.json", "h2o.log"], "no file with queries in the clear stays"
    again = train(tiny, tmp_path / "work", studio("well"))
    assert again.digest == trained.digest
    assert (tmp_path / "studio" / "starts").read_text() == "start\n", "the same data are not graded twice"


@pytest.mark.live
@pytest.mark.parametrize(
    ("how", "error", "why"),
    [
        ("crash", Unavailable, "ended with code 247, status 'none'.*CUDA out of memory"),
        ("no flag", Unavailable, "status 'none'"),
        ("rubbish", BadInput, "a prediction that is not a number"),
        ("short", BadInput, "predictions for 191 pairs, 192 were asked for"),
    ],
)
def test_a_failed_run_stores_nothing(tiny: tuple[ModelStore, str], tmp_path: Path, studio: Callable[[str], Studio], how: str, error: type[Exception], why: str):
    with pytest.raises(error, match=f"(?s){why}"):
        train(tiny, tmp_path / "work", studio(how))
    assert len(tiny[0].cards()) == 1
    assert [path.name for path in (tmp_path / "work" / "h2o").iterdir()] == ["h2o.log"]


@pytest.mark.live
def test_a_stop_and_a_budget_end_the_process(tiny: tuple[ModelStore, str], tmp_path: Path, studio: Callable[[str], Studio]):
    with pytest.raises(Refused, match="told to stop"):
        train(tiny, tmp_path / "work", studio("hang"), should_stop=lambda: True)
    with pytest.raises(Unavailable, match="not finished after 1 seconds"):
        train(tiny, tmp_path / "work", studio("hang"), RECIPE.model_copy(update={"seconds": 1.0}))


def test_no_installation(tiny: tuple[ModelStore, str], tmp_path: Path):
    with pytest.raises(Missing, match=r"docs/training\.md"):
        train(tiny, tmp_path / "work", Studio(tmp_path / "gone", "some/model"))


def test_the_files_that_it_reads(tmp_path: Path):
    examples = toy_examples(groups=2).with_columns(text=pl.lit('a "quoted", text\nof two lines'))
    groups = read_groups(examples)
    config = write_files(Studio(tmp_path, "some/model", gpus=("0", "1")), groups, RECIPE, tmp_path / "run", "H2O: one")
    settings = yaml.safe_load(config.read_text())
    check_settings(settings)
    assert settings["problem_type"] == "text_causal_regression_modeling"
    assert settings["environment"] == {**settings["environment"], "gpus": ["0", "1"], "trust_remote_code": False}
    data = pd.read_csv(settings["dataset"]["train_dataframe"], lineterminator="\n")
    assert list(data.columns) == ["pair", *settings["dataset"]["prompt_column"], *settings["dataset"]["answer_column"]]
    assert data["prompt"][0] == 'Query: how to sort Document: a "quoted", text of two lines'
    assert data["answer"].tolist() == [1.0, 0.0, 0.0, 0.0] * 2


def test_settings_that_it_does_not_know_are_refused():
    """It only warns of them, and goes on without."""
    with pytest.raises(BadInput, match="training has no epoch in"):
        check_settings({"training": {"epoch": 1}})
    with pytest.raises(BadInput, match="the top has no model in"):
        check_settings({"model": "x"})
    with pytest.raises(BadInput, match="a section of settings"):
        check_settings({"training": 3})
    assert all(name.replace("_", "").isalnum() for names in KEYS.values() for name in names.split())


def test_predictions_come_back_in_order(tmp_path: Path):
    path = tmp_path / "p.csv"
    path.write_text("prompt,pair,pred_answer\nb,1,0.25\na,0,0.5\n")
    assert np.array_equal(read_grades(path, 2), [0.5, 0.25])
    with pytest.raises(BadInput, match="no predictions"):
        read_grades(tmp_path / "none.csv", 2)
