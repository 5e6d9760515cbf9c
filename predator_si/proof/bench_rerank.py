"""`bench rerank`: what a user would run beside what we serve, on the same candidates: latency, and what it costs in NDCG.

What belongs here: arms, clocks, the figures of CONTRACT.md section 7. What must not: any way of choosing or making models of its own.

The order of things, so that nobody judges what they chose on: students are made from train queries without a label; the variant is chosen on judged dev
queries by ``evaluate.optimise``; then the queries of ``split`` are opened, once, for the reference and the listed variants. The reference is the zero-shot
cross-encoder as sentence-transformers runs it: fp32, its own input length. Its NDCG is computed by its fast twin once both were found to rank alike; its times
are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.augment.teacher import ensemble_of
from predator_si.corpora import Corpus
from predator_si.errors import BadInput
from predator_si.evaluate import PairScores, equality_check, evaluate_model, score_pairs
from predator_si.evaluate.optimise import Optimisation, optimise
from predator_si.evaluate.pareto import Variant, order_of_tests
from predator_si.evaluate.timing import WARM_UP, Arm, Timing, arm, time_arms
from predator_si.proof.rerank_figures import FUSED, MARGIN, SAME, USER, alone, rerank_figures
from predator_si.provenance import provenance
from predator_si.records import ServingConfig
from predator_si.search.adaptive_depth import DepthRule, calibrate
from predator_si.search.models import ModelStore, model_digest
from predator_si.search.rerank import Reranker, load_reranker, reference_backend
from predator_si.search.retrieve import Candidates, HybridIndex
from predator_si.train.export import export
from predator_si.train.students import StudentPlan, distil, distillation_groups

Tell = Callable[[str], None]
OnProgress = Callable[[int, int], None]
_FULL = 900
"""Pooled judged queries from which on a run counts as full."""
_SHOWN = {"digest", "backend", "layers", "max_length", "depth"}
_TEACHER_DEPTH = 20
_CALIBRATION = 40
_EQUALITY_QUERIES = 20
_ALIKE = 0.95


@dataclass(frozen=True)
class Collection:
    """A judged collection with its index; ``part`` is "shift", "base" or null for both."""

    name: str
    corpus: Corpus
    index: HybridIndex
    part: str | None = None

    def queries(self, split: str, most: int | None, seed: int) -> pl.DataFrame:
        """Judged queries of a split, at most so many, drawn by the seed; ``query_id`` is made unique over collections."""
        judged = self.corpus.judgments(split, self.part).filter(pl.col("relevance") > 0).select("query_id").unique()
        found = self.corpus.queries(split, self.part).join(judged, on="query_id", how="semi", maintain_order="left")
        return _sample(found, most, seed).select(pl.concat_str(pl.lit(f"{self.name}/"), "query_id").alias("query_id"), "text")

    def asked(self, split: str, most: int | None, seed: int) -> list[str]:
        """Texts of queries, as a log would have them: no judgment is read."""
        return _sample(self.corpus.queries(split, self.part), most, seed)["text"].to_list()

    def judgments(self, split: str) -> pl.DataFrame:
        """Judgments of a split, under the ids of :meth:`queries`."""
        return self.corpus.judgments(split, self.part).with_columns(pl.concat_str(pl.lit(f"{self.name}/"), "query_id").alias("query_id"))


@dataclass(frozen=True)
class RerankPlan:
    """Sizes of a run.

    Attributes
    ----------
    split
        Whose queries give the reported NDCG; students come from train, the choice from dev.
    queries, dev_queries, train_queries
        At most so many of each collection; null takes all.
    timing_queries
        Timed in all, spread over the collections.
    lengths
        Inputs in tokens that are tried beside the reference's own.
    fusion_weight
        Share of the first stage in ours, as it would be served. The reference has none: that is what a user would run.
    """

    split: str = "test"
    depth: int = 50
    queries: int | None = None
    dev_queries: int | None = 100
    train_queries: int | None = 400
    timing_queries: int = 60
    lengths: tuple[int, ...] = (128,)
    reference_length: int = 512
    fusion_weight: float = 0.3
    students: StudentPlan = field(default_factory=lambda: StudentPlan(seconds=900.0))
    seed: int = 0
    limit: float = 0.05
    """Of early exit: largest share of queries that may lose a document of their first page."""


def bench_rerank(
    collections: Sequence[Collection],
    zero_shot: Path,
    store: ModelStore,
    work: Path,
    plan: RerankPlan,
    *,
    variants: Sequence[str] = (),
    scores: PairScores | None = None,
    usd_per_vcpu_hour: float | None = None,
    tell: Tell = lambda _: None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Make students, choose, time, judge.

    Parameters
    ----------
    zero_shot
        Folder of the cross-encoder as it was fetched.
    variants
        Digests of torch models in ``store`` to use as students, in place of making some.
    work
        Folder for checkpoints of students: a run that was killed goes on from there.

    Returns
    -------
    dict
        The keys of CONTRACT.md section 7, row ``bench rerank``, and more beside them.

    Raises
    ------
    BadInput
        No collection, or one without queries in a split that is needed.
    """
    if not collections:
        raise BadInput("bench rerank needs a judged collection. Import one: `predator-si corpus import DIR`.")
    zero = model_digest(zero_shot)
    if zero not in store:
        store.add(zero_shot, name=zero_shot.name, backend="torch-fp32", max_length=plan.reference_length, base=zero_shot.name)
    twin = export(store, zero, reference_backend(), plan.reference_length)
    dev = {one.name: one.queries("dev", plan.dev_queries, plan.seed) for one in collections}
    tell("looking whether the reference and its twin rank alike")
    plain = export(store, zero, "torch-fp32", plan.reference_length)
    alike = _check_twin(store, plain, twin, collections[0], dev[collections[0].name], plan)
    reference = load_reranker(store.path(twin if alike["same"] else plain))
    students = list(variants)
    made: list[dict[str, Any]] = []
    if not students:
        tell("asking the teacher about train queries")
        groups = _groups(collections, reference, plan, scores, on_progress)
        tell(f"teaching students of {', '.join(map(str, plan.students.layers))} layers, {groups.height:,} pairs")
        found = distil(store, zero, groups, plan.students, work, name=f"{zero_shot.name} student", on_progress=on_progress)
        students, made = [student.digest for student in found], [student.model_dump(mode="json") for student in found]
    tell("choosing on dev")
    chosen = _choose(store, zero, students, collections, dev, plan, scores, usd_per_vcpu_hour, on_progress)
    rules = _rules(store, chosen, dev, collections, plan, scores)
    ours = _ours(store, twin, chosen, rules, plan)
    tell(f"timing {len(ours) + 1} arms on {plan.timing_queries} queries")
    timings = _timed(store, zero, ours, chosen, collections, plan, on_progress)
    tell(f"judging on {plan.split}")
    table = _judged(collections, reference, ours, plan, scores, on_progress)
    best = chosen.chosen_name if chosen.chosen_name in ours else SAME
    facts = {name: own.variant.model_dump(mode="json", include=_SHOWN) for name, own in ours.items()}
    cut = _cut_user(_length_of(chosen, plan))
    return {
        **provenance("full" if table.height >= _FULL else "small", plan.seed),
        **rerank_figures(table, timings, facts, best=best, cut=cut if cut in timings else None, seed=plan.seed),
        "depth": plan.depth,
        "split": plan.split,
        "fusion_weight": plan.fusion_weight,
        "reference_length": plan.reference_length,
        "twin": alike,
        "students": made,
        "choice": chosen.model_dump(mode="json"),
        "early_exit": {name: rule.model_dump(mode="json") for name, rule in rules.items()},
    }


