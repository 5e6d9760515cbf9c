"""Fine-tune a cross-encoder on groups of one query with several documents.

A lean loop instead of a trainer framework: two cores, texts tokenised once, groups sorted by length, bf16 only where the chip has it, exact resume from a
checkpoint, and a stop that is asked before every step. The same loop runs in several processes (``accelerated``).
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.corpora.text import digest_lines
from predator_si.errors import BadInput, Refused
from predator_si.search.models import ModelStore
from predator_si.train import checkpoint
from predator_si.train.checkpoint import Progress
from predator_si.train.first_token import read_first_token
from predator_si.train.groups import EncodedPairs, Group, check, parts, read_groups, schedule
from predator_si.train.layers import cut
from predator_si.train.losses import summed_loss, units
from predator_si.train.place import Place, kept_heap
from predator_si.train.recipe import TrainingRecipe
from predator_si.train.replay import with_replay

Score = Callable[[Sequence[tuple[str, str]]], npt.NDArray[np.float32]]
"""(query, text) pairs to logits of the weights as they are now."""
Judge = Callable[[Score], float]
"""How good the present weights are, higher is better: training does not know how that is measured."""
_PROGRESS = "training.json"
_JUDGED_AT_ONCE = 64


class Diverged(BadInput):
    """A training whose loss or weights are not numbers any more: nothing was stored. Another recipe on the same data may do."""


@dataclass(frozen=True)
class Trained:
    """What a training run made: the new model's digest and what happened on the way."""

    digest: str
    steps: int
    pairs: int
    seconds: float
    losses: list[float]
    bf16: bool
    resumed_from: int
    candidates: dict[float, str] = field(default_factory=dict)
    """Share of the starting weights -> digest, for every average that was stored; ``digest`` is the one of ``average_with_start``."""
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    """(steps done, the judge's number)."""
    best_step: int | None = None
    """Steps done when the weights that were kept were the present ones; null without a judge."""
    ended: str = "steps"
    """What ended the run: "steps" (all done), "budget" (time or money), "patience"."""
    groups: int = 0
    replayed: int = 0
    """How many of the groups are from earlier cycles."""
    left_out: int = 0
    """Groups of the data set that taught nothing: without a positive or another document, or, for a loss on a teacher's scores, not scored whole."""
    tokens: int = 0
    """Tokens that were trained on, padding not counted."""
    device: str = "cpu"
    trainer: str = "lean"


