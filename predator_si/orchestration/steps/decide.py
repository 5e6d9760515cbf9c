"""Trial, experiment, release: each decision from stored evidence, each patch from a recomputed decision."""

from __future__ import annotations

from typing import Any, Literal

from predator_si.errors import Missing, Refused
from predator_si.evaluate import promotion_level
from predator_si.orchestration.delivery import bring_into_force
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import aliases, permission
from predator_si.orchestration.steps import approve as asking
from predator_si.orchestration.steps.approve import give_approval, refuse_approval
from predator_si.orchestration.steps.champions import note_champion
from predator_si.orchestration.steps.trial import begin_trial, design_of, trial_steps
from predator_si.orchestration.traces import traced
from predator_si.records import CycleState, Decision, Deployment, Evaluation, ExperimentResult, HelmPatch, ServingConfig, Verdict
from predator_si.release.decide import decide_promote, decide_trial, is_tried
from predator_si.release.deploy import commit_patch, not_asked, verdict_trailers
from predator_si.release.patch import load_patch, make_patch, promote_changes, save_patch, shadow_changes, trial_changes
from predator_si.release.recompute import collect_evidence, decision_name, evidence_metrics, read_latency, read_steps, recompute_decision
from predator_si.release.release_file import parse_release
from predator_si.release.rollback import rollback
from predator_si.release.watch import stays_warm
from predator_si.train.tracking import ExperimentTracker

Stage = Literal["trial", "promote"]


def latency_target_ms(loop: Loop) -> float | None:
    """The contour's gate for P95, where it has one."""
    return next((gate.threshold for gate in loop.settings.quality_gates if gate.metric == "p95_latency_ms" and gate.kind == "absolute"), None)


def needs_trial(loop: Loop, cycle_id: str) -> bool:
    """Whether a cycle goes through a trial on live traffic: the contour has trials, and its trigger is not one that brings the service back."""
    return loop.settings.ab_testing and is_tried(loop.judged_as(cycle_id))


def promotion_level_of(loop: Loop, cycle_id: str) -> float | None:
    """What a claim of superiority must reach in this cycle, by the ledger's record of the opening.

    Null for cycles that are not about ranking; 0, which nothing reaches, where no sealed queries were opened: a drill.
    """
    if not is_tried(loop.judged_as(cycle_id)):
        return None
    opening = loop.control.sealed_opening(cycle_id, loop.corpus.name)
    return 0.0 if opening is None else promotion_level(opening, design_of(loop))


@traced
def decide(loop: Loop, cycle_id: str, stage: Stage, *, drill: bool = False, tracker: ExperimentTracker | None = None) -> Decision:
    """The decision of a stage, written beside its evidence. A reject or a hold ends or keeps the cycle; it never commits.

    Raises
    ------
    Refused
        ``drill`` in a cycle that was not opened as one, or with another model than the drill's.
    """
    folder = loop.artifacts(cycle_id)
    evaluation = Evaluation.read(folder / "evaluation.json")
    if drill:
        _require_drill(loop, cycle_id, evaluation.challenger.model)
    evidence = collect_evidence(folder, stage)
    common: dict[str, Any] = {
        "trigger": loop.judged_as(cycle_id),
        "policy": loop.settings.policy,
        "latency": read_latency(folder, evidence),
        "latency_target_ms": latency_target_ms(loop),
        "level": promotion_level_of(loop, cycle_id),
        "margin": loop.settings.experiment.margin,
        "evidence": evidence,
        "extra": evidence_metrics(folder, evaluation, loop.settings.experiment.margin),
        "drill": drill,
    }
    if stage == "trial":
        decision = decide_trial(evaluation, **common)
    else:
        experiment = ExperimentResult.read(folder / "ab_test_results.json") if "ab_test_results.json" in evidence else None
        needs_person = loop.settings.approval_required and not drill
        steps = read_steps(folder, evidence)
        decision = decide_promote(evaluation, experiment, earlier=steps, trial_required=needs_trial(loop, cycle_id), approval_required=needs_person, **common)
        decision = _keep_approval(loop, cycle_id, decision)
    loop.save(cycle_id, decision_name(stage), decision)
    loop.control.append(
        f"decision_{stage}",
        "drill" if drill else "loop",
        cycle_id,
        decision.reason,
        {"verdict": decision.verdict.value, "drill": drill, "given": decision.given},
    )
    if not drill and decision.verdict is not Verdict.PROMOTE:
        _end_without_release(loop, cycle_id, decision)
        aliases.settle(loop, tracker, cycle_id)
    elif stage == "promote" and decision.approval_required:
        asking.ask(loop, cycle_id, decision)
        loop.control.transition(cycle_id, CycleState.AWAITING_APPROVAL, "the contour wants a person's approval", "loop")
    elif stage == "promote" and loop.control.cycle(cycle_id).state is not CycleState.DECIDED:  # no trial came before: a drill, or a contour without one
        loop.control.transition(cycle_id, CycleState.DECIDED, decision.reason, "drill" if drill else "loop")
    return decision


