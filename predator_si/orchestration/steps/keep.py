"""After a release: watch it, keep it or take it back, and write down what happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.errors import Missing, PredatorError, Refused
from predator_si.evaluate.actions import ActionPlan
from predator_si.monitor import probe
from predator_si.orchestration.delivery import bring_into_force
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import aliases, arrive, settled, way_back
from predator_si.orchestration.steps.champions import note_champion
from predator_si.orchestration.steps.observe import frozen_sample
from predator_si.orchestration.steps.trial import design_of
from predator_si.orchestration.traces import traced
from predator_si.records import CycleState, Decision, Deployment, Rollback, WatchResult, utc_now
from predator_si.release.decide import is_tried, signal_of
from predator_si.release.deny import deny_entries
from predator_si.release.deploy import commit_changes
from predator_si.release.patch import end_shadow_changes, load_patch
from predator_si.release.recompute import decision_name, read_latency
from predator_si.release.rollback import rollback
from predator_si.release.watch import WatchCheck, WatchPlan, judge_watch, ndcg_margin_of, stays_warm
from predator_si.release.watch_evidence import count_again, write_check
from predator_si.reports import manifest, write_cycle_report
from predator_si.reports.cycle import Section
from predator_si.search.events import read_events
from predator_si.search.index_builds import FIRST
from predator_si.statistics import power_sentence
from predator_si.train.tracking import ExperimentTracker

Progress = Callable[[int, int], None]
IN_PRODUCTION = frozenset({CycleState.RELEASED, CycleState.WATCHING, CycleState.STABLE})
_P95_ROLLBACK_MS = 1000.0
_LAG_ROLLBACK_SECONDS = 120.0
_INDEX_ERRORS_ROLLBACK = 10.0


def watch_plan(loop: Loop, cycle_id: str) -> WatchPlan:
    """What is watched after a cycle's release: by its contour and trigger, and from its first check on as it was fixed then."""
    folder = loop.artifacts(cycle_id)
    if (folder / "watch.json").is_file() and (fixed := WatchResult.read(folder / "watch.json").plan):
        return WatchPlan.model_validate(fixed)
    cycle, said, scale, design = loop.control.cycle(cycle_id), loop.settings.watch, loop.plan.scale, design_of(loop)
    decision = Decision.read(folder / decision_name("promote"))
    requests = scale.watch_requests if scale.hurries or said.requests is None else said.checks * said.requests
    return WatchPlan(
        cycle_id=cycle_id,
        released_digest=decision.challenger.model,
        planned_checks=min(said.checks, scale.watch_checks) if scale.hurries else said.checks,
        min_requests=min(requests, scale.drill_requests) if decision.drill else requests,
        p95_limit_ms=_P95_ROLLBACK_MS,
        design=design,
        latency_ratio=_accepted_ratio(folder, decision) * design.latency_margin,
        ndcg_margin=ndcg_margin_of(cycle.trigger.type, loop.settings.experiment.margin),
        probes_expected=is_tried(cycle.trigger.type),
        shadow_expected=stays_warm(loop.judged_as(cycle_id), decision, said.shadow_share) and not arrive.is_arrival(cycle),
        max_index_errors=_INDEX_ERRORS_ROLLBACK if signal_of(cycle.trigger.type) == "index_errors" else None,
        max_lag_seconds=_LAG_ROLLBACK_SECONDS if signal_of(cycle.trigger.type) == "etl_lag_seconds" else None,
    )


def _accepted_ratio(folder: Path, decision: Decision) -> float:
    """How many times the old champion's time the released model took when it was accepted, by the medians; 1 where it was faster or nobody measured."""
    measured = read_latency(folder, decision.evidence) or {}
    old, new = (measured.get(side, {}).get("p50_ms") for side in ("champion", "challenger"))
    return max(1.0, float(new) / float(old)) if old and new else 1.0


