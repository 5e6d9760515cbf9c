"""Actions of the trigger table that need no training: what a cycle tries, with figures, and the configuration it takes to its evaluation.

What belongs here: which options this installation has for each action, and carrying the choice on. What must not: measuring them
(``evaluate.actions``), which trigger asks for which action (``monitor.triggers``).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from functools import partial

import polars as pl

from predator_si.errors import PredatorError
from predator_si.evaluate.actions import ActionPlan, Goal, Option, Tried, choose, cut_options, weigh, widen_options
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import aliases, improve, indexes, permission
from predator_si.orchestration.steps.decide import latency_target_ms, needs_trial
from predator_si.orchestration.steps.observe import frozen_sample
from predator_si.orchestration.traces import traced
from predator_si.records import Cycle, CycleState, ServingConfig, utc_now
from predator_si.release.decide import signal_of
from predator_si.release.deny import find_denied
from predator_si.release.patch import load_patch
from predator_si.release.release_file import parse_release
from predator_si.train.tracking import ExperimentTracker

Progress = Callable[[int, int], None]
PLAN = "actions.json"
GOALS: dict[str, Goal | None] = {
    "p95_latency_ms": "latency",
    "cost_per_1k_requests": "cost",
    "recall_at_20": "recall",
    "error_rate": "errors",
    "etl_lag_seconds": None,
    "index_errors": "index",
}
"""Signals whose cycles begin with an action instead of training, and what the options are measured by; null where there is but one."""
TRAINING_ACTIONS = frozenset({"distil", "retrain_reranker", "retrain_with_feedback"})
REPLICAS = ("add_replicas", "fewer_replicas")
"""Actions that no measurement on this machine can weigh: taken where nothing else passes and a cluster applies them; the watch judges them."""
ONE_PROCESS = "a value of the release file that only a cluster applies; this service is one process"
OTHER_INDEX = frozenset({"repair_index", "choose_embedder", "retry", "quarantine", "reindex"})
"""Actions whose options bring an index of their own."""
ONE_INDEX = "its trial needs a second index beside the served one (index.candidateBuild), and pods that only answer have one: the chart refuses to render that"
_COSTLY = frozenset({"choose_embedder", "reindex"})
"""Actions that embed every document: tried where nothing cheaper passes."""
_LEAST_WORKERS, _MOST_WORKERS = 1, 8
_STORED = 4
"""Smaller models of the store that are weighed, the newest ones."""
_CALIBRATION = 40


def begins_with_action(loop: Loop, cycle: Cycle) -> bool:
    """Whether an opened cycle tries actions before, or instead of, training: its trigger has some, and none was found wanting yet."""
    try:
        signal = signal_of(cycle.trigger.type)
    except PredatorError:
        return False
    path = loop.home.artifacts / cycle.cycle_id / PLAN
    return signal in GOALS and not (path.is_file() and ActionPlan.read(path).train)


@traced
def act(loop: Loop, cycle_id: str, tracker: ExperimentTracker, on_progress: Progress | None = None) -> ActionPlan:
    """Weigh the options of the cycle's trigger on dev queries and take the cheapest that passes to the evaluation.

    When none does, the cycle goes on to training where its row has an action that trains, and ends rejected where it has none.
    """
    began = time.monotonic()
    cycle, champion = loop.control.cycle(cycle_id), loop.serving()
    goal, scale = GOALS[signal_of(cycle.trigger.type)], loop.plan.scale
    queries = frozen_sample(loop.corpus.queries(split="dev", part="shift"), scale.dev_queries, scale.seed + 1)
    clustered = loop.settings.values.deploy.kind == "argocd"
    not_built = {} if clustered else dict.fromkeys((action for action in cycle.trigger.actions if action in REPLICAS), ONE_PROCESS)
    if (clustered or loop.settings.values.gitops.chart is not None) and needs_trial(loop, cycle_id):
        not_built.update(dict.fromkeys((action for action in cycle.trigger.actions if action in OTHER_INDEX), ONE_INDEX))
    possible = tuple(action for action in cycle.trigger.actions if action not in not_built)
    cheap = tuple(action for action in possible if action not in _COSTLY)
    options = _options(loop, cycle, champion, queries, not_built, cheap)
    if goal is None:
        tried = [Tried(action=one.action, config=one.config, note=one.note, passes=True, reason=one.note) for one in options]
        best, reason = (tried[0], tried[0].note) if tried else (None, "; ".join(not_built.values()) or "there is no option")
    else:
        looks = len(options) + (len(indexes.embedder_folders(loop)) if "choose_embedder" in possible else 0)
        weighed = partial(
            weigh,
            champion=champion,
            goal=goal,
            queries=queries,
            judgments=loop.corpus.judgments(split="dev"),
            candidates_for=loop.index().candidates,
            scorer_of=lambda digest: improve.offline_reranker(loop, digest),
            server_of=lambda digest: improve.served_reranker(loop, digest),
            rule_of=lambda config: improve.depth_rule(loop, config),
            served_p95_ms=cycle.trigger.value if cycle.trigger.metric == "p95_latency_ms" else None,
            looks=looks,
            seed=scale.seed,
            resamples=scale.resamples,
            scores_cache=loop.pair_scores,
            on_progress=on_progress,
            should_stop=loop.should_stop(cycle_id),
        )
        tried = weighed(options)
        if not any(one.passes for one in tried):
            allowed = permission.ruling(loop, "index_change", cycle_id=cycle_id)
            wanted = tuple(action for action in possible if action in _COSTLY)
            if allowed.answer != "allow":
                not_built.update(dict.fromkeys(wanted, f"policy does not allow it: {allowed.reason}"))
            costly = _options(loop, cycle, champion, queries, not_built, wanted if allowed.answer == "allow" else ())
            options, tried = options + costly, tried + weighed(costly) if costly else tried
        best, reason = choose(goal, tried, latency_target_ms(loop))
        if best is None and clustered and (scaled := _scaled(loop, cycle, champion, not_built)) is not None:
            best, reason = scaled, f"{reason}; {scaled.note}"
            tried = [*tried, scaled]
    indexes.discard(loop, options, best.config if best is not None else None)
    train = best is None and bool(TRAINING_ACTIONS.intersection(cycle.trigger.actions))
    plan = ActionPlan(
        cycle_id=cycle_id,
        trigger=cycle.trigger.type,
        goal=goal,
        champion=champion,
        tried=tried,
        not_built=not_built,
        action=best.action if best is not None else None,
        config=best.config if best is not None else None,
        train=train,
        reason=reason + ("; the cycle goes on to training" if train else ""),
        n_queries=queries.height if goal is not None else 0,
        seconds=time.monotonic() - began,
        created_at=utc_now(),
    )
    loop.save(cycle_id, PLAN, plan)
    loop.control.append("actions_tried", "loop", cycle_id, plan.reason[:1000], {"tried": len(tried), "action": plan.action, "train": train})
    if plan.config is not None:
        _take(loop, cycle_id, plan, plan.config, tracker)
    elif not train:
        loop.control.transition(cycle_id, CycleState.REJECTED, f"no action helps: {plan.reason}"[:2000], "loop", {"tried": len(tried)})
    return plan


def _take(loop: Loop, cycle_id: str, plan: ActionPlan, config: ServingConfig, tracker: ExperimentTracker) -> None:
    """The chosen configuration becomes the cycle's challenger, and takes the road of every other one."""
    loop.save(cycle_id, "challenger.json", config)
    if config.model != plan.champion.model:
        tags = {"cycle": cycle_id, "action": str(plan.action), "source": loop.models.card(config.model).source_digest or config.model}
        tracker.register(config.model, loop.models.path(config.model), tags)
    loop.control.transition(
        cycle_id,
        CycleState.TRAINED,
        f"{plan.action}, no training: {plan.reason}"[:2000],
        "loop",
        {"action": plan.action, "challenger": config.model_dump(mode="json")},
    )
    aliases.settle(loop, tracker, cycle_id)


