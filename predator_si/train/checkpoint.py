"""A training run on disk: weights, optimiser, best weights so far, and what led there, in one file that is replaced whole.

What belongs here: writing and reading it. What must not: deciding when. A run that goes on from it ends with the same bytes as one that never stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from predator_si.errors import BadInput

FILE = "training.safetensors"


@dataclass
class Progress:
    """How far a run is. ``spent``: seconds of training; ``evaluations``: (steps done, the judge's number); ``stale``: evaluations since the best one."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    spent: float = 0.0
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    best_step: int | None = None
    best_score: float | None = None
    stale: int = 0


def save(work: Path, model: Any, optimiser: Any, best: Mapping[str, Any], run: Mapping[str, str], progress: Progress) -> None:
    """Write the checkpoint of ``run`` (what identifies it: recipe, start, data) to ``work``.

    Raises
    ------
    BadInput
        It cannot be written, as on a full disk; the one before stays as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = {f"model.{key}": value.contiguous() for key, value in model.state_dict().items()}
    state |= {f"best.{key}": value.contiguous() for key, value in best.items()}
    for index, entry in optimiser.state_dict()["state"].items():
        state |= {f"optimiser.{index}.{key}": value.contiguous() for key, value in entry.items()}
    temporary = work / f"{FILE}.writing"
    try:
        save_file(state, str(temporary), metadata={"progress": json.dumps(asdict(progress)), **run})
        temporary.replace(work / FILE)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise BadInput(
            f"{work}: the checkpoint cannot be written ({error}). Free some space and run the cycle again: it goes on from the last checkpoint."
        ) from error


def resume(work: Path, model: Any, optimiser: Any, run: Mapping[str, str]) -> tuple[Progress, dict[str, Any]]:
    """Load the checkpoint of ``run`` into model and optimiser: how far it was, and its best weights. Another run's is deleted, and nothing is loaded.

    Raises
    ------
    BadInput
        The file is damaged.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    path = work / FILE
    if not path.is_file():
        return Progress(), {}
    try:
        with safe_open(str(path), "pt") as opened:
            facts = opened.metadata() or {}
        same = all(facts.get(key) == value for key, value in run.items())
        progress = Progress(**json.loads(facts["progress"]))
        progress.evaluations = [(int(step), float(score)) for step, score in progress.evaluations]
        state = load_file(str(path)) if same else {}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: the checkpoint is damaged ({error}). Delete it to train from the start.") from error
    if not same:
        path.unlink()  # another recipe, start or other data: its weights would not be this run's
        return Progress(), {}
    model.load_state_dict({key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")})
    saved = optimiser.state_dict()
    entries: dict[int, dict[str, Any]] = {}
    for key, value in state.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            entries.setdefault(int(index), {})[name] = value
    saved["state"] = entries
    optimiser.load_state_dict(saved)
    return progress, {key.removeprefix("best."): value for key, value in state.items() if key.startswith("best.")}