def fine_tune(
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
    place: Place | None = None,
) -> Trained:
    """Train from the torch model ``start`` and store the result.

    Parameters
    ----------
    work
        Folder for checkpoints; a run that was killed goes on from the last one and ends with the weights of one that was not (on a processor: bit for bit).
    earlier
        Groups of earlier cycles, for ``recipe.replay_share`` (see ``replay``).
    judge
        Asked ``recipe.evaluations`` times; the weights it likes best are stored.
    should_stop
        Asked before each step.
    place
        Where it runs [default: this process, on its GPU or on the processor].

    Raises
    ------
    Refused
        ``should_stop`` said so; the checkpoint stays.
    BadInput
        Unusable data, a loss or a judgment that is not a number, or a full disk: nothing is stored.
    """
    import torch

    place = place or Place()
    own = read_groups(examples, recipe)
    groups = with_replay(own, earlier, recipe)
    check(store, start, groups, recipe)
    run = {"recipe": recipe.model_dump_json(), "start": start, "data": data_digest(groups)}
    encoded = EncodedPairs(store.path(start), groups, recipe.max_length)
    steps = schedule(encoded.group_lengths(), recipe)
    torch.manual_seed(recipe.seed)
    model = _load(store.path(start), recipe, place)
    initial = {key: value.detach().clone() for key, value in model.state_dict().items()} if any(shares(recipe)) else {}
    freeze(model, recipe.frozen_layers)
    model.train()
    for module in model.modules():  # dropout off: few steps, and a killed run must resume bit for bit
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    read_first_token(model)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    work.mkdir(parents=True, exist_ok=True)
    progress, best = checkpoint.resume(work, model, optimiser, run)
    resumed_from, half = progress.step, place.has_bf16() if recipe.bf16 is None else recipe.bf16
    began = time.monotonic() - progress.spent
    marks = marks_of(len(steps), recipe, judge)
    score = Scorer(model, store.path(start), recipe, place, half)
    ended = "steps"

    def save() -> None:
        if place.main:
            checkpoint.save(work, model, optimiser, best, run, progress)

    with kept_heap():
        while progress.step < len(steps):
            told = place.told([float(should_stop()), time.monotonic() - began])
            stop, progress.spent = bool(told[0]), told[1]
            if stop:
                save()
                raise Refused(
                    f"training was told to stop before step {progress.step + 1} of {len(steps)}; its checkpoint stays, and the same run goes on from it."
                )
            if recipe.budget_seconds is not None and progress.spent > recipe.budget_seconds:
                ended = "budget"
                break
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * rate(
                    progress.step, len(steps), recipe, progress.spent / recipe.budget_seconds if recipe.budget_seconds else 0.0
                )
            loss = _backward(model, weights, encoded, groups, steps[progress.step], recipe, place, half)
            if not math.isfinite(loss):
                raise Diverged(
                    f"the loss is {loss} at step {progress.step + 1}: nothing was stored. Lower learning_rate ({recipe.learning_rate}) or look at the data."
                )
            torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            progress.losses.append(loss)
            progress.step += 1
            if on_loss:
                on_loss(progress.step - 1, loss)
            if on_progress:
                on_progress(progress.step, len(steps))
            if judge is not None and progress.step in marks:
                best = judged(judge, score, model, place, progress, best)
                if recipe.patience is not None and progress.stale >= recipe.patience:
                    ended = "patience"
                    break
            progress.spent = time.monotonic() - began
            if progress.step % recipe.checkpoint_every == 0:
                save()
    if not progress.losses:
        raise BadInput(f"{recipe.budget_seconds} seconds of training were over before the first step: nothing was learned or stored. Give it more time.")
    if judge is not None and (not progress.evaluations or progress.evaluations[-1][0] != progress.step):
        best = judged(judge, score, model, place, progress, best)
    final = best or {key: value.detach().clone() for key, value in model.state_dict().items()}
    seconds = time.monotonic() - began
    candidates = store_candidates(store, model, final, initial, start, work, name, recipe, run["data"]) if place.main else {}
    if place.main:
        (work / checkpoint.FILE).unlink(missing_ok=True)
    done = [index for step in steps[: progress.step] for index in step]
    rows = encoded.rows(done)
    return Trained(
        digest=candidates.get(recipe.average_with_start, ""),
        steps=progress.step,
        pairs=len(rows),
        seconds=seconds,
        losses=progress.losses,
        bf16=half,
        resumed_from=resumed_from,
        candidates=candidates,
        evaluations=progress.evaluations,
        best_step=progress.best_step,
        ended=ended,
        groups=len(groups),
        replayed=len(groups) - len(own),
        left_out=examples["group_id"].n_unique() - len(own),
        tokens=int(encoded.lengths[rows].sum()),
        device=place.name,
    )


def rate(step: int, steps: int, recipe: TrainingRecipe, spent: float) -> float:
    """Share of the recipe's learning rate: linear warm-up, then cosine to a twentieth; ``spent`` is that of a budget, which may run out before the steps do."""
    # The clock counts only where it is ahead of the steps: else no two runs would give the same weights.
    done = spent if spent > (step + 1) / steps else step / steps
    if done < recipe.warmup:
        return min(1.0, (done + 1 / steps) / recipe.warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - recipe.warmup) / max(1e-9, 1 - recipe.warmup))))


class Scorer:
    """Logits of a model in training, with its weights as they are when it is called."""

    def __init__(self, model: Any, folder: Path, recipe: TrainingRecipe, place: Place, half: bool) -> None:
        self._model, self._folder, self._recipe, self._place, self._half = model, folder, recipe, place, half

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """One logit per pair, in their order."""
        import torch

        if not pairs:
            return np.empty(0, np.float32)
        encoded = EncodedPairs(self._folder, [Group(query, [text], np.zeros(1)) for query, text in pairs], self._recipe.max_length)
        out = np.empty(len(pairs), np.float32)
        order = np.argsort(encoded.lengths, kind="stable")
        with torch.no_grad():
            for at in range(0, len(order), _JUDGED_AT_ONCE):
                rows = order[at : at + _JUDGED_AT_ONCE]
                out[rows] = _logits(self._model, encoded, rows, self._place, self._half).cpu().numpy()
        return out


def marks_of(steps: int, recipe: TrainingRecipe, judge: Judge | None) -> set[int]:
    """After how many steps the judge is asked: evenly spread, the last time at the end."""
    if judge is None:
        return set()
    return {math.ceil(steps * number / recipe.evaluations) for number in range(1, recipe.evaluations + 1)}


def judged(judge: Judge, score: Score, model: Any, place: Place, progress: Progress, best: dict[str, Any]) -> dict[str, Any]:
    """Ask the judge, note the answer, and return the best weights so far."""
    (value,) = place.told([float(judge(score)) if place.main else 0.0])
    if not math.isfinite(value):
        raise BadInput(f"the judge says {value} after step {progress.step}: nothing was stored. Look at the queries that it judges with.")
    progress.evaluations.append((progress.step, value))
    if progress.best_score is not None and value <= progress.best_score:
        progress.stale += 1
        return best
    progress.best_score, progress.best_step, progress.stale = value, progress.step, 0
    return {key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()}


