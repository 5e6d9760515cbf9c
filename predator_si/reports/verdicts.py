"""What the files of a cycle answered, stage by stage: for the command line and the API.

What belongs here: reading the answers that stand there. What must not: judging again (``release.replay``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from predator_si.errors import BadInput

_FILES = {
    "actions.json": "actions without training",
    "evaluation.json": "champion against challenger",
    "decision-trial.json": "trial",
    "ab_test_results.json": "experiment",
    "decision-promote.json": "promotion",
    "deployment.json": "deployment",
    "watch.json": "watch",
    "rollback.json": "rollback",
}
"""Files that carry an answer, in the order of a cycle's life."""


def verdicts_in(folder: Path) -> list[dict[str, Any]]:
    """The answers in a cycle's files: stage, file, answer, reason.

    Raises
    ------
    BadInput
        A file is not what a cycle writes.
    """
    found = []
    for name, stage in _FILES.items():
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            answer, why = _answer(name, content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path}: not what a cycle writes ({type(error).__name__}: {error}). Restore it, or run its job again.") from error
        found.append({"stage": stage, "file": name, "answer": answer, "reason": why})
    return found


def _answer(name: str, content: Mapping[str, Any]) -> tuple[str, str]:
    if name == "actions.json":
        return content["action"] or ("on to training" if content["train"] else "none"), content["reason"]
    if name == "evaluation.json":
        gain = content["ndcg_difference"]
        queries = f"{content['n_queries']} {'sealed' if content['split'] == 'test' else content['split']} queries"
        return f"NDCG@10 {gain['estimate']:+.4f}", f"95% interval [{gain['low']:+.4f}, {gain['high']:+.4f}], {queries}"
    if name == "deployment.json":
        return "confirmed" if content["confirmed"] else "not confirmed", content["reason"]
    if name == "rollback.json":
        return "verified" if content["verified"] else "NOT verified", content["reason"]
    return str(content["answer" if name == "watch.json" else "verdict"]), content["reason"]
