"""The trainer of sentence-transformers behind our protocol: ``CrossEncoderTrainer`` with its own defaults.

What belongs here: translating a recipe, groups, stops and judgments for it. What must not: losses of our own. It is there for those who want the framework's
callbacks and integrations, and as the yardstick of ``bench train``; it is slower (docs/training.md), and it begins again after a stop instead of going on.

Telemetry and downloads are off; nothing is reported anywhere, and no checkpoint is pickled.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from predator_si.errors import BadInput, Refused
from predator_si.quiet import be_quiet
from predator_si.search.models import ModelStore
from predator_si.train.checkpoint import Progress
from predator_si.train.fit import Diverged, Judge, Scorer, Trained, data_digest, freeze, judged, marks_of, shares, store_candidates
from predator_si.train.groups import EncodedPairs, Group, check, read_groups
from predator_si.train.layers import cut
from predator_si.train.place import Place
from predator_si.train.recipe import TrainingRecipe
from predator_si.train.replay import with_replay

_NO_SHARE = 1e-9
"""Of a document without a label under "listwise": the framework's loss takes the softmax of what it is given, so it is given logarithms of shares."""


class SentenceTransformersTrainer:
    """Trains with ``CrossEncoderTrainer``: fp32 unless the recipe says bf16, random batches, dropout as the model has it."""

    name = "sentence-transformers"

    def train(
        self,
        store: ModelStore,
        start: str,
        examples: pl.DataFrame,
        recipe: TrainingRecipe,
        work: Path,
        *,
        name: str,
        earlier: pl.DataFrame | None = None,
        judge: Judge | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[int, int], None] | None = None,
        on_loss: Callable[[int, float], None] | None = None,
    ) -> Trained:
        """See ``Trainer``. Recipes with ``group_weights`` are refused: the framework's losses know no weights."""
        be_quiet(offline=True)
        if recipe.group_weights:
            raise BadInput("the sentence-transformers trainer has no group weights. Use the lean trainer, or leave group_weights out of the recipe.")
        own = read_groups(examples, recipe)
        groups = with_replay(own, earlier, recipe)
        check(store, start, groups, recipe)
        import torch
        from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer

        torch.manual_seed(recipe.seed)
        place = Place()
        model = CrossEncoder(
            str(store.path(start)), num_labels=1, max_length=recipe.max_length, local_files_only=True, activation_fn=torch.nn.Identity(),
            model_kwargs={"use_safetensors": True, "dtype": torch.float32}, device=str(place.device),
        )  # fmt: skip
        inner = model.model
        cut(inner, recipe.layers, recipe.keep)
        freeze(inner, recipe.frozen_layers)
        initial = {key: value.detach().clone() for key, value in inner.state_dict().items()} if any(shares(recipe)) else {}
        work.mkdir(parents=True, exist_ok=True)
        half = bool(recipe.bf16)
        watch = _watch(Scorer(inner, store.path(start), recipe, place, half), inner, place, recipe, judge, should_stop, on_progress, on_loss)
        CrossEncoderTrainer(
            model=model,
            args=_arguments(recipe, groups, work, half, place),
            train_dataset=_dataset(groups, recipe),
            loss=_loss(model, recipe),
            callbacks=[watch],
        ).train()
        if not watch.progress.losses:
            raise BadInput(f"{recipe.budget_seconds} seconds of training were over before the first step: nothing was learned or stored. Give it more time.")
        watch.judge_at_the_end()
        final = watch.best or {key: value.detach().clone() for key, value in inner.state_dict().items()}
        candidates = store_candidates(store, inner, final, initial, start, work, name, recipe, data_digest(groups))
        share = watch.progress.step / watch.steps * recipe.epochs
        encoded = EncodedPairs(store.path(start), groups, recipe.max_length)
        return Trained(
            digest=candidates[recipe.average_with_start],
            steps=watch.progress.step,
            pairs=round(len(encoded.lengths) * share),
            seconds=watch.progress.spent,
            losses=watch.progress.losses,
            bf16=half,
            resumed_from=0,
            candidates=candidates,
            evaluations=watch.progress.evaluations,
            best_step=watch.progress.best_step,
            ended=watch.ended,
            groups=len(groups),
            replayed=len(groups) - len(own),
            left_out=examples["group_id"].n_unique() - len(own),
            tokens=round(int(encoded.lengths.sum()) * share),
            device=place.name,
            trainer=self.name,
        )


