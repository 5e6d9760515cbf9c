"""The two roads of a drill's cycle, by the loop's own steps.

``whole``: a champion that only guesses, from the opening of a cycle through diagnosis, data, training, trial and release to the end of its watch, past no gate.
``way back``: a damaged model is released past the gates, watched, and taken back.

What belongs here: calling the steps that the assets call, in their order. What must not: a step of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import polars as pl

from predator_si.errors import Refused, Unavailable
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import decide, improve, keep, observe, prepare, trial
from predator_si.records import CycleState, Deployment, Rollback, ServingConfig, Trigger, WatchResult, utc_now
from predator_si.search.events import read_events
from predator_si.train.tracking import ExperimentTracker

Wait = Callable[[str, float, float, int], object]
"""``wait(digest, since, seconds, n)`` until ``n`` searches were answered by a model since then (``Load.wait_for``)."""
REASON = "drill: a deliberately damaged model"
WHY = "drill: the champion only guesses"
ENDED = frozenset({CycleState.STABLE, CycleState.REJECTED, CycleState.ROLLED_BACK, CycleState.FAILED, CycleState.CANCELLED})
_MOST_CHECKS = 8
_SLOWEST = 120.0
"""Seconds that a check's traffic may take."""


def open_drill(loop: Loop, bad: str) -> str:
    """A cycle opened as a drill whose challenger is ``bad``, evaluated on dev queries; its id."""
    before = loop.serving()
    trigger = Trigger(type="ndcg_at_10_down", metric="ndcg_at_10", value=None, baseline=None, delta=None, actions=("drill",), reason=REASON)
    cycle_id = loop.control.open_cycle(loop.contour, trigger, "drill", REASON).cycle_id
    improve.evaluate_drill(loop, cycle_id, ServingConfig(model=bad, depth=before.depth, fusion_weight=before.fusion_weight))
    return cycle_id


def open_road(loop: Loop) -> str:
    """A snapshot of what serves, and a cycle opened for its NDCG@10, with no model of a drill: it must earn its release. Its id."""
    snapshot = observe.take_snapshot(loop)
    value = snapshot.metrics["ndcg_at_10"].value
    trigger = Trigger(type="ndcg_at_10_down", metric="ndcg_at_10", value=value, baseline=None, delta=None, actions=("retrain_reranker",), reason=WHY)
    return loop.control.open_cycle(loop.contour, trigger, "drill", WHY).cycle_id


def is_damaged(loop: Loop, cycle_id: str) -> bool:
    """Whether a cycle was given a damaged model, which goes past the gates and back."""
    return any(record.action == "drill_model" for record in loop.control.records(500, cycle_id=cycle_id))


def improve_until_trial(loop: Loop, cycle_id: str, tracker: ExperimentTracker) -> None:
    """From wherever a cycle stands before its trial to the trial, or to its end: what the jobs of its states do."""
    control = loop.control
    if control.cycle(cycle_id).state is CycleState.OPENED:
        with loop.working_on(cycle_id):
            prepare.report_causes(loop, cycle_id)
        with loop.working_on(cycle_id):
            prepare.build_data(loop, cycle_id)
    if control.cycle(cycle_id).state is CycleState.PREPARED:
        with loop.working_on(cycle_id):
            improve.train_model(loop, cycle_id, tracker)
        with loop.working_on(cycle_id):
            improve.shrink_model(loop, cycle_id, tracker)
    if control.cycle(cycle_id).state is CycleState.TRAINED:
        with loop.working_on(cycle_id):
            improve.evaluate_challenger(loop, cycle_id)
    if control.cycle(cycle_id).state is CycleState.EVALUATED:
        with loop.working_on(cycle_id):
            decide.decide(loop, cycle_id, "trial", tracker=tracker)
        if control.cycle(cycle_id).state is CycleState.EVALUATED:
            with loop.working_on(cycle_id):
                decide.commit(loop, cycle_id, "trial")
                decide.deploy(loop, cycle_id, "trial", tracker)


def judge(loop: Loop, cycle_id: str) -> None:
    """Looks at a trial, each once its traffic is there, until it has ended.

    Raises
    ------
    Unavailable
        Its traffic does not come.
    """
    deadline = time.monotonic() + _SLOWEST
    while loop.control.cycle(cycle_id).state is CycleState.ON_TRIAL:
        try:
            with loop.working_on(cycle_id):
                trial.judge_trial(loop, cycle_id)
        except (Refused, Unavailable) as error:  # traffic is missing, or the service is down on purpose
            if time.monotonic() > deadline:
                raise Unavailable(f"trial of {cycle_id}: no end within {_SLOWEST:g} s ({error}).") from error
            time.sleep(0.5)


