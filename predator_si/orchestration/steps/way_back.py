"""What the way back meets: the next cycle's trial in its road, and a service that did not say in time that the old model is back.

What belongs here: clearing the road before a rollback, asking again after one. What must not: the rollback itself (``keep``).
"""

from __future__ import annotations

from collections.abc import Sequence

from predator_si.control.states import ACTIVE
from predator_si.errors import Refused
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import aliases, decide
from predator_si.records import CycleState, HelmPatch, Rollback, utc_now
from predator_si.release.deploy import confirm
from predator_si.release.patch import apply_patch, load_patch, make_rollback, rollback_changes
from predator_si.release.rollback import STAGE
from predator_si.train.tracking import ExperimentTracker

_CYCLES = 50


def make_way(loop: Loop, cycle_id: str, patches: Sequence[HelmPatch], reason: str) -> str | None:
    """End the trial of the cycle that came after, which stands in the release file where ``patches`` stood; its cycle is cancelled.

    What it was compared with goes, so it is over whatever it has shown. Asks no lease and waits for no service: the rollback behind it does. Git is changed
    before the cycle's state, so a run that was killed in between is finished by the next one.

    Returns
    -------
    str or None
        The cycle that was cancelled; null where none was in the way, or this rollback is committed already.

    Raises
    ------
    Refused
        Somebody changed a key of that trial, or of ``patches``: nothing has happened then. Or that cycle was released at this very moment.
    """
    loop.repo.sync()
    other = loop.control.active_cycle(loop.contour)
    if other is None or other.cycle_id == cycle_id or loop.repo.find_commit(cycle_id, STAGE) is not None:
        return None
    if loop.repo.find_commit(other.cycle_id, "trial") is None or loop.repo.find_commit(other.cycle_id, "promote") is not None:
        return None
    text, trial = loop.repo.show(loop.release_name), load_patch(loop.artifacts(other.cycle_id), "trial")
    rollback_changes(apply_patch(text, make_rollback(text, [trial])), patches)  # refused before anything happens, not when the trial has gone
    why = f"{cycle_id}, which it was compared with, is taken back: {reason}"[:1000]
    decide.end_trial(loop, other.cycle_id, why, wait=False)
    if loop.repo.find_commit(other.cycle_id, STAGE) is None and loop.repo.find_commit(other.cycle_id, "promote") is not None:
        raise Refused(f"cycle {other.cycle_id} was released over {cycle_id} at this moment. Take that release back first.")
    loop.control.close_approval(other.cycle_id, "cancelled", why)
    try:
        loop.control.transition(other.cycle_id, CycleState.CANCELLED, why, "loop", {"taken_back": cycle_id})
    except Refused:
        if loop.control.cycle(other.cycle_id).state in ACTIVE:
            raise  # otherwise somebody ended it at the same moment
    return other.cycle_id


def confirm_again(loop: Loop, tracker: ExperimentTracker | None = None) -> Rollback | None:
    """Ask the service once more for the newest rollback, where it had not confirmed it in time, as each tick does. Nothing waits here.

    Once the service reports the old model the stored rollback is verified, the ledger has one record of it, and the aliases follow.

    Returns
    -------
    Rollback or None
        As it stands now; null where the newest one was confirmed before, or something else is released since.
    """
    from predator_si.orchestration.steps.keep import write_report
    from predator_si.orchestration.tracking import existing_tracker

    found = _newest(loop)
    if found is None or found.verified or loop.serving().model != found.to_digest:
        return None
    cycle_id, expected, commit = found.cycle_id, loop.released(), found.commit or ""
    told = confirm(f"{loop.search_url}/info", found.to_digest, "champion", 0.0, cycle_id=cycle_id, stage="rollback", commit=commit, settings=expected)
    if not told.confirmed:
        return found
    now = utc_now()
    seconds = found.seconds + max(0.0, (now - found.created_at).total_seconds())
    reason = f"{found.reason}; confirmed at {now:%Y-%m-%d %H:%M} UTC"
    if not any((record.action, record.payload.get("commit")) == ("rollback_confirmed", found.commit) for record in loop.control.records(500, cycle_id)):
        payload = {"commit": found.commit, "to": found.to_digest, "seconds": seconds}
        loop.control.append("rollback_confirmed", "loop", cycle_id, f"the service reports {found.to_digest}", payload)
    aliases.settle(loop, tracker or existing_tracker(loop.home), cycle_id)
    verified = found.model_copy(update={"verified": True, "seconds": seconds, "reason": reason})
    loop.save(cycle_id, "rollback.json", verified)  # last of all: a run that dies before is made up for by the next tick
    write_report(loop, cycle_id)
    return verified


def _newest(loop: Loop) -> Rollback | None:
    """The contour's newest rollback, of its newest cycles."""
    paths = (loop.home.artifacts / cycle.cycle_id / "rollback.json" for cycle in loop.control.cycles(_CYCLES, loop.contour))
    return max((Rollback.read(path) for path in paths if path.is_file()), key=lambda one: one.created_at, default=None)