# --------------------------------------------------------------------------- the options of each action


def _options(loop: Loop, cycle: Cycle, champion: ServingConfig, queries: pl.DataFrame, not_built: dict[str, str], actions: tuple[str, ...]) -> list[Option]:
    """Options of some of the trigger's actions in their order. An action that has none here says why in ``not_built``."""
    found: list[Option] = []
    for action in actions:
        if action not in _MAKERS:
            continue
        made = _MAKERS[action](loop, cycle, champion, queries)
        if isinstance(made, str):
            not_built[action] = made
        else:
            found += made
    if "quantise" in actions:  # both together, where neither alone reaches the target
        quantised = next((one for one in found if one.action == "quantise"), None)
        if quantised is not None:
            found += [
                Option("quantise, cut_depth", one.config.model_copy(update={"model": quantised.config.model}), f"{quantised.note}; {one.note}")
                for one in found
                if one.action == "cut_depth"
            ]
    return found


def _quantised(loop: Loop, cycle: Cycle, champion: ServingConfig, queries: pl.DataFrame) -> list[Option] | str:
    """The fastest backend of the same weights that keeps their ranking."""
    from predator_si.evaluate.optimise import optimise

    card = loop.models.card(champion.model)
    try:
        weights = improve.trainable(loop, champion.model)
        found = optimise(
            loop.models,
            weights,
            card.max_length,
            queries,
            loop.corpus.judgments(split="dev"),
            loop.index().candidates,
            champion.depth,
            champion.fusion_weight,
            calibration=_calibration(loop) if loop.plan.scale.models == "real" else (),
            scores_cache=loop.pair_scores,
            seed=loop.plan.scale.seed,
            should_stop=loop.should_stop(cycle.cycle_id),
        )
    except PredatorError as error:
        return f"cannot be tried: {error}"
    loop.save(cycle.cycle_id, "optimisation.json", found)
    if found.chosen == champion.model:
        return f"the champion runs on the fastest backend that keeps its ranking already ({card.backend})"
    chosen = loop.models.card(found.chosen)
    return [Option("quantise", champion.model_copy(update={"model": found.chosen, "early_exit": False}), f"the same weights on {chosen.backend}")]


