"""What to do about a cause: rows of CONTRACT.md section 3, filled with the targets that the diagnosis found."""

from __future__ import annotations

from typing import Any

EXAMPLES_PER_TOKEN = 40
EXAMPLES_RANGE = (500, 5_000)
"""A few thousand filtered examples suffice to adapt a reranker (DUQGen, arXiv 2404.02489; UDAPDR, 2303.00807)."""


def estimated_examples(target_tokens: int, affected_queries: int) -> int:
    """How many training groups to ask for: 40 per target token or 5 per affected probe, whichever is more, within 500 to 5,000."""
    low, high = EXAMPLES_RANGE
    return max(low, min(high, max(EXAMPLES_PER_TOKEN * target_tokens, 5 * affected_queries)))


def recommended_actions(
    cause: str, *, metric: str, target_tokens: list[str], categories: list[str], affected_queries: int, misses: dict[str, Any], slowest_stage: str | None
) -> list[dict[str, Any]]:
    """Actions in the order to try them, cheapest first where several would do.

    ``expected_improvement`` is an upper bound in points of NDCG@10 (what a perfect reranker or retriever would win back), or null where only
    a measurement can tell.
    """
    if cause == "service_fault":
        return [_action("previous_model", "last release without errors"), _action("depth_zero", "answer from the first stage until the errors end")]
    if cause == "data_fault":
        repair = [_action("repair_index", "index the judged documents that are missing"), _action("add_workers", "ingest queue")]
        return repair if metric == "ndcg_at_10" else repair[::-1]
    if cause == "latency":
        rerank = [_action("quantise", "reranker"), _action("cut_depth", "reranker"), _action("distil", "reranker")]
        replicas = _action("add_replicas", "search service")
        return {"queue": [replicas, *rerank], "retrieve": [_action("profile", "first stage"), replicas]}.get(slowest_stage or "", [*rerank, replicas])
    if metric == "cost_per_1k_requests":
        return [_action("cheaper_variant", "reranker"), _action("fewer_replicas", "search service")]
    widen = [
        _action("widen_candidates", "depth", misses.get("mean_loss_retrieval")),
        _action("tune_fusion", "weight of the first stage"),
        _action("reindex", "embedder"),
    ]
    if not misses.get("queries"):
        return []
    train: list[dict[str, Any]] = [
        {
            "type": "augment",
            "method": "clicks, titles and salient phrases; negatives from the live candidates",
            "target": categories,
            "target_tokens": target_tokens,
            "estimated_examples": estimated_examples(len(target_tokens), affected_queries),
        },
        {**_action("retrain_reranker", "champion", misses.get("mean_loss_rerank")), "target_tokens": target_tokens},
    ]
    retrieval, rerank_loss = misses.get("mean_loss_retrieval") or 0.0, misses.get("mean_loss_rerank") or 0.0
    if cause == "retrieval_miss":
        return [*widen, *train]
    return [*train, *widen] if retrieval > rerank_loss else [*train, widen[0]]


def _action(kind: str, target: str, expected: float | None = None) -> dict[str, Any]:
    return {"type": kind, "target": target, "target_tokens": [], "expected_improvement": expected}
