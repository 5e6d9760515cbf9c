"""Training groups: read from the data set, checked against the recipe, tokenised once, and put into steps.

What belongs here: everything between the data frame and the arrays that a step computes on. What must not: models, losses, checkpoints.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.errors import BadInput
from predator_si.search.models import ModelStore
from predator_si.train.recipe import TEACHER_LOSSES, TrainingRecipe

_CHUNK = 2_000
"""Pairs tokenised at once: a tokenizer's own objects take a hundred times the room of the ids."""


@dataclass(frozen=True)
class Group:
    """One query with its documents. ``labels``: 0 or more, one per text; ``teacher``: scores that can be compared within the group only; ``weight``: mean 1."""

    query: str
    texts: list[str]
    labels: npt.NDArray[np.float64]
    teacher: npt.NDArray[np.float64] | None = None
    weight: float = 1.0


def read_groups(examples: pl.DataFrame, recipe: TrainingRecipe | None = None, *, may_be_none: bool = False) -> list[Group]:
    """Groups of a dataset with the columns ``group_id, query, text, label`` and, where the recipe wants them, ``teacher_score`` and ``weight``.

    A single document, or no positive, teaches nothing: such groups are left out. A loss on the teacher's scores takes the groups that were scored whole.

    Raises
    ------
    BadInput
        No examples, a missing value, a label or score that is not a number, a weight that is not positive, or, unless ``may_be_none``, no group left.
    """
    recipe = recipe or TrainingRecipe()
    by_teacher = recipe.loss in TEACHER_LOSSES
    needed = {"group_id", "query", "text", "label"} | ({"teacher_score"} if by_teacher else set()) | ({"weight"} if recipe.group_weights else set())
    if not needed <= set(examples.columns):
        raise BadInput(
            f"the training data lacks the columns {sorted(needed - set(examples.columns))}. Build it with the synthetic_dataset asset, or change the recipe."
        )
    if examples.height == 0:
        raise BadInput("the training data is empty: every example was filtered out. See the yields in dataset_manifest.yaml, and give the loop more traffic.")
    missing = {column: n for column in sorted(needed - {"teacher_score"}) if (n := examples[column].null_count())}
    if missing:
        raise BadInput(f"the training data has missing values ({', '.join(f'{column}: {n}' for column, n in missing.items())}). Build it again.")
    numbers = [column for column in ("label", "teacher_score", "weight") if column in needed]
    for column in numbers:
        if not bool(examples[column].drop_nulls().cast(pl.Float64).is_finite().all()):
            raise BadInput(f"the training data has a {column} that is not a number. Build it again.")
    columns = [pl.first("query"), pl.col("text"), *(pl.col(column).cast(pl.Float64) for column in numbers)]
    groups = []
    for row in examples.group_by("group_id", maintain_order=True).agg(columns).iter_rows(named=True):
        teacher = row.get("teacher_score")
        if len(row["text"]) < 2 or (teacher is None and max(row["label"]) <= 0) or (teacher is not None and None in teacher):
            continue
        weight = row["weight"][0] if recipe.group_weights else 1.0
        if weight <= 0:
            raise BadInput(f"the training data has a group of weight {weight}: weights are above 0. Leave the group out instead.")
        groups.append(Group(row["query"], row["text"], np.asarray(row["label"]), None if teacher is None else np.asarray(teacher), weight))
    if not groups and may_be_none:
        return []
    if not groups:
        if by_teacher:
            raise BadInput(f"no group of the training data was scored whole by a teacher, which {recipe.loss} learns from. Score it, or learn from labels.")
        raise BadInput("no group of the training data has both a positive and another document. Build it again with negatives.")
    mean = sum(group.weight for group in groups) / len(groups)
    return [dataclasses.replace(group, weight=group.weight / mean) for group in groups] if recipe.group_weights else groups


