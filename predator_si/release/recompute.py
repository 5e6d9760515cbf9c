"""A verdict is worth what its evidence gives: recompute it from the stored files before anything is committed.

A check result in Dagster can be written by anyone with GraphQL, and a JSON file by anyone with the folder. So the patch asset trusts
neither: it checks the sha256 of every file the decision was made from, computes the difference again from the per-query scores, and judges
again with the criteria of the code, not with those in the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.errors import BadInput, Missing, Refused
from predator_si.evaluate import clusters_of, seal_again, slice_differences
from predator_si.records import Decision, Evaluation, ExperimentResult, Interval, Metric, ModelCard, Verdict
from predator_si.release.criteria import NDCG_MARGIN
from predator_si.release.decide import decide_promote, decide_trial
from predator_si.release.deny import DenyEntry, check_allowed
from predator_si.release.slices import slice_metric
from predator_si.statistics import paired_interval, power_sentence, resolvable_effect

EVALUATION = "evaluation.json"
EXPERIMENT = "ab_test_results.json"
LATENCY = "latency.json"
_TOLERANCE = 1e-6
_STEP = re.compile(r"trial/\d+-(shadow|interleave|ab)/result\.json")


def decision_name(stage: Literal["trial", "promote"]) -> str:
    """File name of a stage's decision among a cycle's artifacts."""
    return f"decision-{stage}.json"


def collect_evidence(folder: Path, stage: Literal["trial", "promote"]) -> dict[str, str]:
    """File name -> sha256 of what a decision of ``stage`` is made from: the evaluation, its per-query scores, a latency measurement where
    there is one, and for a promotion the trial's result and those of its earlier steps where there are some.

    Raises
    ------
    BadInput
        The evaluation is missing or malformed.
    Missing
        Its per-query scores are not there.
    """
    evaluation = Evaluation.read(Path(folder) / EVALUATION)
    optional = [LATENCY, EXPERIMENT, *earlier_steps(folder)] if stage == "promote" else [LATENCY]
    names = [EVALUATION, _plain_name(evaluation.per_query), *(name for name in optional if (Path(folder) / name).exists())]
    return {name: _sha256(Path(folder) / name) for name in names}


def earlier_steps(folder: Path) -> list[str]:
    """The results of a trial's steps before its last one, in their order: ``trial/1-shadow/result.json`` and so on."""
    found = [path.relative_to(folder).as_posix() for path in Path(folder).glob("trial/*/result.json")]
    return sorted((name for name in found if _STEP.fullmatch(name)), key=lambda name: int(name.split("/")[1].split("-")[0]))[:-1]


def read_steps(folder: Path, evidence: Mapping[str, str]) -> list[ExperimentResult]:
    """The results of a trial's earlier steps that the evidence names, in their order."""
    return [ExperimentResult.read(Path(folder) / name) for name in earlier_steps(folder) if name in evidence]


def read_latency(folder: Path, evidence: Mapping[str, str]) -> dict[str, Any] | None:
    """``latency.json`` (the shape of ``latency.summarise_latency``) where the evidence names it."""
    if LATENCY not in evidence:
        return None
    path = Path(folder) / LATENCY
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as JSON ({error}). Measure the latency again.") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path}: an object with champion and challenger was expected. Measure the latency again.")
    return found


