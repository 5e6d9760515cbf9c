"""Fine-tuning a tiny cross-encoder: it learns, it stops, it goes on bit for bit, and it refuses what it cannot learn from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from predator_si.errors import BadInput, Refused
from predator_si.search.models import ModelStore
from predator_si.search.rerank import load_reranker
from predator_si.search.tiny import tiny_cross_encoder
from predator_si.train.export import export
from predator_si.train.fit import Trained, fine_tune, rate
from predator_si.train.groups import read_groups, schedule
from predator_si.train.recipe import TrainingRecipe
from predator_si_tests.support.tiny_models import store_tiny, toy_examples, toy_texts

RECIPE = TrainingRecipe(learning_rate=5e-3, epochs=2.0, groups_per_step=4, max_length=32, checkpoint_every=3)


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[ModelStore, str]:
    return store_tiny(tmp_path, seed=2, hidden=32)


def train(tiny: tuple[ModelStore, str], work: Path, recipe: TrainingRecipe = RECIPE, examples: pl.DataFrame | None = None, **options: Any) -> Trained:
    return fine_tune(tiny[0], tiny[1], toy_examples() if examples is None else examples, recipe, work, name="trained", **options)


def stop_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(10**9))
    return lambda: next(asked) >= steps


def weights(store: ModelStore, digest: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return dict(load_file(str(store.path(digest) / "model.safetensors")))


def accuracy(store: ModelStore, digest: str) -> float:
    """Share of unseen groups whose positive is scored highest; a guess gives 0.25."""
    reranker = load_reranker(store.path(digest))
    groups = read_groups(toy_examples(groups=32, seed=77))
    return float(np.mean([np.argmax(reranker.score(query, texts)) == 0 for query, texts in ((group.query, group.texts) for group in groups)]))


# --------------------------------------------------------------------------- learning


@pytest.mark.parametrize("loss", ["listwise", "bce", "lambda"])
def test_it_learns_what_can_be_learned(tiny: tuple[ModelStore, str], tmp_path: Path, loss: str):
    store, start = tiny
    seen: list[tuple[int, float]] = []
    trained = train(tiny, tmp_path / "work", RECIPE.model_copy(update={"loss": loss, "epochs": 4.0}), on_loss=lambda step, value: seen.append((step, value)))
    assert trained.steps == 24
    assert trained.pairs == 4 * 24 * 4
    assert seen == list(enumerate(trained.losses))
    assert np.mean(trained.losses[-4:]) < 0.3 * np.mean(trained.losses[:4])
    assert accuracy(store, start) < 0.75
    assert accuracy(store, trained.digest) > 0.9
    card = store.card(trained.digest)
    assert (card.base, card.backend, card.max_length) == (start, "torch-fp32", store.card(start).max_length)
    assert card.origin["recipe"]["learning_rate"] == RECIPE.learning_rate
    assert (store.path(trained.digest) / "tokenizer.json").read_bytes() == (store.path(start) / "tokenizer.json").read_bytes()
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["training.json"], "a finished run leaves no checkpoint"


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tiny: tuple[ModelStore, str], tmp_path: Path):
    short = RECIPE.model_copy(update={"epochs": 0.5})
    digests = [train(tiny, tmp_path / str(number), short.model_copy(update={"seed": seed})).digest for number, seed in enumerate((0, 0, 1))]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("steps", [1, 2, 5, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
def test_the_rate_rises_then_falls_and_never_exceeds_the_recipe(steps: int, warmup: float):
    recipe = TrainingRecipe(warmup=warmup)
    rates = [rate(step, steps, recipe, 0.0) for step in range(steps)]
    assert all(0 < each <= 1 for each in rates)
    peak = rates.index(max(rates))
    assert all(a <= b for a, b in pairwise(rates[: peak + 1]))
    assert all(a >= b for a, b in pairwise(rates[peak:]))
    assert rate(0, steps, recipe, 1.0) <= 1.0


def test_every_group_is_seen_once_an_epoch_beside_groups_of_like_length():
    lengths = np.random.default_rng(0).integers(10, 500, 100)
    steps = schedule(lengths, TrainingRecipe(epochs=2.5, groups_per_step=4))
    counts = np.bincount([index for step in steps for index in step], minlength=100)
    assert counts.sum() == 250
    assert set(counts) == {2, 3}
    widths = [max(lengths[step]) - min(lengths[step]) for step in steps]
    assert np.mean(widths) < 60, "shuffled at random it would be about 300"
    assert steps == schedule(lengths, TrainingRecipe(epochs=2.5, groups_per_step=4))


# --------------------------------------------------------------------------- stopping and going on


def test_a_stopped_run_goes_on_to_the_same_bytes(tiny: tuple[ModelStore, str], tmp_path: Path):
    straight = train(tiny, tmp_path / "straight")
    work = tmp_path / "work"
    for stop in (5, 4):  # twice, and between checkpoints
        with pytest.raises(Refused, match=f"before step {6 if stop == 5 else 10} of 12"):
            train(tiny, work, should_stop=stop_after(stop))
    progress: list[tuple[int, int]] = []
    resumed = train(tiny, work, on_progress=lambda done, total: progress.append((done, total)))
    assert resumed.resumed_from == 9
    assert progress == [(10, 12), (11, 12), (12, 12)]
    assert resumed.losses == straight.losses
    assert resumed.pairs == straight.pairs
    assert resumed.digest == straight.digest
    assert straight.digest != tiny[1]


CHILD = """
import sys
from pathlib import Path
from predator_si.search.models import ModelStore
from predator_si.train.fit import fine_tune
from predator_si.train.recipe import TrainingRecipe
from predator_si_tests.support.tiny_models import toy_examples

