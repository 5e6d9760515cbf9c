"""What a recipe can ask for beyond plain training: judged weights, patience, several averages, budgets, accumulation, weights, teachers, replay, full disks."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from predator_si.errors import BadInput, Refused
from predator_si.search.models import ModelStore
from predator_si.search.rerank import load_reranker
from predator_si.train.first_token import read_first_token
from predator_si.train.fit import Score, Trained, fine_tune
from predator_si.train.groups import EncodedPairs, parts, read_groups
from predator_si.train.recipe import TrainingRecipe
from predator_si.train.throughput import throughput, training_flops
from predator_si_tests.support.tiny_models import store_tiny, toy_examples

UNSEEN = ("key.bias", "classifier.bias")
"""Attention and a listwise loss do not see these: their gradients are rounding, which Adam scales up."""
RECIPE = TrainingRecipe(learning_rate=5e-3, epochs=2.0, groups_per_step=4, max_length=32, checkpoint_every=3)
PAIRS = [("how to sort", "the sort function and the join table, safe"), ("how to sort", "the sort function and the join table, fast")]


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[ModelStore, str]:
    return store_tiny(tmp_path, seed=2, hidden=32)


def train(tiny: tuple[ModelStore, str], work: Path, recipe: TrainingRecipe = RECIPE, examples: pl.DataFrame | None = None, **options: Any) -> Trained:
    return fine_tune(tiny[0], tiny[1], toy_examples() if examples is None else examples, recipe, work, name="trained", **options)


def weights(store: ModelStore, digest: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return dict(load_file(str(store.path(digest) / "model.safetensors")))


def stop_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(10**9))
    return lambda: next(asked) >= steps


def saying(values: list[float]) -> Callable[[Score], float]:
    said = iter(values)
    return lambda score: next(said)


# --------------------------------------------------------------------------- a judge


def test_the_judge_sees_the_weights_as_they_are_and_the_best_are_kept(tiny: tuple[ModelStore, str], tmp_path: Path):
    store, _ = tiny
    seen: list[np.ndarray] = []

    def judge(score: Score) -> float:
        seen.append(score(PAIRS))
        return [0.1, 0.7, 0.3, 0.7][len(seen) - 1]

    trained = train(tiny, tmp_path / "work", RECIPE.model_copy(update={"evaluations": 4}), judge=judge)
    assert trained.evaluations == [(3, 0.1), (6, 0.7), (9, 0.3), (12, 0.7)]
    assert (trained.best_step, trained.steps, trained.ended) == (6, 12, "steps"), "of equals the earlier"
    assert load_reranker(store.path(trained.digest)).score_pairs(PAIRS) == pytest.approx(seen[1], abs=0.2), "bf16 while training, fp32 here"
    differences = [float(np.abs(load_reranker(store.path(trained.digest)).score_pairs(PAIRS) - each).max()) for each in seen]
    assert int(np.argmin(differences)) == 1
    assert all(not np.array_equal(one, other) for one, other in pairwise(seen))


def test_patience_ends_a_run_that_does_not_get_better(tiny: tuple[ModelStore, str], tmp_path: Path):
    recipe = RECIPE.model_copy(update={"evaluations": 6, "patience": 2})
    trained = train(tiny, tmp_path / "work", recipe, judge=saying([0.5, 0.6, 0.6, 0.4]))
    assert (trained.steps, trained.best_step, trained.ended) == (8, 4, "patience")
    short = RECIPE.model_copy(update={"evaluations": 3})
    assert train(tiny, tmp_path / "short", short, judge=saying([0.5, 0.4, 0.3])).best_step == 4


def test_a_stopped_run_with_a_judge_goes_on_to_the_same_bytes(tiny: tuple[ModelStore, str], tmp_path: Path):
    recipe = RECIPE.model_copy(update={"evaluations": 4, "patience": 3, "average_with_start": 0.5, "averages": (0.0,)})
    straight = train(tiny, tmp_path / "straight", recipe, judge=saying([0.1, 0.7, 0.3, 0.2]))
    said = saying([0.1, 0.7, 0.3, 0.2])
    for stop in (8, 2):  # after the best weights, and again between checkpoints
        with pytest.raises(Refused):
            train(tiny, tmp_path / "work", recipe, judge=said, should_stop=stop_after(stop))
    resumed = train(tiny, tmp_path / "work", recipe, judge=said)
    assert resumed.resumed_from == 10
    assert (resumed.evaluations, resumed.best_step, resumed.losses) == (straight.evaluations, 6, straight.losses)
    assert resumed.candidates == straight.candidates


def test_a_judge_that_says_no_number_stores_nothing(tiny: tuple[ModelStore, str], tmp_path: Path):
    with pytest.raises(BadInput, match="the judge says nan after step 6"):
        train(tiny, tmp_path / "work", RECIPE.model_copy(update={"evaluations": 2}), judge=saying([float("nan")]))
    assert len(tiny[0].cards()) == 1


# --------------------------------------------------------------------------- candidates of one training


def test_several_averages_of_one_training(tiny: tuple[ModelStore, str], tmp_path: Path):
    store, start = tiny
    trained = train(tiny, tmp_path / "work", RECIPE.model_copy(update={"averages": (0.25, 0.5), "epochs": 0.5}))
    assert list(trained.candidates) == [0.0, 0.25, 0.5]
    assert trained.digest == trained.candidates[0.0]
    before, full = weights(store, start), weights(store, trained.digest)
    for share, digest in trained.candidates.items():
        for name, values in weights(store, digest).items():
            assert values == pytest.approx(share * before[name] + (1 - share) * full[name], abs=1e-6)
        assert store.card(digest).origin["average_with_start"] == share
    assert len(store.cards()) == 4


# --------------------------------------------------------------------------- budgets


def test_a_budget_is_the_smaller_of_time_and_money():
    assert TrainingRecipe().budget_seconds is None
    assert TrainingRecipe(seconds=60, usd=0.5, usd_per_hour=3.0).budget_seconds == 60
    assert TrainingRecipe(seconds=6000, usd=0.5, usd_per_hour=3.0).budget_seconds == pytest.approx(600)
    for wrong in ({"usd": 1.0}, {"patience": 2}, {"averages": (1.0,)}, {"loss": "hinge"}, {"replay_share": 0.9}):
        with pytest.raises(ValidationError):
            TrainingRecipe(**wrong)


def test_money_ends_a_run_and_keeps_what_was_learned(tiny: tuple[ModelStore, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from predator_si.train import fit

    now = {"seconds": 0.0}
    monkeypatch.setattr(fit, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now["seconds"])}))
    recipe = RECIPE.model_copy(update={"usd": 0.01, "usd_per_hour": 1.44})  # 25 seconds
    trained = train(tiny, tmp_path / "work", recipe, on_loss=lambda step, loss: now.update(seconds=now["seconds"] + 10.0))
    assert (trained.steps, trained.ended) == (3, "budget")


# --------------------------------------------------------------------------- what a step computes


def test_accumulated_parts_give_the_step_of_the_whole(tiny: tuple[ModelStore, str], tmp_path: Path):
    whole = RECIPE.model_copy(update={"epochs": 0.5, "bf16": False})
    one = train(tiny, tmp_path / "one", whole)
    parts = train(tiny, tmp_path / "parts", whole.model_copy(update={"groups_at_once": 3}))
    assert parts.losses == pytest.approx(one.losses, rel=1e-4)
    after = weights(tiny[0], parts.digest)
    for name, values in weights(tiny[0], one.digest).items():
        if not name.endswith(UNSEEN):
            assert after[name] == pytest.approx(values, abs=2e-4), name


def test_group_weights_count_when_asked_for(tiny: tuple[ModelStore, str], tmp_path: Path):
    ids = pl.col("group_id").str.slice(1).cast(pl.Int64)
    examples = toy_examples().with_columns(weight=pl.when(ids < 12).then(3.0).otherwise(1.0))
    weighted = RECIPE.model_copy(update={"group_weights": True, "epochs": 0.5})
    assert [group.weight for group in read_groups(examples, weighted)] == [1.5] * 12 + [0.5] * 12
    assert {group.weight for group in read_groups(examples)} == {1.0}
    assert train(tiny, tmp_path / "a", weighted, examples).digest != train(tiny, tmp_path / "b", RECIPE.model_copy(update={"epochs": 0.5}), examples).digest
    with pytest.raises(BadInput, match="weights are above 0"):
        read_groups(examples.with_columns(weight=pl.lit(0.0)), weighted)
    with pytest.raises(BadInput, match="lacks the columns"):
        read_groups(toy_examples(), weighted)


@pytest.mark.parametrize("loss", ["distil", "margin_mse", "mse"])
def test_it_learns_from_a_teacher(tiny: tuple[ModelStore, str], tmp_path: Path, loss: str):
    """The labels say nothing here: what is learned is the teacher's."""
    store, start = tiny
    examples = toy_examples(groups=48).with_columns(teacher_score=pl.col("label") * 4 - 2, label=pl.lit(0.0))
    trained = train(tiny, tmp_path / "work", RECIPE.model_copy(update={"loss": loss, "epochs": 4.0}), examples)
    scores = load_reranker(store.path(trained.digest)).score_pairs(PAIRS)
    before = load_reranker(store.path(start)).score_pairs(PAIRS)
    assert scores[0] - scores[1] > 2 > before[0] - before[1]


