"""A trial on live traffic, look by look: count what it has, judge its step, commit its next one.

What belongs here: reading and writing around ``experiment``. What must not: a margin, a level, the decision to release (``decide``).

::

    <cycle>/experiment.json                      the plan, the step that is on, every look: what survives a restart
    <cycle>/trial/<n>-<mode>/                    events of a step without names, and its result at the last look
    <cycle>/ab_test_results.json                 the newest result
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from predator_si.errors import Refused
from predator_si.experiment import judge_ab
from predator_si.experiment.evidence import anonymise, read_evidence, write_evidence
from predator_si.experiment.interleave import judge_interleave
from predator_si.experiment.plan import Experiment, ExperimentPlan, Step, after_look, begin, chain, counted_from, longest_of, reason_to_wait
from predator_si.experiment.shadow import judge_shadow
from predator_si.orchestration.delivery import bring_into_force
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.observe import frozen_sample
from predator_si.orchestration.traces import traced
from predator_si.records import CycleState, Deployment, ExperimentResult, ServingConfig, Verdict, utc_now
from predator_si.release.deploy import commit_step
from predator_si.release.latency import summarise_latency
from predator_si.release.patch import load_patch, save_patch
from predator_si.search.events import EventFrames, read_events
from predator_si.statistics.design import DEFAULT_DESIGN, Design

Progress = Callable[[int, int], None]
EXPERIMENT = "experiment.json"


@dataclass(frozen=True)
class Looked:
    """What one look found. ``times`` holds milliseconds of both arms where they were measured, which the end of a good trial needs."""

    result: ExperimentResult
    trial: Experiment
    times: dict[str, list[float]]


def design_of(loop: Loop) -> Design:
    """Levels and tuning of this contour."""
    return DEFAULT_DESIGN.replaced(loop.settings.experiment.design)


def trial_steps(loop: Loop) -> tuple[Step, ...]:
    """The chain that this contour runs."""
    said, scale = loop.settings.experiment, loop.plan.scale
    return chain(
        said.modes or (said.mode,),
        split=loop.settings.ab_split_ratio,
        ramp=said.ramp,
        shadow_share=said.shadow_share,
        interleave_share=said.interleave_share,
        min_samples=min(said.min_samples, scale.trial_requests) if scale.hurries else said.min_samples,
    )


def begin_trial(loop: Loop, cycle_id: str, now: datetime) -> Experiment:
    """Write down a trial that the service has just confirmed; one that is on already stays as it is.

    Raises
    ------
    Refused
        Another cycle's trial is on in this contour.
    """
    path = loop.artifacts(cycle_id) / EXPERIMENT
    if path.is_file():
        return Experiment.read(path)
    others = [one.cycle_id for one in loop.control.cycles(50, loop.contour) if one.state is CycleState.ON_TRIAL and one.cycle_id != cycle_id]
    known = [Experiment.read(file) for other in others if (file := loop.home.artifacts / other / EXPERIMENT).is_file()]
    trial = begin(_plan(loop, cycle_id), now, next((one for one in known if one.ended_at is None), None))
    loop.save(cycle_id, EXPERIMENT, trial)
    return trial


def open_trial(loop: Loop, cycle_id: str) -> Experiment:
    """The trial as far as it has come."""
    path = loop.artifacts(cycle_id) / EXPERIMENT
    if path.is_file():
        return Experiment.read(path)
    return begin(_plan(loop, cycle_id), Deployment.read(loop.artifacts(cycle_id) / "deployment-trial.json").created_at)


def _plan(loop: Loop, cycle_id: str) -> ExperimentPlan:
    champion, file, said = loop.serving(), loop.artifacts(cycle_id) / "challenger.json", loop.settings.experiment
    challenger = ServingConfig.read(file).model if file.is_file() else champion.model
    steps = trial_steps(loop)
    return ExperimentPlan(
        cycle_id=cycle_id,
        contour=loop.contour,
        champion=champion.model,
        challenger=challenger,
        same_model=champion.model == challenger,
        steps=steps,
        min_days=said.min_days,
        max_days=said.max_days,
        max_samples=max(said.max_samples, steps[-1].min_samples),
        novelty_days=said.novelty_days,
        design=design_of(loop),
    )


def trial_progress(loop: Loop, cycle_id: str) -> tuple[Experiment, int]:
    """The trial, and how many requests its step has."""
    trial = open_trial(loop, cycle_id)
    loop.flush()
    return trial, count(read_events(loop.home.events, trial.step_started_at, utc_now(), open_text=False), trial.now, counted_from(trial))


def count(events: EventFrames, step: Step, since: datetime) -> int:
    """Requests that count for a step's minimum."""
    after = pl.col("timestamp") >= since
    if step.mode == "shadow":
        return events.shadows.filter(after & (pl.col("role") == "candidate") & (pl.col("status") == "scored")).height
    if step.mode == "interleave":
        return events.exposures.filter(after & (pl.col("mode") == "interleave") & (pl.col("variant") == "interleaved") & ~pl.col("probe")).height
    return events.search.filter(after & ~pl.col("probe") & pl.col("stands_for").is_null()).height


