"""Make a trained reranker fast, and prove that it lost nothing on the way.

What belongs here: trying the backends of this machine, measuring them, choosing the fastest that is non-inferior per query; the fast twin
of a served model. What must not: file formats (``train.export``), verdicts about promotion (``release``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from predator_si.errors import BadInput
from predator_si.evaluate.compare import evaluate_model
from predator_si.evaluate.equality import equality_check
from predator_si.evaluate.pair_scores import PairScores
from predator_si.records import Interval, Record, ServingConfig
from predator_si.search.models import ModelStore
from predator_si.search.rerank import Reranker, chip_has_bf16, load_reranker, reference_backend
from predator_si.search.retrieve import Candidates
from predator_si.statistics import paired_interval
from predator_si.train.export import export

NDCG_MARGIN = 0.01
_AGREEMENT = 0.95
"""Least mean Kendall's tau-b per query of two backends that rank alike."""
_EQUALITY_QUERIES = 8


class Variant(Record):
    """One way to run the model, as measured on this machine."""

    digest: str
    backend: str
    p50_ms: float
    p95_ms: float
    pairs_per_second: float
    ndcg_difference: Interval | None = None
    """Against the trained model itself; null where a faster variant was chosen before this one was judged."""
    non_inferior: bool | None = None


class Optimisation(Record):
    """What was tried and what was chosen."""

    source: str
    chosen: str
    depth: int
    n_queries: int
    variants: list[Variant]
    reason: str
    seconds: float = Field(ge=0)


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
    candidates: Callable[[list[str], int], list[Candidates]],
    depth: int,
    fusion_weight: float,
    *,
    calibration: Sequence[tuple[str, str]] = (),
    scores_cache: PairScores | None = None,
    timing_queries: int = 12,
    margin: float = NDCG_MARGIN,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Optimisation:
    """Try the chip's backends and choose the fastest whose NDCG@10 is not lower than the trained model's by more than ``margin``.

    Speed is the P50 of scoring one query's candidates, cold, the backends interleaved. Quality is judged per query: the lower bound of the 95% interval of the
    paired difference against the trained weights must lie above ``-margin``. These are scored by the reference backend once it was found to rank as fp32
    does, else in fp32, which is also the last resort.

    Parameters
    ----------
    calibration
        Training pairs (query, text) for ``openvino-int8``; without any it is not tried.

    Raises
    ------
    BadInput
        No judged query.
    """
    started = time.monotonic()
    backends = [backend for backend in fast_backends() if calibration or backend != "openvino-int8"]
    digests = {backend: export(store, trained, backend, max_length, calibration) for backend in backends}
    models: dict[str, Reranker] = {backend: load_reranker(store.path(digest)) for backend, digest in digests.items()}
    probe = candidates(queries["text"].to_list()[: timing_queries + 2], depth)
    spent: dict[str, list[float]] = {backend: [] for backend in models}
    for number, (text, found) in enumerate(zip(queries["text"].to_list(), probe, strict=False)):
        for backend, model in models.items():
            began = time.perf_counter()
            model.score(text, found.texts)
            if number >= 2:  # the first two warm the engines up
                spent[backend].append(1e3 * (time.perf_counter() - began))
    fastest = sorted(models, key=lambda backend: float(np.median(spent[backend])))
    plain = export(store, trained, "torch-fp32", max_length)
    reference_model = _reference(store, plain, models[reference_backend()], queries, judgments, candidates, depth)
    reference: pl.DataFrame | None = None
    chosen, variants, reason = plain, [], "no fast backend kept the ranking; the fp32 weights are served"
    for backend in fastest:
        times = np.asarray(spent[backend])
        facts: dict[str, Any] = {
            "digest": digests[backend],
            "backend": backend,
            "p50_ms": float(np.median(times)),
            "p95_ms": float(np.percentile(times, 95)),
            "pairs_per_second": depth * 1e3 / float(times.mean()),
        }
        if chosen != plain:
            variants.append(Variant(**facts))
            continue
        common: dict[str, Any] = {"scores_cache": scores_cache, "should_stop": should_stop}
        if reference is None:
            reference = evaluate_model(
                queries,
                judgments,
                candidates,
                reference_model,
                ServingConfig(model=reference_model.digest, depth=depth, fusion_weight=fusion_weight),
                on_progress=on_progress,
                **common,
            )
        own = evaluate_model(
            queries,
            judgments,
            candidates,
            models[backend],
            ServingConfig(model=digests[backend], depth=depth, fusion_weight=fusion_weight),
            on_progress=on_progress,
            **common,
        )
        joined = reference.select("query_id", before="ndcg_at_10").join(own.select("query_id", after="ndcg_at_10"), on="query_id", how="inner")
        difference = paired_interval((joined["after"] - joined["before"]).to_numpy(), seed=seed)
        good = difference.low > -margin
        variants.append(Variant(**facts, ndcg_difference=difference, non_inferior=good))
        if good:
            chosen, reason = (
                digests[backend],
                f"{backend} is the fastest and not inferior: NDCG@10 {difference.estimate:+.4f} "
                f"[{difference.low:+.4f}, {difference.high:+.4f}], n={difference.n}",
            )
    n = 0 if reference is None else reference.height
    return Optimisation(source=trained, chosen=chosen, depth=depth, n_queries=n, variants=variants, reason=reason, seconds=time.monotonic() - started)


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
