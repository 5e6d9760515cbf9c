"""Every verdict of a cycle again from what is stored: the same bit by bit, or the first thing that differs.

What belongs here: recomputing and comparing. What must not: changing anything, committing, asking whether a verdict may still be acted upon
(``recompute`` does that before a patch).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from predator_si.errors import BadInput, Missing, PredatorError
from predator_si.experiment import judge_again
from predator_si.experiment.evidence import read_evidence
from predator_si.records import Decision, Evaluation, ExperimentResult, Record, WatchResult
from predator_si.release.decide import decide_promote, decide_trial
from predator_si.release.recompute import EVALUATION, EXPERIMENT, checked_evidence, decision_name, read_steps, recompute_evaluation
from predator_si.release.watch import WatchCheck, WatchPlan, judge_watch
from predator_si.release.watch_evidence import count_again

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Replayed:
    """One verdict: ``difference`` names the first thing that is not the same again; null where all is."""

    name: str
    difference: str | None

    @property
    def same(self) -> bool:
        """Whether it came out the same."""
        return self.difference is None


def replay_cycle(
    folder: Path,
    *,
    noted: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    n_boot: int = 10_000,
    on_progress: Progress | None = None,
) -> list[Replayed]:
    """All verdicts that lie in a cycle's folder, in the order in which they were made: evaluation, trial by step, decisions, watch.

    Each is judged by what it was given when it was made, which its record holds: a contour that was edited since changes nothing.

    Parameters
    ----------
    noted
        By stage: what the ledger says that a decision was given. A record that says something else was edited.
    seed, n_boot
        Of the evaluation's bootstrap.

    Raises
    ------
    Missing
        The folder holds no verdict at all.
    """
    folder, noted = Path(folder), noted or {}
    steps = sorted(path.relative_to(folder).as_posix() for path in folder.glob("trial/*/result.json"))
    jobs: list[tuple[str, Callable[[], str | None]]] = [
        (EVALUATION, lambda: _evaluation(folder, seed, n_boot)),
        (decision_name("trial"), lambda: _decision(folder, "trial", noted, seed, n_boot)),
        *((name, lambda name=name: _trial(folder, name)) for name in [*steps, EXPERIMENT]),  # type: ignore[misc]
        (decision_name("promote"), lambda: _decision(folder, "promote", noted, seed, n_boot)),
        ("watch.json", lambda: _watch(folder)),
    ]
    there = [(name, job) for name, job in jobs if (folder / name).is_file()]
    if not there:
        raise Missing(f"{folder}: there is no verdict to judge again. `predator-si cycle list` shows the cycles of this home.")
    found = []
    for done, (name, job) in enumerate(there, start=1):
        try:
            found.append(Replayed(name, job()))
        except PredatorError as error:
            found.append(Replayed(name, str(error)))
        if on_progress is not None:
            on_progress(done, len(there))
    return found


def first_difference(stored: Any, again: Any, place: str = "") -> str | None:
    """Where two JSON values differ first, with both values; null where they are the same."""
    if isinstance(stored, dict) and isinstance(again, dict):
        for key in [*stored, *(key for key in again if key not in stored)]:
            here = f"{place}.{key}" if place else str(key)
            if key not in stored or key not in again:
                return f"{here} is only in the {'recomputed' if key not in stored else 'stored'} record"
            found = first_difference(stored[key], again[key], here)
            if found is not None:
                return found
        return None
    if isinstance(stored, list) and isinstance(again, list):
        for number, (one, other) in enumerate(zip(stored, again, strict=False)):
            found = first_difference(one, other, f"{place}[{number}]")
            if found is not None:
                return found
        return None if len(stored) == len(again) else f"{place} has {len(stored)} entries, recomputed {len(again)}"
    same = stored == again and isinstance(stored, bool) == isinstance(again, bool)
    return None if same else f"{place}: stored {json.dumps(stored)}, recomputed {json.dumps(again)}"


def trial_again(folder: Path, result: ExperimentResult) -> str | None:
    """Judge a trial's result again from its evidence; the first difference, null where it is the same bit by bit.

    Raises
    ------
    PredatorError
        The evidence is missing or was touched, or the result kept none.
    """
    if not result.evidence:
        raise BadInput(f"the trial's result of {result.cycle_id} names no evidence; it was judged by an earlier version, or written by hand. Judge it again.")
    return _compared(result, judge_again(result, read_evidence(folder, result.evidence, lost=int(result.inputs.get("lost", 0)))))


def _compared(stored: Record, again: Record) -> str | None:
    return None if stored.to_json() == again.to_json() else first_difference(stored.model_dump(mode="json"), again.model_dump(mode="json")) or "number formats"


def _trial(folder: Path, name: str) -> str | None:
    return trial_again(folder, ExperimentResult.read(folder / name))


def _evaluation(folder: Path, seed: int, n_boot: int) -> str | None:
    stored = Evaluation.read(folder / EVALUATION)
    again, _ = recompute_evaluation(folder, stored, seed=seed, n_boot=n_boot)
    return _compared(stored, again)


def _decision(folder: Path, stage: Literal["trial", "promote"], noted: Mapping[str, Mapping[str, Any]], seed: int, n_boot: int) -> str | None:
    stored = Decision.read(folder / decision_name(stage))
    if not stored.given:
        raise BadInput(f"{folder / decision_name(stage)}: it holds no inputs; it was decided by an earlier version. Decide again, and it will.")
    if stage in noted and stored.given != noted[stage]:
        return first_difference(noted[stage], stored.given, "given (stored: by the ledger)")
    evaluation, experiment, latency = checked_evidence(folder, stored, stage)
    evaluation, extra = recompute_evaluation(folder, evaluation, stored.given["margin"], seed, n_boot)
    common: dict[str, Any] = {
        "policy": stored.policy,
        "approval_required": stored.approval_required,
        "latency": latency,
        "evidence": stored.evidence,
        "extra": extra,
        "drill": stored.drill,
        "now": stored.created_at,
        **stored.given,
    }
    if stage == "trial":
        again = decide_trial(evaluation, **common)
    else:
        again = decide_promote(evaluation, experiment, earlier=read_steps(folder, stored.evidence), **common)
    return _compared(stored, again.model_copy(update={"approved_by": stored.approved_by, "approved_at": stored.approved_at}))


def _watch(folder: Path) -> str | None:
    stored = WatchResult.read(folder / "watch.json")
    if not stored.plan:
        raise BadInput(f"{folder / 'watch.json'}: it holds no plan; it was judged by an earlier version. Watch on, and it will.")
    plan, checks = WatchPlan.model_validate(stored.plan), [WatchCheck.model_validate(check) for check in stored.checks]
    for number, check in enumerate(checks):
        found = first_difference(check.model_dump(mode="json"), count_again(folder, plan, check).model_dump(mode="json"), f"checks[{number}]")
        if found is not None:
            return found
    return _compared(stored, judge_watch(plan, checks, stored.created_at))


def analysis_of(replayed: Sequence[Replayed], decision: Decision | None, result: ExperimentResult | None, watch: WatchResult | None) -> dict[str, Any]:
    """What an Argo Rollouts analysis asks of a cycle: one object of plain values, for ``web`` metrics by ``jsonPath``.

    A ``job`` metric takes the command's exit code instead.

    ``successCondition: result.verdict == "promote"``, ``failureCondition: result.verdict == "reject"``; anything else is inconclusive. The newest word
    counts: the watch's after a release (keep is promote, rollback is reject), else that of the decision to release, else the trial's, else that of the
    decision to try. Promote is the word of a decision to release, once a person approved it where one has to, and of the watch alone: what may be tried, and
    what a step of its trial did not harm, is not released yet. A verdict that does not come out the same again is none.

    Returns
    -------
    dict
        ``verdict`` promote / reject / inconclusive, ``value`` 1 / 0 / 0.5, ``stage``, ``reason``, ``reproducible``, ``cycle_id``, ``requests``,
        ``failed_gates``.
    """
    words = {"keep": "promote", "rollback": "reject", "continue": "inconclusive"}
    newest: tuple[str, str, str, Sequence[Any]]
    if watch is not None:
        newest = ("watch", words[watch.answer], watch.reason, watch.gates)
    elif result is not None and (decision is None or decision.stage == "trial"):
        newest = ("experiment", result.verdict.value, result.reason, [*result.quality, *result.guardrails])
    elif decision is not None:
        newest = (decision.stage, decision.verdict.value, decision.reason, decision.gates)
    else:
        newest = ("none", "inconclusive", "nothing was judged yet", [])
    stage, verdict, reason, gates = newest
    if verdict == "promote" and stage in ("trial", "experiment"):
        verdict, reason = "inconclusive", f"the release is not decided yet; so far: {reason}"
    elif verdict == "promote" and watch is None and decision is not None and decision.approval_required and decision.approved_by is None:
        verdict, reason = "inconclusive", f"the release waits for a person's approval: {reason}"
    broken = next((one for one in replayed if not one.same), None)
    if broken is not None:
        verdict, reason = "inconclusive", f"{broken.name} does not come out the same again: {broken.difference}"
    return {
        "verdict": verdict,
        "value": {"promote": 1.0, "reject": 0.0}.get(verdict, 0.5),
        "stage": stage,
        "reason": reason,
        "reproducible": broken is None,
        "cycle_id": next((one.cycle_id for one in (watch, decision, result) if one is not None), None),
        "requests": watch.requests if watch is not None else sum(result.requests.values()) if result is not None else 0,
        "failed_gates": [gate.criterion.name for gate in gates if gate.answer == "fail"],
    }