@traced
def watch_once(loop: Loop, cycle_id: str, on_progress: Progress | None = None, tracker: ExperimentTracker | None = None) -> WatchResult:
    """One more check of a release, over the traffic since the last one, and what all checks mean together."""
    folder, scale = loop.artifacts(cycle_id), loop.plan.scale
    plan = watch_plan(loop, cycle_id)
    decision = Decision.read(folder / decision_name("promote"))
    deployment = Deployment.read(folder / "deployment.json")
    known = WatchResult.read(folder / "watch.json") if (folder / "watch.json").is_file() else None
    checks = [WatchCheck.model_validate(check) for check in known.checks] if known else []
    since = checks[-1].at if checks else deployment.created_at
    served: str | None = None
    ingest: dict[str, Any] = {}
    try:
        loop.flush()
        info = loop.info()
        served, ingest = info["variants"]["champion"]["model_sha"], info.get("ingest", {})
    except (PredatorError, KeyError, TypeError):
        served = None  # counted as unknown by the digest gate: the service did not say what it serves
    now = utc_now()
    window = read_events(loop.home.events, since, now, open_text=False)
    events = window.search.filter((pl.col("timestamp") > since) & ~pl.col("probe") & pl.col("stands_for").is_null())
    counted = {"requests": events, "pairs": _timed_pairs(window.shadows.filter(pl.col("timestamp") > since), decision)}
    if served is not None and plan.probes_expected:
        counted["probes"] = _probe_scores(loop, decision, scale.watch_probes, checks, on_progress)
    kept = write_check(folder, len(checks) + 1, {kind: frame for kind, frame in counted.items() if frame.height or kind == "requests"})
    told = WatchCheck(
        at=now,
        requests=0,
        failures=0,
        served_digest=served,
        lag_seconds=ingest.get("lag_seconds"),
        index_errors=ingest.get("dead_letters"),
        evidence=kept,
    )
    checks.append(count_again(folder, plan, told))
    result = judge_watch(plan, checks, now)
    loop.save(cycle_id, "watch.json", result)
    if loop.control.cycle(cycle_id).state is CycleState.RELEASED:
        loop.control.transition(cycle_id, CycleState.WATCHING, "first check", "loop")
    loop.control.append(
        "watch_check", "loop", cycle_id, result.reason, {"answer": result.answer, "requests": result.requests, "failed": result.failed_requests}
    )
    if result.answer == "keep":
        _let_go(loop, cycle_id)
        loop.control.transition(cycle_id, CycleState.STABLE, result.reason, "loop")
        settled.give_what_is_owed(loop, cycle_id, tracker)  # a run that dies before this: the next tick does it
    return result


def _timed_pairs(shadows: pl.DataFrame, decision: Decision) -> pl.DataFrame:
    """Requests that the old champion scored too, in shadow, with both models' times."""
    same = (pl.col("served_digest") == decision.challenger.model) & (pl.col("shadow_digest") == decision.champion.model)
    return shadows.filter((pl.col("role") == "previous") & (pl.col("status") == "scored") & same & (pl.col("served_ms") > 0) & (pl.col("shadow_ms") > 0))


def _let_go(loop: Loop, cycle_id: str) -> None:
    """Take the old champion off its shadow, where the release keeps one: the watch is over."""
    from predator_si.release.release_file import parse_release

    if parse_release(loop.release_text(), loop.release_name).reranker.shadow is None:
        return
    commit = commit_changes(loop.repo, loop.release_name, end_shadow_changes(), f"watch: the old champion is let go ({cycle_id})", cycle_id, "settled")
    loop.control.append("shadow_ended", "loop", cycle_id, "the watch is over", {"commit": commit})