def _sample(frame: pl.DataFrame, most: int | None, seed: int) -> pl.DataFrame:
    return frame if most is None or most >= frame.height else frame.sample(most, seed=seed)


def _check_twin(store: ModelStore, plain: str, twin: str, collection: Collection, queries: pl.DataFrame, plan: RerankPlan) -> dict[str, Any]:
    some = queries.head(_EQUALITY_QUERIES)
    found = equality_check(
        load_reranker(store.path(plain)), load_reranker(store.path(twin)), some, collection.judgments("dev"), collection.index.candidates, depth=plan.depth
    )
    tau = found.rank_correlation
    return {"same": tau is not None and tau >= _ALIKE, **found.model_dump(mode="json")}


def _groups(
    collections: Sequence[Collection], reference: Reranker, plan: RerankPlan, scores: PairScores | None, on_progress: OnProgress | None
) -> pl.DataFrame:
    """What the students learn: train queries of all collections, their candidates, and what the ensemble of reranker and both legs thinks of them."""
    parts: list[pl.DataFrame] = []
    for place, one in enumerate(collections):
        asked = one.asked("train", plan.train_queries, plan.seed)
        found = one.index.candidates(asked, _TEACHER_DEPTH)
        teacher = ensemble_of(one.index, lambda pairs: score_pairs(reference, pairs, scores, on_progress=on_progress))
        said = teacher.score(asked, [own.doc_ids for own in found], [own.texts for own in found])
        groups = distillation_groups(asked, found, said, seed=plan.seed)
        parts.append(groups.with_columns(pl.col("group_id") + place * 10_000_000))
    return pl.concat(parts)