def _arguments(recipe: TrainingRecipe, groups: Sequence[Group], work: Path, half: bool, place: Place) -> Any:
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

    at_once = recipe.groups_at_once or recipe.groups_per_step
    rows = at_once  # a row is a group, or a pair, or a margin
    if recipe.loss in ("bce", "mse"):
        rows = round(at_once * sum(len(group.texts) for group in groups) / len(groups))
    elif recipe.loss == "margin_mse":
        rows = round(at_once * sum(len(group.texts) - 1 for group in groups) / len(groups))
    return CrossEncoderTrainingArguments(
        output_dir=str(work / "framework"),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=max(1, rows),
        gradient_accumulation_steps=math.ceil(recipe.groups_per_step / at_once),
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(recipe.warmup, 0.999),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip,
        seed=recipe.seed,
        bf16=half,
        use_cpu=place.device.type == "cpu",
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        dataloader_pin_memory=place.device.type != "cpu",
    )


def _dataset(groups: Sequence[Group], recipe: TrainingRecipe) -> Any:
    """Columns in the order that the framework's losses read them."""
    from datasets import Dataset

    if recipe.loss in ("bce", "mse"):
        rows = [
            {"query": group.query, "text": text, "label": float(label)}
            for group in groups
            for text, label in zip(group.texts, group.labels if recipe.loss == "bce" else _scores(group), strict=True)
        ]
    elif recipe.loss == "margin_mse":
        rows = [
            {"query": group.query, "positive": group.texts[best], "negative": text, "label": float(_scores(group)[best] - score)}
            for group in groups
            for best in [int(group.labels.argmax())]
            for place, (text, score) in enumerate(zip(group.texts, _scores(group), strict=True))
            if place != best
        ]
    else:
        rows = [{"query": group.query, "docs": group.texts, "labels": _targets(group, recipe).tolist()} for group in groups]
    return Dataset.from_list(rows)


def _scores(group: Group) -> Any:
    assert group.teacher is not None  # read_groups leaves out what the recipe's loss cannot take
    return group.teacher


def _targets(group: Group, recipe: TrainingRecipe) -> Any:
    """What the framework's listwise losses take: grades for "lambda", otherwise logarithms of the target distribution."""
    if recipe.loss == "distil":
        return _scores(group) / recipe.temperature
    if recipe.loss == "listwise" and recipe.target_temperature == 1.0:
        return np.log(np.maximum(group.labels / group.labels.sum(), _NO_SHARE))
    return group.labels / recipe.target_temperature if recipe.loss == "listwise" else group.labels


def _loss(model: Any, recipe: TrainingRecipe) -> Any:
    from sentence_transformers.cross_encoder import losses

    if recipe.loss == "bce":
        return losses.BinaryCrossEntropyLoss(model)
    if recipe.loss == "mse":
        return losses.MSELoss(model)
    if recipe.loss == "margin_mse":
        return losses.MarginMSELoss(model)
    kind = losses.LambdaLoss if recipe.loss == "lambda" else losses.ListNetLoss
    return kind(model, mini_batch_size=-1)  # the whole step at once, as ours


def _watch(
    score: Scorer,
    inner: Any,
    place: Place,
    recipe: TrainingRecipe,
    judge: Judge | None,
    should_stop: Callable[[], bool],
    on_progress: Callable[[int, int], None] | None,
    on_loss: Callable[[int, float], None] | None,
) -> Any:
    """The callback that stops, reports and judges."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.progress = Progress()
            self.best: dict[str, Any] = {}
            self.steps = 1
            self.ended = "steps"
            self._began = time.monotonic()

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.steps, self._began = state.max_steps, time.monotonic()

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if should_stop():
                raise Refused(f"training was told to stop before step {state.global_step + 1} of {self.steps}; nothing was stored, the run begins again.")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            self.progress.step = state.global_step
            self.progress.spent = time.monotonic() - self._began
            if on_progress:
                on_progress(state.global_step, self.steps)
            if recipe.budget_seconds is not None and self.progress.spent > recipe.budget_seconds:
                self.ended, control.should_training_stop = "budget", True
            return control

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> Any:
            if not logs or "loss" not in logs:
                return control
            loss = float(logs["loss"])
            if not math.isfinite(loss):
                raise Diverged(f"the loss is {loss} at step {state.global_step}: nothing was stored. Lower learning_rate ({recipe.learning_rate}).")
            self.progress.losses.append(loss)
            if on_loss:
                on_loss(state.global_step - 1, loss)
            if state.global_step in marks_of(self.steps, recipe, judge):
                self._judge()
                if recipe.patience is not None and self.progress.stale >= recipe.patience:
                    self.ended, control.should_training_stop = "patience", True
            return control

        def _judge(self) -> None:
            assert judge is not None
            inner.eval()
            self.best = judged(judge, score, inner, place, self.progress, self.best)
            inner.train()

        def judge_at_the_end(self) -> None:
            if judge is not None and (not self.progress.evaluations or self.progress.evaluations[-1][0] != self.progress.step):
                self._judge()

    return Watch()
