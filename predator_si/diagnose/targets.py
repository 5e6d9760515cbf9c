"""What to aim training data at: only words and slices that were worse on both halves of the probes.

What belongs here: turning confirmed subsets into the targets of a report's actions. What must not: tests (``reproduce``), making data (``augment``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from predator_si.records import DiagnosticReport

_TRAINING = ("augment", "retrain_reranker")
_CATEGORY_KINDS = ("category=", "part=")


def aim(
    report: DiagnosticReport, rows: Sequence[Mapping[str, Any]], topic_words: Mapping[str, Sequence[str]] | None = None, limit: int = 50
) -> DiagnosticReport:
    """The report with the targets of its training actions narrowed to what reproduced.

    Words: reproduced words; the new words of the query log where the slice ``vocabulary=new`` reproduced; the words of reproduced topics. Categories and parts:
    reproduced slices of them. Where nothing reproduced the targets stay what they were, and the action says so: a small set of probes cannot confirm much, and
    data aimed at a suspicion are better than none.

    Parameters
    ----------
    rows
        Of :func:`predator_si.diagnose.reproduce.confirm`.
    topic_words
        Name of a topic's slice -> the words of its name.
    """
    confirmed = [row for row in rows if row["reproduced"]]
    names = {row["name"] for row in confirmed}
    words = [row["name"] for row in confirmed if row["family"] == "word"]
    if "vocabulary=new" in names:
        words += [entry["token"] for entry in report.root_cause_analysis.distribution_change.new_tokens if entry.get("df") is None or entry["df"] > 0]
    for name in sorted(names & set(topic_words or {})):
        words += list((topic_words or {})[name])
    categories = list(dict.fromkeys(row["name"].split("=", 1)[1] for row in confirmed if row["name"].startswith(_CATEGORY_KINDS)))
    words = list(dict.fromkeys(words))[:limit]
    changed = [_aimed(action, words, categories, len(confirmed), len(rows)) for action in report.recommended_actions]
    return report.model_copy(update={"recommended_actions": changed})


def _aimed(action: dict[str, Any], words: list[str], categories: list[str], confirmed: int, tested: int) -> dict[str, Any]:
    if action.get("type") not in _TRAINING:
        return action
    if not words and not categories:
        reason = f"{confirmed} of {tested} suspected slices and words were worse on both halves of the probes, none that data can be aimed at"
        return {**action, "targets_reproduced": False, "targets_reason": f"{reason}: all suspects stay targets"}
    reason = f"{confirmed} of {tested} suspected slices and words were worse on both halves of the probes: only these are targets"
    aimed = {**action, "target_tokens": words, "targets_reproduced": True, "targets_reason": reason}
    return {**aimed, "target": categories} if action["type"] == "augment" else aimed
