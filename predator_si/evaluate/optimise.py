"""Make a trained reranker fast, and prove that it lost nothing on the way.

What belongs here: trying the backends of this machine, smaller students, shorter inputs and depths, measuring them, choosing the fastest that is non-inferior
per query; the fast twin of a served model. What must not: file formats (``train.export``), making students (``train.students``), verdicts about promotion
(``release``).

Looking at many variants and taking one that passed would let chance choose. So the order of testing is fixed before any judgment is read: from the variant
that ranks most like the trained model to the fastest one, leaving out what is both slower and less alike (``pareto.order_of_tests``). Each is tested at the
full level, and the first failure ends it. Whatever the number of variants, the chance that an inferior one is chosen is that of a single test: it would have to
be the first inferior one of the order that passes wrongly (fixed-sequence testing: Maurer, Hothorn and Lehmacher 1995; Westfall and Krishen 2001). Ending
early, because the time is over, is always allowed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from predator_si.errors import BadInput
from predator_si.evaluate.compare import evaluate_model
from predator_si.evaluate.equality import equality_check
from predator_si.evaluate.pair_scores import PairScores, score_pairs
from predator_si.evaluate.pareto import Variant, judged_front, order_of_tests
from predator_si.evaluate.timing import Timing, arm, time_arms
from predator_si.measures import rank_biased_overlap
from predator_si.records import Record, ServingConfig
from predator_si.search.adaptive_depth import DepthRule, calibrate, keep_rule
from predator_si.search.models import ModelStore
from predator_si.search.rerank import Reranker, chip_has_bf16, load_reranker, reference_backend
from predator_si.search.retrieve import Candidates
from predator_si.statistics import paired_interval, power_sentence
from predator_si.train.export import export
from predator_si.train.layers import layer_count

NDCG_MARGIN = 0.01
CONFIDENCE = 0.95
"""Two-sided: each test has a level of 2.5% on its own side."""
_AGREEMENT = 0.95
"""Least mean Kendall's tau-b per query of two backends that rank alike."""
_EQUALITY_QUERIES = 8
_FASTEST = 2
"""Backends that students and shorter inputs are tried with: the first ones of ``fast_backends``."""
CandidatesOf = Callable[[list[str], int], list[Candidates]]


class Optimisation(Record):
    """What was tried and what was chosen."""

    source: str
    chosen: str
    depth: int
    """Candidates that the chosen variant scores, at most."""
    n_queries: int
    variants: list[Variant]
    """The fastest first."""
    reason: str
    seconds: float = Field(ge=0)
    front: tuple[str, ...] = ()
    """Names of the judged variants that none beats in NDCG, P95 and cost."""
    chosen_name: str = ""
    tests: int = 0
    """Hypotheses tested, in the order fixed beforehand."""
    confidence: float = CONFIDENCE
    margin: float = NDCG_MARGIN
    early_exit: bool = False
    """Whether the chosen variant may stop before its depth; the rule then lies beside its weights."""
    rule: DepthRule | None = None


@dataclass(frozen=True)
class EarlyExit:
    """That early exit is wanted, and what it may do.

    Attributes
    ----------
    queries
        Unlabelled ones to calibrate on, none of them judged; 60 at least for a limit of .05, or no threshold can be proved.
    limit
        Largest share of queries that may lose a document of their first page.
    """

    queries: Sequence[str]
    limit: float = 0.05


def fast_backends() -> tuple[str, ...]:
    """The backends worth trying on this chip, likely fastest first; ``openvino-int8`` wants pairs to calibrate on."""
    return ("openvino-int8", "openvino-bf16", "onnx-int8", "torch-bf16") if chip_has_bf16() else ("openvino-int8", "onnx-int8", "openvino-f32")


