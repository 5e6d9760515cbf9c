"""From contour to contour: a release that proved itself here is proposed to the next one, and committed there once a person agrees.

What belongs here: the proposal, its commit, its confirmation, its way back. What must not: what happens inside a contour (``decide``, ``keep``).

Each promotion is a cycle of its own in the *next* contour, with its own decision, approval, patch of that contour's release file, and way back; the two
contours never share a commit. What it rests on is the first contour's evidence, named by hash. Watching it is the next contour's own loop's business:
nobody here sees its traffic (``arrive``, in that contour's own home). The model's bytes are brought to a place that both can reach before the commit names
them. A model that was taken back there is not proposed there again, and stays allowed here.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

from predator_si.errors import BadInput, Missing, PredatorError, Refused
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.shared_models import SharedModels
from predator_si.orchestration.steps import approve, permission
from predator_si.records import Cycle, CycleState, Decision, Deployment, HelmPatch, Record, Rollback, ServingConfig, Verdict, WatchResult, utc_now
from predator_si.release.deny import check_allowed, parse_deny
from predator_si.release.deploy import commit_patch, confirm, evidence_hash, verdict_trailers
from predator_si.release.patch import load_patch, make_patch, promote_changes, save_patch
from predator_si.release.recompute import decision_name
from predator_si.release.release_file import DENY_FILE, ReleaseFile, parse_release, release_name
from predator_si.release.rollback import rollback

TRIGGER = "promotion"
PROPOSAL = "promotion.json"
_CUT_SHORT = timedelta(minutes=10)
"""A proposal takes seconds: one that is still without its record by then was killed."""
_RESTS_ON = ("decision-promote.json", "watch.json", "evaluation.json", "ab_test_results.json")


class Proposal(Record):
    """``promotion.json``: what is to go where, and what it rests on."""

    cycle_id: str
    source_cycle: str
    source_contour: str
    to: str
    challenger: ServingConfig
    evidence: dict[str, str]
    """``<source cycle>/<file>`` -> sha256."""


def propose(loop: Loop, source_cycle: str, actor: str = "loop") -> Cycle:
    """Open the promotion of a stable release to the next contour, and ask a person; one that is proposed already stays as it is.

    Raises
    ------
    Refused
        No next contour, no address of its service or no way for the model's bytes, the release is not stable or does not serve any more, a trial is on
        there, the model is denied, was taken back there, or serves there already.
    """
    said = loop.settings.values.promotion
    if said.to is None or said.search is None or said.store is None:
        lacks = "to names no contour"
        if said.to is not None and said.search is None:
            lacks = f"search names no address of {said.to}'s search service, so nobody could say what it serves"
        elif said.to is not None:
            lacks = f"store names no place that {said.to} can fetch the model from, so its service could not load what the commit names"
        raise Refused(f"contour {loop.contour}: promotion.{lacks}. Set it in the contour's values.")
    source = loop.control.cycle(source_cycle)
    if source.contour != loop.contour or source.state is not CycleState.STABLE:
        raise Refused(f"cycle {source_cycle} is {source.state.value} in contour {source.contour}; only a stable release of {loop.contour} is promoted.")
    decision = Decision.read(loop.artifacts(source_cycle) / decision_name("promote"))
    if decision.drill:
        raise Refused(f"cycle {source_cycle} was a drill; nothing of it is promoted.")
    if not (loop.artifacts(source_cycle) / "evaluation.json").is_file():
        raise Refused(f"cycle {source_cycle} has no evaluation in this home: another contour proved its model. Promote it from there.")
    loop.repo.sync()
    file = release_name(said.to)
    there = parse_release(loop.repo.show(file), file)
    challenger = decision.challenger.model_copy(update={"index": None, "ingest_workers": None, "replicas": None})  # those are each contour's own
    _require_promotable(loop, challenger.model, there, said.to)
    before = loop.control.cycles(200, said.to)
    for known in before:
        if (loop.home.artifacts / known.cycle_id / PROPOSAL).is_file() and _proposal(loop, known.cycle_id).challenger.model == challenger.model:
            if known.state in (CycleState.AWAITING_APPROVAL, CycleState.OPENED, CycleState.RELEASED):
                return known
            if known.state in (CycleState.ROLLED_BACK, CycleState.REJECTED, CycleState.FAILED):
                raise Refused(f"{challenger.model} was {known.state.value} in contour {said.to} (cycle {known.cycle_id}: {known.reason}). Promote another one.")
    reason = f"{source_cycle} is stable in {loop.contour}: {decision.reason}"
    trigger = source.trigger.model_copy(update={"type": TRIGGER, "actions": (TRIGGER,), "reason": reason})
    ruled = permission.ruling(loop, "promote_next")
    if ruled.answer == "deny":
        raise Refused(f"{source_cycle} is not promoted: {ruled.reason}.")
    shown: dict[str, Any] = {
        **approve.shown_evidence(loop, source_cycle, decision), "promotes": source_cycle, "from": loop.contour, "to": said.to,
        "watch": WatchResult.read(loop.artifacts(source_cycle) / "watch.json").reason, "replaces": there.serving.model_dump(mode="json"),
    }  # fmt: skip
    cycle = loop.control.open_cycle(said.to, trigger, actor, trigger.reason)
    evidence = _evidence(loop, source_cycle)
    proposal = Proposal(cycle_id=cycle.cycle_id, source_cycle=source_cycle, source_contour=loop.contour, to=said.to, challenger=challenger, evidence=evidence)
    loop.save(cycle.cycle_id, PROPOSAL, proposal)
    made = Decision(
        cycle_id=cycle.cycle_id, stage="promote", verdict=Verdict.PROMOTE, gates=decision.gates, policy=loop.settings.policy, approval_required=True,
        champion=there.serving, challenger=challenger, evidence=evidence, reason=trigger.reason, created_at=utc_now(),
    )  # fmt: skip
    loop.save(cycle.cycle_id, decision_name("promote"), made)
    expires = loop.settings.values.approval.expires_in
    loop.control.ask_approval(cycle.cycle_id, "promote", said.to, evidence_hash(made), shown, expires)
    return loop.control.transition(cycle.cycle_id, CycleState.AWAITING_APPROVAL, f"a release to {said.to} is a person's decision", "loop")


def propose_where_wanted(loop: Loop, source_cycle: str) -> None:
    """What follows from a stable release where the contour names a next one; why not is written into the ledger, and stops nothing."""
    if loop.settings.values.promotion.to is None:
        return
    try:
        cycle = propose(loop, source_cycle)
        loop.control.append("promotion_proposed", "loop", source_cycle, f"as {cycle.cycle_id}", {"to": cycle.contour, "cycle": cycle.cycle_id})
    except PredatorError as error:
        loop.control.append("promotion_not_proposed", "loop", source_cycle, str(error)[:1000], {"to": loop.settings.values.promotion.to})


def waiting(loop: Loop) -> Cycle | None:
    """The promotion to the next contour that is under way from here; null where there is none. One whose proposal was killed halfway is ended."""
    to = loop.settings.values.promotion.to
    cycle = None if to is None else loop.control.active_cycle(to)
    if cycle is None or cycle.trigger.type != TRIGGER:
        return None
    if cycle.state is CycleState.OPENED:  # asked for this moment, or killed before a person could be asked
        if utc_now() - cycle.opened_at >= _CUT_SHORT:
            loop.control.close_approval(cycle.cycle_id, "cancelled", "the proposal was cut short")
            loop.control.transition(cycle.cycle_id, CycleState.CANCELLED, "the proposal was cut short; it is made again", "loop")
        return None
    return cycle if _proposal(loop, cycle.cycle_id).source_contour == loop.contour else None


def advance_waiting(loop: Loop) -> str | None:
    """:func:`advance` the promotion that is under way, as each tick does; a refusal is told and written down. Null where there is none."""
    cycle = waiting(loop)
    if cycle is None:
        return None
    try:
        return f"{cycle.cycle_id}: {advance(loop, cycle.cycle_id)}"
    except PredatorError as error:
        loop.control.append("promotion_refused", "loop", cycle.cycle_id, str(error)[:1000], {})
        return f"{cycle.cycle_id}: {error}"


def advance(loop: Loop, cycle_id: str) -> str:
    """Take a promotion one step on: expired, waiting, or approved and then committed and confirmed; what was done, in words.

    Raises
    ------
    Refused
        It is approved and may not be committed: evidence changed, the source was taken back, the model is denied, the kill switch is on; or the service
        does not serve what was committed, and the commit was taken back.
    """
    cycle, asked = loop.control.cycle(cycle_id), loop.control.approval(cycle_id)
    if cycle.state is CycleState.AWAITING_APPROVAL:
        if asked is None:
            raise Missing(f"cycle {cycle_id}: nobody was asked. Reject it with `predator-si cycle reject`, and propose the release again.")
        source = loop.control.cycle(_proposal(loop, cycle_id).source_cycle)
        if asked.decision is None and source.state is not CycleState.STABLE:
            loop.control.close_approval(cycle_id, "cancelled", f"{source.cycle_id} is {source.state.value} in {source.contour} now")
            loop.control.transition(cycle_id, CycleState.CANCELLED, f"its source {source.cycle_id} is {source.state.value} now", "loop")
            return "cancelled: its source was taken back"
        if asked.state(utc_now()) == "expired":
            loop.control.close_approval(cycle_id, "expired", "nobody answered in time")
            loop.control.transition(cycle_id, CycleState.EXPIRED, "nobody answered in time", "loop")
            return "expired"
        if asked.decision != "approved":
            return f"a person is asked until {asked.expires_at:%Y-%m-%d %H:%M} UTC"
        patch = _commit(loop, cycle_id)
    elif cycle.state is CycleState.RELEASED:
        patch = load_patch(loop.artifacts(cycle_id), "promote")
    else:
        return f"the cycle is {cycle.state.value}"
    deployment = _confirm(loop, cycle_id, patch)
    loop.save(cycle_id, "deployment.json", deployment)
    loop.control.append("deployment_promote", "loop", cycle_id, deployment.reason, {"digest": deployment.served_digest, "confirmed": deployment.confirmed})
    if not deployment.confirmed:
        _reverse(loop, cycle_id, f"the service does not serve what was committed: {deployment.reason}")
        loop.control.transition(cycle_id, CycleState.FAILED, f"not confirmed: {deployment.reason} The commit was taken back.", "loop")
        raise Refused(f"cycle {cycle_id}: {deployment.reason} The commit was taken back.")
    loop.control.champion_changed(cycle.contour, deployment.expected_digest, cycle.reason[:1000], cycle_id=cycle_id, commit=patch.commit)
    loop.control.transition(cycle_id, CycleState.STABLE, f"served in {cycle.contour}, whose own loop watches it", "loop", {"commit": patch.commit})
    return f"{deployment.expected_digest} serves in {cycle.contour}"


def take_back(loop: Loop, cycle_id: str, actor: str, reason: str) -> Rollback:
    """Reverse a promotion in its own contour. The first contour keeps what it serves, so nothing is denied; it is not proposed there again.

    Raises
    ------
    Refused
        The cycle is no promotion, or has nothing there that could be taken back.
    """
    cycle = loop.control.cycle(cycle_id)
    if cycle.trigger.type != TRIGGER or cycle.state not in (CycleState.RELEASED, CycleState.STABLE):
        raise Refused(f"cycle {cycle_id} ({cycle.trigger.type}) is {cycle.state.value}: no promotion that serves. `predator-si cycle list` shows them.")
    result = _reverse(loop, cycle_id, f"{actor}: {reason}")
    loop.control.transition(cycle_id, CycleState.ROLLED_BACK, reason, actor, {"commit": result.commit, "verified": result.verified})
    loop.control.champion_changed(cycle.contour, result.to_digest, f"rolled back: {reason}", cycle_id=cycle_id, commit=result.commit, actor=actor)
    return result


# --------------------------------------------------------------------------- parts


def _commit(loop: Loop, cycle_id: str) -> HelmPatch:
    folder, proposal = loop.artifacts(cycle_id), _proposal(loop, cycle_id)
    decision = Decision.read(folder / decision_name("promote"))
    loop.repo.sync()
    file = release_name(proposal.to)
    if not approve.is_approved(loop, cycle_id, decision):
        raise Refused(f"cycle {cycle_id}: the queue holds no approval of this decision. Ask for one.")
    if proposal.evidence != _evidence(loop, proposal.source_cycle) or decision.evidence != proposal.evidence or decision.challenger != proposal.challenger:
        raise Refused(f"cycle {cycle_id}: what {proposal.source_cycle} left behind is not what was approved. Reject it, and propose the release again.")
    if loop.control.cycle(proposal.source_cycle).state is not CycleState.STABLE:
        raise Refused(f"cycle {cycle_id}: {proposal.source_cycle} was taken back in {proposal.source_contour}. Reject the promotion.")
    permission.require(loop, "promote_next", cycle_id=cycle_id, approved=True)
    if loop.repo.find_commit(cycle_id, "promote") is not None:
        patch = load_patch(folder, "promote")
    else:
        text = loop.repo.show(file)
        _require_promotable(loop, proposal.challenger.model, parse_release(text, file), proposal.to)
        changes = promote_changes(proposal.challenger)
        patch = make_patch(text, changes, cycle_id=cycle_id, stage="promote", file=file, base_commit=loop.repo.head())
        save_patch(folder, patch)
        place = loop.settings.values.promotion.store
        if place is None:
            raise Refused(f"cycle {cycle_id}: promotion.store names no place that {proposal.to} can fetch the model from. Set it in the contour's values.")
        sent = SharedModels(place).push(loop.models, proposal.challenger.model)  # before Git names it: whoever follows must be able to load it
        loop.control.append("model_shared", "loop", cycle_id, f"{sent} bytes to {place}", {"digest": proposal.challenger.model, "bytes": sent})
    message = f"promote: {proposal.challenger.model[7:19]} from {proposal.source_contour} to {proposal.to} ({cycle_id})\n\n{decision.reason}"
    committed = commit_patch(loop.repo, patch, message, verdict_trailers(decision) | {"Source": proposal.source_cycle})
    save_patch(folder, committed)
    loop.control.append("patch_promote", "loop", cycle_id, f"committed {committed.commit}", {"commit": committed.commit, "changes": committed.changes})
    loop.control.transition(cycle_id, CycleState.RELEASED, f"committed to {file}", "loop", {"commit": committed.commit})
    return committed


def _confirm(loop: Loop, cycle_id: str, patch: HelmPatch) -> Deployment:
    search = loop.settings.values.promotion.search
    challenger = _proposal(loop, cycle_id).challenger
    commit = patch.commit or loop.repo.find_commit(cycle_id, "promote") or ""
    return confirm(f"{search}/info", challenger.model, "champion", loop.confirm_seconds, cycle_id=cycle_id, stage="promote", commit=commit, settings=challenger)


def _reverse(loop: Loop, cycle_id: str, reason: str) -> Rollback:
    search = loop.settings.values.promotion.search
    loop.repo.sync()

    def back(digest: str, commit: str) -> Deployment:
        return confirm(f"{search}/info", digest, "champion", loop.confirm_seconds, cycle_id=cycle_id, stage="rollback", commit=commit)

    result = rollback(loop.repo, load_patch(loop.artifacts(cycle_id), "promote"), [], reason, back)
    loop.save(cycle_id, "rollback.json", result)
    loop.control.append("rollback", "loop", cycle_id, result.reason, {"commit": result.commit, "verified": result.verified, "to": result.to_digest})
    return result


def _require_promotable(loop: Loop, digest: str, there: ReleaseFile, to: str) -> None:
    card = loop.models.card(digest)
    check_allowed(parse_deny(loop.repo.show(DENY_FILE)), card)
    if loop.serving().model != digest:
        raise Refused(f"{digest} does not serve {loop.contour} any more, so it is not promoted to {to}.")
    if there.serving.model == digest:
        raise Refused(f"{digest} serves {to} already.")
    if there.reranker.candidate is not None:
        raise Refused(f"{there.reranker.candidate} is on trial in {to}, and a promotion would end that. It is proposed again once the trial is over.")


def _evidence(loop: Loop, source_cycle: str) -> dict[str, str]:
    folder = loop.home.artifacts / source_cycle
    return {f"{source_cycle}/{name}": hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in _RESTS_ON if (folder / name).is_file()}


def _proposal(loop: Loop, cycle_id: str) -> Proposal:
    path = loop.home.artifacts / cycle_id / PROPOSAL
    if not path.is_file():
        raise BadInput(f"{path}: no such file; cycle {cycle_id} is no promotion that was proposed from this home. Look for it in the home that proposed it.")
    return Proposal.read(path)
