"""Stop scoring candidates once the first page is settled.

What belongs here: the rule, and its calibration on unlabelled queries. What must not: judgments; what the rule costs in NDCG is measured where judgments are
(``evaluate.optimise``), never assumed.

Candidates are scored in the first stage's order. After each of ``steps`` candidates the margin is looked at: how far the last of the best ten stands above
the best of the last ten scored, in standard deviations of the scores so far. A wide margin says that candidates this deep no longer reach the first page. How
wide is wide enough is not guessed: of a grid fixed in advance, from never stopping downwards, thresholds are tried as long as a binomial test at level
1 - ``confidence`` rejects that more than ``limit`` of the queries lose a document of their first page by it (fixed-sequence testing: Angelopoulos, Bates,
Candes, Jordan, Lei: "Learn then Test", 2021). So the promise holds with that confidence for queries like those of the calibration, and a limit of 0 never stops
early.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from predator_si.errors import BadInput
from predator_si.records import Record
from predator_si.search.rerank import fuse, standardised

RULE = "depth_rule.json"
"""Beside a model's weights: the rule that was calibrated for it."""
PAGE = 10
_TAIL = 10
_GRID = np.linspace(4.0, 0.0, 41)
"""Thresholds in the order in which they are tried; fixed before any query is seen."""
Floats = npt.NDArray[np.float64]


class DepthRule(Record):
    """When to stop before all candidates are scored: for one model, cap and fusion weight."""

    model: str
    """Digest of the model whose scores it was calibrated on."""
    depth: int = Field(ge=0)
    """The cap: candidates that are scored where the rule does not stop."""
    fusion_weight: float = Field(ge=0, le=1)
    steps: tuple[int, ...]
    """Numbers of scored candidates after which the margin is looked at, ascending."""
    threshold: float | None
    """Margin from which on scoring stops; null: never, no threshold kept the limit."""
    limit: float = Field(ge=0, le=1)
    """Largest share of queries that may lose a document of their first page."""
    confidence: float = Field(gt=0, lt=1)
    n_queries: int
    changed: int
    """Calibration queries whose first page is another one under the threshold."""
    mean_depth: float
    """Candidates scored per calibration query under the threshold."""

    def fits(self, model: str, depth: int, fusion_weight: float) -> bool:
        """Whether it was calibrated for this model, cap and fusion weight: for others it promises nothing."""
        return (self.model, self.depth) == (model, depth) and abs(self.fusion_weight - fusion_weight) < 1e-6


