"""The tree over two windows: every branch asked, the causes ranked, and what cannot be told said.

What belongs here: the order of the branches, the level each tests at, and how their answers become a ranking. What must not: the branches' own reading of the
data (``service_faults``, ``data_faults``, ``ranking_faults``, ``judgment_faults``).

Order: service fault (errors, slow stage) | data fault (index shrunken, stale, truncated, encoding, language) | retrieval miss (lexical, dense, fusion) |
rerank miss (reranker, its mixture with the first stage) | domain shift | judgment artefact (labels, clicks). A cause higher up that explains what is seen
lower down ranks first, and the lower one is marked ``follows_from``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from predator_si.diagnose.actions import cause_actions
from predator_si.diagnose.data_faults import from_facts, language, never_arrived
from predator_si.diagnose.judgment_faults import click_spam, label_noise, shifted_domain
from predator_si.diagnose.limits import Limits
from predator_si.diagnose.ranking_faults import follows, pair, ranking_findings
from predator_si.diagnose.service_faults import errors, slow_stage
from predator_si.diagnose.window import Finding, Window

BRANCHES = 14
_QUALITY = frozenset({"ndcg_at_10", "recall_at_20", "mrr", "user_satisfaction"})
_CLICKS = frozenset({"ndcg_at_10_clicks", "click_through"})
_WHOLE_INDEX = ("shrunken_index", "encoding", "truncated_documents")
_CLOSE = 0.25
"""Two causes whose scores differ by less than this share of the larger are not told apart by their size."""


@dataclass(frozen=True)
class Levels:
    """How sure and how large a branch's finding must be.

    Attributes
    ----------
    alarm
        Chance that a pair of healthy windows makes any branch say yes, shared evenly by the tests that stand alone (Bonferroni).
    changed
        Level of the test of a loss whose branch also asks that a part behaves otherwise (other scores for the same pair, another weight, other labels):
        healthy windows do not show that half at all, so it takes no share of ``alarm``.
    loss
        Points of NDCG@10 that a cause must explain.
    part
        Points of NDCG@10 that a leg or the reranker must have lost by itself.
    slower
        Rise of latency's 90th percentile that two windows of one healthy machine may show.
    """

    alarm: float = 0.01
    changed: float = 0.05
    loss: float = 0.01
    part: float = 0.02
    slower: float = 0.3
    limits: Limits = field(default_factory=Limits)

    @property
    def each(self) -> float:
        """Level of one branch."""
        return self.alarm / BRANCHES

    @property
    def shift(self) -> float:
        """Level of each of two tests that must both speak (new words, and worse queries): together they err more seldom than one branch may."""
        return self.alarm


def ask_branches(reference: Window, current: Window, levels: Levels, seed: int) -> list[Finding]:
    """Every branch's answer, in the order of the tree."""
    paired = pair(reference, current)
    found = [
        errors(reference, current, levels),
        slow_stage(reference, current, levels, seed),
        *from_facts(reference, current, paired, levels),
        never_arrived(reference, current, levels),
        language(current, levels),
        *ranking_findings(paired, levels, seed),
        shifted_domain(reference, current, paired, levels, seed, current.indexed_ids),
        label_noise(paired, current, levels, seed),
        click_spam(reference, current, paired, levels),
    ]
    return _explained(found)


def _explained(found: Sequence[Finding]) -> list[Finding]:
    """Losses that documents gone, cut or damaged bring with them are marked so."""
    upstream = next((one for one in found if one.answer == "yes" and one.cause == "data_fault" and one.detail in _WHOLE_INDEX), None)
    if upstream is None:
        return list(found)
    downstream = ("retrieval_miss", "rerank_miss", "domain_shift")
    marked = []
    for one in found:
        later = one.cause in downstream or (one.cause == "data_fault" and one.detail in ("stale_index", "language"))
        marked.append(follows(one, upstream.name) if one.answer == "yes" and later and not _larger(one, upstream) else one)
    return marked


def _larger(one: Finding, upstream: Finding) -> bool:
    """Whether a loss is too large to come from upstream alone."""
    return upstream.explained_loss is not None and (one.explained_loss or 0.0) > 2.0 * max(upstream.explained_loss, 0.0) + 0.01


def rank_causes(found: Sequence[Finding], metric: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The branches that said yes, most likely first, and what cannot be told.

    A cause ranks by whether it follows from another, whether it moves the trigger's metric, and by its score: points of NDCG@10 (or of clicks a search), a
    tenth of the relative rise of latency where that is not the question, and all of it where it is.

    Returns
    -------
    tuple
        Causes ``{type, detail, score, explained_loss, p_value, n, test, evidence, actions}``, and sentences.
    """
    hits = [one for one in found if one.answer == "yes"]
    scored = sorted(((_rank_key(one, metric), place, one) for place, one in enumerate(hits)), key=lambda item: (*(-part for part in item[0]), item[1]))
    causes = [
        {
            "type": one.cause,
            "detail": one.detail or None,
            "score": key[2],
            "explained_loss": one.explained_loss,
            "p_value": one.p_value,
            "n": one.n,
            "test": one.test,
            "evidence": dict(one.evidence),
            "actions": cause_actions(one.cause, one.detail, one.explained_loss),
        }
        for key, _, one in scored
    ]
    cannot = [f"{one.name}: {one.reason}" for one in found if one.answer == "unknown"]
    free = [(key[2], one) for key, _, one in scored if "follows_from" not in one.evidence and key[1]]
    for (first, one), (second, other) in pairwise(free):
        if first - second <= _CLOSE * abs(first):
            cannot.append(f"{one.name} and {other.name} explain about as much ({first:.3f} and {second:.3f}): which is the larger cannot be told")
    return causes, cannot


def _rank_key(one: Finding, metric: str) -> tuple[int, int, float]:
    rise = float(one.evidence.get("ratio_minus_one") or 0.0) if one.cause == "latency" else 0.0
    size = float(one.explained_loss or 0.0)
    if "latency" in metric:
        fits, score = one.cause == "latency", rise if one.cause == "latency" else size
    elif metric == "error_rate":
        fits, score = one.cause == "service_fault", size
    elif metric in _QUALITY:
        fits, score = one.cause != "latency" and one.detail != "click_spam", size if one.cause != "latency" else 0.1 * rise
    elif metric in _CLICKS:
        fits, score = one.cause != "latency", size
    else:
        fits, score = True, 0.1 * rise if one.cause == "latency" else size
    return (0 if "follows_from" in one.evidence else 1, int(fits), score)
