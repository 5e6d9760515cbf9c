"""One protocol, several trainers: the framework's and the one of several processes learn the same toy, stop, judge, and refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from predator_si.errors import BadInput, Refused, Unavailable
from predator_si.search.models import ModelStore
from predator_si.search.rerank import load_reranker
from predator_si.train.accelerated import AccelerateTrainer, launch_command
from predator_si.train.fit import Score, Trained
from predator_si.train.groups import read_groups
from predator_si.train.recipe import LOSSES, TrainingRecipe
from predator_si.train.trainer import TRAINERS, trainer_named
from predator_si_tests.support.tiny_models import store_tiny, toy_examples

UNSEEN = ("key.bias", "classifier.bias")
"""Attention and a listwise loss do not see these: their gradients are rounding, which Adam scales up."""
RECIPE = TrainingRecipe(learning_rate=5e-3, epochs=2.0, groups_per_step=4, max_length=32, checkpoint_every=3, bf16=False)
PAIRS = [("how to sort", "the sort function and the join table, safe"), ("how to sort", "the sort function and the join table, fast")]


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[ModelStore, str]:
    return store_tiny(tmp_path, seed=2, hidden=32)


def taught() -> pl.DataFrame:
    return toy_examples().with_columns(teacher_score=pl.col("label") * 4 - 2)


def run(trainer: Any, tiny: tuple[ModelStore, str], work: Path, recipe: TrainingRecipe = RECIPE, **options: Any) -> Trained:
    return trainer.train(tiny[0], tiny[1], taught(), recipe, work, name="trained", **options)


def weights(store: ModelStore, digest: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return dict(load_file(str(store.path(digest) / "model.safetensors")))


def accuracy(store: ModelStore, digest: str) -> float:
    reranker = load_reranker(store.path(digest))
    return float(np.mean([np.argmax(reranker.score(group.query, group.texts)) == 0 for group in read_groups(toy_examples(groups=32, seed=77))]))


def stop_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(10**9))
    return lambda: next(asked) >= steps


def test_trainers_by_name():
    assert [trainer_named(name).name for name in TRAINERS] == list(TRAINERS)
    with pytest.raises(BadInput, match="known: lean, accelerate, sentence-transformers"):
        trainer_named("magic")
    with pytest.raises(BadInput, match="at least one"):
        trainer_named("accelerate", 0)


# --------------------------------------------------------------------------- sentence-transformers


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_the_framework_learns_with_every_loss(tiny: tuple[ModelStore, str], tmp_path: Path, loss: str):
    seen: list[int] = []
    recipe = RECIPE.model_copy(update={"loss": loss, "epochs": 4.0, "average_with_start": 0.1, "averages": (0.0,)})
    trained = run(trainer_named("sentence-transformers"), tiny, tmp_path / "work", recipe, on_progress=lambda done, total: seen.append(done))
    assert (trained.trainer, trained.steps, trained.pairs, trained.groups) == ("sentence-transformers", 24, 384, 24)
    assert seen == list(range(1, 25)) and len(trained.losses) == 24
    assert np.mean(trained.losses[-4:]) < 0.7 * np.mean(trained.losses[:4])
    assert accuracy(tiny[0], trained.candidates[0.0]) > 0.85 > accuracy(*tiny)
    card = tiny[0].card(trained.digest)
    assert (card.base, card.backend) == (tiny[1], "torch-fp32")
    assert not [path for path in (tmp_path / "work").rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")], "nothing pickled"


def test_the_framework_is_judged_stopped_and_refuses(tiny: tuple[ModelStore, str], tmp_path: Path):
    trainer = trainer_named("sentence-transformers")
    said = iter([0.2, 0.9, 0.4, 0.3])
    seen: list[np.ndarray] = []

    def judge(score: Score) -> float:
        seen.append(score(PAIRS))
        return next(said)

    trained = run(trainer, tiny, tmp_path / "judged", RECIPE.model_copy(update={"evaluations": 4, "patience": 2}), judge=judge)
    assert (trained.evaluations, trained.best_step, trained.ended) == ([(3, 0.2), (6, 0.9), (9, 0.4), (12, 0.3)], 6, "patience")
    assert load_reranker(tiny[0].path(trained.digest)).score_pairs(PAIRS) == pytest.approx(seen[1], abs=1e-4)
    before = len(tiny[0].cards())
    with pytest.raises(Refused, match="before step 6 of 12"):
        run(trainer, tiny, tmp_path / "stopped", should_stop=stop_after(5))
    with pytest.raises(BadInput, match="no group weights"):
        run(trainer, tiny, tmp_path / "weights", RECIPE.model_copy(update={"group_weights": True}))
    assert len(tiny[0].cards()) == before


# --------------------------------------------------------------------------- accelerate launch


def test_the_launch_command_is_one_for_every_machine():
    words = launch_command(2)
    assert words[1:3] == ["-m", "accelerate.commands.launch"] and words[-2:] == ["-m", "predator_si.train.accelerated"]
    assert words[words.index("--num_processes") + 1] == "2"


@pytest.mark.live
@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tiny: tuple[ModelStore, str], tmp_path: Path):
    """Gradients are summed over processes: weights differ by rounding only. The judge stays here, and sees the weights over there."""
    store = tiny[0]
    recipe = RECIPE.model_copy(update={"evaluations": 2, "averages": (0.5,), "groups_per_step": 5, "learning_rate": 1e-3})  # the last step is smaller
    judged: dict[str, list[np.ndarray]] = {"lean": [], "accelerate": []}
    heard: list[tuple[int, float]] = []

    def judge_for(name: str) -> Callable[[Score], float]:
        return lambda score: [judged[name].append(score(PAIRS)), float(len(judged[name]))][1]  # type: ignore[func-returns-value]

    here = run(trainer_named("lean"), tiny, tmp_path / "one", recipe, judge=judge_for("lean"))
    there = run(
        AccelerateTrainer(2), tiny, tmp_path / "two", recipe, judge=judge_for("accelerate"), on_loss=lambda step, loss: heard.append((step, loss))
    )  # fmt: skip
    assert (there.trainer, there.device, there.steps) == ("accelerate", "2 x cpu", here.steps)
    assert there.losses == pytest.approx(here.losses, rel=1e-3)
    assert heard == list(enumerate(there.losses))
    assert np.concatenate(judged["accelerate"]) == pytest.approx(np.concatenate(judged["lean"]), abs=5e-3)
    assert list(there.candidates) == [0.0, 0.5]
    after = weights(store, there.digest)
    for name, values in weights(store, here.digest).items():
        if not name.endswith(UNSEEN):
            assert after[name] == pytest.approx(values, abs=1e-3), name


@pytest.mark.live
@pytest.mark.slow
def test_processes_stop_and_go_on_and_say_why_they_cannot(tiny: tuple[ModelStore, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer = AccelerateTrainer(1)
    with pytest.raises(Refused, match="before step 5 of 12"):
        run(trainer, tiny, tmp_path / "work", should_stop=stop_after(4))
    resumed = run(trainer, tiny, tmp_path / "work")
    assert (resumed.resumed_from, resumed.steps) == (4, 12)
    with pytest.raises(BadInput, match="at most 128 tokens"):
        run(trainer, tiny, tmp_path / "long", RECIPE.model_copy(update={"max_length": 256}))
    monkeypatch.setattr("predator_si.train.accelerated.launch_command", lambda _: ["python", "-c", "print('no such module'); raise SystemExit(3)"])
    with pytest.raises(Unavailable, match=r"(?s)code 3 .*no such module"):
        run(trainer, tiny, tmp_path / "broken")