def _calibration(loop: Loop) -> list[tuple[str, str]]:
    """Train queries with what is found for them, for the ranges of an int8 export: never dev or test queries."""
    texts = frozen_sample(loop.corpus.queries(split="train"), _CALIBRATION, loop.plan.scale.seed)["text"].to_list()
    found = loop.index().candidates(texts, 1)
    return [(text, candidates.texts[0]) for text, candidates in zip(texts, found, strict=True) if candidates.texts]


def _cut(loop: Loop, cycle: Cycle, champion: ServingConfig, queries: pl.DataFrame) -> list[Option] | str:
    return cut_options(champion) or f"the depth is {champion.depth} already"


def _stored(loop: Loop, cycle: Cycle, champion: ServingConfig, queries: pl.DataFrame) -> list[Option] | str:
    """Smaller models that earlier cycles left in the store: fewer layers, or a shorter input; denied ones never."""
    denied = loop.denied()
    own = _size(loop, champion.model)
    if own is None:
        return "nothing says how large the champion is"
    found: list[Option] = []
    for card in reversed(loop.models.cards()):
        size = _size(loop, card.digest)
        if size is None or card.digest == champion.model or find_denied(denied, card) is not None:
            continue
        if size[0] < own[0] or (size[0] == own[0] and size[1] < own[1]):
            note = f"{card.name}: {size[0]} layers, {card.max_length} tokens, {card.backend}"
            found.append(Option("cheaper_variant", champion.model_copy(update={"model": card.digest, "early_exit": False}), note))
    return found[:_STORED] or "the store holds no smaller model"


def _size(loop: Loop, digest: str) -> tuple[int, int] | None:
    """(encoder layers, longest input) of a stored model; null where its folder does not say."""
    path = loop.models.path(digest) / "config.json"
    try:
        return int(json.loads(path.read_text())["num_hidden_layers"]), loop.models.card(digest).max_length
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _cheaper(loop: Loop, cycle: Cycle, champion: ServingConfig, queries: pl.DataFrame) -> list[Option] | str:
    """The same weights on a cheaper backend, and smaller models of the store."""
    made = [_quantised(loop, cycle, champion, queries), _stored(loop, cycle, champion, queries)]
    options = [option for one in made if not isinstance(one, str) for option in one]
    return options or "; ".join(one for one in made if isinstance(one, str))


def _widened(loop: Loop, cycle: Cycle, champion: ServingConfig, queries: pl.DataFrame) -> list[Option] | str:
    return [option for option in widen_options(champion) if option.action == "widen_candidates"]


def _tuned(loop: Loop, cycle: Cycle, champion: ServingConfig, queries: pl.DataFrame) -> list[Option] | str:
    return [option for option in widen_options(champion) if option.action == "tune_fusion"]


