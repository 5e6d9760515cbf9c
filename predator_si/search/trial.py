"""What a release makes of one request: who answers it, what it was exposed to, who scores it again.

What belongs here: putting variants, arms and a request together, and the record of that. What must not: scoring (``answer``, ``shadow``), queues, HTTP.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from predator_si.errors import Missing
from predator_si.records import FIRST_STAGE, ExposureEvent
from predator_si.search.adaptive_depth import PAGE
from predator_si.search.answer import Answered, Arm, Asking, answer_alone, answer_interleaved
from predator_si.search.interleave import draft_seed
from predator_si.search.payloads import SearchRequest
from predator_si.search.ranking import SearchIndex
from predator_si.search.shadow import ShadowJob
from predator_si.search.variants import VariantName, Variants, bucket

_Kind = Literal["champion", "candidate", "shadow"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who answers one request.

    Attributes
    ----------
    name
        The variant; ``interleaved`` has two arms.
    arms
        By kind: those that answer, the champion's behind a candidate's, and those that score in shadow.
    stands_for
        Digest of the model that a stand-in (fast twin, first stage alone) answers for.
    seed
        Of an interleaved list.
    """

    variants: Variants
    request: SearchRequest
    query_id: str
    name: VariantName
    arms: Mapping[_Kind, Arm]
    stands_for: str | None
    seed: str | None

    @property
    def digest(self) -> str | None:
        """Digest of the model that is to answer; null for two."""
        return None if self.name == "interleaved" else FIRST_STAGE if self.request.first_stage else self.arms[self.name].digest

    @property
    def depth(self) -> int:
        """Candidates that are scored at most."""
        return max(arm.depth for kind, arm in self.arms.items() if kind == self.name or (self.name == "interleaved" and kind != "shadow"))

    def answer(self, asking: Asking) -> Answered:
        """The result list, in the thread that scores.

        Raises
        ------
        Exception
            Whatever the retrieval raises.
        """
        if self.name == "interleaved":
            assert self.seed is not None
            return answer_interleaved(self.arms["champion"], self.arms["candidate"], asking, self.seed, "champion" if self._heads else "candidate")
        helped = self.name == "candidate" and self.request.variant is None
        return answer_alone(self.arms[self.name], asking, self.arms["champion"] if helped else None)

    def exposure(self, when: datetime, answered: Answered | None) -> ExposureEvent | None:
        """What the request was exposed to; null where the release tries and shadows nothing, and for stand-ins, which no trial counts."""
        release, candidate, previous = self.variants.release, self.variants.candidate, self.variants.previous
        if (candidate is None and previous is None) or self.stands_for is not None:
            return None
        unit = self.request.client_id or self.query_id
        drafted = answered.draft if answered is not None else None
        return ExposureEvent(
            query_id=self.query_id,
            timestamp=when,
            release=release.sha256,
            mode=release.candidate_mode if candidate is not None else None,
            weight=self.variants.candidate_weight,
            unit="query" if self.request.client_id is None else "client",
            bucket=bucket(unit),
            variant=self.name,
            pinned=self.request.variant is not None,
            champion_digest=self.variants.champion.digest,
            candidate_digest=candidate.digest if candidate is not None else None,
            shadow_digest=previous.digest if previous is not None else None,
            answered_by=answered.answered_by if answered is not None else None,
            fell_back=answered.fell_back if answered is not None else False,
            simulated=self.request.simulated,
            probe=self.request.probe,
            champion_ids=answered.champion_ids if answered is not None else (),
            candidate_ids=answered.candidate_ids if answered is not None else (),
            teams=drafted.teams if drafted is not None else (),
            draft_seed=self.seed if drafted is not None else None,
            champion_ms=answered.champion_ms if answered is not None else None,
            candidate_ms=answered.candidate_ms if answered is not None else None,
            scored_first=answered.scored_first if answered is not None else None,
        )

    def jobs(self, when: datetime, answered: Answered) -> Iterator[ShadowJob]:
        """The models in shadow that are to score this request again: only what the champion itself answered."""
        champion = self.arms["champion"] if self.name == "champion" else None
        if champion is None or answered.fell_back or self.stands_for is not None or champion.model is None or answered.ranked.found is None:
            return
        for role in self.variants.shadowed(self.query_id, wanted=self.request.shadow):
            yield ShadowJob(
                query_id=self.query_id,
                timestamp=when,
                role=role,
                release=self.variants.release.sha256,
                query=self.request.query,
                k=self.request.k,
                served=champion,
                shadow=self.arms["candidate" if role == "candidate" else "shadow"],
                found=answered.ranked.found,
                first="served" if self._heads else "shadow",
                simulated=self.request.simulated,
                probe=self.request.probe,
            )

    @property
    def _heads(self) -> bool:
        return bool(uuid.UUID(self.query_id).int & 1)


def assigned(variants: Variants, request: SearchRequest, query_id: str, index_of: Callable[[str], SearchIndex], secret: bytes) -> Assignment:
    """Who answers a request under these variants; nothing that is swapped later touches it.

    Parameters
    ----------
    index_of
        The index of a variant.
    secret
        See ``interleave.draft_seed``.

    Raises
    ------
    Missing
        A probe is pinned to a variant that is not there.
    """
    name = request.variant or variants.assign(request.client_id or query_id)
    if name == "interleaved" and (request.first_stage or request.fast):
        name = "champion"
    kinds: tuple[_Kind, ...] = ("champion", "candidate", "shadow")
    arms: dict[_Kind, Arm] = {}
    for kind in kinds:
        model = variants.reranker(kind)
        if model is None:
            continue
        depth, weight = variants.release.settings_of(kind)
        rule = variants.depth_rule(kind, model, depth, weight) if request.k <= PAGE else None  # it promises the first page, nothing beyond
        arms[kind] = Arm(index_of(kind), model, depth, weight, rule)
    if name not in arms and name != "interleaved":
        raise Missing(f"variant is pinned to the {name}, but the release file has none. Leave variant out, or put a model on trial first.")
    stands_for: str | None = None
    if request.first_stage and name != "interleaved":
        own = arms[name]
        stands_for, arms[name] = own.digest, Arm(own.index, None, own.depth, own.fusion_weight)
    elif request.fast and name == "champion" and variants.twin is not None:
        own = arms[name]
        stands_for, arms[name] = own.digest, Arm(own.index, variants.twin, own.depth, own.fusion_weight, own.rule)
    seed = None
    if name == "interleaved":
        digests = (arms["champion"].digest or "", arms["candidate"].digest or "")
        seed = draft_seed(secret, query_id, request.session_id or request.client_id, request.query, *digests)
    return Assignment(variants, request, query_id, name, arms, stands_for, seed)