def told(done, total):
    if done == 8:
        print("eight", flush=True)
        sys.stdin.read()  # until it is killed

root, start, recipe = sys.argv[1:]
recipe = TrainingRecipe.model_validate_json(recipe)
fine_tune(ModelStore(Path(root) / "models"), start, toy_examples(), recipe, Path(root) / "work", name="trained", on_progress=told)
"""


@pytest.mark.live
def test_a_killed_run_goes_on_to_the_same_bytes(tiny: tuple[ModelStore, str], tmp_path: Path):
    straight = train(tiny, tmp_path / "straight")
    store = ModelStore(tmp_path / "killed" / "models")
    store.add(tmp_path / "tiny-2", name="tiny", backend="torch-fp32", max_length=64)
    threads = {"OMP_NUM_THREADS": str(__import__("torch").get_num_threads())}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "killed"), tiny[1], RECIPE.model_dump_json()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], env={**os.environ, **threads},
    )  # fmt: skip
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "eight\n"
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert [card.digest for card in store.cards()] == [tiny[1]], "nothing half-trained is in the store"
    resumed = fine_tune(store, tiny[1], toy_examples(), RECIPE, tmp_path / "killed" / "work", name="trained")
    assert resumed.resumed_from == 6
    assert resumed.digest == straight.digest


@pytest.mark.parametrize("what", ["recipe", "data", "start"])
def test_a_checkpoint_of_another_run_is_not_used(tiny: tuple[ModelStore, str], tmp_path: Path, what: str):
    work = tmp_path / "work"
    with pytest.raises(Refused):
        train(tiny, work, should_stop=stop_after(4))
    recipe, examples, start = RECIPE, toy_examples(), tiny
    if what == "recipe":
        recipe = RECIPE.model_copy(update={"learning_rate": 1e-3})
    elif what == "data":
        examples = toy_examples(seed=5)  # as many groups and steps, other texts
    else:
        other = tiny_cross_encoder(tmp_path / "other", toy_texts(), 9, hidden=32, max_length=128)
        start = (tiny[0], tiny[0].add(other, name="other", backend="torch-fp32", max_length=64))
    trained = train(start, work, recipe, examples)
    assert trained.resumed_from == 0
    assert trained.digest == train(start, tmp_path / "clean", recipe, examples).digest


def test_a_damaged_checkpoint_is_named(tiny: tuple[ModelStore, str], tmp_path: Path):
    from safetensors.numpy import save_file

    (tmp_path / "work").mkdir()
    checkpoint = tmp_path / "work" / "training.safetensors"
    checkpoint.write_bytes(b"torn")
    with pytest.raises(BadInput, match=r"training\.safetensors: the checkpoint is damaged"):
        train(tiny, tmp_path / "work")
    save_file({"x": np.zeros(1)}, str(checkpoint))
    with pytest.raises(BadInput, match="damaged"):
        train(tiny, tmp_path / "work")


def test_a_stop_before_the_first_step(tiny: tuple[ModelStore, str], tmp_path: Path):
    with pytest.raises(Refused, match="before step 1 of 12"):
        train(tiny, tmp_path / "work", should_stop=lambda: True)
    assert len(tiny[0].cards()) == 1


def test_the_time_budget_ends_training_and_keeps_what_was_learned(tiny: tuple[ModelStore, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from predator_si.train import fit

    clock = {"now": 0.0}

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return clock["now"]

    monkeypatch.setattr(fit, "time", Clock)
    timed = RECIPE.model_copy(update={"seconds": 25.0})
    trained = train(tiny, tmp_path / "work", timed, on_loss=lambda step, loss: clock.update(now=clock["now"] + 10.0))
    assert (trained.steps, trained.seconds) == (3, 30.0)
    assert trained.digest in tiny[0]
    assert trained.digest != tiny[1]
    # What was spent before a stop counts: 20 of 25 seconds are gone, so one step is left.
    with pytest.raises(Refused):
        train(tiny, tmp_path / "two", timed, on_loss=lambda step, loss: clock.update(now=clock["now"] + 10.0), should_stop=stop_after(2))
    clock["now"] += 1000.0
    assert train(tiny, tmp_path / "two", timed, on_loss=lambda step, loss: clock.update(now=clock["now"] + 10.0)).steps == 3


def test_a_budget_too_short_for_one_step_stores_nothing(tiny: tuple[ModelStore, str], tmp_path: Path):
    with pytest.raises(BadInput, match="before the first step"):
        train(tiny, tmp_path / "work", RECIPE.model_copy(update={"seconds": 1e-9}))
    assert len(tiny[0].cards()) == 1


# --------------------------------------------------------------------------- what changes and what does not


def test_frozen_layers_keep_their_weights(tiny: tuple[ModelStore, str], tmp_path: Path):
    store, start = tiny
    recipe = RECIPE.model_copy(update={"frozen_layers": 1, "epochs": 0.5, "average_with_start": 0.3})
    after, before = weights(store, train(tiny, tmp_path / "work", recipe).digest), weights(store, start)
    assert after.keys() == before.keys()
    for name in before:
        frozen = ".embeddings." in name or ".layer.0." in name
        assert np.array_equal(after[name], before[name]) == frozen, name


def test_upper_layers_can_be_left_out(tiny: tuple[ModelStore, str], tmp_path: Path):
    store, start = tiny
    digest = train(tiny, tmp_path / "work", RECIPE.model_copy(update={"layers": 1, "epochs": 0.5})).digest
    after, before = weights(store, digest), weights(store, start)
    assert after.keys() == {name for name in before if ".layer.1." not in name}
    assert load_reranker(store.path(digest)).score("sort", ["one", "other"]).shape == (2,)
    with pytest.raises(BadInput, match="keeps 3 layers, the model has 2"):
        train(tiny, tmp_path / "more", RECIPE.model_copy(update={"layers": 3}))


def test_averaging_lies_between_start_and_trained(tiny: tuple[ModelStore, str], tmp_path: Path):
    store, start = tiny
    short = RECIPE.model_copy(update={"epochs": 0.5})
    full = weights(store, train(tiny, tmp_path / "full", short).digest)
    mixed = weights(store, train(tiny, tmp_path / "mixed", short.model_copy(update={"average_with_start": 0.4})).digest)
    before = weights(store, start)
    for name in before:
        assert mixed[name] == pytest.approx(0.4 * before[name] + 0.6 * full[name], abs=1e-6), name
    assert any(not np.allclose(full[name], mixed[name], atol=1e-4) for name in before)


# --------------------------------------------------------------------------- refusals


def broken(**columns: Any) -> pl.DataFrame:
    return toy_examples().with_columns(**columns)


@pytest.mark.parametrize(
    ("examples", "why"),
    [
        (toy_examples().head(0), "empty"),
        (toy_examples().drop("label"), "label"),
        (broken(label=pl.lit(float("nan"))), "not a number"),
        (broken(label=pl.lit(float("inf"))), "not a number"),
        (broken(label=pl.when(pl.col("label") > 0).then(1.0)), "label: 72"),
        (broken(text=pl.lit(None, pl.String)), "text: 96"),
        (broken(label=pl.lit(0.0)), "no group"),
        (toy_examples().filter(pl.col("label") > 0), "no group"),
    ],
)
def test_unusable_data_is_refused(tiny: tuple[ModelStore, str], tmp_path: Path, examples: pl.DataFrame, why: str):
    with pytest.raises(BadInput, match=why):
        train(tiny, tmp_path / "work", examples=examples)
    assert len(tiny[0].cards()) == 1


def test_a_group_without_a_positive_is_left_out():
    examples = toy_examples(groups=3).with_columns(label=pl.when(pl.col("group_id") == "g1").then(0.0).otherwise(pl.col("label")))
    assert [group.query for group in read_groups(examples)] == ["how to sort", "how to join"]


@pytest.mark.parametrize(
    ("label", "recipe", "why"),
    [
        (pl.col("label") * 2 - 1, RECIPE, "target_temperature"),
        (pl.col("label") * 3, RECIPE.model_copy(update={"loss": "bce"}), "bce"),
        (pl.col("label") * 30, RECIPE.model_copy(update={"loss": "lambda"}), "0 to 10"),
        (pl.col("label"), RECIPE.model_copy(update={"max_length": 256}), "at most 128 tokens"),
    ],
)
def test_labels_and_lengths_the_recipe_cannot_take(tiny: tuple[ModelStore, str], tmp_path: Path, label: pl.Expr, recipe: TrainingRecipe, why: str):
    with pytest.raises(BadInput, match=why):
        train(tiny, tmp_path / "work", recipe, broken(label=label))


def test_training_starts_from_torch_weights(tiny: tuple[ModelStore, str], tmp_path: Path):
    quick = export(*tiny, "onnx-int8", 32)
    with pytest.raises(BadInput, match="torch weights"):
        train((tiny[0], quick), tmp_path / "work")


def test_weights_that_are_not_numbers_are_not_stored(tiny: tuple[ModelStore, str], tmp_path: Path):
    from safetensors.numpy import load_file, save_file

    store, _ = tiny
    path = tmp_path / "tiny-2" / "model.safetensors"
    state = dict(load_file(str(path)))
    state["classifier.bias"][:] = np.nan
    save_file(state, str(path), metadata={"format": "pt"})
    sick = store.add(tmp_path / "tiny-2", name="sick", backend="torch-fp32", max_length=64)
    with pytest.raises(BadInput, match="the loss is nan at step 1"):
        train((store, sick), tmp_path / "work")
    assert {card.digest for card in store.cards()} == {tiny[1], sick}