def _previous(loop: Loop, cycle: Cycle, champion: ServingConfig, queries: pl.DataFrame) -> list[Option] | str:
    """What was served before the newest release, by its stored reverse patch."""
    release = loop.control.current_release(loop.contour)
    if release is None:
        return "nothing was released before the champion"
    back = load_patch(loop.artifacts(release.cycle_id), "promote").reverse
    weights = float(back["fusion.weights.rerank"]), float(back["fusion.weights.firstStage"])
    config = ServingConfig(
        model=str(back["reranker.champion"]), depth=int(back["reranker.depth"]), fusion_weight=weights[1] / sum(weights), index=back.get("index.build")
    )
    if config.model == champion.model or config.model not in loop.models:
        return f"{config.model} is what serves, or is gone from the model store"
    entry = find_denied(loop.denied(), loop.models.card(config.model))
    return f"it is on the deny list: {entry.reason}" if entry is not None else [Option("previous_model", config, f"as before {release.cycle_id}")]


def _first_stage(loop: Loop, cycle: Cycle, champion: ServingConfig, queries: pl.DataFrame) -> list[Option] | str:
    option = Option("depth_zero", champion.model_copy(update={"depth": 0, "early_exit": False}), "the first stage answers alone until the errors end")
    return [option] if champion.depth > 0 else "the first stage answers alone already"


def _workers(loop: Loop, cycle: Cycle, champion: ServingConfig, queries: pl.DataFrame) -> list[Option] | str:
    """Twice as many workers as the service says it has."""
    now = int(loop.info()["ingest"]["workers"])
    wanted = min(_MOST_WORKERS, max(_LEAST_WORKERS, now) * 2)
    if wanted <= now:
        return f"{now} workers are the most that the release file allows"
    return [Option("add_workers", champion.model_copy(update={"ingest_workers": wanted}), f"{wanted} ingest workers instead of {now}")]


def _scaled(loop: Loop, cycle: Cycle, champion: ServingConfig, not_built: dict[str, str]) -> Tried | None:
    """More or fewer copies of the service, by proportion: so many that the P95 seen with today's number comes down to its limit, if the load is shared evenly.

    Counted from what the chart starts: the release file's number, or the contour's least where that is more. An autoscaler may have added to it; nothing
    here says how many, and nothing is asked for beyond its most.
    One fewer only where the others could carry its share within the limit. Neither is more than an estimate; the watch takes it back where it is wrong.
    """
    action = next((action for action in cycle.trigger.actions if action in REPLICAS), None)
    if action is None:
        return None
    copies, limit, newest = loop.settings.copies, latency_target_ms(loop), loop.snapshots(1)
    now = max(parse_release(loop.release_text(), loop.release_name).replicas, copies.least)
    metric = newest[-1].metrics.get("p95_latency_ms") if newest else None
    p95 = None if metric is None else metric.value
    if p95 is None or limit is None:
        not_built[action] = f"P95 is unknown or has no limit here, so nothing says how many copies are enough ({now} now)"
        return None
    wanted = min(copies.most, max(now + 1, math.ceil(now * p95 / limit))) if action == "add_replicas" else now - 1
    if action == "add_replicas" and wanted <= now:
        not_built[action] = f"{copies.most} is the most there may be, and {now} {'run' if now > 1 else 'runs'}"
        return None
    if wanted < copies.least:
        not_built[action] = f"{copies.least} is the least there may be"
        return None
    if action == "fewer_replicas" and p95 * now / wanted > limit:
        not_built[action] = f"{wanted} instead of {now} copies would have to carry P95 {p95:.0f} ms x {now}/{wanted}, above the limit of {limit:.0f} ms"
        return None
    note = f"{wanted} instead of {now} copies for a P95 of {p95:.0f} ms and a limit of {limit:.0f} ms; not measured, the watch judges it"
    return Tried(action=action, config=champion.model_copy(update={"replicas": wanted}), note=note, passes=True, reason=note)


_MAKERS: dict[str, Callable[[Loop, Cycle, ServingConfig, pl.DataFrame], list[Option] | str]] = {
    "quantise": _quantised,
    "cut_depth": _cut,
    "cheaper_variant": _cheaper,
    "widen_candidates": _widened,
    "tune_fusion": _tuned,
    "previous_model": _previous,
    "depth_zero": _first_stage,
    "add_workers": _workers,
    "repair_index": lambda loop, cycle, champion, queries: indexes.repaired(loop, cycle, champion),
    "choose_embedder": lambda loop, cycle, champion, queries: indexes.other_embedders(loop, cycle, champion),
    "retry": lambda loop, cycle, champion, queries: indexes.retried(loop, cycle, champion),
    "quarantine": lambda loop, cycle, champion, queries: indexes.quarantined(loop, cycle, champion),
    "reindex": lambda loop, cycle, champion, queries: indexes.reindexed(loop, cycle, champion),
}