def check(store: ModelStore, start: str, groups: Sequence[Group], recipe: TrainingRecipe) -> None:
    """Refuse what would train nonsense or fail deep inside torch.

    Raises
    ------
    BadInput
        ``start`` is not a torch model or reads fewer tokens than the recipe says, or the labels are out of the loss's range.
    """
    card = store.card(start)
    if not card.backend.startswith("torch"):
        raise BadInput(f"{start} is a {card.backend} model; training starts from torch weights. Train its source, {card.source_digest}.")
    positions = json.loads((store.path(start) / "config.json").read_text()).get("max_position_embeddings")
    if positions is not None and recipe.max_length > positions:
        raise BadInput(f"max_length {recipe.max_length}: {card.name} reads at most {positions} tokens. Lower it in the recipe.")
    low, high = min(float(group.labels.min()) for group in groups), max(float(group.labels.max()) for group in groups)
    if recipe.loss == "bce" and not 0 <= low <= high <= 1:
        raise BadInput(f"labels from {low} to {high}: the bce loss takes 0 to 1. Use the listwise loss, or scale them.")
    if recipe.loss == "lambda" and not 0 <= low <= high <= 10:
        raise BadInput(f"labels from {low} to {high}: the lambda loss takes grades from 0 to 10, since a gain is 2^label - 1. Scale them.")
    if recipe.loss == "listwise" and recipe.target_temperature == 1.0 and low < 0:
        raise BadInput(f"a label of {low}: at target_temperature 1 labels are shares of a group, 0 or more. Set another temperature for a teacher's scores.")


class EncodedPairs:
    """Token ids of all pairs of all groups, in flat arrays: tokenised once, whatever the number of epochs."""

    def __init__(self, folder: Path, groups: Sequence[Group], max_length: int) -> None:
        from predator_si.search.rerank import Tokenised

        tokens = Tokenised(folder, max_length)
        pairs = [(group.query, text) for group in groups for text in group.texts]
        ids, types, sizes = [], [], []
        for at in range(0, len(pairs), _CHUNK):
            for encoding in tokens.encode(pairs[at : at + _CHUNK]):
                ids.append(np.asarray(encoding.ids, np.int32))
                types.append(np.asarray(encoding.type_ids, np.int8))
                sizes.append(len(encoding.ids))
        self._ids, self._types = np.concatenate(ids), np.concatenate(types)
        self.lengths = np.asarray(sizes)
        """Tokens of each pair."""
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.first = np.concatenate([[0], np.cumsum([len(group.texts) for group in groups])])
        """Where each group's pairs begin; one more at the end."""

    def group_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of the longest pair of each group: what its rows are padded to."""
        longest: npt.NDArray[np.int64] = np.maximum.reduceat(self.lengths, self.first[:-1])
        return longest

    def rows(self, groups: Sequence[int]) -> npt.NDArray[np.int64]:
        """Numbers of the pairs of some groups, in order."""
        return np.concatenate([np.arange(self.first[group], self.first[group + 1]) for group in groups])

    def arrays(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
        """Input arrays (pairs x the longest of them), zero where padded."""
        width = int(self.lengths[rows].max())
        out = {name: np.zeros((len(rows), width), np.int64) for name in ("input_ids", "token_type_ids", "attention_mask")}
        for place, row in enumerate(rows):
            start, size = self._starts[row], self.lengths[row]
            out["input_ids"][place, :size] = self._ids[start : start + size]
            out["token_type_ids"][place, :size] = self._types[start : start + size]
            out["attention_mask"][place, :size] = 1
        return out


def schedule(lengths: npt.NDArray[Any], recipe: TrainingRecipe) -> list[list[int]]:
    """Group numbers per step: shuffled, but groups of like length share a step so that little padding is computed."""
    rng = np.random.default_rng(recipe.seed)
    steps: list[list[int]] = []
    remaining = recipe.epochs
    while remaining > 1e-9:
        order = rng.permutation(len(lengths))[: max(1, round(len(lengths) * min(1.0, remaining)))]
        pool = recipe.groups_per_step * 16
        epoch = []
        for start in range(0, len(order), pool):
            chunk = sorted(order[start : start + pool].tolist(), key=lambda index: int(lengths[index]))
            epoch += [chunk[i : i + recipe.groups_per_step] for i in range(0, len(chunk), recipe.groups_per_step)]
        rng.shuffle(epoch)  # type: ignore[arg-type]
        steps += epoch
        remaining -= 1.0
    return steps


def parts(step: Sequence[int], groups: Sequence[Group], recipe: TrainingRecipe, pairs: int | None) -> list[list[int]]:
    """The groups of a step that are computed at once: ``recipe.groups_at_once``, or as many as have no more than ``pairs`` pairs, or all."""
    out: list[list[int]] = []
    held = 0
    for index in step:
        size = len(groups[index].texts)
        full = len(out[-1]) == recipe.groups_at_once if out and recipe.groups_at_once else pairs is not None and held + size > pairs
        if not out or full:
            out.append([])
            held = 0
        out[-1].append(index)
        held += size
    return out
