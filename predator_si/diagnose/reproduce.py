"""Found on one half of the queries, confirmed on the other: what does not show up twice is not acted on.

What belongs here: splitting, finding and confirming subsets of queries. What must not: how a subset was thought of (``slices``, ``topics``, ``conjunctions``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from predator_si.diagnose.slices import Subset
from predator_si.diagnose.subsets import subset_deficits
from predator_si.errors import BadInput
from predator_si.statistics import holm

FIND_P = 0.05
LEVEL = 0.05


@dataclass(frozen=True)
class Found:
    """A subset that looked worse on the first half.

    ``members`` index all queries; ``scores`` (float, one per query, higher is better) are what it looked worse in.
    """

    family: str
    name: str
    members: np.ndarray
    scores: np.ndarray


def split_halves(strata: Sequence[object], seed: int) -> np.ndarray:
    """Which queries belong to the first half: a random half of each stratum (bool, shape ``(n,)``).

    Odd strata give their odd query to the half that is smaller so far.
    """
    rng = np.random.default_rng(seed)
    first = np.zeros(len(strata), dtype=bool)
    labels = [str(stratum) for stratum in strata]
    balance = 0
    for label in sorted(set(labels)):
        members = rng.permutation(np.flatnonzero(np.array([other == label for other in labels])))
        size = (len(members) + (1 if balance <= 0 else 0)) // 2
        first[members[:size]] = True
        balance += 2 * size - len(members)
    return first


def find(
    family: str,
    scores: np.ndarray,
    subsets: Sequence[Subset],
    first: np.ndarray,
    *,
    seed: int,
    min_support: int = 5,
    p_limit: float = FIND_P,
    limit: int = 15,
    permutations: int = 10_000,
) -> list[Found]:
    """The subsets that are worse on the first half at a nominal ``p_limit``, most significant first, at most ``limit``.

    No correction here: the other half decides, and it is corrected for as many as are handed to it.
    """
    values = np.asarray(scores, dtype=np.float64)
    halves = _restricted(subsets, first)
    table = subset_deficits(values[first], halves, seed=seed, min_support=min_support, permutations=permutations)
    worse = table.filter((table["p_value"] <= p_limit) & (table["deficit"] > 0)).sort(["p_value", "shrunk_deficit", "name"], descending=[False, True, False])
    members = dict(subsets)
    return [Found(family, name, members[name], values) for name in worse["name"].head(limit)]


def confirm(
    found: Sequence[Found], first: np.ndarray, *, seed: int, min_support: int = 5, level: float = LEVEL, permutations: int = 10_000
) -> list[dict[str, Any]]:
    """Test on the second half everything that the first one brought up.

    One-sided exact permutation test of each on queries that had no part in finding it, Holm's procedure (1979) over all of them: whatever the finders did, the
    chance that any subset which is not worse is called reproduced is at most ``level``.

    Returns
    -------
    list of dict
        ``family, name, n, n_first, n_second``, ``deficit_first`` and ``deficit_second`` (rest minus subset) with ``ci_first`` and ``ci_second`` (Welch's 95%
        intervals ``[low, high]``), ``p_first`` (nominal), ``p_second``, ``p_holm``, ``reproduced`` (bool), ``reason``; reproduced ones first. What has fewer
        than ``min_support`` queries on the second half cannot be tested: not reproduced, p-values null.

    Raises
    ------
    BadInput
        A subset's scores are not as many as the halves' marks.
    """
    rows: list[dict[str, Any]] = []
    for number, entry in enumerate(found):
        if len(entry.scores) != len(first):
            raise BadInput(f"{entry.name}: {len(entry.scores)} scores, but the halves mark {len(first)} queries; pass the scores of the same queries.")
        sides = [
            _one(entry, half, seed=seed + 2 * number + side, min_support=min_support, permutations=permutations) for side, half in enumerate((first, ~first))
        ]
        rows.append(
            {
                "family": entry.family,
                "name": entry.name,
                "n": len(entry.members),
                "n_first": sides[0]["n"],
                "n_second": sides[1]["n"],
                "deficit_first": sides[0]["deficit"],
                "ci_first": sides[0]["ci"],
                "p_first": sides[0]["p"],
                "deficit_second": sides[1]["deficit"],
                "ci_second": sides[1]["ci"],
                "p_second": sides[1]["p"],
            }
        )
    tested = [row for row in rows if row["p_second"] is not None]
    for row, adjusted in zip(tested, holm([row["p_second"] for row in tested]), strict=True):
        row["p_holm"] = float(adjusted)
    for row in rows:
        adjusted = row.setdefault("p_holm", None)
        row["reproduced"] = adjusted is not None and adjusted <= level and row["deficit_second"] > 0
        row["reason"] = _reason(row, level, len(tested), min_support)
    return sorted(rows, key=lambda row: (not row["reproduced"], 2.0 if row["p_holm"] is None else row["p_holm"], row["name"]))


def _one(entry: Found, half: np.ndarray, *, seed: int, min_support: int, permutations: int) -> dict[str, Any]:
    known = half & np.isfinite(entry.scores)
    (inside,) = (members for _, members in _restricted([(entry.name, entry.members)], known))
    table = subset_deficits(entry.scores[known], [(entry.name, inside)], seed=seed, min_support=min_support, permutations=permutations)
    if table.is_empty():
        return {"n": len(inside), "deficit": None, "ci": None, "p": None}
    row = table.row(0, named=True)
    return {"n": row["n"], "deficit": row["deficit"], "ci": [row["ci_low"], row["ci_high"]], "p": row["p_value"]}


def _restricted(subsets: Sequence[Subset], half: np.ndarray) -> list[Subset]:
    place = np.cumsum(half) - 1
    return [(name, place[members[half[members]]]) for name, members in subsets]


def _reason(row: dict[str, Any], level: float, tested: int, min_support: int) -> str:
    if row["p_second"] is None:
        return f"{row['n_second']} queries on the second half; {min_support} inside and outside are needed"
    if row["reproduced"]:
        return f"worse on both halves; Holm p {row['p_holm']:.4f} over {tested} tested on the second"
    return f"not shown again on the second half: Holm p {row['p_holm']:.3f} > {level:g} over {tested} tested"
