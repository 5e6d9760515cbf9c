"""Earlier cycles' training groups, mixed in so that what was learned from them is kept.

What belongs here: which earlier groups may be used again, and drawing from them. What must not: making new data. Replay of a share of the old data is the
plainest remedy against forgetting (Rolnick et al. 2019); .2 to .3 is what practitioners of cross-encoders take.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from predator_si.augment.manifest import read_examples
from predator_si.corpora.text import words
from predator_si.privacy import Vault
from predator_si.train.groups import Group, read_groups
from predator_si.train.recipe import TrainingRecipe


@dataclass(frozen=True)
class EarlierData:
    """Groups of earlier cycles that may be used again, and how many were left out for what reason.

    ``examples`` has the columns of the data sets, with new group ids; null where nothing is left.
    """

    examples: pl.DataFrame | None
    groups: int
    left_out: dict[str, int]


def earlier_data(datasets: Iterable[Path], vault: Vault | None, never: Collection[str] = (), now: pl.DataFrame | None = None) -> EarlierData:
    """Collect the training groups of ``datasets`` (Parquet files of earlier cycles, newest first).

    A query counts as the same however it is spaced, capitalised or punctuated. The newest group of a query is kept.

    Parameters
    ----------
    vault
        Opens sealed queries; rows of erased clients are left out.
    never
        Queries of the evaluation (probes, dev, test): groups with one of them are left out.
    now
        This cycle's data: its queries need no replay.

    Raises
    ------
    BadInput
        A file cannot be read.
    """
    sealed_off = {_key(query) for query in never}
    present = set() if now is None else {_key(query) for query in now["query"].unique()}
    left_out = {"erased_rows": 0, "evaluation": 0, "present": 0, "doubled": 0}
    kept: list[pl.DataFrame] = []
    seen: set[str] = set()
    for path in datasets:
        examples, erased = read_examples(path, vault)
        left_out["erased_rows"] += erased
        for (_,), rows in examples.group_by(["group_id"], maintain_order=True):
            key = _key(rows["query"][0])
            reason = "evaluation" if key in sealed_off else "present" if key in present else "doubled" if key in seen else None
            if reason is not None:
                left_out[reason] += 1
                continue
            seen.add(key)
            kept.append(rows.with_columns(group_id=pl.lit(len(kept), pl.Int64)))
    return EarlierData(pl.concat(kept, how="diagonal_relaxed") if kept else None, len(kept), left_out)


def with_replay(groups: list[Group], earlier: pl.DataFrame | None, recipe: TrainingRecipe) -> list[Group]:
    """``groups`` and, after them, as many drawn from ``earlier`` as make up ``recipe.replay_share`` of all, or as many as there are.

    Earlier groups that the recipe cannot learn from (see ``read_groups``) are left out.
    """
    if not recipe.replay_share or earlier is None or earlier.is_empty():
        return groups
    if "teacher_score" not in earlier.columns:
        earlier = earlier.with_columns(teacher_score=pl.lit(None, pl.Float64))
    old = read_groups(earlier, recipe, may_be_none=True)
    wanted = min(len(old), round(len(groups) * recipe.replay_share / (1 - recipe.replay_share)))
    drawn = np.random.default_rng([recipe.seed, 1]).choice(len(old), wanted, replace=False)
    return groups + [old[index] for index in sorted(drawn.tolist())]


def _key(query: str) -> str:
    return " ".join(words(query)) or query.strip()