@traced
def judge_trial(loop: Loop, cycle_id: str, on_progress: Progress | None = None) -> Looked:
    """One look at the step that is on: judged from the evidence on disk, written down, and followed by the next step or the end.

    At the end of a trial that shows no harm the latency of both arms is measured through the service, interleaved: the release decision needs it.

    Raises
    ------
    Refused
        No look is due: traffic or time is missing, or the step was only just committed.
    """
    folder = loop.artifacts(cycle_id)
    trial, requests = trial_progress(loop, cycle_id)
    if trial.ended_at is not None:
        return _told_again(loop, cycle_id, trial)
    if trial.step and follow(loop, cycle_id, trial) is not trial:
        raise Refused(f"trial of {cycle_id}: step {trial.step + 1} was only just committed. Wait for its traffic.")
    now = utc_now()
    waiting = reason_to_wait(trial, requests, now)
    if waiting is not None:
        raise Refused(f"trial of {cycle_id}: {waiting} so far. Wait for traffic, or replay some: `predator-si traffic replay`.")
    known = anonymise(read_events(loop.home.events, trial.step_started_at, now, open_text=False), trial.step_started_at, now)
    place = f"trial/{trial.step + 1}-{trial.now.mode}"
    evidence = write_evidence(folder, known, place)
    result = _judged(loop, trial, read_evidence(folder, evidence, lost=known.lost), requests, now).model_copy(update={"evidence": evidence})
    after = after_look(trial, result, requests, now)
    times = _measured(loop, cycle_id, on_progress) if after.verdict is Verdict.PROMOTE else {}
    (folder / place / "result.json").write_text(result.to_json())
    loop.save(cycle_id, "ab_test_results.json", result)
    loop.save(cycle_id, EXPERIMENT, after)
    payload = {"verdict": result.verdict.value, "requests": result.requests, "step": trial.step + 1, "mode": trial.now.mode, "share": trial.now.share}
    if after.ended_at is not None:
        loop.control.transition(cycle_id, CycleState.DECIDED, f"trial judged: {after.reason}", "loop", payload)
    else:
        loop.control.append("trial_look", "loop", cycle_id, result.reason, payload)
        after = follow(loop, cycle_id, after)
    return Looked(result, after, times)


def _told_again(loop: Loop, cycle_id: str, trial: Experiment) -> Looked:
    """What a run wrote down before it died: the cycle is told, nothing is judged twice."""
    folder = loop.artifacts(cycle_id)
    result = ExperimentResult.read(folder / "ab_test_results.json")
    times: dict[str, list[float]] = {}
    if trial.verdict is Verdict.PROMOTE:
        for arm, value in pl.read_parquet(folder / "latency.parquet").iter_rows():
            times.setdefault(arm, []).append(value)
    loop.control.transition(
        cycle_id, CycleState.DECIDED, f"trial judged: {trial.reason}", "loop", {"verdict": result.verdict.value, "requests": result.requests}
    )
    return Looked(result, trial, times)


def judged_so_far(loop: Loop, trial: Experiment, events: EventFrames, now: datetime) -> ExperimentResult:
    """What the step that is on says over the events given, without ending it, committing or writing anything."""
    return _judged(loop, trial, events, count(events, trial.now, counted_from(trial)), now)


