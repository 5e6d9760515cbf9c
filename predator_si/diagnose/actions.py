"""What to do about a cause: rows of CONTRACT.md section 3, filled with the targets that the diagnosis found."""

from __future__ import annotations

from collections.abc import Mapping
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
        _action("choose_embedder", "bi-encoder of the index"),
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


_OF_CAUSE: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("service_fault", "errors"): (("previous_model", "last release without errors"), ("depth_zero", "answer from the first stage until the errors end")),
    ("latency", "queue"): (("add_replicas", "search service"), ("cut_depth", "reranker")),
    ("latency", "retrieve"): (("profile", "first stage"), ("add_replicas", "search service")),
    ("latency", "rerank"): (("quantise", "reranker"), ("cut_depth", "reranker"), ("distil", "reranker"), ("add_replicas", "search service")),
    ("data_fault", "shrunken_index"): (("repair_index", "index the documents that are gone"), ("reindex", "from the source, whole")),
    ("data_fault", "stale_index"): (("reindex", "take in what the source has had since"), ("add_workers", "ingest queue")),
    ("data_fault", "truncated_documents"): (("repair_index", "index the shortened documents again from the source"),),
    ("data_fault", "encoding"): (("repair_index", "decode the damaged documents again from the source"),),
    ("data_fault", "language"): (("repair_index", "index documents in the language of the queries, or route those queries elsewhere"),),
    ("retrieval_miss", "lexical"): (("reindex", "with the analyser that queries go through"),),
    ("retrieval_miss", "dense"): (("choose_embedder", "bi-encoder of the index"), ("tune_fusion", "weight of the legs until the embedder fits the language")),
    ("retrieval_miss", "fusion"): (("tune_fusion", "weights of the legs"), ("widen_candidates", "depth")),
    ("rerank_miss", "reranker"): (("previous_model", "last release with these scores"), ("retrain_reranker", "champion")),
    ("rerank_miss", "fusion_weight"): (("tune_fusion", "weight of the first stage"),),
    ("domain_shift", ""): (("augment", "the new domain"), ("retrain_reranker", "champion")),
    ("judgment_artefact", "label_noise"): (("review_judgments", "labels that changed since the reference"),),
    ("judgment_artefact", "click_spam"): (("exclude_clients", "clients with abnormal click patterns"),),
}
_MODEL_IS_FINE = frozenset({"service_fault", "data_fault", "retrieval_miss", "latency", "judgment_artefact"})


def cause_actions(cause: str, detail: str, expected: float | None) -> list[dict[str, Any]]:
    """The actions that a cause of the tree suggests, in the order to try them; ``expected_improvement`` is what the cause explains, in points of NDCG@10."""
    return [_action(kind, target, expected if cause != "latency" else None) for kind, target in _OF_CAUSE.get((cause, detail), ())]


def first_of(cause: Mapping[str, Any], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The actions of the first cause, then those that the loss as it stands suggests; nobody retrains a model against a fault that is not the model's."""
    kinds = {action["type"]: action for action in others}
    own = [
        kinds.pop(action["type"]) if action["type"] in ("augment", "retrain_reranker") and action["type"] in kinds else action for action in cause["actions"]
    ]
    taken = {action["type"] for action in own}
    fine = cause["type"] in _MODEL_IS_FINE or cause["detail"] == "fusion_weight"
    return [*own, *(action for action in others if action["type"] not in taken and not (fine and action["type"] in ("augment", "retrain_reranker")))]
