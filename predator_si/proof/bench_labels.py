"""What the teacher's labels take: the most useful examples of a data set, by the model and both legs of the index.

What belongs here: the timing. What must not: the making of the data (``bench_augment``), what the labels are worth (``augment_ablation``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from predator_si.augment.pseudo_labels import Budget
from predator_si.augment.teacher import EnsembleTeacher
from predator_si.proof.bench_augment import Ground, sizes_for

LIMIT_SECONDS = 480.0
WANTED = 5_000
LOG_GROUPS = 400


def bench_labels(
    place: Ground,
    teacher: EnsembleTeacher,
    examples: int,
    seed: int = 0,
    *,
    tell: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Seconds that labels of the most useful examples take, log queries first, and what was left without one.

    Parameters
    ----------
    teacher
        Without remembered scores: every pair is computed.
    examples
        Of the data set that the teacher chooses from; its making is not counted.

    Returns
    -------
    dict
        ``teacher, wanted, examples, pairs, seconds, pairs_per_second, limit_seconds, holds, log, groups``; the last two as ``Labelling.statistics``.
    """
    wanted = min(WANTED, examples)
    tell(f"labels for {wanted:,} of {examples:,} examples by {teacher.name}")
    sizes = sizes_for(examples, log_groups=min(LOG_GROUPS, place.log.height))
    dataset = place.build(sizes, seed, teacher=teacher, budget=Budget(wanted, LIMIT_SECONDS), on_progress=on_progress)
    log, groups = dataset.statistics["teacher_labels"]["log"], dataset.statistics["teacher_labels"]["groups"]
    labelled, pairs, seconds = (log[key] + groups[key] for key in ("examples", "pairs", "seconds"))
    return {
        "teacher": teacher.name,
        "wanted": wanted,
        "examples": labelled,
        "pairs": pairs,
        "seconds": seconds,
        "pairs_per_second": pairs / seconds if seconds else None,
        "limit_seconds": LIMIT_SECONDS,
        "holds": bool(labelled >= 0.98 * wanted and seconds <= LIMIT_SECONDS),
        "log": log,
        "groups": groups,
    }
