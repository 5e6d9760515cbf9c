"""Fine-tune a cross-encoder on groups of one query with several documents.

A lean loop instead of a trainer framework: two cores, groups sorted by length, bf16 only where the chip has it, exact resume from a
checkpoint, and a stop that is asked before every step.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from predator_si.corpora.text import digest_lines
from predator_si.errors import BadInput, Refused
from predator_si.search.models import ModelStore
from predator_si.search.rerank import chip_has_bf16
from predator_si.train.layers import cut
from predator_si.train.recipe import TrainingRecipe

_CHECKPOINT = "training.safetensors"
_PROGRESS = "training.json"


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


@dataclass(frozen=True)
class _Group:
    query: str
    texts: list[str]
    target: Any
    length: int


def read_groups(examples: pl.DataFrame) -> list[tuple[str, list[str], list[float]]]:
    """Groups (query, texts, labels) of a dataset with the columns group_id, query, text, label.

    Raises
    ------
    BadInput
        No examples, a missing value, a label that is not a number, or no group with both a positive and another document (single groups without
        are left out).
    """
    needed = {"group_id", "query", "text", "label"}
    if not needed <= set(examples.columns):
        raise BadInput(f"the training data lacks the columns {sorted(needed - set(examples.columns))}. Build it with the synthetic_dataset asset.")
    if examples.height == 0:
        raise BadInput("the training data is empty: every example was filtered out. See the yields in dataset_manifest.yaml, and give the loop more traffic.")
    missing = {column: examples[column].null_count() for column in sorted(needed) if examples[column].null_count()}
    if missing:
        raise BadInput(f"the training data has missing values ({', '.join(f'{column}: {n}' for column, n in missing.items())}). Build it again.")
    if not bool(examples["label"].cast(pl.Float64).is_finite().all()):
        raise BadInput("the training data has labels that are not numbers. Build it again.")
    grouped = examples.group_by("group_id", maintain_order=True).agg(pl.first("query"), pl.col("text"), pl.col("label").cast(pl.Float64))
    groups = [(row["query"], row["text"], row["label"]) for row in grouped.iter_rows(named=True) if len(row["text"]) > 1 and max(row["label"]) > 0]
    if not groups:
        raise BadInput("no group of the training data has both a positive and another document. Build it again with negatives.")
    return groups


def fine_tune(
    store: ModelStore,
    start: str,
    examples: pl.DataFrame,
    recipe: TrainingRecipe,
    work: Path,
    *,
    name: str,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] | None = None,
    on_loss: Callable[[int, float], None] | None = None,
) -> Trained:
    """Train from the torch model ``start`` and store the result.

    Parameters
    ----------
    work
        Folder for checkpoints; a run that was killed goes on from the last one and ends with the same weights as one that was not.
    should_stop
        Asked before each step.

    Raises
    ------
    Refused
        ``should_stop`` said so; the checkpoint stays.
    BadInput
        Unusable data, or a loss that is not a number: nothing is stored.
    """
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForSequenceClassification

    examples_of = read_groups(examples)
    _check(store, start, examples_of, recipe)
    groups = [_Group(query, texts, np.asarray(labels), sum(map(len, texts)) // len(texts)) for query, texts, labels in examples_of]
    run = {"recipe": recipe.model_dump_json(), "start": start, "data": digest_lines([json.dumps(group) for group in examples_of])}
    tokens = _tokenizer(store.path(start), recipe.max_length)
    torch.manual_seed(recipe.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        str(store.path(start)), num_labels=1, local_files_only=True, use_safetensors=True, dtype=torch.float32, attn_implementation="eager"
    )  # eager: torch's fused attention takes a quarter longer per step on a CPU (14.9 against 18.6 pairs/s)
    cut(model, recipe.layers, recipe.keep)
    initial = {key: value.detach().clone() for key, value in model.state_dict().items()} if recipe.average_with_start else {}
    _freeze(model, recipe.frozen_layers)
    model.train()
    for module in model.modules():  # dropout off: few steps, and a killed run must resume bit for bit
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    batches = _schedule(groups, recipe)
    work.mkdir(parents=True, exist_ok=True)
    first, losses, spent = _resume(work, model, optimiser, run, len(batches), load_file)
    resumed_from = first
    half = chip_has_bf16()
    began = time.monotonic() - spent
    pairs = sum(len(groups[g].texts) for batch in batches[:first] for g in batch)
    step = first
    for step in range(first, len(batches)):
        if should_stop():
            _save_checkpoint(work, model, optimiser, run, step, len(batches), losses, time.monotonic() - began, save_file)
            raise Refused(
                f"training was told to stop before step {step + 1} of {len(batches)}; the checkpoint in {work.name} stays, and the same run goes on from it."
            )
        if recipe.seconds is not None and time.monotonic() - began > recipe.seconds:
            break
        rate = recipe.learning_rate * _rate(step, len(batches), recipe, (time.monotonic() - began) / recipe.seconds if recipe.seconds else 0.0)
        for group in optimiser.param_groups:
            group["lr"] = rate
        batch = [groups[index] for index in batches[step]]
        encoded = tokens([g.query for g in batch for _ in g.texts], [text for g in batch for text in g.texts])
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(**encoded).logits
        loss = _loss(logits.float().reshape(-1), batch, recipe)
        if not torch.isfinite(loss):
            raise BadInput(
                f"the loss is {float(loss)} at step {step + 1}: nothing was stored. Lower learning_rate ({recipe.learning_rate}) or look at the data."
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        pairs += sum(len(g.texts) for g in batch)
        if on_loss:
            on_loss(step, losses[-1])
        if on_progress:
            on_progress(step + 1, len(batches))
        if (step + 1) % recipe.checkpoint_every == 0:
            _save_checkpoint(work, model, optimiser, run, step + 1, len(batches), losses, time.monotonic() - began, save_file)
    if not losses:
        raise BadInput(f"{recipe.seconds} seconds of training were over before the first step: nothing was learned or stored. Give it more time.")
    if recipe.average_with_start:  # as a move towards the start, so that weights which did not change stay exactly as they were
        final = model.state_dict()
        move = recipe.average_with_start
        model.load_state_dict({key: value + move * (initial[key] - value) if value.is_floating_point() else value for key, value in final.items()})
    if not all(bool(torch.isfinite(value).all()) for value in model.state_dict().values()):
        raise BadInput(f"the weights are not numbers after step {len(losses)}: nothing was stored. Lower learning_rate ({recipe.learning_rate}).")
    digest = _store(store, model, start, work, name, recipe)
    return Trained(digest, len(losses), pairs, time.monotonic() - began, losses, half, resumed_from)


def _check(store: ModelStore, start: str, groups: list[tuple[str, list[str], list[float]]], recipe: TrainingRecipe) -> None:
    """Refuse what would train nonsense or fail deep inside torch."""
    card = store.card(start)
    if not card.backend.startswith("torch"):
        raise BadInput(f"{start} is a {card.backend} model; training starts from torch weights. Train its source, {card.source_digest}.")
    positions = json.loads((store.path(start) / "config.json").read_text()).get("max_position_embeddings")
    if positions is not None and recipe.max_length > positions:
        raise BadInput(f"max_length {recipe.max_length}: {card.name} reads at most {positions} tokens. Lower it in the recipe.")
    labels = [label for _, _, group in groups for label in group]
    if recipe.loss == "bce" and not 0 <= min(labels) <= max(labels) <= 1:
        raise BadInput(f"labels from {min(labels)} to {max(labels)}: the bce loss takes 0 to 1. Use the listwise loss, or scale them.")
    if recipe.loss == "listwise" and recipe.target_temperature == 1.0 and min(labels) < 0:
        raise BadInput(
            f"a label of {min(labels)}: at target_temperature 1 labels are shares of a group, 0 or more. Set another temperature for a teacher's scores."
        )


def _tokenizer(folder: Path, max_length: int) -> Callable[[list[str], list[str]], dict[str, Any]]:
    import torch
    from tokenizers import Tokenizer

    from predator_si.search.rerank import padded

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    tokenizer.no_padding()

    def encode(queries: list[str], texts: list[str]) -> dict[str, Any]:
        return {key: torch.from_numpy(array) for key, array in padded(tokenizer.encode_batch(list(zip(queries, texts, strict=True)))).items()}

    return encode


def _freeze(model: Any, layers: int) -> None:
    if layers <= 0:
        return
    encoder = model.base_model
    for parameter in encoder.embeddings.parameters():
        parameter.requires_grad = False
    for layer in list(encoder.encoder.layer)[:layers]:
        for parameter in layer.parameters():
            parameter.requires_grad = False


def _schedule(groups: list[_Group], recipe: TrainingRecipe) -> list[list[int]]:
    """Group numbers per step: shuffled, but groups of like length share a step so that little padding is computed."""
    rng = np.random.default_rng(recipe.seed)
    batches: list[list[int]] = []
    remaining = recipe.epochs
    while remaining > 1e-9:
        order = rng.permutation(len(groups))[: max(1, round(len(groups) * min(1.0, remaining)))]
        pool = recipe.groups_per_step * 16
        epoch = []
        for start in range(0, len(order), pool):
            chunk = sorted(order[start : start + pool].tolist(), key=lambda index: groups[index].length)
            epoch += [chunk[i : i + recipe.groups_per_step] for i in range(0, len(chunk), recipe.groups_per_step)]
        rng.shuffle(epoch)  # type: ignore[arg-type]
        batches += epoch
        remaining -= 1.0
    return batches


def _rate(step: int, steps: int, recipe: TrainingRecipe, spent: float) -> float:
    """Linear warm-up, then cosine to a twentieth; ``spent`` is the share of a time budget, which may run out before the steps do."""
    # The clock counts only where it is ahead of the steps: else no two runs would give the same weights.
    done = spent if spent > (step + 1) / steps else step / steps
    if done < recipe.warmup:
        return min(1.0, (done + 1 / steps) / recipe.warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - recipe.warmup) / max(1e-9, 1 - recipe.warmup))))


def _loss(logits: Any, batch: list[_Group], recipe: TrainingRecipe) -> Any:
    import torch

    if recipe.loss == "bce":
        target = torch.tensor(np.concatenate([g.target for g in batch]), dtype=torch.float32)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    total = logits.new_zeros(())
    start = 0
    for group in batch:
        part = logits[start : start + len(group.texts)]
        start += len(group.texts)
        target = torch.tensor(group.target, dtype=torch.float32)
        target = target / target.sum() if recipe.target_temperature == 1.0 else torch.softmax(target / recipe.target_temperature, dim=0)
        total = total - (target * torch.log_softmax(part, dim=0)).sum()
    return total / len(batch)


def _save_checkpoint(
    work: Path, model: Any, optimiser: Any, run: dict[str, str], step: int, steps: int, losses: list[float], spent: float, save_file: Any
) -> None:
    from safetensors import SafetensorError

    state = {f"model.{key}": value.contiguous() for key, value in model.state_dict().items()}
    for index, entry in optimiser.state_dict()["state"].items():
        for key, value in entry.items():
            state[f"optimiser.{index}.{key}"] = value.contiguous()
    temporary = work / f"{_CHECKPOINT}.writing"
    facts = {"step": str(step), "steps": str(steps), "losses": json.dumps(losses), "spent": str(spent), **run}
    try:
        save_file(state, str(temporary), metadata=facts)
        temporary.replace(work / _CHECKPOINT)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise BadInput(
            f"{work}: the checkpoint cannot be written ({error}). Free some space and run the cycle again: it goes on from the last checkpoint."
        ) from error


def _resume(work: Path, model: Any, optimiser: Any, run: dict[str, str], steps: int, load_file: Any) -> tuple[int, list[float], float]:
    from safetensors import SafetensorError, safe_open

    path = work / _CHECKPOINT
    if not path.is_file():
        return 0, [], 0.0
    try:
        with safe_open(str(path), "pt") as opened:
            facts = opened.metadata()
        state = load_file(str(path))
        first, losses, spent = int(facts["step"]), json.loads(facts["losses"]), float(facts["spent"])
        same = all(facts.get(key) == value for key, value in run.items()) and int(facts["steps"]) == steps
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: the checkpoint is damaged ({error}). Delete it to train from the start.") from error
    if not same:
        path.unlink()  # another recipe, start or other data: its weights would not be this run's
        return 0, [], 0.0
    model.load_state_dict({key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")})
    saved = optimiser.state_dict()
    entries: dict[int, dict[str, Any]] = {}
    for key, value in state.items():
        if key.startswith("optimiser."):
            _, index, field = key.split(".", 2)
            entries.setdefault(int(index), {})[field] = value
    saved["state"] = entries
    optimiser.load_state_dict(saved)
    return first, losses, spent


def _store(store: ModelStore, model: Any, start: str, work: Path, name: str, recipe: TrainingRecipe) -> str:
    import shutil

    out = work / "model"
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(str(out), safe_serialization=True)
    for file in store.path(start).iterdir():
        if file.name.startswith(("tokenizer", "special_tokens", "vocab")):
            shutil.copy2(file, out / file.name)
    digest = store.add(
        out, name=name, backend="torch-fp32", max_length=store.card(start).max_length, base=start, origin={"recipe": recipe.model_dump(mode="json")}
    )
    shutil.rmtree(out)
    (work / _CHECKPOINT).unlink(missing_ok=True)
    (work / _PROGRESS).write_text(json.dumps({"digest": digest, "start": start}) + "\n")
    return digest
