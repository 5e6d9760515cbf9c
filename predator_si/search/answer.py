"""One request and the arms that may answer it: one alone, with the champion behind it, or two in one list.

What belongs here: what is shown when a model fails, and the merged list. What must not: who is assigned what (``variants``), queues, events.

A candidate that fails costs nobody an answer: the champion ranks the request instead, and the answer still counts as an error of the candidate. A probe that
named its variant gets no such help: it asks what that model does. Where the champion fails too, the first stage's order is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from predator_si.records import ScoredDocument
from predator_si.search.adaptive_depth import DepthRule
from predator_si.search.interleave import Draft, Team, team_draft
from predator_si.search.ranking import Ranked, SearchIndex, rank
from predator_si.search.rerank import Reranker
from predator_si.search.retrieve import Candidates
from predator_si.search.score_cache import Scorer


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer: an index, a model (null: the first stage alone) and the settings it runs with."""

    index: SearchIndex
    model: Reranker | None
    depth: int
    fusion_weight: float
    rule: DepthRule | None = None

    @property
    def digest(self) -> str | None:
        """The model's."""
        return None if self.model is None else self.model.digest


@dataclass(frozen=True, slots=True)
class Answered:
    """A result list and how it came about.

    Attributes
    ----------
    ranked
        What is shown; ``degraded`` where a model of the variant failed, whatever took its place.
    answered_by
        Digest of the model whose order is shown: null for the first stage's and for a merged list.
    fell_back
        A model of the variant failed.
    draft
        Of a merged list, with the lists that it was made of and the rerank time of each in milliseconds.
    scored_first
        Which of two was scored first.
    """

    ranked: Ranked
    answered_by: str | None
    fell_back: bool = False
    draft: Draft | None = None
    champion_ids: tuple[str, ...] = ()
    candidate_ids: tuple[str, ...] = ()
    champion_ms: float | None = None
    candidate_ms: float | None = None
    scored_first: Team | None = None


@dataclass(frozen=True, slots=True)
class Asking:
    """What both arms are asked: the words, how many documents, the clock, and how pairs are scored."""

    query: str
    k: int
    clock: Callable[[], float]
    score: Scorer

    def of(self, arm: Arm, found: Candidates | None = None) -> Ranked:
        """The arm's answer; ``found`` is what its index brought already."""
        return rank(arm.index, arm.model, self.query, self.k, arm.depth, arm.fusion_weight, self.clock, score=self.score, rule=arm.rule, found=found)


def answer_alone(arm: Arm, asking: Asking, behind: Arm | None = None) -> Answered:
    """The arm's list; where its model fails, that of the arm ``behind`` it, if there is one.

    Raises
    ------
    Exception
        Whatever the retrieval raises.
    """
    ranked = asking.of(arm)
    if not ranked.degraded:
        return Answered(ranked, arm.digest)
    if behind is None:
        return Answered(ranked, None, fell_back=True)
    enough = behind.index is arm.index and behind.depth <= max(arm.depth, asking.k)
    helped = asking.of(behind, ranked.found if enough else None)
    spent = replace(helped, retrieve_ms=ranked.retrieve_ms + helped.retrieve_ms, rerank_ms=_sum(ranked.rerank_ms, helped.rerank_ms), degraded=True)
    return Answered(spent, None if helped.degraded else behind.digest, fell_back=True)


def answer_interleaved(champion: Arm, candidate: Arm, asking: Asking, seed: str, first: Team) -> Answered:
    """One list drafted from both arms' lists; where a model fails, the other's list alone.

    Parameters
    ----------
    seed
        Of the draft.
    first
        Who is scored first. Chosen at random, so that neither model always finds the processor's caches warm: the two times then compare.

    Raises
    ------
    Exception
        Whatever the retrieval raises.
    """
    arms: dict[Team, Arm] = {"champion": champion, "candidate": candidate}
    order: tuple[Team, ...] = ("champion", "candidate") if first == "champion" else ("candidate", "champion")
    started, found = asking.clock(), None
    if champion.index is candidate.index:  # the usual case: the first stage is asked once
        found = champion.index.candidates([asking.query], max(champion.depth, candidate.depth, asking.k))[0]
    once = (asking.clock() - started) * 1e3
    lists = {team: asking.of(arms[team], found) for team in order}
    own, other = lists["champion"], lists["candidate"]
    retrieve_ms, rerank_ms, scored = once + own.retrieve_ms + other.retrieve_ms, _sum(own.rerank_ms, other.rerank_ms), own.scored + other.scored
    if own.degraded or other.degraded:
        shown: Team = "candidate" if own.degraded and not other.degraded else "champion"
        ranked = replace(lists[shown], retrieve_ms=retrieve_ms, rerank_ms=rerank_ms, scored=scored, degraded=True)
        return Answered(ranked, None if lists[shown].degraded else arms[shown].digest, fell_back=True)
    ids: dict[Team, tuple[str, ...]] = {team: tuple(result.object_id for result in ranked.results) for team, ranked in lists.items()}
    draft = team_draft(ids["champion"], ids["candidate"], asking.k, seed)
    documents: dict[Team, dict[str, tuple[ScoredDocument, str]]] = {
        team: {result.object_id: (result, title) for result, title in zip(ranked.results, ranked.titles, strict=True)} for team, ranked in lists.items()
    }
    picked = [documents[team][one] for one, team in zip(draft.ids, draft.teams, strict=True)]
    merged = Ranked(
        results=tuple(result.model_copy(update={"score": None}) for result, _ in picked),  # two scales: no one number orders this list
        titles=tuple(title for _, title in picked),
        retrieve_ms=retrieve_ms,
        rerank_ms=rerank_ms,
        degraded=False,
        lexical_ids=own.lexical_ids,
        dense_ids=own.dense_ids,
        scored=scored,
        found=own.found,
    )
    return Answered(
        merged,
        None,
        draft=draft,
        champion_ids=ids["champion"],
        candidate_ids=ids["candidate"],
        champion_ms=own.rerank_ms,
        candidate_ms=other.rerank_ms,
        scored_first=first,
    )


def _sum(*times: float | None) -> float | None:
    known = [time for time in times if time is not None]
    return sum(known) if known else None