def _logits(model: Any, encoded: EncodedPairs, rows: npt.NDArray[np.int64], place: Place, half: bool) -> Any:
    import torch

    inputs = {key: torch.from_numpy(array).to(place.device) for key, array in encoded.arrays(rows).items()}
    with place.half(half):
        logits = model(**inputs).logits
    return logits.float().reshape(-1)


def _backward(
    model: Any, weights: list[Any], encoded: EncodedPairs, groups: Sequence[Group], step: Sequence[int], recipe: TrainingRecipe, place: Place, half: bool
) -> float:
    """Gradients of the step's loss, and the loss; part by part, so that memory holds only one part's activations."""
    over = units([groups[index] for index in step], recipe)
    total = 0.0
    for part in parts(place.mine(step), groups, recipe, place.pairs_at_once):
        loss = summed_loss(_logits(model, encoded, encoded.rows(part), place, half), [groups[index] for index in part], recipe) / over
        loss.backward()
        total += float(loss.detach())
    return place.add_up(weights, total)


def _load(folder: Path, recipe: TrainingRecipe, place: Place) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        str(folder), num_labels=1, local_files_only=True, use_safetensors=True, dtype=torch.float32, attn_implementation=place.attention
    )
    cut(model, recipe.layers, recipe.keep)
    return model.to(place.device)


def freeze(model: Any, layers: int) -> None:
    """Fix the lower ``layers`` encoder layers, and the embeddings with them, in place; 0 fixes nothing."""
    if layers <= 0:
        return
    encoder = model.base_model
    for parameter in encoder.embeddings.parameters():
        parameter.requires_grad = False
    for layer in list(encoder.encoder.layer)[:layers]:
        for parameter in layer.parameters():
            parameter.requires_grad = False


def _averaged(final: dict[str, Any], initial: dict[str, Any], share: float) -> dict[str, Any]:
    """The trained weights moved by ``share`` towards the start, so that weights which did not change stay exactly as they were."""
    if not share:
        return final
    return {key: value + share * (initial[key].to(value.device) - value) if value.is_floating_point() else value for key, value in final.items()}


def data_digest(groups: Iterable[Group]) -> str:
    """What identifies the data of a run: a hash over every group."""

    def line(group: Group) -> str:
        return json.dumps([group.query, group.texts, group.labels.tolist(), None if group.teacher is None else group.teacher.tolist(), group.weight])

    return digest_lines(line(group) for group in groups)


def shares(recipe: TrainingRecipe) -> list[float]:
    """Shares of the starting weights in the candidates that are stored, the main one first, each once."""
    return list(dict.fromkeys((recipe.average_with_start, *recipe.averages)))


def store_candidates(
    store: ModelStore, model: Any, final: dict[str, Any], initial: dict[str, Any], start: str, work: Path, name: str, recipe: TrainingRecipe, data: str
) -> dict[float, str]:
    """Put ``final`` weights into the store, once for each of ``shares``; returns share -> digest. ``model`` is only the vessel.

    Raises
    ------
    BadInput
        Weights that are not numbers, or a full disk: nothing is stored of what could not be.
    """
    import torch

    if not all(bool(torch.isfinite(value).all()) for value in final.values()):
        raise Diverged(f"the trained weights are not numbers: nothing was stored. Lower learning_rate ({recipe.learning_rate}).")
    found = {}
    for share in shares(recipe):
        model.load_state_dict(_averaged(final, initial, share))
        origin = {"recipe": recipe.model_dump(mode="json"), "data": data, "average_with_start": share}
        label = name if share == recipe.average_with_start else f"{name}, {share:g} of the start"
        found[share] = _store(store, model, start, work, label, origin)
    (work / _PROGRESS).write_text(json.dumps({"digest": found[recipe.average_with_start], "start": start}) + "\n")
    return found


def _store(store: ModelStore, model: Any, start: str, work: Path, name: str, origin: dict[str, Any]) -> str:
    from safetensors import SafetensorError

    out = work / "model"
    shutil.rmtree(out, ignore_errors=True)
    try:
        model.save_pretrained(str(out), safe_serialization=True)
        for file in store.path(start).iterdir():
            if file.name.startswith(("tokenizer", "special_tokens", "vocab")):
                shutil.copy2(file, out / file.name)
        return store.add(out, name=name, backend="torch-fp32", max_length=store.card(start).max_length, base=start, origin=origin)
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"{work}: the trained model cannot be written ({error}). Free some space and run the cycle again: it goes on from the checkpoint."
        ) from error
    finally:
        shutil.rmtree(out, ignore_errors=True)