def _judged(loop: Loop, trial: Experiment, events: EventFrames, requests: int, now: datetime) -> ExperimentResult:
    plan, step = trial.plan, trial.now
    last = trial.step == len(plan.steps) - 1
    common: dict[str, Any] = {
        "cycle_id": plan.cycle_id,
        "window_start": trial.step_started_at,
        "window_end": now,
        "now": now,
        "min_sample": step.min_samples,
        "longest": longest_of(trial, requests, now),
        "design": plan.design,
    }
    if step.mode == "shadow":
        return judge_shadow(events, plan.champion, plan.challenger, asks_proof=loop.contour != "local", **common)
    if step.mode == "interleave":
        return judge_interleave(events, plan.champion, plan.challenger, **common)
    return judge_ab(
        events,
        plan.champion,
        plan.challenger,
        split=step.share,
        contour=loop.contour if last else "local",  # a step of the ramp looks for harm; proof is for the last one
        seed=loop.plan.scale.seed,
        same_model=plan.same_model,
        novelty=counted_from(trial) - trial.step_started_at,
        **common,
    )


def follow(loop: Loop, cycle_id: str, trial: Experiment) -> Experiment:
    """See that the service serves the step that is on; the same trial when it does already, one that starts now when the step had to be committed.

    Raises
    ------
    Refused
        The service does not confirm it.
    """
    from predator_si.release.release_file import parse_release

    step, folder = trial.now, loop.artifacts(cycle_id)
    serving = parse_release(loop.release_text(), loop.release_name).reranker
    if serving.candidate is None:
        raise Refused(f"trial of {cycle_id}: the release file names no candidate any more; somebody took it off. Open a new cycle.")
    if (serving.candidate_mode, round(serving.candidate_weight, 6)) == (step.mode, round(step.share, 6)):
        return trial
    what = f"trial: step {trial.step + 1}, {step.mode} at {step.share:.0%} ({cycle_id})"
    patch = commit_step(
        loop.repo, load_patch(folder, "trial"), step.mode, step.share, f"{what}\n\n{trial.looks[-1].reason if trial.looks else ''}", trial.step + 1
    )
    save_patch(folder, patch)
    challenger = ServingConfig.read(folder / "challenger.json")
    found = bring_into_force(
        loop,
        challenger.model,
        "candidate",
        cycle_id=cycle_id,
        stage="trial",
        commit=patch.commit or "",
        settings=challenger,
    )
    if not found.confirmed:
        raise Refused(f"trial of {cycle_id}: {found.reason}. Mend the service; the step is then looked at again.")
    started = trial.model_copy(update={"step_started_at": utc_now()})
    loop.save(cycle_id, EXPERIMENT, started)
    loop.control.append("trial_step", "loop", cycle_id, what, {"commit": patch.commit, "step": trial.step + 1, "mode": step.mode, "share": step.share})
    return started


def _measured(loop: Loop, cycle_id: str, on_progress: Progress | None) -> dict[str, list[float]]:
    """Milliseconds of both arms through the service, and ``latency.json`` from them."""
    from predator_si.search.traffic import measure_latency

    folder, scale, now = loop.artifacts(cycle_id), loop.plan.scale, utc_now()
    texts = frozen_sample(loop.corpus.queries(split="dev", part="shift"), scale.latency_requests + 5, scale.seed)["text"].to_list()
    arms = measure_latency(loop.search_url, texts, ["champion", "candidate"], scale.latency_requests, warmup=2, on_progress=on_progress)
    times = {"champion": arms["champion"].tolist(), "challenger": arms["candidate"].tolist()}
    pl.DataFrame(
        {"arm": [arm for arm, values in times.items() for _ in values], "milliseconds": [value for values in times.values() for value in values]}
    ).write_parquet(folder / "latency.parquet")
    loop.flush()
    costs = _processor_seconds(read_events(loop.home.events, now, utc_now(), open_text=False).search)
    loop.save(cycle_id, "latency.json", summarise_latency(times["champion"], times["challenger"], seed=scale.seed, cpu_seconds=costs))
    return times


def _processor_seconds(probes: pl.DataFrame) -> tuple[list[float], list[float]]:
    """Processor time of the searches that measured the latency, by arm: the same queries for both, one after the other."""
    timed = probes.filter(pl.col("probe") & pl.col("stands_for").is_null() & pl.col("cpu_seconds").is_not_null())
    champion, challenger = (timed.filter(pl.col("variant") == name)["cpu_seconds"].to_list() for name in ("champion", "candidate"))
    return champion, challenger