def fast_twin(
    store: ModelStore,
    digest: str,
    queries: pl.DataFrame,
    judgments: pl.DataFrame,
    candidates: Callable[[list[str], int], list[Candidates]],
    depth: int,
    agreement: float = _AGREEMENT,
) -> tuple[str, dict[str, Any]]:
    """The same weights on this chip's reference backend, after both scored the same pairs.

    Parameters
    ----------
    agreement
        Least mean Kendall's tau-b per query; besides, the 95% interval of the NDCG@10 difference must hold zero.

    Returns
    -------
    (digest, check)
        The twin's digest, and what the equality check found.

    Raises
    ------
    BadInput
        The two do not rank alike: then nothing may be scored by the twin.
    """
    card = store.card(digest)
    if not card.backend.startswith("torch"):
        return digest, {"same": True}
    twin = export(store, digest, reference_backend(), card.max_length)
    found = equality_check(load_reranker(store.path(digest)), load_reranker(store.path(twin)), queries, judgments, candidates, depth=depth)
    tau, difference = found.rank_correlation, found.ndcg_difference
    if tau is None or tau < agreement or not difference.low <= 0.0 <= difference.high:
        raise BadInput(
            f"the {reference_backend()} twin of {digest} ranks otherwise (mean tau {tau}, NDCG@10 {difference.estimate:+.4f} on {found.n_queries} queries): "
            "it cannot stand in for it. Score with torch instead."
        )
    check = found.model_dump(mode="json")
    store.set_twin(digest, twin, check)
    return twin, check


