"""Which part of the ranking lost: a leg of the first stage, the fusion of the legs, the reranker, or its mixture with the first stage.

What belongs here: paired differences on the judged queries that both windows were asked, under the reference's labels. What must not: documents, labels,
traffic.

How a loss is placed. A leg is compared with itself. The fusion is compared with what the legs alone would give by reciprocal rank, provided that rule
reproduces the reference's own order. The reranker is compared on the documents that both windows showed it, by its own scores, so that other candidates
cannot be blamed on it. The mixture is compared with what the reference's weight would make of the current scores, provided the estimated weights reproduce
the orders that were served. What remains of the drop after reranker and mixture belongs to the first stage and is shared by what its parts lost
(over two legs: the Shapley value, the mean of the two orders in which the legs can be replaced).

Each answer needs two things: a part that behaves otherwise (its lists, its scores, its weight, its rule), which healthy windows do not show at all, and a
loss of that part, tested at the level ``changed``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from predator_si.diagnose.data_faults import gains, scripts_of
from predator_si.diagnose.window import Finding, Floats, Window, at_least, ndcg, one_sided, unknown

if TYPE_CHECKING:
    from predator_si.diagnose.tree import Levels

_LEAST = 20
_LEAST_OF_SCRIPT = 10
_WEIGHTS = np.linspace(0.0, 1.0, 21)
_REPRODUCES = 0.9
"""Share of the top ten that a rule must bring back to count as the rule that was used."""
_TOP = 10
_STAYS = 0.85
"""Share of a leg's top ten that stays when nothing but ordinary growth happened, new documents aside."""
_VANISHES = 0.01
"""Share of a leg's top ten that it does not find any more at any depth on an ordinary day: documents that were removed."""
_CHANGED = 0.5
"""Share of the queries whose reranker gives the same documents other scores, from which the model is another one."""


@dataclass(frozen=True)
class Paired:
    """The judged queries that both windows answered, and what each part of both windows found for them."""

    queries: list[str]
    texts: list[str]
    gains: list[Mapping[str, float]]
    then: list[dict[str, Any]]
    now: list[dict[str, Any]]

    @property
    def losses(self) -> Floats:
        """NDCG@10 then minus now, both by the reference's labels."""
        pairs = zip(self.then, self.now, self.gains, strict=True)
        return np.array([ndcg(a["result_ids"], g) - ndcg(b["result_ids"], g) for a, b, g in pairs])

    @property
    def drop(self) -> float:
        """Mean loss."""
        return float(self.losses.mean()) if self.queries else 0.0


def pair(reference: Window, current: Window) -> Paired:
    """Queries with an answer in both windows and a relevant document by the reference's labels."""
    relevant = gains(reference)
    sides = [
        {row["query_id"]: row for row in window.probes.filter(window.probes["ndcg_at_10"].is_not_null()).iter_rows(named=True)}
        for window in (reference, current)
    ]
    queries = [q for q in sides[0] if q in sides[1] and q in relevant]
    return Paired(
        queries,
        [str(sides[0][q]["text"]) for q in queries],
        [relevant[q] for q in queries],
        [sides[0][q] for q in queries],
        [sides[1][q] for q in queries],
    )


def ranking_findings(paired: Paired, levels: Levels, seed: int) -> list[Finding]:
    """Lexical leg, dense leg, fusion of the legs, reranker, and the mixture of reranker and first stage."""
    names = (
        ("retrieval_miss", "lexical"),
        ("retrieval_miss", "dense"),
        ("retrieval_miss", "fusion"),
        ("rerank_miss", "reranker"),
        ("rerank_miss", "fusion_weight"),
    )
    if len(paired.queries) < _LEAST:
        reason = f"{len(paired.queries)} judged queries were answered in both windows; at least {_LEAST} are needed"
        return [unknown(*name, reason) for name in names]
    model, mixture = _reranker(paired, levels, seed), _mixture(paired, levels, seed)
    behind = sum(max(0.0, found.explained_loss or 0.0) for found in (model, mixture) if found.answer == "yes")
    return [*_first_stage(paired, max(0.0, paired.drop - behind), levels, seed), model, mixture]


