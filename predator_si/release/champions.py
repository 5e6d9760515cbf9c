"""Who was champion when and why, read from the commits of a release file.

What belongs here: deriving the history from Git, which is the truth. What must not: keeping it (``control``).
"""

from __future__ import annotations

from predator_si.errors import BadInput
from predator_si.records import ChampionSpan
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.release_file import parse_release


def champions_of(repo: GitOpsRepo, file: str, contour: str) -> list[ChampionSpan]:
    """Every champion that the branch ever named in ``file``, oldest first; the last one serves now.

    A commit that leaves the champion as it is (a trial, a person's change of depth) begins no span. One whose file cannot be read is passed over: the
    service follows the last good state, too.

    Parameters
    ----------
    repo
        Fetched.
    file
        ``release-<contour>.yaml``.
    """
    spans: list[ChampionSpan] = []
    for commit, at, cycle_id, subject in repo.history(file):
        try:
            digest = parse_release(repo.show(file, commit), file).reranker.champion
        except BadInput:
            continue
        if spans and spans[-1].digest == digest:
            continue
        if spans:
            spans[-1] = spans[-1].model_copy(update={"until": max(at, spans[-1].since)})
        since = at if not spans else max(at, spans[-1].since)
        spans.append(ChampionSpan(contour=contour, digest=digest, cycle_id=cycle_id, since=since, why=subject, commit=commit))
    return spans


def same_history(one: list[ChampionSpan], other: list[ChampionSpan]) -> bool:
    """Whether two histories of a contour name the same champions in the same order; moments may differ by what a commit took to be in force."""
    return [span.digest for span in one] == [span.digest for span in other]


__all__ = ["champions_of", "same_history"]
