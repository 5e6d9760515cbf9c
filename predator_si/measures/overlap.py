"""How alike two rankings are, without any judgment."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from predator_si.errors import BadInput


def rank_biased_overlap(one: Sequence[Hashable], other: Sequence[Hashable], persistence: float = 0.9, depth: int = 10) -> float:
    """Rank-biased overlap of two lists down to ``depth``: 1 for the same order, 0 where they share nothing.

    ``sum_d p^(d-1) A_d / sum_d p^(d-1)`` over d = 1 .. depth, where ``A_d`` is the share of the first d that both have (Webber, Moffat and Zobel, "A similarity
    measure for indefinite rankings", ACM TOIS 28(4), 2010, equation 4, cut at the depth and scaled so that equal lists have 1).

    Parameters
    ----------
    one, other
        Documents, best first, each once; what lies below ``depth`` is not looked at. Shorter lists count as ending there.
    persistence
        Chance that a reader goes on to the next rank, above 0 and below 1.

    Raises
    ------
    BadInput
        A document stands twice in a list, or a parameter is out of its range.
    """
    if not 0.0 < persistence < 1.0 or depth < 1:
        raise BadInput(f"rank-biased overlap with persistence {persistence} down to {depth}: it wants 0 < persistence < 1 and a depth of 1 or more.")
    first, second = list(one[:depth]), list(other[:depth])
    if len(set(first)) < len(first) or len(set(second)) < len(second):
        raise BadInput("rank-biased overlap: a document stands twice in one ranking. Keep its best place only.")
    longest = min(depth, max(len(first), len(second)))
    seen: tuple[set[Hashable], set[Hashable]] = (set(), set())
    total = weights = 0.0
    for rank in range(longest):
        for mine, ranking in zip(seen, (first, second), strict=True):
            mine.update(ranking[rank : rank + 1])
        weight = persistence**rank
        total += weight * len(seen[0] & seen[1]) / (rank + 1)
        weights += weight
    return total / weights if weights else 1.0