def _first_stage(paired: Paired, remaining: float, levels: Levels, seed: int) -> list[Finding]:
    usable = [i for i in range(len(paired.queries)) if all(_legs(side[i]) for side in (paired.then, paired.now))]
    if len(usable) < _LEAST:
        reason = f"the service told what its legs found for {len(usable)} of {len(paired.queries)} queries in both windows; at least {_LEAST} are needed"
        return [unknown("retrieval_miss", leg, reason) for leg in ("lexical", "dense", "fusion")]
    g = [paired.gains[i] for i in usable]
    sides = [[side[i] for i in usable] for side in (paired.then, paired.now)]
    own = {leg: [np.array([ndcg(row[f"{leg}_ids"], gain) for row, gain in zip(side, g, strict=True)]) for side in sides] for leg in ("lexical", "dense")}
    fused = {
        (a, b): np.array([ndcg(_rrf(sides[a][i]["lexical_ids"], sides[b][i]["dense_ids"]), gain) for i, gain in enumerate(g)]) for a in (0, 1) for b in (0, 1)
    }
    parts = {
        "lexical": 0.5 * ((fused[0, 0] - fused[1, 0]) + (fused[0, 1] - fused[1, 1])),
        "dense": 0.5 * ((fused[0, 0] - fused[0, 1]) + (fused[1, 0] - fused[1, 1])),
    }
    agreement = [_agreement(side) for side in sides]
    fusion_known = agreement[0] is not None and agreement[1] is not None and agreement[0] >= _REPRODUCES
    if fusion_known:
        served = [np.array([ndcg(row["candidate_ids"], gain) for row, gain in zip(side, g, strict=True)]) for side in sides]
        parts["fusion"] = (fused[1, 1] - served[1]) - (fused[0, 0] - served[0])
    lost = {name: max(0.0, float(values.mean())) for name, values in parts.items()}
    total = sum(lost.values())
    scripts = scripts_of([paired.texts[i] for i in usable])
    found = []
    for leg in ("lexical", "dense"):
        differences = own[leg][0] - own[leg][1]
        loss = remaining * lost[leg] / total if total else 0.0
        script, own_loss, p_value = _worst_script(differences, scripts, seed)
        stayed, vanished, tops = _stayed(sides, f"{leg}_ids")
        otherwise = stayed < _STAYS or at_least(vanished, tops, _VANISHES) <= levels.each
        hit = otherwise and p_value <= levels.changed and own_loss >= levels.part and loss >= levels.loss
        found.append(
            Finding(
                "retrieval_miss",
                leg,
                "yes" if hit else "no",
                loss,
                p_value,
                len(usable),
                "sign flips of the leg's own NDCG@10, by script",
                {
                    "ndcg_reference": float(own[leg][0].mean()),
                    "ndcg_current": float(own[leg][1].mean()),
                    "top_ten_that_stayed": stayed,
                    "top_ten_not_found_at_all": vanished / max(tops, 1),
                    "empty_now": int(sum(not row[f"{leg}_ids"] for row in sides[1])),
                    "part_of_first_stage_loss": float(parts[leg].mean()),
                    "script": script,
                    "loss_by_script": _by_script(differences, scripts),
                },
            )
        )
    if not fusion_known:
        reason = "reciprocal rank fusion of the legs does not reproduce the reference's first stage, so its rule is not known"
        return [*found, unknown("retrieval_miss", "fusion", reason, agreement_reference=agreement[0])]
    p_value, loss = one_sided(parts["fusion"], seed + 2), remaining * lost["fusion"] / total if total else 0.0
    hit = p_value <= levels.changed and parts["fusion"].mean() >= levels.part and loss >= levels.loss and (agreement[1] or 0.0) < _REPRODUCES
    evidence = {"agreement_reference": agreement[0], "agreement_current": agreement[1], "part_of_first_stage_loss": float(parts["fusion"].mean())}
    test = "sign flips of what the served order loses against the legs' reciprocal ranks"
    return [*found, Finding("retrieval_miss", "fusion", "yes" if hit else "no", loss, p_value, len(usable), test, evidence)]


def _stayed(sides: Sequence[Sequence[Mapping[str, Any]]], column: str) -> tuple[float, int, int]:
    """How much of the reference's top ten a leg still has.

    Mean share that is in the current top ten (documents that the reference never found left out of it), how many of them the leg does not find at any depth,
    and of how many.
    """
    seen = {doc for row in sides[0] for name in ("lexical_ids", "dense_ids") for doc in row[name]}
    shares, vanished, tops = [], 0, 0
    for then, now in zip(*sides, strict=True):
        top = then[column][:_TOP]
        if top:
            tops, vanished = tops + len(top), vanished + len(set(top) - set(now[column]))
            kept = [doc for doc in now[column] if doc in seen][: len(top)]
            shares.append(len(set(top) & set(kept)) / len(top))
    return float(np.mean(shares)) if shares else 1.0, vanished, tops