def _require_drill(loop: Loop, cycle_id: str, digest: str) -> None:
    """Refuse unless the ledger says that this cycle was opened as a drill and that this model is the drill's: a run's configuration proves nothing."""
    said = {(record.action, record.payload.get("digest")) for record in loop.control.records(500, cycle_id=cycle_id) if record.actor == "drill"}
    if ("cycle_opened", None) not in said:
        raise Refused(f"cycle {cycle_id} was not opened as a drill, so nothing is pushed past its gates. Launch its jobs without drill.")
    if ("drill_model", digest) not in said:
        raise Refused(f"cycle {cycle_id}: {digest} is not the model of this drill. Only the drill command may release a damaged model.")


def _end_without_release(loop: Loop, cycle_id: str, decision: Decision) -> None:
    """Reject, or hold: a challenger on trial is taken off, because a hold may not keep serving to people what is not proven."""
    if loop.repo.find_commit(cycle_id, "trial") is not None:
        end_trial(loop, cycle_id, decision.reason)
    word = "rejected" if decision.verdict is Verdict.REJECT else "held, not promoted"
    loop.control.transition(cycle_id, CycleState.REJECTED, f"{word}: {decision.reason}", "loop", {"verdict": decision.verdict.value})


def may_commit(loop: Loop, cycle_id: str) -> str | None:
    """Why a cycle commits no release now (its decision does not allow it, or waits for a person); null when it may try."""
    state = loop.control.cycle(cycle_id).state
    if state is CycleState.AWAITING_APPROVAL:
        decision = Decision.read(loop.artifacts(cycle_id) / decision_name("promote"))
        return None if decision.approved_by is not None else "the release waits for a person's approval"
    return None if state is CycleState.DECIDED or state is CycleState.RELEASED else f"the cycle is {state.value}"


def _keep_approval(loop: Loop, cycle_id: str, decision: Decision) -> Decision:
    """The same evidence judged again, as the release job does once a person has approved: the approval stays."""
    path = loop.artifacts(cycle_id) / decision_name("promote")
    before = Decision.read(path) if decision.approval_required and path.is_file() else None
    if before is None or before.approved_by is None or (before.evidence, before.verdict) != (decision.evidence, decision.verdict):
        return decision
    approved = {"approved_by": before.approved_by, "approved_at": before.approved_at}
    return decision.model_copy(update=approved) if asking.is_approved(loop, cycle_id, before) else decision


