"""One adaptation from beginning to end: teach, train, choose, judge, and only then look at what labels would have given.

What belongs here: the order of things, and the figures. What must not: how any step works.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.augment.material import Generator
from predator_si.augment.teacher import BiEncoder
from predator_si.control import Control
from predator_si.errors import BadInput
from predator_si.evaluate import PairScores
from predator_si.proof.adapt.arms import Lap, Stored, Workshop, distillation, supervision
from predator_si.proof.adapt.collection import Collection, needs
from predator_si.proof.adapt.curriculum import HELD_OUT_SHARE, draw_up, mixes
from predator_si.proof.adapt.gate import Canary, Verdict, difference, judge
from predator_si.proof.adapt.kept import Kept
from predator_si.proof.adapt.labels import Judgments
from predator_si.proof.adapt.plan import LEAST_JUDGED, Clock, Plan, Sets, share_out
from predator_si.proof.adapt.summary import recovered
from predator_si.proof.adapt.teaching import Lesson, distilled_groups, held_out_set, supervised_groups
from predator_si.provenance import provenance
from predator_si.search.models import ModelStore
from predator_si.search.rerank import chip_has_bf16
from predator_si.statistics import bootstrap_mean_interval, paired_interval, power_sentence
from predator_si.train.recipe import TrainingRecipe
from predator_si.train.select import Choice

ARMS = ("zero_shot", "zero_shot_fused", "adapted", "oracle")
_SHORT_LOG = 0.3
"""Of ``Plan.examples``: with fewer lessons each is shown twice."""
_PROBED = 8
"""Queries whose candidates tell how fast pairs are scored, and whether the served weights rank as torch does."""
Tell = Callable[[str], None]
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Site:
    """Where an adaptation runs: the model store, the score cache, the ledger, and a folder of its own for what it leaves behind."""

    store: ModelStore
    scores: PairScores
    ledger: Control
    folder: Path
    run_id: str
    actor: str
    resumable: bool = False
    """Whether the folder belongs to these very inputs (``kept.run_folder``): then finished parts are kept in it, and found again."""


def adapt(
    collection: Collection,
    start: str,
    site: Site,
    plan: Plan,
    *,
    canaries: Sequence[Callable[[], Collection]] = (),
    generators: Sequence[Generator] = (),
    bi_encoders: Sequence[BiEncoder] = (),
    clock: Clock | None = None,
    tell: Tell = lambda text: None,
    on_progress: Report = lambda done, total: None,
) -> dict[str, Any]:
    """Adapt the reranker ``start`` to a collection and say what it brought.

    Parameters
    ----------
    start
        Digest of torch weights in ``site.store``.
    canaries
        Open other collections, whose dev queries must not lose.
    generators, bi_encoders
        Sources of made-up queries, and further members of the teacher; none of them is needed.
    clock
        Started by the caller where opening the collection counts.

    Returns
    -------
    dict
        The keys of CONTRACT.md section 7, row ``adapt``, and the evidence behind them. ``per_query`` names a Parquet file in ``site.folder``.

    Raises
    ------
    BadInput
        The collection cannot be learned from, or the time is too short.
    """
    clock = clock or Clock(60.0 * plan.budget_minutes)
    sealed = collection.test.height - plan.test_skip
    if sealed < min(LEAST_JUDGED, collection.test.height):
        raise BadInput(f"{collection.name} has {collection.test.height} sealed queries; without the first {plan.test_skip} fewer than {LEAST_JUDGED} are left.")
    kept = Kept(site.folder / "kept" if site.resumable else None, clock)
    if kept.resumed:
        tell(f"going on with {site.run_id}, after {clock.earlier:.0f} s of an earlier attempt")
    door = Judgments(collection.name, collection.read_judgments, plan.labels, site.ledger, site.run_id, site.actor, kept.get)
    workshop = Workshop(site.store, start, plan, site.folder / "training", site.scores)
    with clock.phase("teach"):
        probe = collection.train["text"].to_list()[:_PROBED]
        found = collection.index.candidates(probe, plan.depth)
        twin = workshop.check_twin(probe, found)
        rate = kept.get("rate", lambda: workshop.pairs_per_second([(text, one) for text, own in zip(probe, found, strict=True) for one in own.texts]))
        labelled = kept.known("labelled")
        taught = draw_up(collection, workshop, door, rate, generators, bi_encoders, tell, on_progress, labelled)
        kept.get("labelled", lambda: taught.counts["labelled"])
    others = _open_canaries(canaries, clock, tell)
    recipes = mixes(taught)
    at_hand = Sets(collection.dev.height, tuple(other.dev.height for other in others), sealed)
    each = {"trainings": len(recipes) + 1, "stored": 2 * (len(recipes) + 1), "held_out": len(taught.held_out)}
    seconds, sets = _shares(kept.get("shares", lambda: _told(share_out(plan, clock.left, rate, judged=at_hand, **each))))
    tell(f"{rate:.0f} pairs/s are scored; {seconds:.0f} s for each of {len(recipes) + 1} trainings, {sets.test} test queries")
    laps = []
    with clock.phase("train"):
        for mix in recipes:
            tell(f"training: {mix.name}, {len(mix.lessons)} queries")
            recipe = distillation(plan, seconds, learning_rate=mix.pace * plan.learning_rate)
            groups = distilled_groups(mix.lessons, plan, plan.seed, _draws(mix.lessons, plan))
            laps.append(_lap(kept, workshop, mix.name, groups, recipe, on_progress))
    with clock.phase("choose"):
        stored = [one for lap in laps for one in lap.stored]
        tell(f"choosing among {len(stored)} candidates on {len(taught.held_out)} held-out queries without judgments")
        chosen, choice = _choice(kept, "choice", workshop, stored, *held_out_set(taught.held_out), on_progress)
    tell(choice.reason)
    door.chosen(chosen.digest)
    # The oracle will take what one recipe took; where that was more than planned, fewer queries are judged.
    left = clock.left - clock.phases["train"] / len(laps) - clock.phases["choose"] / len(laps)
    sets = _sets(kept.get("judged", lambda: asdict(sets.within(left, plan.depth, rate))))
    with clock.phase("gate"):
        verdict = _gate(collection, workshop, door, chosen, others, sets, tell, on_progress)
    door.decided(verdict.decision)
    tell(f"{verdict.decision}: {verdict.reason}")
    lap = next(lap for lap in laps if chosen in lap.stored)
    with clock.phase("oracle"):
        tell("the supervised oracle: the same trainer and time, with the train judgments")
        best, oracle_lap, oracle_choice = _oracle(collection, workshop, door, plan, seconds, lap, kept, on_progress)
    with clock.phase("test"):
        most = Sets(0, (), min(sealed, plan.test_queries))  # all the time that is left is theirs; how many is settled before they are opened
        asked_of = int(kept.get("test", lambda: most.within(clock.left, plan.depth, rate).test))
        tell(f"the sealed test queries are opened, once: {asked_of}")
        frame = _test(collection, workshop, door, {"adapted": chosen.digest, "oracle": best.digest}, asked_of, on_progress)
    site.folder.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(site.folder / "per_query.parquet")
    return {
        **provenance("full", plan.seed),
        **_figures(frame, plan.seed),
        "corpus": collection.name,
        "labels": plan.labels,
        "clicks_simulated": plan.labels == "clicks",
        "decision": verdict.decision,
        "reason": verdict.reason,
        "rules": verdict.rules,
        "dev": verdict.dev.model_dump(),
        "canary": {name: [found.estimate, found.low, found.high] for name, found in verdict.canaries.items()},
        "canary_queries": {name: found.n for name, found in verdict.canaries.items()},
        "canary_mean": verdict.canary_mean,
        "choice": choice.model_dump(),
        "oracle_choice": oracle_choice.model_dump(),
        "examples": -(-lap.pairs // plan.group_size),
        "pairs": lap.pairs,
        "oracle_pairs": oracle_lap.pairs,
        "queries": taught.counts,
        "teacher": taught.teacher,
        "served_as": twin,
        "start": start,
        "model_digest": chosen.digest,
        "model": str(site.store.path(workshop.served(chosen.digest))),
        "test_openings": door.test_openings,
        "judged_dev_openings": door.judged_dev_openings,
        "test_openings_ever": door.test_openings_ever,
        "openings": dict(door.openings),
        "plan": {**asdict(plan), "backend": workshop.backend},
        "train_seconds_planned": seconds,
        "judged_queries": {**asdict(sets), "test": asked_of},
        "test_queries_left_out": sealed - asked_of,
        "bf16": chip_has_bf16(),
        "pairs_per_second": rate,
        "training_pairs_per_second": lap.pairs / lap.seconds,
        "run": site.run_id,
        "per_query": str(site.folder / "per_query.parquet"),
        "phases": dict(clock.phases),
        "seconds": clock.spent,
    }


def _draws(lessons: Sequence[Lesson], plan: Plan) -> int:
    """Groups of each lesson: two where there is little to learn from, and so time for it; the clock still ends each training."""
    return 2 if len(lessons) < _SHORT_LOG * plan.examples else 1


def _open_canaries(canaries: Sequence[Callable[[], Collection]], clock: Clock, tell: Tell) -> list[Collection]:
    opened = []
    with clock.phase("canaries"):
        for opening in canaries:
            opened.append(opening())
            tell(f"canary: {opened[-1].name}, {opened[-1].dev.height} judged queries")
    return opened


def _gate(
    collection: Collection, workshop: Workshop, door: Judgments, chosen: Stored, others: Sequence[Collection], sets: Sets, tell: Tell, on_progress: Report
) -> Verdict:
    queries = collection.dev.head(sets.dev)
    judgments = door.open("gate")
    found = collection.index.candidates(queries["text"].to_list(), workshop.plan.depth)
    tell(f"the gate: {queries.height} judged dev queries, opened once")
    dev = difference(workshop, workshop.start, chosen.digest, queries, judgments, found, on_progress)
    lost = {}
    for other, most in zip(others, sets.canaries, strict=True):
        canary = _canary(other, workshop, door, most)
        tell(f"canary: {canary.queries.height} queries of {canary.name}")
        lost[canary.name] = difference(workshop, workshop.start, chosen.digest, canary.queries, canary.judgments, canary.candidates, on_progress)
    return judge(dev, lost)


def _canary(other: Collection, workshop: Workshop, door: Judgments, most: int) -> Canary:
    queries = other.dev.head(most)
    return Canary(
        other.name, queries, door.open_canary(other.name, other.read_judgments), other.index.candidates(queries["text"].to_list(), workshop.plan.depth)
    )


def _oracle(
    collection: Collection, workshop: Workshop, door: Judgments, plan: Plan, seconds: float, lap: Lap, kept: Kept, on_progress: Report
) -> tuple[Stored, Lap, Choice]:
    """Trained on judgments for as long and on as many pairs as the candidate was, and chosen on held-out judged train queries."""
    judgments = door.open("oracle")
    most = min(plan.held_out, int(HELD_OUT_SHARE * collection.train.height))
    held, rest = collection.train.head(most), collection.train.slice(most)
    groups = supervised_groups(rest, judgments, collection.index, plan, plan.seed)
    epochs = min(3.0, max(1.0, lap.pairs / groups.height))
    trained = _lap(kept, workshop, "oracle", groups, supervision(plan, seconds, epochs=epochs), on_progress)
    found = collection.index.candidates(held["text"].to_list(), plan.depth)
    best, choice = _choice(kept, "oracle-choice", workshop, trained.stored, held, judgments, found, on_progress)
    return best, trained, choice


def _lap(kept: Kept, workshop: Workshop, name: str, groups: pl.DataFrame, recipe: TrainingRecipe, on_progress: Report) -> Lap:
    """A training, unless an earlier attempt finished it; one that was cut short goes on from its checkpoint."""
    told = kept.get(f"training-{name}".replace(", ", "-").replace(" ", "-"), lambda: asdict(workshop.train(name, groups, recipe, on_progress)))
    return Lap(**{**told, "stored": [Stored(**one) for one in told["stored"]]})


def _choice(kept: Kept, name: str, workshop: Workshop, stored: Sequence[Stored], *given: Any) -> tuple[Stored, Choice]:
    told = kept.get(name, lambda: workshop.choose(stored, *given)[1].model_dump(mode="json"))
    choice = Choice.model_validate_json(json.dumps(told))
    return next(one for one in stored if one.name == choice.chosen), choice


def _told(shares: tuple[float, Sets]) -> tuple[float, dict[str, Any]]:
    return shares[0], asdict(shares[1])


def _shares(told: Any) -> tuple[float, Sets]:
    return float(told[0]), _sets(told[1])


def _sets(told: dict[str, Any]) -> Sets:
    return Sets(told["dev"], tuple(told["canaries"]), told["test"])


def _test(collection: Collection, workshop: Workshop, door: Judgments, digests: dict[str, str], most: int, on_progress: Report) -> pl.DataFrame:
    """``query_id, need`` and NDCG@10 of each arm on the sealed queries: same candidates, depth and fusion rule."""
    queries = collection.test.slice(workshop.plan.test_skip, most)
    judgments = door.open("test")
    found = collection.index.candidates(queries["text"].to_list(), workshop.plan.depth)
    weight = workshop.plan.fusion_weight
    rules = {"zero_shot": (workshop.start, 0.0), "zero_shot_fused": (workshop.start, weight), **{name: (digest, weight) for name, digest in digests.items()}}
    frame: pl.DataFrame | None = None
    for name, (digest, fusion) in rules.items():
        own = workshop.per_query(digest, queries, judgments, found, fusion, on_progress).select("query_id", pl.col("ndcg_at_10").alias(name))
        frame = own if frame is None else frame.join(own, on="query_id", how="left", maintain_order="left")
    assert frame is not None
    return frame.with_columns(need=pl.Series(needs(frame["query_id"], judgments)))


def _figures(frame: pl.DataFrame, seed: int) -> dict[str, Any]:
    """The four arms with their intervals, and the differences that the promise is about."""
    arms = {name: bootstrap_mean_interval(frame[name].to_numpy(), seed=seed) for name in ARMS}
    pairs = {"gain": ("adapted", "zero_shot"), "fused_gain": ("adapted", "zero_shot_fused"), "oracle_gain": ("oracle", "zero_shot_fused")}
    found: dict[str, Any] = {}
    for name, (after, before) in pairs.items():
        values = (frame[after] - frame[before]).to_numpy()
        own, clustered = paired_interval(values, seed=seed), None
        if frame["need"].n_unique() > 1:
            clustered = bootstrap_mean_interval(values, seed=seed, cluster=frame["need"].to_numpy())
        if name == "gain":
            found["power"] = power_sentence(own.n, own.sd)
        found |= {name: own.estimate, f"{name}_ci": [own.low, own.high], f"{name}_p": own.p_value}
        found[f"{name}_ci_by_need"] = None if clustered is None else [clustered.low, clustered.high]
    recovery, why_not = recovered([frame], seed)
    return {
        **{name: interval.estimate for name, interval in arms.items()},
        "arms_ci": {name: [interval.low, interval.high] for name, interval in arms.items()},
        **found,
        "oracle_ci": found["oracle_gain_ci"],
        "gap_recovery": None if recovery is None else recovery.estimate,
        "gap_recovery_ci": None if recovery is None else [recovery.low, recovery.high],
        "gap_recovery_unknown_because": why_not,
        "n_test_queries": frame.height,
        "n_needs": frame["need"].n_unique(),
    }