def _probe_scores(loop: Loop, decision: Decision, n: int, checks: Sequence[WatchCheck], on_progress: Progress | None) -> pl.DataFrame:
    """NDCG@10 of the released model over HTTP (``new``) and the old champion's on the same candidates (``old``), per dev query.

    Queries that no check has asked yet, as long as there are some: one that is asked again is no new evidence. Those of the shift come first, for which the
    model was trained, then all others: a release serves them too.
    """
    from predator_si.evaluate import evaluate_model
    from predator_si.orchestration.steps.improve import offline_reranker

    corpus, scale = loop.corpus, loop.plan.scale
    every, first = corpus.queries(split="dev"), corpus.queries(split="dev", part="shift")
    others = every.join(first, on="query_id", how="anti")
    pool = pl.concat([frozen_sample(part.select("query_id", "text"), part.height, scale.seed + 11) for part in (first, others)])
    asked = {query_id for check in checks for query_id in check.probes}
    queries = pool.filter(~pl.col("query_id").is_in(list(asked))).head(n)
    if not queries.height:
        return pl.DataFrame(schema={"query_id": pl.String, "new": pl.Float64, "old": pl.Float64})
    judgments = corpus.judgments(split="dev")
    first_stage = loop.index() if decision.challenger.index is None else loop.index(decision.champion.index or FIRST)  # what the old champion answered with
    released = probe(loop.search_url, queries, judgments, k=max(20, scale.depth), variant="champion", on_progress=on_progress).per_query
    before = evaluate_model(
        queries, judgments, first_stage.candidates, offline_reranker(loop, decision.champion.model), decision.champion, scores_cache=loop.pair_scores
    )
    return released.drop_nulls("ndcg_at_10").select("query_id", new="ndcg_at_10").join(before.select("query_id", old="ndcg_at_10"), on="query_id")


@traced
def take_back(loop: Loop, cycle_id: str, reason: str, *, deny: bool = True, tracker: ExperimentTracker | None = None) -> Rollback:
    """Reverse what a cycle committed, deny its model, move the alias back; success is the old digest reported by the service.

    This lane asks no lease, approval or kill switch. The next cycle, where it is on trial already, is cancelled first (``way_back.make_way``).
    """
    folder = loop.artifacts(cycle_id)
    patches = [load_patch(folder, stage) for stage in ("trial", "promote") if loop.repo.find_commit(cycle_id, stage) is not None]  # type: ignore[arg-type]
    if arrive.is_arrival(loop.control.cycle(cycle_id)):
        patches = [load_patch(folder, "promote")]  # committed by another contour's loop
    if not patches:
        raise Missing(f"cycle {cycle_id} committed nothing, so nothing is to be taken back.")
    challenger = Decision.read(folder / decision_name("promote" if (folder / decision_name("promote")).is_file() else "trial"))
    card, old = loop.models.card(challenger.challenger.model), loop.models.card(challenger.champion.model)
    entries = deny_entries(card, cycle_id=cycle_id, reason=reason[:500], at=utc_now(), keep=[old], contour=loop.contour) if deny else []
    try:
        cancelled = way_back.make_way(loop, cycle_id, patches, reason)
        result = rollback(
            loop.repo,
            patches,
            entries,
            reason,
            lambda digest, commit: bring_into_force(loop, digest, "champion", cycle_id=cycle_id, stage="rollback", commit=commit, settings=loop.released()),
            (lambda _: aliases.follow(loop, tracker)) if tracker is not None else None,
        )
    except Refused:
        arrive.require_serving(loop, cycle_id)
        raise
    loop.save(cycle_id, "rollback.json", result)
    loop.control.append(
        "rollback", "loop", cycle_id, result.reason, {"commit": result.commit, "verified": result.verified, "from": result.from_digest, "to": result.to_digest}
    )
    note_champion(loop, cycle_id, f"rolled back: {reason}"[:1000], result.commit)
    state = loop.control.cycle(cycle_id).state
    undone = (CycleState.RELEASED, CycleState.WATCHING, CycleState.STABLE)
    if state in undone or (deny and state is CycleState.DECIDED):  # decided: its commit is there, and the service's word for it was still awaited
        loop.control.transition(cycle_id, CycleState.ROLLED_BACK, reason, "loop", {"commit": result.commit, "verified": result.verified})
    if cancelled is not None:
        aliases.settle(loop, tracker, cancelled)
    return result