def _pooled(
    collections: Sequence[Collection], queries: Mapping[str, pl.DataFrame], split: str, depth: int
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Candidates]]:
    """Queries and judgments of all collections together, and each text's candidates in its own; a text that two collections share stays in the first."""
    found: dict[str, Candidates] = {}
    frames, labels = [], []
    for one in collections:
        own = queries[one.name].filter(~pl.col("text").is_in(list(found)))
        texts = own["text"].to_list()
        found.update(zip(texts, one.index.candidates(texts, max(depth, 20)), strict=True))
        frames.append(own)
        labels.append(one.judgments(split))
    return pl.concat(frames).unique("text", keep="first", maintain_order=True), pl.concat(labels), found


def _choose(
    store: ModelStore,
    zero: str,
    students: Sequence[str],
    collections: Sequence[Collection],
    dev: Mapping[str, pl.DataFrame],
    plan: RerankPlan,
    scores: PairScores | None,
    usd_per_vcpu_hour: float | None,
    on_progress: OnProgress | None,
) -> Optimisation:
    queries, judgments, known = _pooled(collections, dev, "dev", plan.depth)
    calibration = []
    for one in collections:
        asked = one.asked("train", _CALIBRATION // len(collections) + 1, plan.seed)
        known.update(zip(asked, one.index.candidates(asked, plan.depth), strict=True))
        calibration += [(text, known[text].texts[number % len(known[text].texts)]) for number, text in enumerate(asked) if known[text].texts]
    return optimise(
        store,
        zero,
        plan.reference_length,
        queries,
        judgments,
        lambda texts, _: [known[text] for text in texts],
        plan.depth,
        plan.fusion_weight,
        students=students,
        lengths=plan.lengths,
        calibration=calibration,
        scores_cache=scores,
        margin=MARGIN,
        usd_per_vcpu_hour=usd_per_vcpu_hour,
        seed=plan.seed,
        on_progress=on_progress,
    )


def _rules(
    store: ModelStore, chosen: Optimisation, dev: Mapping[str, pl.DataFrame], collections: Sequence[Collection], plan: RerankPlan, scores: PairScores | None
) -> dict[str, DepthRule]:
    """Early exit for the chosen model, calibrated on the texts of dev queries, which no student saw; empty where no threshold kept the limit."""
    model = load_reranker(store.path(chosen.chosen))
    own_scores: list[npt.NDArray[np.floating]] = []
    first: list[npt.NDArray[np.floating]] = []
    for one in collections:
        asked = dev[one.name]["text"].to_list()
        found = one.index.candidates(asked, plan.depth)
        pairs = [(query, text) for query, own in zip(asked, found, strict=True) for text in own.texts]
        own_scores += np.split(score_pairs(model, pairs, scores), np.cumsum([len(own.texts) for own in found])[:-1])
        first += [own.scores for own in found]
    rule = calibrate(chosen.chosen, own_scores, first, depth=chosen.depth, fusion_weight=plan.fusion_weight, limit=plan.limit)
    return {f"{chosen.chosen_name}, early exit": rule} if rule.threshold is not None else {}


@dataclass(frozen=True)
class _Ours:
    """One of our arms: a model with the depth and rule that it serves with."""

    model: Reranker
    variant: Variant
    rule: DepthRule | None = None


def _ours(store: ModelStore, twin: str, chosen: Optimisation, rules: Mapping[str, DepthRule], plan: RerankPlan) -> dict[str, _Ours]:
    """Same weights first, then the variants that none beat in speed and likeness, then early exit."""
    shown = order_of_tests([variant for variant in chosen.variants if not variant.early_exit])
    if all(variant.name != chosen.chosen_name for variant in shown):
        shown += [variant for variant in chosen.variants if variant.name == chosen.chosen_name]
    loaded: dict[str, Reranker] = {}

    def load(digest: str) -> Reranker:
        if digest not in loaded:
            loaded[digest] = load_reranker(store.path(digest))
        return loaded[digest]

    same = next((variant for variant in chosen.variants if variant.digest == twin and variant.depth == plan.depth), None)
    if same is None:
        raise BadInput(f"{reference_backend()} was not among the backends tried: nothing of ours has the same weights, length and depth.")
    found = {SAME: _Ours(load(twin), same)}
    found |= {variant.name: _Ours(load(variant.digest), variant) for variant in shown if variant.digest != twin or variant.depth != plan.depth}
    by_name = {variant.name: variant for variant in chosen.variants}
    for name, rule in rules.items():
        base = by_name.get(chosen.chosen_name, same)
        found[name] = _Ours(load(rule.model), base, rule)
    return found


def _user_arm(folder: Path, length: int, depth: int) -> Arm:
    """`CrossEncoder(folder).predict` with its defaults, but for the length where a shorter one is asked for."""
    import torch
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(str(folder), max_length=length, device="cpu", local_files_only=True)

    def score(query: str, texts: Sequence[str]) -> npt.NDArray[np.floating]:
        found: npt.NDArray[np.float32] = encoder.predict([(query, text) for text in texts], activation_fn=torch.nn.Identity(), show_progress_bar=False)
        return found

    return Arm(score, depth)


def _timed(
    store: ModelStore,
    zero: str,
    ours: Mapping[str, _Ours],
    chosen: Optimisation,
    collections: Sequence[Collection],
    plan: RerankPlan,
    on_progress: OnProgress | None,
) -> dict[str, Timing]:
    """All arms on the texts of queries of ``plan.split``, interleaved; the judgments of these are not read here."""
    each = -(-plan.timing_queries // len(collections))
    asked: list[str] = []
    found: list[Candidates] = []
    for one in collections:
        texts = one.queries(plan.split, each + WARM_UP, plan.seed)["text"].to_list()
        asked += texts
        found += one.index.candidates(texts, plan.depth)
    order = np.random.default_rng(plan.seed).permutation(len(asked))
    arms = {name: arm(own.model, own.variant.depth or plan.depth, plan.fusion_weight, own.rule) for name, own in ours.items()}
    arms[USER] = _user_arm(store.path(zero), plan.reference_length, plan.depth)
    length = _length_of(chosen, plan)
    if length != plan.reference_length:
        arms[_cut_user(length)] = _user_arm(store.path(zero), length, plan.depth)
    wanted = [int(place) for place in order[: plan.timing_queries + WARM_UP]]
    return time_arms(arms, [asked[place] for place in wanted], [found[place] for place in wanted], on_progress=on_progress)


def _length_of(chosen: Optimisation, plan: RerankPlan) -> int:
    return next((variant.max_length for variant in chosen.variants if variant.name == chosen.chosen_name and variant.max_length), plan.reference_length)


def _cut_user(length: int) -> str:
    return f"{USER}, {length} tokens"


def _judged(
    collections: Sequence[Collection],
    reference: Reranker,
    ours: Mapping[str, _Ours],
    plan: RerankPlan,
    scores: PairScores | None,
    on_progress: OnProgress | None,
) -> pl.DataFrame:
    """NDCG@10 per query: columns ``collection``, ``query_id``, one for each arm, and ``fused reference``."""
    frames = []
    for one in collections:
        queries, judgments = one.queries(plan.split, plan.queries, plan.seed), one.judgments(plan.split)
        found = one.index.candidates(queries["text"].to_list(), max(plan.depth, 20))
        wanted: dict[str, tuple[Reranker, int, float, DepthRule | None]] = {
            USER: (reference, plan.depth, 0.0, None),
            FUSED: (reference, plan.depth, plan.fusion_weight, None),
        }
        wanted |= {name: (own.model, own.variant.depth or plan.depth, plan.fusion_weight, own.rule) for name, own in ours.items()}
        wanted |= {alone(name): (own.model, own.variant.depth or plan.depth, 0.0, own.rule) for name, own in ours.items() if own.rule is None}
        frame = queries.select("query_id", pl.lit(one.name).alias("collection"))
        for name, (model, depth, weight, rule) in wanted.items():
            config = ServingConfig(model=model.digest, depth=depth, fusion_weight=weight, early_exit=rule is not None)
            own = evaluate_model(queries, judgments, found, model, config, rule=rule, scores_cache=scores, on_progress=on_progress)
            frame = frame.join(own.select("query_id", pl.col("ndcg_at_10").alias(name)), on="query_id", how="inner", maintain_order="left")
        frames.append(frame)
    return pl.concat(frames)