def calibrate(
    model: str,
    scores: Sequence[npt.NDArray[np.floating]],
    first: Sequence[npt.NDArray[np.floating]],
    *,
    depth: int,
    fusion_weight: float,
    steps: Sequence[int] | None = None,
    limit: float = 0.05,
    confidence: float = 0.95,
) -> DepthRule:
    """The widest saving that keeps the limit, from scores of all candidates of unlabelled queries.

    Parameters
    ----------
    scores, first
        Per query: the model's logits and the first stage's scores of the same candidates, best of the first stage first; at most ``depth`` are used.
    steps
        After how many candidates to look; by default after 20, 30, ... below the depth.
    limit, confidence
        With this confidence, at most this share of queries like these lose a document of their first page.

    Raises
    ------
    BadInput
        No query, arrays of different lengths, or steps that are not ascending and at least 10.
    """
    from scipy.stats import binom

    chosen = tuple(steps) if steps is not None else tuple(range(2 * PAGE, depth, PAGE))
    if not scores or len(scores) != len(first) or any(len(a) != len(b) for a, b in zip(scores, first, strict=True)):
        raise BadInput(f"{len(scores)} lists of scores and {len(first)} of the first stage: a depth rule is calibrated on both, aligned, of one query or more.")
    if list(chosen) != sorted(set(chosen)) or any(step < PAGE for step in chosen):
        raise BadInput(f"steps {chosen}: numbers of candidates after which to look are ascending and at least {PAGE}.")
    margins = np.full((len(scores), len(chosen)), -np.inf)
    lost = np.zeros((len(scores), len(chosen) + 1), bool)
    used = np.zeros((len(scores), len(chosen) + 1))
    for row, (given, ranked) in enumerate(zip(scores, first, strict=True)):
        own, order = np.asarray(given[:depth], np.float64), np.asarray(ranked[:depth], np.float64)
        used[row, -1] = len(own)
        page = _page(own, order, fusion_weight)
        for place, step in enumerate(chosen):
            used[row, place] = min(step, len(own))
            if step < len(own):
                margins[row, place] = margin(own[:step], order[:step], fusion_weight)
                lost[row, place] = _page(own[:step], order[:step], fusion_weight) != page
    rows, n = np.arange(len(scores)), len(scores)
    threshold, changed, mean_depth = None, 0, float(used[:, -1].mean())
    for candidate in _GRID if chosen else ():
        stops = margins >= candidate
        at = np.where(stops.any(axis=1), stops.argmax(axis=1), len(chosen))
        wrong = int(lost[rows, at].sum())
        if binom.cdf(wrong, n, limit) > 1.0 - confidence:
            break
        threshold, changed, mean_depth = float(candidate), wrong, float(used[rows, at].mean())
    return DepthRule(
        model=model,
        depth=depth,
        fusion_weight=fusion_weight,
        steps=chosen,
        threshold=threshold,
        limit=limit,
        confidence=confidence,
        n_queries=n,
        changed=changed,
        mean_depth=mean_depth,
    )


def margin(scores: npt.NDArray[np.floating], first: npt.NDArray[np.floating], fusion_weight: float) -> float:
    """How settled the first page is: its last score less the best of the last ten candidates, in standard deviations; 0 at most while one of them is on it."""
    final = _final(scores, first, fusion_weight)
    if len(final) < PAGE:
        return -np.inf
    return float(np.partition(final, -PAGE)[-PAGE] - final[-_TAIL:].max())


def scored_head(rule: DepthRule | None, first: npt.NDArray[np.floating], cap: int, score: Callable[[int, int], Floats]) -> Floats:
    """Scores of the first candidates, as many as the rule wants, at most ``cap``.

    Parameters
    ----------
    rule
        Null scores all.
    first
        First-stage scores, best first; at least ``cap``, or all there are.
    score
        Scores of the candidates from one place up to another.
    """
    cap = min(cap, len(first))
    if rule is None or rule.threshold is None:
        return score(0, cap)
    found = np.empty(0, np.float64)
    for step in (*(step for step in rule.steps if step < cap), cap):
        found = np.concatenate([found, score(len(found), step)])
        if step < cap and margin(found, first[:step], rule.fusion_weight) >= rule.threshold:
            break
    return found


def keep_rule(folder: Path, rule: DepthRule) -> None:
    """Write the rule beside the weights in ``folder``; the model's digest does not change by it."""
    partial = Path(folder) / f".{RULE}.partial"
    partial.write_text(rule.to_json())
    partial.replace(Path(folder) / RULE)


def kept_rule(folder: Path) -> DepthRule | None:
    """The rule beside the weights in ``folder``, null where there is none.

    Raises
    ------
    BadInput
        The file is there and is no rule.
    """
    path = Path(folder) / RULE
    return DepthRule.read(path) if path.is_file() else None


def _final(scores: npt.NDArray[np.floating], first: npt.NDArray[np.floating], fusion_weight: float) -> Floats:
    return fuse(scores, first, fusion_weight) if fusion_weight else standardised(scores)


def _page(scores: Floats, first: Floats, fusion_weight: float) -> set[int]:
    """Places of the documents on the first page when only these candidates were scored; equal scores stay in first-stage order."""
    return set(np.argsort(-_final(scores, first, fusion_weight), kind="stable")[:PAGE].tolist())