def test_groups_that_no_teacher_scored_are_left_out_and_counted(tiny: tuple[ModelStore, str], tmp_path: Path):
    distil = RECIPE.model_copy(update={"loss": "distil"})
    examples = toy_examples(groups=3).with_columns(teacher_score=pl.when(pl.col("group_id") == "g1").then(None).otherwise(pl.col("label")))
    assert [group.query for group in read_groups(examples, distil)] == ["how to sort", "how to join"]
    trained = train(tiny, tmp_path / "work", distil, examples)
    assert (trained.groups, trained.left_out) == (2, 1)
    with pytest.raises(BadInput, match="scored whole by a teacher"):
        read_groups(examples.with_columns(teacher_score=pl.lit(None, pl.Float64)), distil)
    with pytest.raises(BadInput, match="teacher_score that is not a number"):
        read_groups(examples.with_columns(teacher_score=pl.lit(float("inf"))), distil)


def test_texts_are_tokenised_once_and_as_the_service_does(tiny: tuple[ModelStore, str]):
    from predator_si.search.rerank import Tokenised, padded

    store, start = tiny
    groups = read_groups(toy_examples(groups=5))
    encoded = EncodedPairs(store.path(start), groups, 12)
    rows = encoded.rows([3, 1])
    wanted = padded(Tokenised(store.path(start), 12).encode([(groups[g].query, text) for g in (3, 1) for text in groups[g].texts]))
    for name, array in encoded.arrays(rows).items():
        assert np.array_equal(array, wanted[name]), name
    assert encoded.group_lengths().tolist() == [max(encoded.lengths[encoded.rows([g])]) for g in range(5)]