@traced
def commit(loop: Loop, cycle_id: str, stage: Stage, *, allow_drill: bool = False) -> HelmPatch:
    """Recompute the decision from its evidence and commit its patch; refuses whatever the files and scores do not give again.

    Raises
    ------
    Refused
        The evidence does not hold, the verdict does not allow it, the model is denied, the kill switch is on, or nobody would bring it into force.
    """
    folder = loop.artifacts(cycle_id)
    loop.repo.sync()
    level = promotion_level_of(loop, cycle_id)
    if not loop.control.kill_switch(loop.contour):  # the recomputation says that of the kill switch, last of all
        permission.require(loop, stage, cycle_id=cycle_id, approved=True)  # whether a person approved is asked below, of this very evidence
    decision = recompute_decision(
        folder,
        stage,
        trigger=loop.judged_as(cycle_id),
        kill_switch=lambda: loop.control.kill_switch(loop.contour),
        denied=loop.denied(),
        card_of=loop.models.card,
        trial_required=needs_trial(loop, cycle_id),
        latency_target_ms=latency_target_ms(loop),
        level=level,
        margin=loop.settings.experiment.margin,
        allow_drill=allow_drill,
    )
    if decision.drill:
        _require_drill(loop, cycle_id, decision.challenger.model)
    elif level == 0.0:
        raise Refused(f"cycle {cycle_id}: the ledger knows of no opening of {loop.corpus.name}'s sealed queries, so nothing was proven. Evaluate it again.")
    if stage == "promote" and loop.settings.approval_required and not decision.drill and not asking.is_approved(loop, cycle_id, decision):
        raise Refused(f"cycle {cycle_id}: this contour wants a person's approval, and the ledger has none of this decision. Approve it first.")
    if stage == "trial":
        first = trial_steps(loop)[0]
        changes = trial_changes(decision.challenger, first.share, decision.champion, first.mode)
    else:
        changes = promote_changes(decision.challenger, load_patch(folder, "trial") if loop.repo.find_commit(cycle_id, "trial") is not None else None)
        share = loop.settings.watch.shadow_share
        if stays_warm(loop.judged_as(cycle_id), decision, share):
            changes |= shadow_changes(decision.champion, decision.challenger, share)
    text = loop.release_text()
    # looked for after the text was read: one that holds this cycle's changes already would give a reverse that leads nowhere
    found = loop.repo.find_commit(cycle_id, stage)
    if found is not None:  # another run pushed, or this one did and died: the stored patch is the one that was committed
        patch = load_patch(folder, stage)
    else:
        serving = parse_release(text, loop.release_name).reranker.champion
        if serving != decision.champion.model:
            raise Refused(
                f"cycle {cycle_id}: it was compared with {decision.champion.model}, and {serving} is the champion now. Nothing was committed; open a new cycle."
            )
        patch = make_patch(text, changes, cycle_id=cycle_id, stage=stage, file=loop.release_name, base_commit=loop.repo.head())
        save_patch(folder, patch)
        loop.deployer.check()
    what = "trial" if stage == "trial" else "deploy"
    message = f"{what}: {decision.challenger.model[7:19]} ({cycle_id})\n\n{decision.reason}"
    committed = commit_patch(loop.repo, patch, message, verdict_trailers(decision), lambda: _last_word(loop, cycle_id))
    save_patch(folder, committed)
    loop.control.append(
        f"patch_{stage}",
        "drill" if decision.drill else "loop",
        cycle_id,
        f"committed {committed.commit}",
        {"commit": committed.commit, "changes": committed.changes},
    )
    return committed


def _last_word(loop: Loop, cycle_id: str) -> None:
    """Asked once more right before the push: a repository may take minutes to answer; a person has pressed meanwhile, or another run took over."""
    loop.control.require_lease()
    if loop.repo.find_commit(cycle_id, "rollback") is not None:
        raise Refused(f"cycle {cycle_id} was taken back while the commit was prepared; nothing was committed. Open a new cycle.")
    if loop.control.kill_switch(loop.contour):
        raise Refused(f"cycle {cycle_id}: the kill switch was switched on while the commit was prepared; nothing was committed. Switch it off first.")