def recompute_decision(
    folder: Path,
    stage: Literal["trial", "promote"],
    *,
    trigger: str,
    kill_switch: Callable[[], bool],
    denied: Sequence[DenyEntry],
    card_of: Callable[[str], ModelCard] | None = None,
    trial_required: bool = True,
    latency_target_ms: float | None = None,
    level: float | None = None,
    margin: float = NDCG_MARGIN,
    extra: Mapping[str, Metric] | None = None,
    allow_drill: bool = False,
    seed: int = 0,
    n_boot: int = 10_000,
) -> Decision:
    """The stored decision, after everything it rests on was found to hold.

    Parameters
    ----------
    folder
        Artifacts of the cycle.
    trigger
        Of the cycle, from the control database: the file's own criteria are not believed.
    kill_switch
        Asked last, right before the caller commits.
    denied
        The deny list at the branch's head.
    card_of
        The model store's card of a digest, for the digest of the weights behind the challenger.
    trial_required, latency_target_ms, level, margin, extra
        As given to ``decide_trial`` and ``decide_promote``; ``level`` by the ledger, the file's own is not believed.
    allow_drill
        Whether a decision marked as a drill may pass; the mark in the file alone is not enough.
    seed, n_boot
        Of the evaluation's bootstrap.

    Raises
    ------
    Refused
        A file changed since, the scores give another interval or verdict, the verdict does not allow a patch, an approval is missing, the
        model is denied, or the kill switch is on.
    BadInput
        A file is missing or malformed.
    """
    folder = Path(folder)
    decision = Decision.read(folder / decision_name(stage))
    if decision.stage != stage:
        raise Refused(f"{folder / decision_name(stage)} is a decision for {decision.stage}, not for {stage}. Run the decision's asset again.")
    if decision.drill and not allow_drill:
        raise Refused(f"cycle {decision.cycle_id}: the {stage} decision is a drill, and no drill is going on. Only the drill command may release it.")
    evaluation, experiment, latency = checked_evidence(folder, decision, stage)
    steps = read_steps(folder, decision.evidence) if stage == "promote" else []
    if experiment is not None and experiment.verdict is Verdict.PROMOTE:
        for name, step in [(EXPERIMENT, experiment), *zip(earlier_steps(folder), steps, strict=True)]:
            _require_same_trial(folder, name, step)
    evaluation, found = recompute_evaluation(folder, evaluation, margin, seed, n_boot)
    common: dict[str, Any] = {
        "trigger": trigger,
        "policy": decision.policy,
        "approval_required": decision.approval_required,
        "latency": latency,
        "latency_target_ms": latency_target_ms,
        "level": level,
        "margin": margin,
        "extra": {**found, **(extra or {})},
        "drill": decision.drill,
    }
    if stage == "trial":
        again = decide_trial(evaluation, **common)
    else:
        again = decide_promote(evaluation, experiment, earlier=steps, trial_required=trial_required, **common)
    if again.verdict is not decision.verdict:
        raise Refused(
            f"cycle {decision.cycle_id}: the stored {stage} verdict is {decision.verdict.value}, its evidence gives {again.verdict.value} "
            f"({again.reason}). Do not release it; find out who changed the file."
        )
    if (decision.champion, decision.challenger) != (evaluation.champion, evaluation.challenger):
        raise Refused(f"cycle {decision.cycle_id}: the decision is about other models than its evaluation. Run the decision's asset again.")
    check_allowed(denied, card_of(decision.challenger.model) if card_of is not None else [decision.challenger.model])
    if not decision.allows_patch:
        lacks = "it waits for an approval" if decision.approval_required and decision.approved_by is None else decision.reason
        raise Refused(f"cycle {decision.cycle_id}: the {stage} verdict is {decision.verdict.value}; no patch may be committed: {lacks}")
    if kill_switch():
        raise Refused(f"cycle {decision.cycle_id}: the kill switch is on, nothing is released. Start the optimizer again first.")
    return decision


def _require_same_trial(folder: Path, name: str, experiment: ExperimentResult) -> None:
    from predator_si.release.replay import trial_again

    difference = trial_again(folder, experiment)
    if difference is not None:
        raise Refused(f"{folder / name}: the trial judged again from its events says something else ({difference}). Do not release it; find out why.")


def evidence_metrics(folder: Path, evaluation: Evaluation, margin: float = NDCG_MARGIN) -> dict[str, Metric]:
    """What a decision needs of the per-query scores beyond what the evaluation says (recall, the worst slice); give it as ``extra``.

    Raises
    ------
    BadInput
        The scores cannot be read.
    """
    scores = _per_query(Path(folder) / _plain_name(evaluation.per_query))
    return recall_metric(scores) | slice_metric(scores, margin)


def recall_metric(scores: pl.DataFrame, seed: int = 0, n_boot: int = 10_000) -> dict[str, Metric]:
    """``recall_difference_low`` and ``recall_p_value`` from per-query scores that hold ``recall_difference``; empty where they do not. Give it as ``extra``."""
    if "recall_difference" not in scores.columns:
        return {}
    found = paired_interval(_numbers(scores, "recall_difference", "per-query scores"), seed=seed, n_boot=n_boot, cluster=clusters_of(scores))
    known = {"recall_difference_low": found.low, "recall_p_value": found.p_value}
    return {name: Metric(name=name, value=value, n=found.n) for name, value in known.items()}


# --------------------------------------------------------------------------- evidence