def _legs(row: Mapping[str, Any]) -> bool:
    return row.get("lexical_ids") is not None and row.get("dense_ids") is not None


def _rrf(lexical: Sequence[str], dense: Sequence[str]) -> list[str]:
    """The top ten of the legs' reciprocal rank fusion; equal scores in the order in which the legs bring them."""
    from predator_si.search.retrieve import RRF_K

    score: dict[str, float] = {}
    for leg in (lexical, dense):
        for rank, doc_id in enumerate(leg, start=1):
            score[doc_id] = score.get(doc_id, 0.0) + 1.0 / (RRF_K + rank)
    return nlargest(_TOP, score, key=score.__getitem__)


def _agreement(side: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of the served top ten of the first stage that fusing the legs anew brings back; null where the candidates are not known."""
    shares = [
        len(set(row["candidate_ids"][:_TOP]) & set(_rrf(row["lexical_ids"], row["dense_ids"])[:_TOP])) / len(row["candidate_ids"][:_TOP])
        for row in side
        if row.get("candidate_ids")
    ]
    return float(np.mean(shares)) if len(shares) >= _LEAST else None


def _worst_script(differences: Floats, scripts: Sequence[str | None], seed: int) -> tuple[str | None, float, float]:
    """Where a leg lost most surely: over all queries, or in one script, since an embedder that lost one language may have won in another.

    The script (null: all), the loss there as a share of all queries' loss, and its p-value, Holm's first step over what was tried.
    """
    names: list[str | None] = [None, *sorted({name for name in scripts if name is not None and scripts.count(name) >= _LEAST_OF_SCRIPT})]
    names = names if len(names) > 2 else [None]
    found = []
    for name in names:
        inside = np.array([name is None or script == name for script in scripts])
        found.append((min(1.0, one_sided(differences[inside], seed) * len(names)), name, float(differences[inside].sum() / len(differences))))
    p_value, name, loss = min(found, key=lambda one: one[0])
    return name, loss, p_value


def _by_script(differences: Floats, scripts: Sequence[str | None]) -> dict[str, float]:
    names = sorted({script for script in scripts if script is not None})
    return {name: float(differences[[script == name for script in scripts]].mean()) for name in names}


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    """Document -> logit, where the reranker read it."""
    return {doc: score for doc, score in zip(row["result_ids"], row.get("rerank_scores") or (), strict=False) if score is not None}


def _reranker(paired: Paired, levels: Levels, seed: int) -> Finding:
    """The same documents for the same query, ordered by the scores of then and of now."""
    differences, changed, unread = [], [], 0
    for then, now, gain in zip(paired.then, paired.now, paired.gains, strict=True):
        before, after = _scores(then), _scores(now)
        both = [doc for doc in before if doc in after]
        if len(both) < 2:
            unread += 1
            continue
        inside = {doc: value for doc, value in gain.items() if doc in both}
        orders = [sorted(both, key=lambda doc, s=scores: -s[doc]) for scores in (before, after)]  # type: ignore[misc]
        # On the query's whole scale: a relevant document that is no candidate counts as lost on both sides.
        differences.append(ndcg(orders[0], gain) - ndcg(orders[1], gain) if inside else 0.0)
        changed.append(max(abs(before[doc] - after[doc]) for doc in both) > 0.05 + 0.02 * max(abs(before[doc]) for doc in both))
    if len(differences) < _LEAST:
        reason = f"reranker scores of the same documents are known for {len(differences)} queries in both windows; at least {_LEAST} are needed"
        return unknown("rerank_miss", "reranker", reason, without_common_scores=unread)
    values = np.array(differences)
    p_value, share = one_sided(values, seed + 3), float(np.mean(changed))
    # Through the mixture a reranker's loss reaches the user diluted: it cannot explain more than was lost.
    loss = min(float(values.mean()), max(paired.drop, 0.0))
    hit = share >= _CHANGED and p_value <= levels.changed and values.mean() >= levels.part and loss >= levels.loss
    return Finding(
        "rerank_miss",
        "reranker",
        "yes" if hit else "no",
        loss,
        p_value,
        len(values),
        "sign flips of NDCG@10 of the same documents by both windows' reranker scores",
        {"queries_with_other_scores": share, "ndcg_difference_same_documents": float(values.mean()), "without_common_scores": unread},
    )


def _mixture(paired: Paired, levels: Levels, seed: int) -> Finding:
    """What the reference's weight of the first stage would make of the current scores."""
    fits = [_fit([row for row in side if len(_scores(row)) >= 3 and row.get("candidate_ids")]) for side in (paired.then, paired.now)]
    if any(fit is None or fit[1] < _REPRODUCES for fit in fits):
        reason = "no weight of the first stage reproduces the orders that were served, or first-stage order and reranker scores are not told"
        return unknown("rerank_miss", "fusion_weight", reason)
    (weight_then, fit_then), (weight_now, fit_now) = (fit for fit in fits if fit is not None)
    differences = []
    for now, gain in zip(paired.now, paired.gains, strict=True):
        if len(_scores(now)) >= 3 and now.get("candidate_ids"):
            differences.append(ndcg(_mixed(now, weight_then), gain) - ndcg(now["result_ids"], gain))
    values = np.array(differences)
    moved = abs(weight_then - weight_now) > 0.051
    p_value = one_sided(values, seed + 4)
    loss = min(float(values.mean()), max(paired.drop, 0.0)) if moved else 0.0
    hit = moved and len(values) >= _LEAST and p_value <= levels.changed and loss >= levels.loss
    return Finding(
        "rerank_miss",
        "fusion_weight",
        "yes" if hit else "no",
        loss,
        p_value,
        len(values),
        "sign flips of what the reference's weight would win back",
        {"weight_reference": weight_then, "weight_current": weight_now, "fit_reference": fit_then, "fit_current": fit_now, "won_back": float(values.mean())},
    )


def _fit(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """The weight that reproduces the served orders best, and the share of neighbouring pairs it puts the same way."""
    if len(rows) < _LEAST:
        return None
    same, total = np.zeros(len(_WEIGHTS)), 0
    for row in rows:
        docs, reranked, first = _standardised(row)
        place = {doc: rank for rank, doc in enumerate(docs)}
        served = [place[doc] for doc in row["result_ids"] if doc in place]
        mixed = (1.0 - _WEIGHTS)[:, None] * reranked + _WEIGHTS[:, None] * first
        # Equal scores stay in first-stage order, as in the service: a pair is put the same way when its first has the higher score, or the same and came first.
        for a, b in pairwise(served):
            gap = mixed[:, a] - mixed[:, b]
            same += (gap > 1e-12) | ((np.abs(gap) <= 1e-12) & (a < b))
            total += 1
    agreement = same / max(total, 1)
    best = int(np.argmax(agreement))
    ties = [index for index, value in enumerate(agreement) if value >= agreement[best] - 1e-9]
    return float(_WEIGHTS[ties[len(ties) // 2]]), float(agreement[best])


def _mixed(row: Mapping[str, Any], weight: float) -> list[str]:
    """The documents that the reranker read in the order of the mixture, the others below as served."""
    docs, reranked, first = _standardised(row)
    order = [docs[i] for i in np.argsort(-((1.0 - weight) * reranked + weight * first), kind="stable")]
    scores = _scores(row)
    return [*order, *(doc for doc in row["result_ids"] if doc not in scores)]


def _standardised(row: Mapping[str, Any]) -> tuple[list[str], Floats, Floats]:
    """The documents that the reranker read, in first-stage order, with both scores standardised among them."""
    from predator_si.search.rerank import standardised
    from predator_si.search.retrieve import RRF_K

    scores, first = _scores(row), _first_scores(row)
    docs = [doc for doc in row["candidate_ids"] if doc in scores]
    last = 1.0 / (RRF_K + 1000)
    return docs, standardised(np.array([scores[doc] for doc in docs])), standardised(np.array([first.get(doc, last) for doc in docs]))


def _first_scores(row: Mapping[str, Any]) -> dict[str, float]:
    """First-stage scores: as the service gave them, else by reciprocal rank."""
    from predator_si.search.retrieve import RRF_K

    told = row.get("first_scores")
    if told:
        return {doc: score for doc, score in zip(row["result_ids"], told, strict=False) if score is not None}
    return {doc: 1.0 / (RRF_K + rank) for rank, doc in enumerate(row["candidate_ids"], start=1)}


def follows(finding: Finding, upstream: str) -> Finding:
    """The same finding, marked as what another cause brings with it."""
    return replace(finding, evidence={**finding.evidence, "follows_from": upstream})