def test_one_group_is_enough_for_a_step(tiny: tuple[ModelStore, str], tmp_path: Path):
    trained = train(tiny, tmp_path / "work", RECIPE.model_copy(update={"epochs": 1.0}), toy_examples(groups=1))
    assert (trained.groups, trained.steps, trained.pairs) == (1, 1, 4)
    assert trained.digest not in (tiny[1], "")


# --------------------------------------------------------------------------- replay


def test_earlier_groups_make_up_their_share(tiny: tuple[ModelStore, str], tmp_path: Path):
    earlier = toy_examples(groups=40, seed=9).with_columns(query=pl.concat_str("query", pl.lit(" once")))
    recipe = RECIPE.model_copy(update={"replay_share": 0.25, "epochs": 1.0})
    trained = train(tiny, tmp_path / "work", recipe, earlier=earlier)
    assert (trained.groups, trained.replayed, trained.steps) == (32, 8, 8)
    assert train(tiny, tmp_path / "none", recipe).replayed == 0
    few = train(tiny, tmp_path / "few", recipe, earlier=earlier.head(8))
    assert (few.groups, few.replayed) == (26, 2), "all that there are"


# --------------------------------------------------------------------------- faults


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Files end at a size as they would on a full disk: the system refuses every byte beyond."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_at_a_checkpoint_stores_nothing_and_the_run_goes_on_later(tiny: tuple[ModelStore, str], tmp_path: Path, small_files: Callable[[int], None]):
    straight = train(tiny, tmp_path / "straight").digest
    work = tmp_path / "work"
    small_files(20_000)
    with pytest.raises(BadInput, match="the checkpoint cannot be written"):
        train(tiny, work)
    assert [path.name for path in work.iterdir()] == []
    small_files(resource.RLIM_INFINITY)
    with pytest.raises(Refused):
        train(tiny, work, should_stop=stop_after(4))
    checkpoint = (work / "training.safetensors").read_bytes()
    small_files(20_000)
    with pytest.raises(BadInput, match="the checkpoint cannot be written"):
        train(tiny, work)
    assert (work / "training.safetensors").read_bytes() == checkpoint, "the one before stays"
    small_files(resource.RLIM_INFINITY)
    resumed = train(tiny, work)
    assert (resumed.resumed_from, resumed.digest) == (4, straight)


