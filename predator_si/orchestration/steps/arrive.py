"""What another contour promoted to us: its bytes are fetched, and its release is watched, kept or taken back here like one of our own.

What belongs here: seeing it in Git, and opening the cycle that watches it. What must not: proposing and committing it (``onward``, in the other contour),
watching (``keep``).
"""

from __future__ import annotations

from predator_si.errors import Missing, PredatorError
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import aliases
from predator_si.orchestration.steps.champions import note_champion
from predator_si.records import Cycle, CycleState, Decision, Trigger, Verdict, utc_now
from predator_si.release.arrivals import ChampionChange, champion_change, patch_of
from predator_si.release.deploy import confirm
from predator_si.release.patch import save_patch
from predator_si.release.recompute import decision_name
from predator_si.release.release_file import parse_release

TRIGGER = "arrival"
ARRIVAL = "arrival.json"
_ACTOR = "arrival_sensor"
_CYCLES = 50
_SERVES = (CycleState.RELEASED, CycleState.WATCHING, CycleState.STABLE)


def look(loop: Loop) -> list[str]:
    """Fetch what Git names and the store lacks, and take a promotion that another contour committed under our own watch; what was done, or is waited for."""
    _ = loop.plan  # a home in which nothing is prepared stays as it is
    loop.repo.sync()
    told = fetch_missing(loop)
    change = champion_change(loop.repo, loop.release_name)
    line = None
    if change is not None and change.contour not in (None, loop.contour):
        line = _watched(loop, change) if change.stage == "promote" else _taken_back(loop, change) if change.stage == "rollback" else None
    else:
        _end_unfinished(loop)
    return told + ([line] if line is not None else [])


def fetch_missing(loop: Loop) -> list[str]:
    """Fetch each model that our release file names and our store lacks, where a shared place is configured; a line each. Search service and reconciler
    find it by their next look.
    """
    from predator_si.orchestration.shared_models import SharedModels

    reranker = parse_release(loop.repo.show(loop.release_name), loop.release_name).reranker
    missing = [digest for digest in (reranker.champion, reranker.candidate, reranker.shadow) if digest is not None and digest not in loop.models]
    place, told = loop.settings.values.promotion.store, []
    for digest in missing:
        if place is None:
            told.append(f"{digest} is not in {loop.models.root}, and promotion.store names no place to fetch it from")
            continue
        try:
            SharedModels(place).fetch(loop.models, digest)
        except PredatorError as error:
            told.append(f"unknown: {error}")
        else:
            loop.control.append("model_fetched", "loop", None, f"{digest} from {place}", {"digest": digest})
            told.append(f"{digest} was fetched from {place}")
    return told


def is_arrival(cycle: Cycle) -> bool:
    """Whether a cycle watches what another contour committed."""
    return cycle.trigger.type == TRIGGER


def _watched(loop: Loop, change: ChampionChange) -> str | None:
    """Open the cycle that watches ``change``, once; null where it is open already."""
    cycle = _cycle_of(loop, change.commit)
    if cycle is not None and cycle.state is not CycleState.OPENED:
        return None
    digest = change.after.model
    if digest not in loop.models:
        return f"{change.contour} promoted {digest}, whose bytes are not here yet"
    served = confirm(f"{loop.search_url}/info", digest, "champion", 0.0, cycle_id="", stage="promote", commit=change.commit)
    if not served.confirmed:
        return f"{change.contour} promoted {digest}, which does not serve yet: {served.reason}"
    active = loop.control.active_cycle(loop.contour)
    if cycle is None and active is not None and not (is_arrival(active) and active.state is CycleState.OPENED):
        _supersede(loop, active, change)
        active = None
    if cycle is None:
        reason = f"{change.contour} promoted {digest[7:19]} to us: {change.subject}"[:1000]
        trigger = Trigger(type=TRIGGER, metric="champion", value=None, baseline=None, delta=None, actions=("watch",), reason=reason)
        cycle = active or loop.control.open_cycle(loop.contour, trigger, _ACTOR, reason)
    cycle_id = cycle.cycle_id
    decision = Decision(
        cycle_id=cycle_id, stage="promote", verdict=Verdict.PROMOTE, gates=[], policy=change.policy or "unknown", approval_required=True,
        approved_by=change.approved_by, champion=change.before, challenger=change.after, reason=change.subject, created_at=utc_now(),
    )  # fmt: skip
    loop.save(cycle_id, ARRIVAL, change)
    loop.save(cycle_id, "challenger.json", change.after)
    loop.save(cycle_id, decision_name("promote"), decision)
    save_patch(loop.artifacts(cycle_id), patch_of(loop.repo, change, loop.release_name, cycle_id))
    loop.save(cycle_id, "deployment.json", served.model_copy(update={"cycle_id": cycle_id}))
    payload = {"commit": change.commit, "from": change.contour, "source": change.source, "digest": digest}
    loop.control.transition(cycle_id, CycleState.RELEASED, f"{change.contour} committed it, and it serves here", _ACTOR, payload)
    note_champion(loop, cycle_id, cycle.reason[:1000], change.commit)
    _settle(loop, cycle_id)
    return f"{cycle_id} watches {digest}, which {change.contour} promoted"


