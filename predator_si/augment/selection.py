"""Which of the proposals that survived the stream become groups: caps by document, cluster, weak slice and source.

What belongs here: choosing among the whole pool. What must not: judging one proposal by itself (``sieve``, ``filters``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from predator_si.augment.filters import Yield
from predator_si.augment.material import Vectors
from predator_si.augment.recipe import ASKED, Filters, Proposal, Sizes

_FEWEST_PER_CLUSTER = 20
"""Documents that a cluster needs on average to be worth telling apart."""


class DocumentClusters:
    """K-means over the vectors of the documents that may be asked about (the coverage idea of DUQGen, arXiv 2404.02489).

    Parameters
    ----------
    vectors
        ``HybridIndex.vectors``.
    doc_ids
        All documents; at most ``_SAMPLE`` of them, evenly taken, fit the centres.
    clusters
        How many; fewer where the corpus is small.
    """

    _SAMPLE = 20_000

    def __init__(self, vectors: Vectors, doc_ids: Sequence[str], clusters: int, seed: int) -> None:
        from sklearn.cluster import MiniBatchKMeans

        sample = list(doc_ids)[:: max(1, len(doc_ids) // self._SAMPLE)]
        count = max(1, min(clusters, len(sample) // _FEWEST_PER_CLUSTER))
        self._vectors = vectors
        self._means = MiniBatchKMeans(count, random_state=seed, n_init=3, batch_size=2_048).fit(vectors(sample))
        self.shares: npt.NDArray[np.float64] = np.bincount(self._means.labels_, minlength=count) / len(sample)
        """Share of all documents, one a cluster."""

    def of(self, doc_ids: Sequence[str]) -> list[int]:
        """The cluster of each document."""
        if not doc_ids:
            return []
        found: list[int] = self._means.predict(self._vectors(doc_ids)).tolist()
        return found


def select(
    pool: Sequence[Proposal],
    sizes: Sizes,
    filters: Filters,
    shares: Mapping[str, float],
    clusters: DocumentClusters | None,
    tally: Yield,
) -> tuple[list[Proposal], dict[str, int]]:
    """The groups to be made, what people asked first, and how many documents' clusters gave how many made-up ones (largest first).

    Made-up queries are taken from their sources in proportion to ``shares``, each source's most useful first; then, in this order: no document is the
    positive of more than ``filters.per_document``; no cluster has more than ``filters.cluster_slack`` times its share (queries aimed at the report's findings
    apart); crops are at most ``sizes.crop_share``; aimed ones at most ``sizes.targeted_share``.
    """
    per_document = Counter[str]()

    def below_cap(proposal: Proposal) -> bool:
        per_document[proposal.doc_id] += bool(proposal.doc_id)
        return per_document[proposal.doc_id] <= filters.per_document or "per_document" in filters.off

    merged = [p for p in _interleaved(pool, shares) if below_cap(p)]
    tally.count("per_document_cap", merged)
    asked = [p for p in merged if p.source in ASKED]
    made = [p for p in merged if p.source not in ASKED]
    room = sizes.document_groups
    of = dict(zip(map(id, made), clusters.of([p.doc_id for p in made]), strict=True)) if clusters is not None and "cluster_quota" not in filters.off else {}
    if clusters is not None and of:
        quota = np.ceil(filters.cluster_slack * clusters.shares * room)
        made = _within(made, of, quota)
    tally.count("cluster_quota", [*asked, *made])
    made = _few_crops(made, room, sizes.crop_share)
    tally.count("crop_cap", [*asked, *made])
    aimed = [p for p in made if p.targeted][: int(np.ceil(room * sizes.targeted_share))]
    others = [p for p in made if not p.targeted]
    kept = {id(p) for p in (*aimed, *others)}
    made = [p for p in made if id(p) in kept]
    tally.count("weak_slice_cap", [*asked, *made])
    kept = {id(p) for p in (*aimed, *others[: room - len(aimed)])}
    made = [p for p in made if id(p) in kept]
    clicks = [p for p in asked if p.source == "clicks"][: sizes.click_groups]
    log = [p for p in asked if p.source == "log"][: sizes.log_groups]
    chosen = [*clicks, *log, *made]
    tally.count("size", chosen)
    counts = Counter(of[id(p)] for p in made if id(p) in of)
    return chosen, {str(cluster): count for cluster, count in counts.most_common()}


def _interleaved(pool: Sequence[Proposal], shares: Mapping[str, float]) -> list[Proposal]:
    """The pool in an order from whose beginning every source has its share: the i-th of a source stands at ``i / share``."""
    seen = Counter[str]()
    places = []
    for proposal in pool:
        seen[proposal.source] += 1
        share = shares.get(proposal.source, 0.0)
        asked = proposal.source in ASKED
        places.append((not asked, 0.0 if asked else seen[proposal.source] / share if share else float("inf")))
    return [pool[at] for at in sorted(range(len(pool)), key=places.__getitem__)]


def _within(proposals: Sequence[Proposal], of: dict[int, int], quota: npt.NDArray[np.float64]) -> list[Proposal]:
    counts = np.zeros(len(quota))
    kept = []
    for proposal in proposals:
        cluster = of[id(proposal)]
        if proposal.targeted or counts[cluster] < quota[cluster]:
            counts[cluster] += not proposal.targeted
            kept.append(proposal)
    return kept


def _few_crops(proposals: Sequence[Proposal], room: int, share: float) -> list[Proposal]:
    """Crops up to their share of what will be kept, as far as the other sources fill the room."""
    others = min(sum(p.source != "crop" for p in proposals), room - int(share * room))
    most = int(share / (1.0 - share) * others) if share < 1.0 else room
    kept, crops = [], 0
    for proposal in proposals:
        crops += proposal.source == "crop"
        if proposal.source != "crop" or crops <= most:
            kept.append(proposal)
    return kept