def test_a_full_disk_at_the_end_stores_no_half_model(tiny: tuple[ModelStore, str], tmp_path: Path, small_files: Callable[[int], None]):
    recipe = RECIPE.model_copy(update={"checkpoint_every": 1000, "epochs": 0.5})
    small_files(20_000)
    with pytest.raises(BadInput, match="cannot be written"):
        train(tiny, tmp_path / "work", recipe)
    small_files(resource.RLIM_INFINITY)
    assert len(tiny[0].cards()) == 1
    assert not list(tiny[0].root.glob(".adding-*"))
    assert train(tiny, tmp_path / "work", recipe).digest in tiny[0]


# --------------------------------------------------------------------------- figures


def test_operations_and_the_share_of_a_peak():
    """BERT-base at 128 tokens: 85 million weights in matrices, so 6 x 85 M and 12 x 12 x 768 x 128 for attention."""
    assert training_flops(12, 768, 3072, 128) == pytest.approx(6 * 84_934_656 + 12 * 12 * 768 * 128)


def test_throughput_names_what_it_does_not_know(tiny: tuple[ModelStore, str]):
    folder = tiny[0].path(tiny[1])
    run = Trained("d", 1, 100, 10.0, [0.1], True, 0, tokens=12_800, device="2 x NVIDIA H100 80GB HBM3")
    found = throughput(run, folder)
    assert (found.tokens_per_second, found.pairs_per_second) == (1280.0, 10.0)
    assert found.peak_share == pytest.approx(1280 * training_flops(2, 32, 64, 128.0) / (2 * 989e12))
    cpu = throughput(Trained(**{**vars(run), "device": "cpu"}), folder)
    assert cpu.peak_share is None and "not on the list" in str(cpu.unknown)
    plain = throughput(Trained(**{**vars(run), "bf16": False}), folder)
    assert plain.peak_share is None and "bf16" in str(plain.unknown)


def test_the_last_layer_for_the_first_token_alone_is_exact(tiny: tuple[ModelStore, str]):
    """Scores and every gradient, with padding; the weights keep their names."""
    import torch
    from transformers import AutoModelForSequenceClassification

    store, start = tiny
    groups = read_groups(
        toy_examples(groups=6).with_columns(
            text=pl.concat_str("text", pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit(" and more words")).otherwise(pl.lit("")))
        )
    )
    encoded = EncodedPairs(store.path(start), groups, 32)
    inputs = {key: torch.from_numpy(array) for key, array in encoded.arrays(encoded.rows(range(6))).items()}
    assert int((inputs["attention_mask"] == 0).sum()) > 0
    gradients, scores = [], []
    for short in (False, True):
        model = AutoModelForSequenceClassification.from_pretrained(str(store.path(start)), num_labels=1, attn_implementation="eager")
        names = list(model.state_dict())
        assert not short or read_first_token(model)
        assert list(model.state_dict()) == names
        logits = model(**inputs).logits.reshape(-1)
        torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.arange(len(logits)) % 2.0).backward()
        scores.append(logits.detach().numpy())
        gradients.append({name: weight.grad.numpy() for name, weight in model.named_parameters()})
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)
    for name, gradient in gradients[0].items():
        assert gradients[1][name] == pytest.approx(gradient, abs=1e-6), name
    assert not read_first_token(AutoModelForSequenceClassification.from_pretrained(str(store.path(start)), num_labels=1, attn_implementation="sdpa")), (
        "another attention is left as it is"
    )


def test_parts_of_a_step():
    groups = read_groups(toy_examples(groups=7))  # four pairs each
    step = [5, 3, 1, 0, 6]
    assert parts(step, groups, RECIPE, None) == [step]
    assert parts(step, groups, RECIPE, 8) == [[5, 3], [1, 0], [6]]
    assert parts(step, groups, RECIPE, 3) == [[index] for index in step], "a group is never split"
    assert parts(step, groups, RECIPE.model_copy(update={"groups_at_once": 3}), 8) == [[5, 3, 1], [0, 6]]
    assert parts([], groups, RECIPE, 8) == []