def release(loop: Loop, cycle_id: str, tracker: ExperimentTracker, *, drill: bool = True) -> Deployment:
    """Decision, commit and deployment, as ``cycle_release_job`` does them.

    Raises
    ------
    Refused
        The decision allows none; never for a ``drill``.
    """
    with loop.working_on(cycle_id):
        decision = decide.decide(loop, cycle_id, "promote", drill=drill, tracker=tracker)
    if loop.control.cycle(cycle_id).state is CycleState.REJECTED:
        raise Refused(f"cycle {cycle_id}: {decision.reason}")
    with loop.working_on(cycle_id):
        decide.commit(loop, cycle_id, "promote", allow_drill=drill)
    with loop.working_on(cycle_id):
        return decide.deploy(loop, cycle_id, "promote", tracker)


def watch(loop: Loop, cycle_id: str, wait: Wait, tracker: ExperimentTracker) -> WatchResult:
    """Checks of the watch over real traffic until it keeps the release or asks for its rollback.

    Raises
    ------
    Unavailable
        It does neither in :data:`_MOST_CHECKS` checks.
    """
    folder, plan = loop.artifacts(cycle_id), keep.watch_plan(loop, cycle_id)
    wanted = -(-plan.min_requests // plan.planned_checks)
    since = Deployment.read(folder / "deployment.json").created_at
    for _ in range(_MOST_CHECKS):
        wait(plan.released_digest, since.timestamp(), _SLOWEST, wanted)
        result = keep.watch_once(loop, cycle_id, tracker=tracker)
        if result.answer in ("keep", "rollback"):
            return result
        since = result.created_at
    raise Unavailable(f"cycle {cycle_id}: {_MOST_CHECKS} checks of the watch found neither a good nor a bad release: {result.reason}")


def take_back(loop: Loop, cycle_id: str, tracker: ExperimentTracker) -> Rollback:
    """The way back, as ``rollback_job`` goes it."""
    return keep.roll_back_degraded(loop, cycle_id, tracker)


def resume(loop: Loop, cycle_id: str, wait: Wait, tracker: ExperimentTracker) -> CycleState:
    """Go on with a drill's cycle from wherever it stands until it has ended, as the sensors would; where it ended."""
    damaged = is_damaged(loop, cycle_id)
    if not damaged:
        improve_until_trial(loop, cycle_id, tracker)
        judge(loop, cycle_id)
    state = loop.control.cycle(cycle_id).state
    if state is CycleState.DECIDED or (damaged and state is CycleState.EVALUATED):
        try:
            release(loop, cycle_id, tracker, drill=damaged)
        except Refused:
            if loop.control.cycle(cycle_id).state is not CycleState.REJECTED:
                raise
        state = loop.control.cycle(cycle_id).state
    if state in (CycleState.RELEASED, CycleState.WATCHING):
        path = loop.artifacts(cycle_id) / "watch.json"
        answer = WatchResult.read(path).answer if path.is_file() else None
        if answer != "rollback":
            answer = watch(loop, cycle_id, wait, tracker).answer
        if answer == "rollback":
            take_back(loop, cycle_id, tracker)
    return loop.control.cycle(cycle_id).state


def wait_by_events(loop: Loop) -> Wait:
    """A ``Wait`` for a process that has no clients of its own: it counts what the service wrote down."""

    def wait(digest: str, since: float, seconds: float, n: int) -> None:
        began, deadline = datetime.fromtimestamp(since, UTC), time.monotonic() + seconds
        while True:
            try:
                loop.flush()
                seen = read_events(loop.home.events, began, utc_now(), open_text=False).search
                seen = seen.filter((pl.col("timestamp") > began) & ~pl.col("probe") & (pl.col("model_digest") == digest))
                if seen.height >= n:
                    return
            except Unavailable:
                seen = pl.DataFrame()  # the service is down, perhaps on purpose
            if time.monotonic() > deadline:
                raise Unavailable(f"{seen.height} of {n} searches were answered by {digest} within {seconds:g} s.")
            time.sleep(0.5)

    return wait