def order_rollback(loop: Loop, cycle_id: str, actor: str, reason: str, to_version: str | None = None) -> str:
    """Write down that a person wants a release taken back, whatever its watch says; the rollback job believes this record alone. The digest it leads to.

    Raises
    ------
    Refused
        The cycle has nothing in production, or the way back leads to another version than ``to_version`` (a digest, or its first characters).
    """
    state = loop.control.cycle(cycle_id).state
    if state not in IN_PRODUCTION:
        raise Refused(f"cycle {cycle_id} is {state.value}: it has nothing in production that could be taken back.")
    old = Decision.read(loop.artifacts(cycle_id) / decision_name("promote")).champion.model
    if to_version is not None and not (old.startswith(to_version) or old.removeprefix("sha256:").startswith(to_version)):
        raise Refused(f"cycle {cycle_id}: the way back leads to {old}, not to {to_version}. Leave the version out, or name this one.")
    loop.control.append("rollback_ordered", actor, cycle_id, reason, {"to": old})
    loop.control.set_note(ordered_note(loop.contour), {"cycle_id": cycle_id, "at": utc_now().isoformat()})  # where the sensor looks; the job asks the ledger
    return old


def ordered_note(contour: str) -> str:
    """Name of the note that says which release a person wants taken back, and since when."""
    return f"rollback-ordered/{contour}"


def roll_back_degraded(loop: Loop, cycle_id: str, tracker: ExperimentTracker | None = None) -> Rollback:
    """Roll back because the watch says so: the verdict is recomputed from the stored checks, a check result in Dagster is not believed. Or because a person
    ordered it: then the ledger says so.

    Raises
    ------
    Missing
        The stored checks do not ask for a rollback, and nobody ordered one.
    """
    ordered = next((record for record in loop.control.records(500, cycle_id=cycle_id)[::-1] if record.action == "rollback_ordered"), None)
    if ordered is not None:
        return take_back(loop, cycle_id, f"{ordered.actor}: {ordered.reason}", tracker=tracker)
    folder = loop.artifacts(cycle_id)
    stored = WatchResult.read(folder / "watch.json")
    again = judge_watch(watch_plan(loop, cycle_id), [WatchCheck.model_validate(check) for check in stored.checks])
    if again.answer != "rollback":
        raise Missing(f"cycle {cycle_id}: the watch's own numbers say {again.answer} ({again.reason}); nothing is rolled back.")
    return take_back(loop, cycle_id, again.reason, tracker=tracker)


def _actions_tried(folder: Path) -> list[Section]:
    """What a cycle tried instead of training, as a card of its page; none where it trained at once."""
    if not (folder / "actions.json").is_file():
        return []
    plan = ActionPlan.read(folder / "actions.json")
    rows = [(one.action, one.note, "yes" if one.passes else "no", one.reason) for one in plan.tried]
    rows += [(action, "", "not tried", why) for action, why in plan.not_built.items()]
    seen = next((gap for one in plan.tried if (gap := one.ndcg_difference) is not None and gap.sd), None)
    said = plan.reason if seen is None else f"{plan.reason} ({power_sentence(seen.n, seen.sd)})"
    return [Section("Actions without training", said, ("action", "what", "passes", "measured on dev queries"), tuple(rows))]


def write_report(loop: Loop, cycle_id: str, **more: Any) -> Path:
    """``report.html`` and ``manifest.json`` of a cycle."""
    folder = loop.artifacts(cycle_id)
    times: dict[str, list[float]] = {}
    if (folder / "latency.parquet").is_file():
        for arm, value in pl.read_parquet(folder / "latency.parquet").iter_rows():
            times.setdefault(arm, []).append(value)
    path = write_cycle_report(
        folder,
        f"Cycle {cycle_id}",
        ledger=loop.control.records(500, cycle_id=cycle_id),
        snapshots=loop.snapshots(),
        latencies=times,
        sections=_actions_tried(folder),
        **more,
    )
    manifest(folder)
    return path