@traced
def deploy(loop: Loop, cycle_id: str, stage: Stage, tracker: ExperimentTracker | None = None) -> Deployment:
    """Wait until the service reports the committed digest, computed from the bytes it loaded.

    Raises
    ------
    Refused
        It does not: a trial is taken off, a release is rolled back by the watch's lane; the cycle has failed.
    """
    folder = loop.artifacts(cycle_id)
    patch = load_patch(folder, stage)
    challenger = ServingConfig.read(folder / "challenger.json")
    if patch.commit is None:
        raise Missing(f"{folder}: the {stage} patch was never committed. Run the patch's asset first.")
    deployment = bring_into_force(
        loop,
        challenger.model,
        "candidate" if stage == "trial" else "champion",
        cycle_id=cycle_id,
        stage=stage,
        commit=patch.commit,
        settings=challenger,
    )
    loop.save(cycle_id, "deployment.json" if stage == "promote" else "deployment-trial.json", deployment)
    loop.control.append(
        f"deployment_{stage}",
        "loop",
        cycle_id,
        deployment.reason,
        {"digest": deployment.served_digest, "confirmed": deployment.confirmed, "seconds": deployment.seconds, "sync_seconds": deployment.sync_seconds},
    )
    if not deployment.confirmed:
        from predator_si.orchestration.steps.keep import take_back

        take_back(loop, cycle_id, f"the service does not serve what was committed: {deployment.reason}", deny=False, tracker=tracker)
        loop.control.transition(cycle_id, CycleState.FAILED, f"{stage} not confirmed: {deployment.reason} The commit was taken back.", "loop")
        aliases.settle(loop, tracker, cycle_id)
        raise Refused(f"cycle {cycle_id}: {deployment.reason} The commit was taken back.")
    loop.repo.sync()
    if loop.repo.find_commit(cycle_id, "rollback") is not None:  # between the service's word and this one somebody took it back
        raise Refused(f"cycle {cycle_id}: its {stage} was taken back while the service was asked for it. It is not released.")
    if stage == "trial":
        begin_trial(loop, cycle_id, deployment.created_at)
    state = CycleState.ON_TRIAL if stage == "trial" else CycleState.RELEASED
    told: dict[str, Any] = {"commit": patch.commit}
    if stage == "promote":  # what serves is known to all; of a challenger that does not serve the ledger tells what the Ladder allows
        told["difference"] = Evaluation.read(folder / "evaluation.json").ndcg_difference.model_dump()
    loop.control.transition(cycle_id, state, f"the service serves {deployment.served_digest}", "loop", told)
    if stage == "promote":
        note_champion(loop, cycle_id, f"released: {Decision.read(folder / decision_name('promote')).reason}"[:1000], patch.commit)
    aliases.settle(loop, tracker, cycle_id)
    return deployment


def end_trial(loop: Loop, cycle_id: str, reason: str, *, wait: bool = True) -> None:
    """Take the candidate off by the reverse of the trial's patch, and see that the service let go of it; without ``wait`` it is not asked."""
    patch = load_patch(loop.artifacts(cycle_id), "trial")

    def gone(digest: str, commit_id: str) -> Deployment:
        if not wait:
            return not_asked(digest, cycle_id=cycle_id, stage="rollback", commit=commit_id)
        bring_into_force(loop, None, "candidate", cycle_id=cycle_id, stage="rollback", commit=commit_id)
        return bring_into_force(loop, digest, "champion", cycle_id=cycle_id, stage="rollback", commit=commit_id, settings=loop.released())

    result = rollback(loop.repo, patch, [], reason, gone)
    loop.control.append("trial_ended", "loop", cycle_id, result.reason, {"commit": result.commit, "verified": result.verified})


__all__ = [
    "commit",
    "decide",
    "deploy",
    "end_trial",
    "give_approval",
    "latency_target_ms",
    "may_commit",
    "needs_trial",
    "promotion_level_of",
    "refuse_approval",
]