def checked_evidence(folder: Path, decision: Decision, stage: str) -> tuple[Evaluation, ExperimentResult | None, dict[str, Any] | None]:
    """Evaluation, trial and latency that a decision rests on.

    Raises
    ------
    Refused
        A file is not the one that was decided on, or is none of this cycle's.
    """
    for name, expected in sorted(decision.evidence.items()):
        if _sha256(folder / _plain_name(name)) != expected:
            raise Refused(f"{folder / name} is not the file that cycle {decision.cycle_id} was decided on (its sha256 differs). Evaluate again.")
    evaluation = Evaluation.read(folder / EVALUATION)
    for name in (EVALUATION, evaluation.per_query):
        if name not in decision.evidence:
            raise Refused(f"cycle {decision.cycle_id}: the {stage} decision names no sha256 for {name}. Decide again with the evidence collected.")
    experiment = ExperimentResult.read(folder / EXPERIMENT) if stage == "promote" and EXPERIMENT in decision.evidence else None
    if evaluation.cycle_id != decision.cycle_id:
        raise Refused(f"{folder / EVALUATION} belongs to cycle {evaluation.cycle_id}, the decision to {decision.cycle_id}. Evaluate again.")
    return evaluation, experiment, read_latency(folder, decision.evidence)


def recompute_evaluation(
    folder: Path, evaluation: Evaluation, margin: float = NDCG_MARGIN, seed: int = 0, n_boot: int = 10_000
) -> tuple[Evaluation, dict[str, Metric]]:
    """The evaluation with every number that its per-query scores give, and the metrics that a decision needs beside it.

    Raises
    ------
    Refused
        The scores give something else.
    """
    path = folder / _plain_name(evaluation.per_query)
    scores = _per_query(path)
    champion, challenger = (_numbers(scores, f"ndcg_{side}", str(path)) for side in ("champion", "challenger"))
    if "query_id" not in scores.columns or scores["query_id"].n_unique() != scores.height:
        raise Refused(f"{path}: a query occurs twice, or query_id is missing. Evaluate again.")
    found = paired_interval(challenger - champion, seed=seed, n_boot=n_boot, cluster=clusters_of(scores))
    pairs: list[tuple[str, float | None, float | None]] = [
        ("queries", evaluation.n_queries, scores.height),
        ("champion's NDCG", evaluation.ndcg_champion, float(champion.mean())),
        ("challenger's NDCG", evaluation.ndcg_challenger, float(challenger.mean())),
        *_interval_pairs(evaluation.ndcg_difference, found),
    ]
    for what, stored, real in pairs:
        if stored is None or real is None or abs(stored - real) > _TOLERANCE:
            raise Refused(f"cycle {evaluation.cycle_id}: {EVALUATION} says {what} {stored}, its per-query scores give {real}. Evaluate again.")
    recalls = {side: float(_numbers(scores, f"recall_{side}", str(path)).mean()) for side in ("champion", "challenger") if f"recall_{side}" in scores.columns}
    again = evaluation.model_copy(
        update={
            "n_queries": scores.height,
            "ndcg_champion": float(champion.mean()),
            "ndcg_challenger": float(challenger.mean()),
            "ndcg_difference": found,
            **{f"recall_{side}": mean for side, mean in recalls.items()},
            "resolvable": resolvable_effect(scores.height, found.sd) if found.sd else None,
            "power": power_sentence(scores.height, found.sd),
        }
    )
    if "slices" in scores.columns:
        members = {row["name"]: set(scores.filter(pl.col("slices").list.contains(row["name"]))["query_id"]) for row in evaluation.slices}
        again = again.model_copy(update={"slices": slice_differences(scores, members, seed=seed, resamples=n_boot)})
    if again.holdout is not None:
        again = again.model_copy(update={"holdout": seal_again(again, scores)})
    return again, recall_metric(scores, seed, n_boot) | slice_metric(scores, margin, seed, n_boot)


def _per_query(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}). Evaluate again.") from error


def _interval_pairs(stored: Interval, real: Interval) -> list[tuple[str, float | None, float | None]]:
    return [(f"difference {part}", getattr(stored, part), getattr(real, part)) for part in ("estimate", "low", "high", "p_value", "n")]


def _numbers(scores: pl.DataFrame, column: str, where: str) -> npt.NDArray[np.float64]:
    if column not in scores.columns or scores[column].null_count() or not scores[column].dtype.is_numeric():
        raise BadInput(f"{where}: column {column} is missing, not numeric, or has gaps. Evaluate again.")
    return scores[column].to_numpy().astype(np.float64)


def _plain_name(name: str) -> str:
    if _STEP.fullmatch(name):
        return name
    if not name or Path(name).name != name or name in (".", ".."):
        raise Refused(f"{name!r} is not the name of an artifact in its cycle's folder.")
    return name


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise Missing(f"{path}: cannot be read ({error.strerror}); it is evidence of a decision. Run the stage that writes it again.") from error