def _taken_back(loop: Loop, change: ChampionChange) -> str | None:
    """The contour that had promoted it took it back itself: our watch of it is over. Nothing is denied: it judged its own promotion, not the model here."""
    for cycle in loop.control.cycles(_CYCLES, loop.contour):
        known = _arrival(loop, cycle)
        if known is not None and cycle.state in _SERVES and (known.contour, known.cycle_id) == (change.contour, change.cycle_id):
            loop.control.transition(
                cycle.cycle_id, CycleState.ROLLED_BACK, f"{change.contour} took it back: {change.subject}", _ACTOR, {"commit": change.commit}
            )
            note_champion(loop, cycle.cycle_id, f"rolled back by {change.contour}"[:1000], change.commit)
            _settle(loop, cycle.cycle_id)
            return f"{cycle.cycle_id}: {change.contour} took it back"
    _end_unfinished(loop)
    return None


def require_serving(loop: Loop, cycle_id: str) -> None:
    """Raise ``Missing`` where another contour's promotion has taken the place of this cycle's release: then there is nothing of it to take back."""
    loop.repo.sync()
    change = champion_change(loop.repo, loop.release_name)
    arrival = _arrival(loop, loop.control.cycle(cycle_id))
    if change is None or change.stage != "promote" or change.contour in (None, loop.contour) or (arrival is not None and arrival.commit == change.commit):
        return
    raise Missing(f"cycle {cycle_id}: {change.contour} promoted {change.after.model} over its release ({change.commit[:12]}), so nothing of it serves.")


def _supersede(loop: Loop, cycle: Cycle, change: ChampionChange) -> None:
    """End our own cycle: what it was judged against does not serve any more, and a release of it was replaced."""
    reason = f"{change.contour} promoted {change.after.model} over it"
    loop.control.close_approval(cycle.cycle_id, "cancelled", reason)
    to = CycleState.FAILED if cycle.state in (CycleState.RELEASED, CycleState.WATCHING) else CycleState.CANCELLED
    loop.control.transition(cycle.cycle_id, to, reason, _ACTOR, {"commit": change.commit})


def _end_unfinished(loop: Loop) -> None:
    """A cycle that was opened for a promotion which has gone before anything was written of it."""
    active = loop.control.active_cycle(loop.contour)
    if active is not None and is_arrival(active) and active.state is CycleState.OPENED:
        loop.control.transition(active.cycle_id, CycleState.CANCELLED, "what it was opened for does not serve any more", _ACTOR)


def _cycle_of(loop: Loop, commit: str) -> Cycle | None:
    for cycle in loop.control.cycles(_CYCLES, loop.contour):
        known = _arrival(loop, cycle)
        if known is not None and known.commit == commit:
            return cycle
    return None


def _arrival(loop: Loop, cycle: Cycle) -> ChampionChange | None:
    path = loop.home.artifacts / cycle.cycle_id / ARRIVAL
    return ChampionChange.read(path) if is_arrival(cycle) and path.is_file() else None


def _settle(loop: Loop, cycle_id: str) -> None:
    from predator_si.orchestration.tracking import existing_tracker

    aliases.settle(loop, existing_tracker(loop.home), cycle_id)
