"""Several rerankers on the same queries, one after the other on each query: what they cost, and how they rank.

What belongs here: clocks around scoring, one closed-loop client, nothing remembered between queries. What must not: judgments.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from predator_si.search.adaptive_depth import DepthRule, scored_head
from predator_si.search.rerank import Reranker, fuse
from predator_si.search.retrieve import Candidates

WARM_UP = 2
"""Queries that each arm answers before its clock counts: engines compile when they first see a shape."""


@dataclass(frozen=True)
class Arm:
    """A reranker with how it is used: at most ``depth`` candidates of a query, fewer where its rule stops."""

    score: Callable[[str, Sequence[str]], npt.NDArray[np.floating]]
    """Logits of one query against several texts."""
    depth: int
    fusion_weight: float = 0.0
    rule: DepthRule | None = None

    def run(self, query: str, candidates: Candidates) -> npt.NDArray[np.floating]:
        """Logits of the first candidates."""
        texts = candidates.texts
        if self.rule is None:
            return self.score(query, texts[: self.depth])
        return scored_head(self.rule, candidates.scores, self.depth, lambda start, end: np.asarray(self.score(query, texts[start:end]), np.float64))


def arm(reranker: Reranker, depth: int, fusion_weight: float = 0.0, rule: DepthRule | None = None) -> Arm:
    """The arm of a loaded reranker."""
    return Arm(reranker.score, depth, fusion_weight, rule)


@dataclass
class Timing:
    """What one arm spent and how it ranked; one entry per query after the warm-up."""

    ms: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    orders: list[list[str]] = field(default_factory=list)
    """Document ids, best first: the scored ones by fused score, the others below in first-stage order."""

    def percentile(self, share: float) -> float:
        """Milliseconds per query, linearly interpolated between order statistics."""
        return float(np.percentile(self.ms, share))

    @property
    def pairs_per_second(self) -> float:
        """Pairs scored per second of wall time."""
        return 1e3 * sum(self.scored) / sum(self.ms)


def time_arms(
    arms: Mapping[str, Arm],
    queries: Sequence[str],
    candidates: Sequence[Candidates],
    *,
    warm_up: int = WARM_UP,
    clock: Callable[[], float] = time.perf_counter,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Timing]:
    """Run all arms over the queries, interleaved; each query starts with another arm, so that none always runs after the same one.

    Parameters
    ----------
    queries, candidates
        Aligned. The first ``warm_up`` are run and not counted.

    Notes
    -----
    Retrieval is not in the times, fusion is not either: both are the same for all arms. Tokenising is.
    """
    found = {name: Timing() for name in arms}
    names = list(arms)
    for number, (query, own) in enumerate(zip(queries, candidates, strict=True)):
        turn = number % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            cpu, began = time.process_time(), clock()
            scores = arms[name].run(query, own)
            spent, used = clock() - began, time.process_time() - cpu
            if number >= warm_up:
                timing = found[name]
                timing.ms.append(1e3 * spent)
                timing.cpu_seconds.append(used)
                timing.scored.append(len(scores))
                timing.orders.append(ranked(scores, own, arms[name].fusion_weight))
        if on_progress is not None:
            on_progress(number + 1, len(queries))
    return found


def ranked(scores: npt.NDArray[np.floating], candidates: Candidates, fusion_weight: float) -> list[str]:
    """Document ids as the service would return them: equal scores stay in first-stage order."""
    fused = fuse(scores, candidates.scores[: len(scores)], fusion_weight)
    head = [candidates.doc_ids[place] for place in np.argsort(-fused, kind="stable")]
    return head + candidates.doc_ids[len(scores) :]