def optimise(
    store: ModelStore,
    trained: str,
    max_length: int,
    queries: pl.DataFrame,
    judgments: pl.DataFrame,
    candidates: CandidatesOf,
    depth: int,
    fusion_weight: float,
    *,
    students: Sequence[str] = (),
    lengths: Sequence[int] = (),
    depths: Sequence[int] = (),
    early_exit: EarlyExit | None = None,
    calibration: Sequence[tuple[str, str]] = (),
    scores_cache: PairScores | None = None,
    timing_queries: int = 12,
    margin: float = NDCG_MARGIN,
    budget_seconds: float | None = None,
    usd_per_vcpu_hour: float | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Optimisation:
    """Try ways to run the model and choose the fastest whose NDCG@10 is not lower than the trained model's by more than ``margin``.

    Speed is the P50 of scoring one query's candidates, cold, the variants interleaved. Quality is judged per query: the lower bound of the 95% interval of the
    paired difference against the trained weights must lie above ``-margin``, tested in the order that the module explains. These are scored by the reference
    backend once it was found to rank as fp32 does, else in fp32, which is also the last resort.

    Parameters
    ----------
    students
        Digests of smaller torch models made from this one (``train.students.distil``).
    lengths, depths
        Inputs shorter than ``max_length`` tokens, and depths below ``depth``, to be tried as well; each with the chip's two fastest backends.
    early_exit
        Calibrate a depth rule for the chosen variant, and test it too: then both tests share the level (Bonferroni: 97.5% intervals).
    calibration
        Training pairs (query, text): ``openvino-int8`` takes the ranges of its activations from them and is not tried without any. Their queries also serve as
        those that are timed and compared without judgments; where there are too few, the first of ``queries`` follow.
    budget_seconds
        No variant is judged that would not end in time by what its timing says; the fp32 weights remain where none could be judged.
    usd_per_vcpu_hour
        Of the cost estimate.

    Raises
    ------
    BadInput
        No judged query, or a student that is no torch model.
    """
    started = time.monotonic()
    confidence = CONFIDENCE if early_exit is None else (1.0 + CONFIDENCE) / 2.0
    asked = list(dict.fromkeys([query for query, _ in calibration] + queries["text"].to_list()))[: timing_queries + 2]
    probe = candidates(asked, depth)
    models, facts = _load(store, trained, max_length, students, lengths, depths, depth, calibration)
    arms = {name: arm(models[name], int(facts[name]["depth"]), fusion_weight) for name in models}
    timings = time_arms(arms, asked, probe)
    plain = export(store, trained, "torch-fp32", max_length)
    base = f"{reference_backend()} {max_length}"
    reference_model = _reference(store, plain, models[_named(facts, trained, reference_backend(), max_length, depth)], queries, judgments, candidates, depth)
    pages = timings[_named(facts, trained, reference_backend(), max_length, depth)].orders
    if reference_model.digest == plain:
        pages = time_arms({base: arm(reference_model, depth, fusion_weight)}, asked, probe)[base].orders
    variants = {name: _measured(name, facts[name], timings[name], pages, usd_per_vcpu_hour) for name in models}
    shared: dict[str, Any] = {"scores_cache": scores_cache, "should_stop": should_stop, "on_progress": on_progress}
    judge = _Judge(queries, judgments, candidates, fusion_weight, margin, confidence, seed, shared)
    chosen, reason, tests = None, "no fast backend kept the ranking; the fp32 weights are served", 0
    for variant in order_of_tests(list(variants.values())):
        left = None if budget_seconds is None else budget_seconds - (time.monotonic() - started)
        if left is not None and judge.expected_seconds(variant) > left:
            reason = f"the time was over before {variant.name} could be judged; " + (reason if chosen is None else f"{chosen.name} was the last that passed")
            break
        judge.against(reference_model, depth)
        tested = judge.test(variant, models[variant.name])
        variants[variant.name], tests = tested, tests + 1
        if not tested.non_inferior:
            break
        chosen = tested
        reason = f"{tested.name} is the fastest that is not inferior: {_said(tested)}"
    rule = None
    if early_exit is not None and chosen is not None:
        model = models[chosen.name]
        rule = _calibrated(model, early_exit, candidates, chosen.depth or depth, fusion_weight, shared)
        with_rule = time_arms({chosen.name: arm(model, rule.depth, fusion_weight, rule)}, asked, probe)[chosen.name]
        exits = {**facts[chosen.name], "early_exit": True}
        tested = judge.test(_measured(f"{chosen.name}, early exit", exits, with_rule, pages, usd_per_vcpu_hour), model, rule)
        variants[tested.name], tests = tested, tests + 1
        if tested.non_inferior and tested.p50_ms < chosen.p50_ms:
            chosen, reason = tested, f"{tested.name} stops early and is not inferior: {_said(tested)}"
            keep_rule(store.path(chosen.digest), rule)
    found = sorted(variants.values(), key=lambda variant: variant.p50_ms)
    return Optimisation(
        source=trained,
        chosen=plain if chosen is None else chosen.digest,
        depth=depth if chosen is None or chosen.depth is None else chosen.depth,
        n_queries=judge.n,
        variants=found,
        reason=reason,
        seconds=time.monotonic() - started,
        front=tuple(variant.name for variant in judged_front(found)),
        chosen_name="torch-fp32" if chosen is None else chosen.name,
        tests=tests,
        confidence=confidence,
        margin=margin,
        early_exit=chosen is not None and chosen.early_exit,
        rule=rule,
    )


def _load(
    store: ModelStore,
    trained: str,
    max_length: int,
    students: Sequence[str],
    lengths: Sequence[int],
    depths: Sequence[int],
    depth: int,
    calibration: Sequence[tuple[str, str]],
) -> tuple[dict[str, Reranker], dict[str, dict[str, Any]]]:
    """Loaded variants by name, and what each is: all backends for the trained model as it is, the fastest two for everything else."""
    backends = [backend for backend in fast_backends() if calibration or backend != "openvino-int8"]
    wanted = [(trained, backend, max_length) for backend in backends]
    for source in (trained, *students):  # a student is made for the shorter input where there is one
        for length in dict.fromkeys((max_length, *lengths) if source == trained else lengths or (max_length,)):
            wanted += [(source, backend, length) for backend in backends[:_FASTEST] if (source, backend, length) not in wanted]
    models: dict[str, Reranker] = {}
    facts: dict[str, dict[str, Any]] = {}
    for source, backend, length in wanted:
        digest = export(store, source, backend, length, calibration)
        model = load_reranker(store.path(digest))
        layers = layer_count(store.path(source))
        for own in dict.fromkeys((depth, *depths)) if backend in backends[:_FASTEST] else (depth,):
            name = _name(backend, layers, length, own, plain=(source, length, own) == (trained, max_length, depth))
            name = name if name not in models else f"{name} {source[7:15]}"
            models[name] = model
            facts[name] = {"digest": digest, "backend": backend, "source": source, "layers": layers, "max_length": length, "depth": own}
    return models, facts


def _name(backend: str, layers: int, length: int, depth: int, *, plain: bool) -> str:
    return backend if plain else f"{backend}, {layers} layers, {length} tokens, depth {depth}"


def _named(facts: dict[str, dict[str, Any]], source: str, backend: str, length: int, depth: int) -> str:
    wanted = {"source": source, "backend": backend, "max_length": length, "depth": depth}
    return next(name for name, own in facts.items() if all(own[key] == value for key, value in wanted.items()))


def _measured(name: str, facts: dict[str, Any], timing: Timing, pages: Sequence[Sequence[str]], usd_per_vcpu_hour: float | None) -> Variant:
    """A variant with its times, and how much its first pages look like the trained model's."""
    agreement = [rank_biased_overlap(own, page) for own, page in zip(timing.orders, pages, strict=True)]
    cpu = float(np.mean(timing.cpu_seconds))
    return Variant(
        **facts,
        name=name,
        p50_ms=timing.percentile(50),
        p95_ms=timing.percentile(95),
        p99_ms=timing.percentile(99),
        pairs_per_second=timing.pairs_per_second,
        mean_depth=float(np.mean(timing.scored)),
        agreement=float(np.mean(agreement)),
        cpu_seconds=cpu,
        usd_per_1k=None if usd_per_vcpu_hour is None else cpu * usd_per_vcpu_hour / 3.6,
    )


class _Judge:
    """Non-inferiority of one variant after the other, against the same scores of the trained model."""

    def __init__(
        self,
        queries: pl.DataFrame,
        judgments: pl.DataFrame,
        candidates: CandidatesOf,
        fusion_weight: float,
        margin: float,
        confidence: float,
        seed: int,
        shared: dict[str, Any],
    ) -> None:
        self._data = (queries, judgments, candidates)
        self._fusion_weight, self._margin, self._confidence, self._seed, self._shared = fusion_weight, margin, confidence, seed, shared
        self._reference: pl.DataFrame | None = None
        self._of: tuple[str, int] | None = None

    @property
    def n(self) -> int:
        """Judged queries, 0 before the first test."""
        return 0 if self._reference is None else self._reference.height

    def expected_seconds(self, variant: Variant) -> float:
        """What judging takes if every query costs what the timed ones did: an upper bound, for hopeless queries are not scored."""
        return self._data[0].height * variant.p50_ms / 1e3 * (1 if self._reference is not None else 2)

    def against(self, reference: Reranker, depth: int) -> None:
        """Score the trained model, once."""
        if self._reference is None:
            config = ServingConfig(model=reference.digest, depth=depth, fusion_weight=self._fusion_weight)
            self._of = (reference.digest, depth)
            self._reference = evaluate_model(*self._data, reference, config, **self._shared)

    def test(self, variant: Variant, model: Reranker, rule: DepthRule | None = None) -> Variant:
        """The variant with its NDCG, the interval of the difference, and whether its lower end lies above the margin."""
        if self._reference is None:
            raise BadInput("nothing to compare with: the trained model was not scored.")
        config = ServingConfig(model=model.digest, depth=variant.depth or 0, fusion_weight=self._fusion_weight, early_exit=rule is not None)
        same = rule is None and (model.digest, config.depth) == self._of
        own = self._reference if same else evaluate_model(*self._data, model, config, rule=rule, **self._shared)
        joined = self._reference.select("query_id", before="ndcg_at_10").join(own.select("query_id", after="ndcg_at_10"), on="query_id", how="inner")
        gap = (joined["after"] - joined["before"]).to_numpy()
        difference = paired_interval(gap, seed=self._seed, confidence=self._confidence)
        ndcg = float(joined["after"].to_numpy().mean())
        return variant.model_copy(update={"ndcg": ndcg, "ndcg_difference": difference, "non_inferior": difference.low > -self._margin})


def _said(variant: Variant) -> str:
    gap = variant.ndcg_difference
    return "" if gap is None else f"NDCG@10 {gap.estimate:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}], n={gap.n}; {power_sentence(gap.n, gap.sd)}"


def _calibrated(model: Reranker, wanted: EarlyExit, candidates: CandidatesOf, depth: int, fusion_weight: float, shared: dict[str, Any]) -> DepthRule:
    """The depth rule of a model, from its scores of all candidates of unlabelled queries."""
    texts = list(dict.fromkeys(wanted.queries))
    found = candidates(texts, depth) if texts else []
    pairs = [(query, text) for query, own in zip(texts, found, strict=True) for text in own.texts[:depth]]
    scores = score_pairs(model, pairs, shared["scores_cache"], should_stop=shared["should_stop"])
    ends = np.cumsum([len(own.texts[:depth]) for own in found])
    own_scores = np.split(scores, ends[:-1]) if found else []
    return calibrate(model.digest, own_scores, [own.scores[:depth] for own in found], depth=depth, fusion_weight=fusion_weight, limit=wanted.limit)


def _reference(
    store: ModelStore,
    plain: str,
    fast: Reranker,
    queries: pl.DataFrame,
    judgments: pl.DataFrame,
    candidates: Callable[[list[str], int], list[Candidates]],
    depth: int,
) -> Reranker:
    """What the backends are compared with: the reference backend where it ranks a few queries as the fp32 weights do, else those weights."""
    model = load_reranker(store.path(plain))
    found = equality_check(model, fast, queries.head(_EQUALITY_QUERIES), judgments, candidates, depth=depth)
    return fast if found.rank_correlation is not None and found.rank_correlation >= _AGREEMENT else model
